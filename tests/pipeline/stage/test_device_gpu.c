/* kernels/gpu/device.h by way of stages: what a GPU's device makes of a prompt, on the twins of driver and kernels, is what the CPU's
 * makes of it, to the bit: rows behind each stage, pages, logits; for any chunks and any order that the streams may take, and
 * whoever passes rows and pages to whom. */
#include "base/digest.h"
#include "kernels/cuda/twin_impl.h"
#include "kernels/gpu/device.h"
#include "kernels/gpu/gemm8.h"
#include "pipeline/stage/utilisation.h"
#include "tests/pipeline/stage/two_stages.h"
#include <assert.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

enum { PROMPT = 90, SHORT = 21, MAX_CHUNK = 96 };

static uint32_t capability = 90;
static bool token_steps, no_graphs; /* graphs of them are to be made; cannot be */

/* ---- two stages, and what comes of two prompts in them ---- */

struct case_of { /* a way to go through it that must not matter */
    enum sl_device_kind kinds[N_STAGES];
    uint32_t chunk;
    bool last_only; /* nobody wants more of the prompts than their last rows */
    uint64_t seed;
};

struct came_out {
    uint64_t rows[N_STAGES][2], kv[N_STAGES][2],
        logits; /* rows: of the prompts' last tokens and of all that follow */
};

struct stages {
    struct sl_stage *stage[N_STAGES];
    struct sl_sequence *sequence[N_STAGES][2];
    float x[MAX_CHUNK * WIDTH];
    uint32_t ids[2][CONTEXT];
    uint64_t n_steps; /* chunks on a twin of which a graph could be made */
};

static void open_stages(struct stages *n, const struct sl_pack *pack, const struct case_of *how,
                        enum sl_dtype kv)
{
    *n = (struct stages){0};
    for (uint32_t k = 0; k < N_STAGES; k++) {
        struct sl_share share = {.begin = layer_begin[k],
                                 .end = layer_begin[k + 1],
                                 .with_embed = k == 0,
                                 .with_head = k == N_STAGES - 1,
                                 .n_threads = 1,
                                 .device = how->kinds[k],
                                 .kv_dtype = kv,
                                 .max_tokens = MAX_CHUNK,
                                 .token_steps = token_steps};
        n->stage[k] = open_stage(pack, share, n->sequence[k]);
    }
    draw_ids(n->ids);
}

static void close_stages(struct stages *n)
{
    for (uint32_t k = 0; k < N_STAGES; k++)
        sl_stage_destroy(n->stage[k]);
}

static uint32_t length_of(uint32_t s)
{
    return s ? SHORT : PROMPT;
}

static void mix_in(uint64_t *sum, const void *bytes, size_t n)
{
    uint64_t pair[2] = {*sum, sl_xxh3(bytes, n)};
    *sum = sl_xxh3(pair, sizeof pair);
}

/* Rows that everybody wants, by token: from the last of the prompt on. */
static void look(struct came_out *out, const struct sl_chunk *chunk, const struct stages *n, uint32_t k)
{
    const float *x = chunk->x;
    for (uint32_t i = 0; i < chunk->n_slices; i++) {
        const struct sl_chunk_slice *slice = &chunk->slices[i];
        uint32_t s = slice->sequence == n->sequence[k][1];
        for (uint32_t row = slice->kv_only; row < slice->n; row++, x += WIDTH)
            if (slice->pos + row + 1 >= length_of(s))
                mix_in(&out->rows[k][s], x, WIDTH * sizeof *x);
    }
}

/* Positions [pos, pos + n) of both, side by side, through all stages. */
static void run(struct stages *st, const struct case_of *how, const uint32_t pos[2], const uint32_t n[2],
                struct came_out *out)
{
    struct sl_chunk chunk = {.x = st->x};
    uint32_t ids[MAX_CHUNK];
    for (uint32_t k = 0; k < N_STAGES; k++) {
        uint32_t n_left = chunk.n_slices = chunk.n_tokens = 0;
        for (uint32_t s = 0; s < 2; s++) {
            if (n[s] == 0)
                continue;
            uint32_t wanted = pos[s] + n[s] >= length_of(s);
            memcpy(ids + chunk.n_tokens, st->ids[s] + pos[s], n[s] * sizeof *ids);
            chunk.slices[chunk.n_slices++] = (struct sl_chunk_slice){
                st->sequence[k][s], pos[s], n[s], how->last_only && k == N_STAGES - 1 ? n[s] - wanted : 0};
            chunk.n_tokens += n[s];
            n_left += n[s] - chunk.slices[chunk.n_slices - 1].kv_only;
        }
        if (k == 0)
            sl_stage_embed(st->stage[k], &chunk, (const uint8_t *)ids);
        memset(ids, 0xFF, sizeof ids);
        st->n_steps +=
            how->kinds[k] == SL_DEVICE_TWIN && n_left == chunk.n_slices && n_left == chunk.n_tokens;
        sl_stage_run(st->stage[k], &chunk);
        look(out, &chunk, st, k);
    }
}

static struct sl_parts parts[N_STAGES]; /* of what was tried last */

static struct came_out try(const struct sl_pack *pack, const struct case_of *how, enum sl_dtype kv)
{
    static struct stages st;
    struct came_out out = {0};
    sl_gpu_twin_as(&(struct sl_gpu_twin){
        .seed = how->seed, .capability = capability, .checked = true, .no_graphs = no_graphs});
    open_stages(&st, pack, how, kv);
    for (uint32_t pos[2] = {0, 0}, n[2]; pos[0] < PROMPT || pos[1] < SHORT; pos[0] += n[0], pos[1] += n[1]) {
        n[0] = at_most(how->chunk, PROMPT - pos[0]);
        n[1] = at_most(at_most(1 + how->chunk / 3, MAX_CHUNK - n[0]), SHORT - pos[1]);
        run(&st, how, pos, n, &out);
    }
    for (uint32_t step = 0; step < STEPS; step++) {
        run(&st, how, (uint32_t[]){PROMPT + step, SHORT + step}, (uint32_t[]){1, 1}, &out);
        float *logits = sl_stage_logits(st.stage[N_STAGES - 1], st.x, 2);
        mix_in(&out.logits, logits, 2 * WORDS * sizeof *logits);
    }
    for (uint32_t k = 0; k < N_STAGES; k++)
        for (uint32_t s = 0; s < 2; s++)
            out.kv[k][s] = sl_stage_kv_digest(st.stage[k], st.sequence[k][s], length_of(s) + STEPS, 0);
    const struct sl_cu_twin_report report = sl_cu_twin_take_report();
    CHECK_INT(report.misuses, 0);
    CHECK_INT(report.graphs, token_steps && !no_graphs ? st.n_steps : 0);
    for (uint32_t k = 0; k < N_STAGES; k++) {
        uint64_t run_ns;
        sl_stage_parts(st.stage[k], &parts[k], &run_ns);
    }
    close_stages(&st);
    return out;
}

static void compare(const struct sl_pack *pack, enum sl_dtype kv, const struct case_of *cases, size_t n)
{
    const struct came_out want = try(pack, &(struct case_of){.chunk = 64}, kv);
    CHECK(want.logits && want.rows[0][0] && want.rows[1][1] && want.kv[0][0] != want.kv[1][0]);
    for (size_t i = 0; i < n; i++) {
        const struct came_out got = try(pack, &cases[i], kv);
        CHECK_INT(memcmp(got.rows[0], want.rows[0], sizeof got.rows[0]), 0);
        CHECK_INT(memcmp(got.rows[1], want.rows[1], sizeof got.rows[1]), 0);
        CHECK_INT(memcmp(got.kv, want.kv, sizeof got.kv), 0);
        CHECK(got.logits == want.logits);
        if (memcmp(&got, &want, sizeof got) != 0)
            sl_test_fail(__FILE__, __LINE__, "case %zu (chunks of %u, seed %llu): other bits", i,
                         cases[i].chunk, (unsigned long long)cases[i].seed);
    }
}

#define C SL_DEVICE_CPU
#define T SL_DEVICE_TWIN

SL_TEST(a_gpu_gives_the_cpus_bits_for_any_chunks_and_orders)
{
    static const struct case_of cases[] = {{{T, T}, 96, false, 1},
                                           {{T, C}, 64, true, 2},
                                           {{C, T}, 33, true, 3},
                                           {{C, T}, 90, true, 4},
                                           {{T, T}, 17, true, 5}};
    struct sl_pack *pack = make_pack(SL_I8, SL_I4, SL_ROTATE_ON);
    compare(pack, SL_I8, cases, sizeof cases / sizeof *cases);
    const char *more = getenv("SLUICE_SEEDS");
    for (uint64_t seed = 6; more && seed < 6 + strtoull(more, NULL, 10) / 100; seed++)
        compare(pack, SL_I8, &(struct case_of){{T, T}, 1 + (uint32_t)(seed * 37 % MAX_CHUNK), seed % 2, seed},
                1);
    sl_pack_close(pack);
}

SL_TEST(and_when_token_steps_are_graphs_or_cannot_be)
{
    static const struct case_of cases[] = {{{T, T}, 96, true, 21}, {{C, T}, 1, true, 22}};
    struct sl_pack *pack = make_pack(SL_I8, SL_I4, SL_ROTATE_ON);
    token_steps = true;
    compare(pack, SL_I8, cases, 2);
    no_graphs = true;
    compare(pack, SL_I8, cases, 1);
    token_steps = no_graphs = false;
    sl_pack_close(pack);
}

SL_TEST(and_in_every_format_of_weights_and_pages)
{
    static const struct {
        enum sl_dtype dense, experts, kv;
        enum sl_rotate rotate;
    } packs[] = {{SL_BF16, SL_BF16, SL_BF16, SL_ROTATE_OFF}, {SL_F32, SL_F32, SL_F32, SL_ROTATE_OFF},
                 {SL_I4G16, SL_I3, SL_I8, SL_ROTATE_ON},     {SL_F32, SL_I2, SL_F32, SL_ROTATE_OFF},
                 {SL_I8, SL_I8, SL_BF16, SL_ROTATE_OFF},     {SL_I4, SL_BF16, SL_I8, SL_ROTATE_ON}};
    for (size_t p = 0; p < sizeof packs / sizeof *packs; p++) {
        const struct case_of mixed = {{p % 2 ? C : T, T}, 40 + (uint32_t)p, true, p};
        struct sl_pack *pack = make_pack(packs[p].dense, packs[p].experts, packs[p].rotate);
        token_steps = p % 2;
        compare(pack, packs[p].kv, &mixed, 1);
        sl_pack_close(pack);
    }
    token_steps = false;
}

SL_TEST(which_gpu_it_is_can_be_told_and_of_a_cpu_there_is_one)
{
    static struct stages st;
    struct sl_pack *pack = make_pack(SL_I8, SL_I4, SL_ROTATE_OFF);
    struct sl_device_identity twin, cpu;
    open_stages(&st, pack, &(struct case_of){.kinds = {T, C}}, SL_I8);
    CHECK(strcmp(sl_stage_identify(st.stage[0], &twin), "twin") == 0);
    CHECK(strcmp(twin.name, "a twin of a GPU") == 0 && strcmp(twin.bus, "0000:01:00.0") == 0);
    CHECK(strcmp(twin.uuid, "GPU-736c7569-6365-2773-2074-77696e203000") == 0);
    CHECK(strcmp(sl_stage_identify(st.stage[1], &cpu), "cpu") == 0);
    CHECK(!cpu.name[0] && !cpu.uuid[0] && !cpu.bus[0]);
    close_stages(&st);
    sl_pack_close(pack);
}

SL_TEST(and_where_heads_do_not_fill_lanes)
{
    static const struct case_of cases[] = {{{C, T}, 50, true, 11}, {{T, C}, 31, true, 12}};
    n_heads = 2, d_head = 20; /* q ends within the 16 columns in which k begins */
    for (size_t i = 0; i < 2; i++) {
        struct sl_pack *pack = make_pack(i ? SL_I8 : SL_BF16, SL_I8, i ? SL_ROTATE_ON : SL_ROTATE_OFF);
        compare(pack, i ? SL_I8 : SL_BF16, cases, 2);
        sl_pack_close(pack);
    }
    n_heads = 4, d_head = 32;
}

SL_TEST(what_a_driver_takes_for_graphs_is_in_the_plan)
{
    struct sl_stage_bytes bytes[2];
    struct sl_pack *pack = make_pack(SL_I8, SL_I4, SL_ROTATE_OFF);
    for (int i = 0; i < 2; i++) {
        struct sl_err err = {0};
        struct sl_share share = {.end = 3,
                                 .with_embed = true,
                                 .with_head = true,
                                 .n_threads = 1,
                                 .device = T,
                                 .kv_dtype = SL_I8,
                                 .n_pages = 4,
                                 .max_tokens = 5, /* graphs of 1, 2, 4 and 5 rows */
                                 .max_sequences = 2,
                                 .context_tokens = CONTEXT,
                                 .token_steps = i};
        CHECK_INT(sl_stage_bytes(&bytes[i], pack, &share, &err), SL_OK);
    }
    size_t more = bytes[1].device - bytes[0].device;
    CHECK(more > 0 && more % (4 * 3) == 0);
    CHECK(bytes[1].tables - bytes[0].tables == more && bytes[1].kv == bytes[0].kv);
    sl_pack_close(pack);
}

/* ---- bodies of the integer product ---- */

static uint32_t launches[GEMM8_BODIES]; /* of each, by stages of this process */

void __real_gpu_launch(const struct gpu_kernel *kernel, const void *params, uint32_t n_blocks,
                       size_t shared_bytes, uint64_t seed);
void __wrap_gpu_launch(const struct gpu_kernel *kernel, const void *params, uint32_t n_blocks,
                       size_t shared_bytes, uint64_t seed);
void __wrap_gpu_launch(const struct gpu_kernel *kernel, const void *params, uint32_t n_blocks,
                       size_t shared_bytes, uint64_t seed)
{
    if (gemm8_shared(kernel) > 0)
        launches[strstr(kernel->name, "_wg_")    ? GEMM8_WGMMA
                 : strstr(kernel->name, "_few_") ? GEMM8_FEW
                                                 : GEMM8_MMA]++;
    __real_gpu_launch(kernel, params, n_blocks, shared_bytes, seed);
}

/* Four experts of which a token takes three: chunks of 96 rows are for the tiles of 128, of 40 for those of 64, of 7 for those of 16.
 * With SLUICE_SEEDS each pack in every way, else in two of them. */
SL_TEST(and_with_each_body_of_the_integer_product_on_gpus_of_several_kinds)
{
    static const struct {
        enum sl_dtype dense, experts;
    } packs[] = {{SL_I8, SL_I4}, {SL_I4G16, SL_I3}, {SL_I8, SL_I8}, {SL_I2, SL_I4G16}};
    n_experts = 4;
    for (size_t i = 0; i < sizeof packs / sizeof *packs; i++) {
        const bool odd = i % 2;
        const struct {
            struct case_of how;
            uint32_t capability;
            enum gemm8_body most; /* that is chosen */
        } cases[] = {{{{T, T}, 96, odd, 20 + i}, 90, GEMM8_WGMMA},
                     {{{odd ? C : T, T}, 40, true, 30 + i}, odd ? 90 : 80, GEMM8_MMA},
                     {{{T, odd ? T : C}, 96, true, 40 + i}, odd ? 86 : 120, GEMM8_MMA},
                     {{{C, T}, 7, true, 50 + i}, odd ? 80 : 90, GEMM8_FEW}};
        struct sl_pack *pack =
            make_pack(packs[i].dense, packs[i].experts, i % 2 ? SL_ROTATE_OFF : SL_ROTATE_ON);
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            if (c > 0 && c != 1 + i % 3 && !getenv("SLUICE_SEEDS"))
                continue;
            memset(launches, 0, sizeof launches);
            capability = cases[c].capability;
            compare(pack, SL_I8, &cases[c].how, 1);
            CHECK(launches[GEMM8_FEW] > 0); /* every token step */
            for (enum gemm8_body body = GEMM8_MMA; body < GEMM8_BODIES; body++)
                CHECK(body <= cases[c].most || launches[body] == 0);
            CHECK(launches[cases[c].most] > 0);
        }
        sl_pack_close(pack);
    }
    n_experts = 9, capability = 90;
}

SL_TEST(the_work_of_each_part_is_the_cpus)
{
    static const struct {
        enum sl_dtype dense, experts, kv;
        enum sl_rotate rotate;
    } packs[] = {{SL_I8, SL_I4, SL_I8, SL_ROTATE_ON}, {SL_BF16, SL_BF16, SL_BF16, SL_ROTATE_OFF}};
    for (uint32_t i = 0; i < 4; i++) {
        bool integers = i < 2;
        struct sl_pack *pack =
            make_pack(packs[!integers].dense, packs[!integers].experts, packs[!integers].rotate);
        struct sl_parts cpu[N_STAGES];
        try(pack, &(struct case_of){{C, C}, 40, i % 2, 0}, packs[!integers].kv);
        memcpy(cpu, parts, sizeof cpu);
        try(pack, &(struct case_of){{T, T}, 40, i % 2, i}, packs[!integers].kv);
        for (uint32_t k = 0; k < N_STAGES; k++)
            for (int p = 0; p < SL_PARTS; p++) {
                bool here = p != SL_PART_STEPS && (p != SL_PART_HEAD || k == N_STAGES - 1) &&
                            (p != SL_PART_QUANTISE || integers);
                CHECK_INT(parts[k].part[p].ops, cpu[k].part[p].ops);
                CHECK((parts[k].part[p].ns > 0) == here);
                CHECK(parts[k].part[p].bytes <= cpu[k].part[p].bytes);
                CHECK((parts[k].part[p].bytes > 0) == (cpu[k].part[p].bytes > 0));
            }
        sl_pack_close(pack);
    }
}

/* 40 rows of the first prompt through both. */
static void run_some(struct stages *st, const struct case_of *how)
{
    struct came_out out = {0};
    run(st, how, (uint32_t[]){0, 0}, (uint32_t[]){40, 0}, &out);
}

SL_TEST(what_a_gpu_does_is_beside_two_ceilings_and_of_a_twin_no_figure)
{
    static struct stages st;
    const struct case_of how = {{T, C}, 40, false, 3};
    struct sl_pack *pack = make_pack(SL_I8, SL_I4, SL_ROTATE_OFF);
    struct sl_utilisation u;
    struct sl_err err;
    sl_gpu_twin_as(&(struct sl_gpu_twin){.seed = 3});
    open_stages(&st, pack, &how, SL_I8);
    CHECK_INT(sl_stage_members(st.stage[0]), 1);
    REQUIRE(sl_utilisation_init(&u, st.stage[0], &err) == SL_OK);
    run_some(&st, &how);
    CHECK_INT(sl_utilisation_look(&u, st.stage[0]), 0);
    CHECK(u.compute_ns == 0 && u.mma_ns == 0 && u.memory_bound_ns == 0 && u.run_ns > 0);

    u.roofline = (struct sl_roofline){.ops_per_ns = {1, 0, 8}, .mma_ops_per_ns = 2, .bytes_per_ns = 100};
    const struct sl_parts before = u.seen;
    double by_f32 = 0, integers = 0;
    run_some(&st, &how);
    sl_utilisation_look(&u, st.stage[0]);
    for (int p = 0; p < SL_PARTS; p++) {
        double ops = (double)(u.seen.part[p].ops - before.part[p].ops);
        *(sl_stage_part_peak(st.stage[0], (enum sl_part)p) == SL_PEAK_INT8 ? &integers : &by_f32) += ops;
    }
    CHECK(integers > 0 && by_f32 > 0);
    CHECK(u.compute_ns == by_f32 + integers / 8 && u.mma_ns == by_f32 + integers / 2);
    close_stages(&st);
    sl_pack_close(pack);
}

/* ---- a GPU that fails ---- */

struct end {  /* of a process that had one */
    int code; /* -1: a signal */
    char log[2048];
};

/* What each chunk is expected to take. */
static void run_chunks(const struct sl_pack *pack, double predicted_us)
{
    static struct stages st;
    const struct case_of how = {{T, C}, 32, false, 1};
    const struct sl_cost cost = {.us[SL_COST_C] = predicted_us};
    struct came_out out = {0};
    open_stages(&st, pack, &how, SL_I8);
    sl_stage_expect(st.stage[0], &cost);
    for (uint32_t pos = 0; pos < PROMPT; pos += 30)
        run(&st, &how, (uint32_t[]){pos, 0}, (uint32_t[]){30, 0}, &out);
}

/* `chunks` on a twin with that fault, in a process of their own. */
static struct end end_of(void (*chunks)(const struct sl_pack *pack, double predicted_us),
                         const struct sl_pack *pack, const struct sl_cu_twin_fault *fault,
                         double predicted_us)
{
    struct end end = {.code = -1};
    int ends[2], status = 0;
    if (pipe(ends) != 0)
        return end;
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        sl_gpu_twin_as(&(struct sl_gpu_twin){
            .seed = 3, .fault = *fault, .patience_ms = fault->kind == SL_CU_TWIN_HANGS ? 500 : 0});
        chunks(pack, predicted_us);
        _exit(0);
    }
    close(ends[1]);
    for (size_t n = 0; n < sizeof end.log - 1;) {
        ssize_t got = read(ends[0], end.log + n, sizeof end.log - 1 - n);
        if (got <= 0)
            break;
        n += (size_t)got;
    }
    close(ends[0]);
    waitpid(child, &status, 0);
    end.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return end;
}

SL_TEST(a_final_error_or_a_hang_is_said_once_and_ends_the_process)
{
    static const struct {
        struct sl_cu_twin_fault fault;
        double predicted_us;
        const char *says;
    } faults[] = {
        {{SL_CU_TWIN_FAILS, 5, SL_CU_ILLEGAL_ADDRESS, 0}, 0, "CUDA_ERROR_ILLEGAL_ADDRESS, 700"},
        {{SL_CU_TWIN_FAILS, 9, SL_CU_ECC_UNCORRECTABLE, 12}, 0, "CUDA_ERROR_ECC_UNCORRECTABLE, 214"},
        {{SL_CU_TWIN_FAILS, 20, SL_CU_LAUNCH_FAILED, 3}, 0, "CUDA_ERROR_LAUNCH_FAILED, 719"},
        {{SL_CU_TWIN_HANGS, 12, 0, 0}, 0, "does not end on the GPU: given up after 0.5 s"},
        {{SL_CU_TWIN_HANGS, 12, 0, 0}, 1e4, "does not end on the GPU: given up after 0.5 s"},
        {{SL_CU_TWIN_HANGS, 12, 0, 0}, 4e5, "does not end on the GPU: given up after 1.2 s"}};
    struct sl_pack *pack = make_pack(SL_I8, SL_I4, SL_ROTATE_OFF);
    CHECK_INT(end_of(run_chunks, pack, &(struct sl_cu_twin_fault){0}, 0).code, 0);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        struct end end = end_of(run_chunks, pack, &faults[i].fault, faults[i].predicted_us);
        CHECK_INT(end.code, EX_UNAVAILABLE);
        CHECK_CONTAINS(end.log, faults[i].says);
        CHECK_CONTAINS(end.log, "the GPU at 0000:01:00.0 (a twin of a GPU) is lost, and what it had with it");
        const char *line = strchr(end.log, '\n');
        CHECK(line && line[1] == '\0'); /* one sentence */
    }
    sl_pack_close(pack);
}

/* ---- what comes before the first chunk ---- */

static const struct sl_share whole = {.end = 3,
                                      .with_embed = true,
                                      .with_head = true,
                                      .n_threads = 1,
                                      .device = T,
                                      .kv_dtype = SL_I8,
                                      .n_pages = 4,
                                      .max_tokens = 32,
                                      .max_sequences = 2,
                                      .context_tokens = CONTEXT};

/* Of logits that every weight of the model has a part in. */
static uint64_t logits_of(struct sl_stage *stage)
{
    static float x[32 * WIDTH];
    struct sl_sequence *sequence = sl_sequences_open(sl_stage_sequences(stage), 0);
    struct sl_chunk chunk = {.x = x, .n_tokens = 32, .n_slices = 1, .slices = {{sequence, 0, 32, 0}}};
    uint32_t ids[32];
    for (uint32_t i = 0; i < 32; i++)
        ids[i] = i * 2;
    CHECK_INT(sl_stage_reserve(stage, sequence, 32), SL_OK);
    sl_stage_embed(stage, &chunk, (const uint8_t *)ids);
    sl_stage_run(stage, &chunk);
    const float *logits = sl_stage_logits(stage, x + 24 * WIDTH, 8);
    return sl_xxh3(logits, 8 * WORDS * sizeof *logits);
}

static void run_deep(const struct sl_pack *pack, double predicted_us)
{
    struct sl_stage *stage = NULL;
    struct sl_err err = {0};
    struct sl_share share = whole;
    (void)predicted_us;
    share.end = sl_pack_shape(pack)->n_layers;
    if (sl_stage_create(&stage, pack, &share, NULL, &err) == SL_OK)
        logits_of(stage);
}

/* A driver that is full holds up whoever asks for more, without an end where nothing ends: the twin's, which is full sooner, says that
 * it would. */
SL_TEST(a_hang_is_seen_by_who_has_more_to_ask_for_than_a_driver_takes)
{
    n_layers = 24;
    struct sl_pack *pack = make_pack(SL_I8, SL_I4, SL_ROTATE_OFF);
    n_layers = N_LAYERS;
    for (uint32_t at = 3; at < 100; at += 48) {
        struct end end = end_of(run_deep, pack, &(struct sl_cu_twin_fault){SL_CU_TWIN_HANGS, at, 0, 0}, 0);
        CHECK_INT(end.code, EX_UNAVAILABLE);
        CHECK_CONTAINS(end.log, "does not end on the GPU: given up after 0.5 s");
    }
    CHECK_INT(end_of(run_deep, pack, &(struct sl_cu_twin_fault){0}, 0).code, 0);
    sl_pack_close(pack);
}

SL_TEST(weights_come_whole_in_any_order_of_streams)
{
    struct sl_pack *pack = make_pack(SL_I8, SL_I4, SL_ROTATE_OFF);
    uint64_t want = 0;
    for (uint64_t seed = 0; seed < 6; seed++) {
        struct sl_stage *stage = NULL;
        struct sl_err err = {0};
        struct sl_share share = whole;
        share.device = seed ? T : C;
        sl_gpu_twin_as(&(struct sl_gpu_twin){.seed = seed});
        REQUIRE(sl_stage_create(&stage, pack, &share, NULL, &err) == SL_OK);
        uint64_t got = logits_of(stage);
        want = seed ? want : got;
        CHECK(got == want);
        sl_stage_destroy(stage);
    }
    sl_pack_close(pack);
}

SL_TEST(a_stage_on_a_gpu_maps_no_weights_and_a_byte_that_changed_is_refused)
{
    struct sl_stage *stage = NULL;
    struct sl_err err = {0};
    size_t bytes;
    struct sl_pack *pack = make_pack(SL_I8, SL_I4, SL_ROTATE_OFF);
    REQUIRE(sl_stage_create(&stage, pack, &whole, NULL, &err) == SL_OK);
    char *maps = read_text("/proc/self/maps", &bytes);
    CHECK(maps && !strstr(maps, sl_pack_path(pack)));
    free(maps);
    sl_stage_destroy(stage);
    const char *path = path_in(sl_pack_path(pack), "layer-0002.safetensors");
    flip_byte(path, 9000);
    CHECK_INT(sl_stage_create(&stage, pack, &whole, NULL, &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "layer-0002.safetensors has other bytes than when it was packed, in MiB 0");
    flip_byte(path, 9000);
    CHECK_INT(sl_stage_create(&stage, pack, &whole, NULL, &err), SL_OK);
    sl_stage_destroy(stage);
    sl_pack_close(pack);
}

static size_t pinned_now(void)
{
    size_t bytes = 0;
    for (const struct twin_memory *m = sl_twin_world.pinned; m; m = m->next)
        bytes += m->bytes;
    return bytes;
}

SL_TEST(what_a_stage_has_pinned_is_what_its_plan_says)
{
    struct sl_pack *pack = make_pack(SL_I8, SL_I4, SL_ROTATE_OFF);
    size_t without = 0;
    REQUIRE(pack);
    sl_gpu_twin_as(&(struct sl_gpu_twin){0});
    for (uint32_t n_places = 0; n_places <= 4; n_places += 4) { /* of rows that go from device to device */
        struct sl_share share = whole;
        struct sl_stage *stage = NULL;
        struct sl_stage_bytes plan;
        struct sl_err err = {0};
        share.n_places = n_places;
        REQUIRE(sl_stage_bytes(&plan, pack, &share, &err) == SL_OK);
        REQUIRE(sl_stage_create(&stage, pack, &share, NULL, &err) == SL_OK);
        CHECK_INT(plan.pinned, pinned_now());
        CHECK(n_places ? plan.pinned > without : plan.pinned > 0);
        without = plan.pinned;
        sl_stage_destroy(stage);
    }
    sl_pack_close(pack);
}

/* Of what a stage takes of a GPU each thing once is not to be had; what it had taken before goes back, or the twin says so. */
SL_TEST(a_gpu_without_room_is_refused_before_anything_runs)
{
    struct sl_stage *stage;
    sl_status status = SL_E_UNAVAILABLE;
    uint32_t at, n_rooms = 0, n_pinned = 0;
    struct sl_pack *pack = make_pack(SL_I8, SL_I4, SL_ROTATE_OFF);
    for (at = 0; at < 1000 && status == SL_E_UNAVAILABLE; at++) {
        struct sl_err err = {0};
        sl_gpu_twin_as(&(struct sl_gpu_twin){.seed = at, .fault = {SL_CU_TWIN_NO_MEMORY, at, 0, 0}});
        status = sl_stage_create(&stage, pack, &whole, NULL, &err);
        n_rooms += strstr(err.text, "the GPU has no ") != NULL;
        n_pinned += strstr(err.text, "can be pinned for a GPU: see `ulimit -l`") != NULL;
        if (status != SL_OK)
            CHECK(err.text[0] != 0);
    }
    CHECK_INT(status, SL_OK);
    CHECK(at > 3 + 2 + SL_QUEUES + SL_DEVICE_EVENTS);
    CHECK_INT(n_rooms, 3); /* weights, pages, activations */
    CHECK_INT(n_pinned, 3);
    sl_stage_destroy(stage);
    sl_gpu_twin_as(&(struct sl_gpu_twin){0});
    sl_pack_close(pack);
}
