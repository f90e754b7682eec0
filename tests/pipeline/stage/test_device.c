/* The device seam (kernels/device.h): stages on the late one, whose memory the host cannot touch, give the bits of stages on the
 * CPU, whoever passes rows and pages to whom; and it finds what a GPU would forgive: a touch, a forgotten event, memory
 * that was given back too early. */
#include "base/digest.h"
#include "kernels/gpu/device.h"
#include "pipeline/stage/device_impl.h"
#define N_LAYERS 4
#include "tests/pipeline/stage/two_stages.h"
#include <assert.h>
#include <signal.h>
#include <sys/wait.h>

enum { PROMPT = 150, SHORT = 37, MAX_CHUNK = 160 };

/* ---- a pipeline by hand: two stages and a decode worker ---- */

enum { N_NODES = N_STAGES + 1 };

static enum sl_profile profile; /* numerics of all nodes */

struct nodes {
    struct sl_stage *stage[N_NODES]; /* the decode worker is the last */
    struct sl_sequence *sequence[N_NODES][2];
    float x[MAX_CHUNK * WIDTH];
    uint32_t ids[2][CONTEXT];
    float out[2][PROMPT][WIDTH]; /* rows of the prompts behind the last stage, where it has left them */
    bool left[2][PROMPT];
};

/* Which rows the last layer need not finish, by what is asked of the prompts. */
enum wanted {
    EVERY_ROW,     /* prompt_logprobs */
    LAST_ROWS,     /* one of each prompt, for its first token */
    ONE_OF_TWO,    /* every row of the second prompt, and none of the first one, which is restored */
    LATTER_HALVES, /* of each slice: nobody asks for that, but the contract has it */
    NO_ROW
};
static enum wanted wanted = EVERY_ROW;

static uint32_t kv_only_of(uint32_t sequence, uint32_t pos, uint32_t n)
{
    switch (wanted) {
    case EVERY_ROW:
        return 0;
    case LAST_ROWS:
        return pos + n == (sequence ? SHORT : PROMPT) ? n - 1 : n;
    case ONE_OF_TWO:
        return sequence ? 0 : n;
    case LATTER_HALVES:
        return n / 2;
    case NO_ROW:
        break;
    }
    return n;
}

struct sums { /* of all that came out */
    uint64_t logits, kv[N_NODES], decoded;
};

static void open_nodes(struct nodes *n, const struct sl_pack *pack, const enum sl_device_kind kinds[N_NODES],
                       enum sl_dtype kv)
{
    *n = (struct nodes){0};
    for (uint32_t k = 0; k < N_NODES; k++) {
        bool decode = k == N_STAGES;
        struct sl_share share = {.begin = decode ? 0 : layer_begin[k],
                                 .end = decode ? N_LAYERS : layer_begin[k + 1],
                                 .with_embed = k != 1,
                                 .with_head = k > 0,
                                 .n_threads = 1 + k % 2,
                                 .device = kinds[k],
                                 .kv_dtype = kv,
                                 .profile = profile,
                                 .max_tokens = MAX_CHUNK};
        n->stage[k] = open_stage(pack, share, n->sequence[k]);
    }
    draw_ids(n->ids);
}

static void close_nodes(struct nodes *n)
{
    for (uint32_t k = 0; k < N_NODES; k++)
        sl_stage_destroy(n->stage[k]);
}

/* The rows that the last stage has left, to where they belong. */
static void keep_rows(struct nodes *nodes, const struct sl_chunk *chunk)
{
    const float *x = chunk->x;
    for (uint32_t i = 0; i < chunk->n_slices; i++) {
        const struct sl_chunk_slice *slice = &chunk->slices[i];
        uint32_t s = slice->sequence == nodes->sequence[N_STAGES - 1][1];
        for (uint32_t row = slice->kv_only; row < slice->n; row++, x += WIDTH) {
            memcpy(nodes->out[s][slice->pos + row], x, WIDTH * sizeof *x);
            nodes->left[s][slice->pos + row] = true;
        }
    }
}

/* Positions [pos, pos + n) of both sequences' prompts, side by side, on one node. */
static void run(struct nodes *nodes, uint32_t k, const uint32_t pos[2], const uint32_t n[2])
{
    struct sl_chunk chunk = {.x = nodes->x};
    uint32_t ids[MAX_CHUNK];
    for (uint32_t s = 0; s < 2; s++) {
        if (n[s] == 0)
            continue;
        memcpy(ids + chunk.n_tokens, nodes->ids[s] + pos[s], n[s] * sizeof *ids);
        chunk.slices[chunk.n_slices++] = (struct sl_chunk_slice){
            nodes->sequence[k][s], pos[s], n[s], k == N_STAGES - 1 ? kv_only_of(s, pos[s], n[s]) : 0};
        chunk.n_tokens += n[s];
    }
    if (k != 1)
        sl_stage_embed(nodes->stage[k], &chunk, (const uint8_t *)ids);
    memset(ids, 0xFF, sizeof ids); /* they were the stage's only during the call */
    sl_stage_run(nodes->stage[k], &chunk);
    if (k == N_STAGES - 1)
        keep_rows(nodes, &chunk);
}

/* Both prompts through the stages in chunks of so many tokens; the second one in company of the first. */
static void prefill(struct nodes *nodes, uint32_t chunk, struct sums *sums)
{
    for (uint32_t pos[2] = {0, 0}, n[2]; pos[0] < PROMPT || pos[1] < SHORT; pos[0] += n[0], pos[1] += n[1]) {
        n[0] = at_most(chunk, PROMPT - pos[0]);
        n[1] = at_most(at_most(1 + chunk / 3, MAX_CHUNK - n[0]), SHORT - pos[1]);
        for (uint32_t k = 0; k < N_STAGES; k++)
            run(nodes, k, pos, n);
        if (nodes->left[0][PROMPT - 1] && pos[0] + n[0] == PROMPT) {
            float *logits = sl_stage_logits(nodes->stage[N_STAGES - 1], nodes->out[0][PROMPT - 1], 1);
            sums->logits = sl_xxh3(logits, WORDS * sizeof *logits);
        }
    }
}

/* Layers of a page to the decode worker, by way of a frame whose memory is used again. */
static void send_page(struct nodes *nodes, uint32_t k, uint32_t s, uint32_t p)
{
    static uint8_t frame[1 << 17];
    size_t bytes = sl_stage_page_bytes(nodes->stage[k]);
    assert(bytes <= sizeof frame);
    memcpy(frame, sl_stage_page_out(nodes->stage[k], nodes->sequence[k][s]->pages[p]), bytes);
    sl_stage_page_in(nodes->stage[N_STAGES], nodes->sequence[N_STAGES][s]->pages[p], layer_begin[k],
                     layer_begin[k + 1] - layer_begin[k], frame);
    memset(frame, 0xFF, bytes);
}

static void hand_off(struct nodes *nodes)
{
    for (uint32_t s = 0; s < 2; s++)
        for (uint32_t k = 0; k < N_STAGES; k++)
            for (uint32_t p = 0; p < sl_pages_of(s ? SHORT : PROMPT); p++)
                send_page(nodes, k, s, p);
}

static void decode(struct nodes *nodes, struct sums *sums)
{
    struct sl_stage *worker = nodes->stage[N_STAGES];
    for (uint32_t step = 0; step < STEPS; step++) {
        run(nodes, N_STAGES, (uint32_t[]){PROMPT + step, SHORT + step}, (uint32_t[]){1, 1});
        float *logits = sl_stage_logits(worker, nodes->x, 2);
        uint64_t pair[2] = {sums->decoded, sl_xxh3(logits, 2 * WORDS * sizeof *logits)};
        sums->decoded = sl_xxh3(pair, sizeof pair);
    }
}

static struct sums sums_of(const struct sl_pack *pack, const enum sl_device_kind kinds[N_NODES],
                           enum sl_dtype kv, uint32_t chunk)
{
    static struct nodes nodes;
    struct sums sums = {0};
    open_nodes(&nodes, pack, kinds, kv);
    prefill(&nodes, chunk, &sums);
    hand_off(&nodes);
    decode(&nodes, &sums);
    for (uint32_t k = 0; k < N_NODES; k++)
        sums.kv[k] = sl_stage_kv_digest(nodes.stage[k], nodes.sequence[k][0],
                                        k == N_STAGES ? PROMPT + STEPS : PROMPT, 0);
    close_nodes(&nodes);
    return sums;
}

static const enum sl_device_kind all_cpu[N_NODES] = {SL_DEVICE_CPU, SL_DEVICE_CPU, SL_DEVICE_CPU};

SL_TEST(a_late_one_beside_cpus_gives_their_bits_in_every_format)
{
    static const struct {
        enum sl_dtype dense, experts, kv;
        enum sl_rotate rotate;
    } packs[] = {{SL_BF16, SL_BF16, SL_BF16, SL_ROTATE_OFF}, {SL_F32, SL_F32, SL_F32, SL_ROTATE_OFF},
                 {SL_I8, SL_I4, SL_I8, SL_ROTATE_OFF},       {SL_I8, SL_I8, SL_BF16, SL_ROTATE_ON},
                 {SL_I4G16, SL_I3, SL_I8, SL_ROTATE_ON},     {SL_F32, SL_I2, SL_F32, SL_ROTATE_OFF}};
    static const enum sl_device_kind kinds[][N_NODES] = {
        {SL_DEVICE_LATE, SL_DEVICE_CPU, SL_DEVICE_CPU},
        {SL_DEVICE_CPU, SL_DEVICE_LATE, SL_DEVICE_LATE},
        {SL_DEVICE_LATE, SL_DEVICE_LATE, SL_DEVICE_CPU},
        {SL_DEVICE_CPU, SL_DEVICE_CPU, SL_DEVICE_LATE},
    };
    static const uint32_t chunks[] = {150, 64, 13, 1};
    for (size_t p = 0; p < sizeof packs / sizeof *packs; p++) {
        struct sl_pack *pack = make_pack(packs[p].dense, packs[p].experts, packs[p].rotate);
        struct sums want = sums_of(pack, all_cpu, packs[p].kv, 64);
        CHECK(want.logits && want.decoded && want.kv[0] && want.kv[1] != want.kv[2]);
        for (size_t i = 0; i < 4; i++) {
            struct sums got = sums_of(pack, kinds[i], packs[p].kv, chunks[(i + p) % 4]);
            if (memcmp(&got, &want, sizeof got) != 0)
                sl_test_fail(__FILE__, __LINE__, "pack %zu, kinds %zu, chunks of %u: other bits", p, i,
                             chunks[(i + p) % 4]);
        }
        sl_pack_close(pack);
    }
}

/* ---- what the last layer leaves out ---- */

struct left_out {
    struct sums sums;
    struct sl_parts parts; /* of the last stage */
    float out[2][PROMPT][WIDTH];
    bool left[2][PROMPT];
};

static void prefill_for(struct left_out *o, enum wanted rows, const struct sl_pack *pack,
                        const enum sl_device_kind kinds[N_NODES], enum sl_dtype kv, uint32_t chunk)
{
    static struct nodes nodes;
    uint64_t run_ns;
    memset(o, 0, sizeof *o);
    wanted = rows;
    open_nodes(&nodes, pack, kinds, kv);
    prefill(&nodes, chunk, &o->sums);
    sl_stage_parts(nodes.stage[N_STAGES - 1], &o->parts, &run_ns);
    hand_off(&nodes);
    decode(&nodes, &o->sums);
    for (uint32_t k = 0; k < N_NODES; k++)
        o->sums.kv[k] = sl_stage_kv_digest(nodes.stage[k], nodes.sequence[k][1],
                                           k < N_STAGES ? SHORT : SHORT + STEPS, 0) ^
                        sl_stage_kv_digest(nodes.stage[k], nodes.sequence[k][0],
                                           k < N_STAGES ? PROMPT : PROMPT + STEPS, 0);
    memcpy(o->out, nodes.out, sizeof o->out);
    memcpy(o->left, nodes.left, sizeof o->left);
    close_nodes(&nodes);
    wanted = EVERY_ROW;
}

/* Whether all that is there is as it is when nothing is left out, and what must be there is. */
static bool same_bits(const struct left_out *got, const struct left_out *all, enum wanted rows)
{
    uint32_t n = 0, least = rows == LAST_ROWS    ? 2
                            : rows == ONE_OF_TWO ? SHORT
                            : rows == NO_ROW     ? 0
                                                 : PROMPT / 2;
    for (uint32_t s = 0; s < 2; s++)
        for (uint32_t pos = 0; pos < (s ? SHORT : PROMPT); pos++) {
            if (got->left[s][pos] && memcmp(got->out[s][pos], all->out[s][pos], sizeof got->out[s][pos]) != 0)
                return false;
            n += got->left[s][pos];
        }
    bool has_last = got->left[0][PROMPT - 1];
    return n >= least && (rows != LAST_ROWS || n == 2) && (rows != NO_ROW || n == 0) &&
           got->sums.decoded == all->sums.decoded && got->sums.logits == (has_last ? all->sums.logits : 0) &&
           memcmp(got->sums.kv, all->sums.kv, sizeof all->sums.kv) == 0;
}

static void compare_left_out(const struct sl_pack *pack, enum sl_dtype kv, const uint32_t chunks[2])
{
    static struct left_out all, got;
    static const enum sl_device_kind kinds[2][N_NODES] = {{SL_DEVICE_CPU, SL_DEVICE_CPU, SL_DEVICE_CPU},
                                                          {SL_DEVICE_CPU, SL_DEVICE_LATE, SL_DEVICE_CPU}};
    prefill_for(&all, EVERY_ROW, pack, kinds[0], kv, 64);
    CHECK(all.sums.logits && all.left[0][0] && all.left[1][SHORT - 1]);
    for (enum wanted rows = LAST_ROWS; rows <= NO_ROW; rows++)
        for (int i = 0; i < 2; i++) {
            prefill_for(&got, rows, pack, kinds[i], kv, chunks[i]);
            if (!same_bits(&got, &all, rows))
                sl_test_fail(__FILE__, __LINE__, "rows %d wanted, on %s, chunks of %u: other bits", (int)rows,
                             i ? "a late one" : "cpus", chunks[i]);
        }
}

SL_TEST(rows_that_the_last_layer_leaves_out_change_no_bit_of_others_and_of_no_page)
{
    static const struct {
        enum sl_dtype dense, experts, kv;
        enum sl_rotate rotate;
        uint32_t chunks[2];
    } packs[] = {{SL_BF16, SL_BF16, SL_BF16, SL_ROTATE_OFF, {64, 13}},
                 {SL_I8, SL_I4, SL_I8, SL_ROTATE_OFF, {13, 150}},
                 {SL_I4G16, SL_I3, SL_I8, SL_ROTATE_ON, {150, 64}}};
    for (size_t p = 0; p < sizeof packs / sizeof *packs; p++) {
        struct sl_pack *pack = make_pack(packs[p].dense, packs[p].experts, packs[p].rotate);
        compare_left_out(pack, packs[p].kv, packs[p].chunks);
        sl_pack_close(pack);
    }
}

SL_TEST(nor_where_heads_do_not_fill_lanes)
{
    n_heads = 2, d_head = 20; /* q ends within the 16 columns in which k begins */
    struct sl_pack *pack = make_pack(SL_BF16, SL_BF16, SL_ROTATE_OFF);
    n_heads = 4, d_head = 32;
    compare_left_out(pack, SL_BF16, (const uint32_t[]){50, 150});
    sl_pack_close(pack);
}

SL_TEST(what_the_last_layer_leaves_out_is_not_counted_as_work)
{
    static struct left_out all, none, last;
    struct sl_pack *pack = make_pack(SL_BF16, SL_BF16, SL_ROTATE_OFF);
    prefill_for(&all, EVERY_ROW, pack, all_cpu, SL_BF16, 50);
    prefill_for(&none, NO_ROW, pack, all_cpu, SL_BF16, 50);
    prefill_for(&last, LAST_ROWS, pack, all_cpu, SL_BF16, 50);
    const uint64_t row[SL_PARTS] = {
        /* q and the output product; the router of 9; three experts of 64, gate, up and down */
        [SL_PART_PROJECTION] = 2 * (2 * 4 * 32 * WIDTH),
        [SL_PART_ROUTER] = 2 * 9 * WIDTH,
        [SL_PART_EXPERTS] = 2 * 3 * (3 * 64 * WIDTH)};
    for (int p = 0; p < SL_PARTS; p++) {
        uint64_t saved = all.parts.part[p].ops - none.parts.part[p].ops;
        if (row[p]) {
            CHECK_INT(saved, (PROMPT + SHORT) * row[p]);
            CHECK_INT(last.parts.part[p].ops - none.parts.part[p].ops, 2 * row[p]);
        }
        if (p == SL_PART_ATTENTION) /* one of the stage's three layers; the last rows see all */
            CHECK(saved == all.parts.part[p].ops / 3 && last.parts.part[p].ops > none.parts.part[p].ops);
    }
    sl_pack_close(pack);
}

SL_TEST(a_late_one_has_every_numerics_profile)
{
    static const enum sl_device_kind mixed[N_NODES] = {SL_DEVICE_CPU, SL_DEVICE_LATE, SL_DEVICE_CPU};
    if (!(sl_ops_profiles() & 1u << SL_PROFILE_BF16DOT))
        return sl_test_skip("this machine does not offer bf16dot (no AVX512_BF16, or SLUICE_CPU hides it)");
    struct sl_pack *pack = make_pack(SL_BF16, SL_BF16, SL_ROTATE_OFF);
    struct sums plain = sums_of(pack, all_cpu, SL_BF16, 64);
    profile = SL_PROFILE_BF16DOT;
    struct sums want = sums_of(pack, all_cpu, SL_BF16, 64), got = sums_of(pack, mixed, SL_BF16, 50);
    profile = SL_PROFILE_F32;
    CHECK(memcmp(&got, &want, sizeof got) == 0 && want.logits != plain.logits);
    sl_pack_close(pack);
}

SL_TEST(a_late_one_has_its_own_weights_once_it_is_created)
{
    static const enum sl_device_kind all_late[N_NODES] = {SL_DEVICE_LATE, SL_DEVICE_LATE, SL_DEVICE_LATE};
    static struct nodes nodes;
    struct sl_pack *pack = make_pack(SL_I8, SL_I4, SL_ROTATE_OFF);
    struct sums want = sums_of(pack, all_cpu, SL_I8, 64), got = {0};
    open_nodes(&nodes, pack, all_late, SL_I8);
    for (int i = -2; i < 4; i++) { /* every file of weights becomes zeros, where it lies */
        char name[64];
        snprintf(name, sizeof name, "layer-%04d.safetensors", i);
        if (i < 0)
            snprintf(name, sizeof name, "%s.safetensors", i == -2 ? "embed" : "head");
        FILE *f = fopen(path_in(sl_pack_path(pack), name), "r+b");
        REQUIRE(f);
        fseek(f, 0, SEEK_END);
        long bytes = ftell(f);
        rewind(f);
        while (bytes-- > 0)
            fputc(0, f);
        fclose(f);
    }
    prefill(&nodes, 64, &got);
    hand_off(&nodes);
    decode(&nodes, &got);
    CHECK(got.logits == want.logits && got.decoded == want.decoded);
    close_nodes(&nodes);
    sl_pack_close(pack);
}

SL_TEST(a_page_that_is_taken_again_is_clean)
{
    static const enum sl_device_kind kinds[] = {SL_DEVICE_CPU, SL_DEVICE_LATE};
    static const uint8_t zeros[1 << 16];
    struct sl_pack *pack = make_pack(SL_BF16, SL_BF16, SL_ROTATE_OFF);
    for (int i = 0; i < 2; i++) {
        static struct nodes nodes;
        open_nodes(&nodes, pack, (enum sl_device_kind[]){kinds[i], kinds[i], kinds[i]}, SL_BF16);
        size_t bytes = sl_stage_page_bytes(nodes.stage[0]);
        uint32_t page = nodes.sequence[0][0]->pages[0];
        REQUIRE(bytes <= sizeof zeros);
        run(&nodes, 0, (uint32_t[]){0, 0}, (uint32_t[]){40, 0});
        CHECK(memcmp(sl_stage_page_out(nodes.stage[0], page), zeros, bytes) != 0);
        sl_stage_clear(nodes.stage[0], page);
        CHECK(memcmp(sl_stage_page_out(nodes.stage[0], page), zeros, bytes) == 0);
        close_nodes(&nodes);
    }
    sl_pack_close(pack);
}

/* ---- the late one by itself ---- */

struct bare { /* a device of one dense layer, without a stage around it */
    struct sl_pack *pack;
    struct sl_weights weights;
    struct sl_layer_blocks layer;
    struct sl_device *device;
};

static sl_status next_weights(void *arg, void *to, const void **from, size_t *bytes, struct sl_err *err)
{
    return sl_weights_next(arg, to, from, bytes, err);
}

static bool open_bare(struct bare *b, const struct sl_device_ops *ops)
{
    struct sl_err err = {0};
    *b = (struct bare){.pack = make_pack(SL_I8, SL_I8, SL_ROTATE_OFF)};
    const struct sl_loading how = {.verify = SL_VERIFY_OFF, .apart = !ops->in_place};
    if (sl_weights_open(&b->weights, b->pack, 2, 3, true, true, &how, &err) != SL_OK)
        return false;
    const struct sl_shape *s = sl_pack_shape(b->pack);
    const struct sl_layer *l = b->weights.layers;
    b->layer.attention = (struct sl_attention_weights){
        .norm = l->attn_norm, .q_norm = l->q_norm, .k_norm = l->k_norm, .qkv = l->qkv, .o = l->o};
    b->layer.experts = (struct sl_experts_weights){
        .norm = l->ffn_norm, .gate_up = l->dense.gate_up, .down = l->dense.down, .has_single = true};
    struct sl_device_config config = {
        .attention = {s->d_model, s->n_q, s->n_kv, s->d_head, s->norm_eps, s->softmax_scale},
        .experts = {s->d_model, s->n_experts, s->top_k, s->d_expert, s->d_dense, s->renorm, s->norm_eps},
        .rope_inv_freq = s->rope_inv_freq,
        .rope_factor = s->rope_factor,
        .n_layers = 1,
        .vocab = s->vocab,
        .with_embed = true,
        .with_head = true,
        .kv_dtype = SL_I8,
        .n_pages = 2,
        .max_pages = 2,
        .max_tokens = 16,
        .max_slices = 2,
        .head_rows = 4,
        .n_threads = 1};
    struct sl_device_weights weights = {.layers = &b->layer,
                                        .embed = b->weights.embed,
                                        .embed_dtype = b->weights.embed_dtype,
                                        .final_norm = b->weights.final_norm,
                                        .head = b->weights.head,
                                        .source = {sl_weights_piece(&b->weights), next_weights, &b->weights}};
    bool made = ops->create(&b->device, &config, &weights, &err) == SL_OK;
    if (!made)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return made;
}

static void close_bare(struct bare *b)
{
    if (b->device)
        b->device->ops->destroy(b->device);
    sl_weights_close(&b->weights);
    sl_pack_close(b->pack);
}

enum { IN_DONE, COMPUTED, OUT_DONE };
enum { ROWS = 3 };

/* Logits of rows that the host has; without an event where `without` says so. Nothing is waited for. */
static void ask(struct sl_device *d, float *x, float *logits, int without)
{
    const struct sl_device_ops *ops = d->ops;
    struct sl_device_at rows = ops->rows(d, 0, x);
    ops->copy_in(d, rows, x, ROWS * WIDTH * sizeof *x);
    ops->record(d, IN_DONE, SL_QUEUE_IN);
    if (without != IN_DONE)
        ops->await(d, SL_QUEUE_COMPUTE, IN_DONE);
    struct sl_device_at at = ops->logits(d, rows, ROWS);
    ops->record(d, COMPUTED, SL_QUEUE_COMPUTE);
    if (without != COMPUTED)
        ops->await(d, SL_QUEUE_OUT, COMPUTED);
    ops->copy_out(d, logits, at, ROWS * WORDS * sizeof *logits);
    ops->record(d, OUT_DONE, SL_QUEUE_OUT);
}

static void fill(float *x, float with)
{
    for (int i = 0; i < ROWS * WIDTH; i++)
        x[i] = with + (float)(i % 17);
}

SL_TEST(work_is_done_when_it_is_waited_for_and_an_event_that_was_forgotten_shows)
{
    struct bare cpu, late;
    float x[ROWS * WIDTH], want[ROWS * WORDS], got[ROWS * WORDS];
    REQUIRE(open_bare(&cpu, &sl_device_cpu) && open_bare(&late, &sl_device_late));
    fill(x, 1);
    ask(cpu.device, x, want, -1);
    sl_device_cpu.wait(cpu.device, OUT_DONE);
    for (int without = IN_DONE; without <= COMPUTED; without++) {
        memset(got, 0, sizeof got);
        ask(late.device, x, got, without);
        sl_device_late.wait(late.device, OUT_DONE);
        CHECK(memcmp(got, want, sizeof got) != 0);
        close_bare(&late);
        REQUIRE(open_bare(&late, &sl_device_late));
    }
    memset(got, 0, sizeof got);
    ask(late.device, x, got, -1);
    CHECK(got[0] == 0 && got[ROWS * WORDS - 1] == 0);
    sl_device_late.wait(late.device, OUT_DONE);
    CHECK(memcmp(got, want, sizeof got) == 0);
    close_bare(&cpu);
    close_bare(&late);
}

SL_TEST(rows_that_the_host_changes_too_early_arrive_changed)
{
    struct bare late;
    float x[ROWS * WIDTH], want[ROWS * WORDS], got[ROWS * WORDS];
    REQUIRE(open_bare(&late, &sl_device_late));
    for (int early = 0; early < 2; early++) {
        fill(x, 1);
        ask(late.device, x, early ? got : want, -1);
        if (!early)
            sl_device_late.wait(late.device, IN_DONE);
        fill(x, -8);
        sl_device_late.wait(late.device, OUT_DONE);
    }
    CHECK(memcmp(got, want, sizeof got) != 0);
    close_bare(&late);
}

/* Whether rows that change after they were given to be copied arrive changed, by any of these seeds. */
static bool is_read_late(bool lent)
{
    enum { PAGE = 4096 };
    bool late = false;
    float *x = aligned_alloc(PAGE, PAGE), want[ROWS * WORDS], got[ROWS * WORDS];
    assert(ROWS * WIDTH * sizeof *x <= PAGE && ROWS * WORDS * sizeof *x <= PAGE);
    for (uint64_t seed = 0; seed < 6; seed++) {
        struct bare gpu;
        sl_gpu_twin_as(&(struct sl_gpu_twin){.seed = seed});
        if (!open_bare(&gpu, &sl_device_twin))
            break;
        if (lent)
            sl_device_twin.lend(gpu.device, x, PAGE);
        for (int early = 0; early < 2; early++) {
            fill(x, 1);
            ask(gpu.device, x, early ? got : want, -1);
            if (!early)
                sl_device_twin.wait(gpu.device, IN_DONE);
            fill(x, -8);
            sl_device_twin.wait(gpu.device, OUT_DONE);
        }
        late = late || memcmp(got, want, sizeof got) != 0;
        if (lent && seed % 2) /* else the device gives it back when it goes */
            sl_device_twin.take_back(gpu.device, x);
        close_bare(&gpu);
    }
    free(x);
    return late;
}

SL_TEST(a_gpu_reads_memory_that_was_lent_by_itself_and_copies_the_rest_when_it_is_asked)
{
    CHECK(is_read_late(true));
    CHECK(!is_read_late(false));
}

SL_TEST(what_comes_out_of_a_gpu_is_the_same_in_memory_that_was_lent)
{
    enum { PAGE = 4096 };
    float x[ROWS * WIDTH], want[ROWS * WORDS], *logits = aligned_alloc(PAGE, PAGE);
    struct bare cpu;
    REQUIRE(open_bare(&cpu, &sl_device_cpu));
    fill(x, 1);
    ask(cpu.device, x, want, -1);
    close_bare(&cpu);
    for (uint64_t seed = 0; seed < 6; seed++)
        for (int lent = 0; lent < 3; lent++) { /* not; and given back; and for good */
            struct bare gpu;
            sl_gpu_twin_as(&(struct sl_gpu_twin){.seed = seed});
            REQUIRE(open_bare(&gpu, &sl_device_twin));
            if (lent)
                sl_device_twin.lend(gpu.device, logits, PAGE);
            if (lent == 1)
                sl_device_twin.take_back(gpu.device, logits);
            memset(logits, 0, PAGE);
            ask(gpu.device, x, logits, -1);
            sl_device_twin.wait(gpu.device, OUT_DONE);
            CHECK(memcmp(logits, want, sizeof want) == 0);
            close_bare(&gpu);
        }
    free(logits);
}

/* The first or the second chunk of two sequences; its lists and ids are gone as soon as they may be. */
static void run_bare(struct sl_device *d, uint32_t turn, float *x)
{
    const struct sl_device_ops *ops = d->ops;
    uint32_t pages[2][1] = {{1}, {0}}, ids[ROWS] = {5, 69, 2 * turn};
    struct sl_attention_slice slices[2] = {{0, 1, turn, pages[0], 0}, {1, 2, 2 * turn, pages[1], 0}};
    struct sl_device_chunk chunk = {
        .rows = ops->rows(d, turn, x), .n_rows = ROWS, .n_slices = 2, .slices = slices};
    for (uint32_t page = 0; page < 2 && turn == 0; page++)
        ops->clear(d, page);
    ops->record(d, IN_DONE, SL_QUEUE_IN);
    ops->await(d, SL_QUEUE_COMPUTE, IN_DONE);
    ops->embed(d, chunk.rows, (const uint8_t *)ids, ROWS);
    memset(ids, 0xFF, sizeof ids);
    ops->begin(d, &chunk);
    ops->attention(d, 0);
    ops->experts(d, 0);
    ops->finish(d);
    memset(pages, 0xFF, sizeof pages);
    memset(slices, 0, sizeof slices);
    ops->record(d, COMPUTED, SL_QUEUE_COMPUTE);
    ops->await(d, SL_QUEUE_OUT, COMPUTED);
    ops->copy_out(d, x, chunk.rows, ROWS * WIDTH * sizeof *x);
    ops->record(d, OUT_DONE, SL_QUEUE_OUT);
}

SL_TEST(lists_are_free_after_finish_and_a_chunk_may_be_asked_for_before_the_last_is_done)
{
    struct bare cpu, late;
    float want[2][ROWS * WIDTH], got[2][ROWS * WIDTH];
    REQUIRE(open_bare(&cpu, &sl_device_cpu) && open_bare(&late, &sl_device_late));
    for (uint32_t turn = 0; turn < 2; turn++)
        run_bare(cpu.device, turn, want[turn]);
    for (uint32_t turn = 0; turn < 2; turn++)
        run_bare(late.device, turn, got[turn]);
    sl_device_late.wait(late.device, OUT_DONE);
    CHECK(memcmp(got, want, sizeof got) == 0);
    CHECK(memcmp(want[0], want[1], sizeof want[0]) != 0);
    close_bare(&cpu);
    close_bare(&late);
}

/* The signal that ends a process which reads, or writes, there; 0: none does. */
static int signal_of_touch(struct sl_device_at at, bool write)
{
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL); /* whatever a sanitizer does with it */
        volatile uint8_t *byte = (volatile uint8_t *)at.at;
        if (write)
            *byte = 1;
        else
            (void)*byte;
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

SL_TEST(host_code_that_touches_the_memory_of_a_device_dies)
{
    struct bare cpu, late;
    float x[ROWS * WIDTH], logits[ROWS * WORDS];
    REQUIRE(open_bare(&cpu, &sl_device_cpu) && open_bare(&late, &sl_device_late));
    fill(x, 1);
    for (int when = 0; when < 2; when++) { /* before any work, and after some */
        struct sl_device_at places[] = {sl_device_late.rows(late.device, 0, x),
                                        sl_device_after(sl_device_late.rows(late.device, 1, x), 64),
                                        sl_device_late.page(late.device, 0),
                                        sl_device_late.page(late.device, 1)};
        for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
            CHECK_INT(signal_of_touch(places[i], false), SIGSEGV);
            CHECK_INT(signal_of_touch(places[i], true), SIGSEGV);
        }
        ask(late.device, x, logits, -1);
        sl_device_late.wait(late.device, OUT_DONE);
    }
    CHECK_INT(
        signal_of_touch(sl_device_late.logits(late.device, sl_device_late.rows(late.device, 0, x), 1), false),
        SIGSEGV);
    CHECK_INT(signal_of_touch(sl_device_cpu.page(cpu.device, 1), true), 0); /* in place: the host's own */
    CHECK(sl_device_cpu.rows(cpu.device, 1, x).at == (uintptr_t)x);
    close_bare(&cpu);
    close_bare(&late);
}

SL_TEST(more_calls_than_a_queue_holds_are_done_in_order)
{
    struct bare late;
    static float rows[2][WIDTH], back[WIDTH];
    REQUIRE(open_bare(&late, &sl_device_late));
    struct sl_device_at at = sl_device_late.rows(late.device, 0, NULL);
    for (int i = 0; i < WIDTH; i++)
        rows[0][i] = 1, rows[1][i] = 2;
    for (int i = 0; i < 5001; i++)
        sl_device_late.copy_in(late.device, at, rows[i % 2], sizeof *rows);
    sl_device_late.record(late.device, IN_DONE, SL_QUEUE_IN);
    sl_device_late.await(late.device, SL_QUEUE_OUT, IN_DONE);
    sl_device_late.copy_out(late.device, back, at, sizeof back);
    sl_device_late.record(late.device, OUT_DONE, SL_QUEUE_OUT);
    sl_device_late.wait(late.device, OUT_DONE);
    CHECK(memcmp(back, rows[0], sizeof back) == 0);
    close_bare(&late);
}
