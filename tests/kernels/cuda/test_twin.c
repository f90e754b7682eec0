/* The twin of the driver (kernels/cuda/twin.h): a stage's double-buffered walk over three streams, some of whose chunks are computed by
 * graphs, comes out right by every seed, and each way to break it comes out wrong by some. */
#include "kernels/cuda/driver.h"
#include "kernels/cuda/twin.h"
#include "tests/check.h"
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* X(NAME, what is broken) */
#define MUTANTS(X)                                                                                           \
    X(NO_WAIT_FOR_IN, "compute does not wait for the copy in")                                               \
    X(OTHER_SLOTS_IN, "compute waits for the other slot's copy in")                                          \
    X(STALE_WAIT, "compute waits before the copy in is recorded, so for the one before")                     \
    X(IN_RECORDED_EARLY, "the copy in is recorded before it is queued")                                      \
    X(IN_SLOT_BUSY, "the copy in does not wait until compute has used its slot")                             \
    X(PAGE_BUSY, "a page is cleared while it is still on its way out")                                       \
    X(PINNED_REFILLED, "the host refills a pinned slot that is not copied yet")                              \
    X(PINNED_FILLED_LATE, "the host fills a pinned slot after its copy is queued")                           \
    X(LIST_REFILLED, "the host refills a list that is not copied yet")                                       \
    X(LIST_COPIED_LATE, "a graph is launched before its chunk's list is copied, so with that of another")    \
    X(LIST_CAPTURED, "the copy of the list is in the graph, so it is that of the turn that was captured")    \
    X(PLACES_CAPTURED, "where a chunk's rows lie is in the graph, so it is where those of the first did")    \
    X(SMALLER_GRAPH, "a chunk goes by the graph of a smaller class")                                         \
    X(OUT_SLOT_BUSY, "compute overwrites results that are not out yet")                                      \
    X(COMPUTE_RECORDED_EARLY, "compute is recorded before it is queued")                                     \
    X(NO_WAIT_FOR_COMPUTE, "the copy out does not wait for compute")                                         \
    X(OUT_RECORDED_EARLY, "the copies out are recorded between them")                                        \
    X(READ_EARLY, "the host reads results without waiting for them")
enum mutant {
    AS_IT_IS,
#define MUTANT(name, what) name,
    MUTANTS(MUTANT)
#undef MUTANT
        N_MUTANTS
};
static const char *const whats[] = {"as it is",
#define MUTANT(name, what) what,
                                    MUTANTS(MUTANT)
#undef MUTANT
};

enum { WORDS = 32, CHUNKS = 14, SLOTS = 2, PAGES = 3, OUTS = 5, LISTS = 3, IN = 0, COMPUTE = 1, OUT = 2 };
enum {
    BLOCK = 16,
    CLASSES = 2
}; /* words that a block does; the first class has one block, the second all of them */

/* ---- the kernel ---- */

struct places { /* of a chunk, where a kernel finds them: in its parameters, or in a list in memory */
    const uint32_t *in;
    uint32_t *out, *page;
    uint64_t n;
};
struct mix {
    struct places places;
    uint32_t *state;
};
struct mix_listed {
    const struct places *list;
    uint32_t *state;
};
/* What comes out of a chunk shows all chunks before it, and whether its page was clear. */
static void mix_words(const uint32_t *in, uint32_t *out, uint32_t *page, uint32_t *state, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        *state = *state * 31 + in[i];
        page[i] += *state;
        out[i] = in[i] * 7 + page[i];
    }
}
static void run_mix(const struct sl_cu_twin_kernel *kernel, const void *params, uint32_t n_blocks,
                    size_t shared_bytes, uint64_t seed)
{
    const struct mix *p = params;
    (void)kernel, (void)n_blocks, (void)shared_bytes, (void)seed;
    mix_words(p->places.in, p->places.out, p->places.page, p->state, p->places.n);
}
static void run_mix_listed(const struct sl_cu_twin_kernel *kernel, const void *params, uint32_t n_blocks,
                           size_t shared_bytes, uint64_t seed)
{
    const struct mix_listed *p = params;
    const struct places *l = p->list;
    (void)kernel, (void)shared_bytes, (void)seed;
    mix_words(l->in, l->out, l->page, p->state, l->n < n_blocks * BLOCK ? l->n : n_blocks * BLOCK);
}
static const struct sl_cu_twin_kernel kernels[] = {
    {"mix", sizeof(struct mix), 32, 8, run_mix, NULL},
    {"mix_listed", sizeof(struct mix_listed), 32, 8, run_mix_listed, NULL}};

static bool by_graph(int chunk)
{
    return chunk % 3 > 0;
}
static uint32_t words_of(int chunk)
{
    return chunk % 4 == 1 ? BLOCK - 3 : WORDS;
}
static uint32_t row(int chunk, int i)
{
    return (uint32_t)(chunk * 1000 + i * 17 + 1);
}

static void expect(uint32_t results[CHUNKS][2][WORDS])
{
    uint32_t state = 0;
    for (int c = 0; c < CHUNKS; c++) {
        uint32_t in[WORDS];
        for (int i = 0; i < WORDS; i++)
            in[i] = row(c, i), results[c][0][i] = results[c][1][i] = 0;
        mix_words(in, results[c][0], results[c][1], &state, words_of(c));
    }
}

/* ---- the walk ---- */

struct walk {
    const struct sl_cuda *cuda;
    enum mutant mutant;
    sl_cu_result bad; /* the first that was not 0 */
    sl_cu_context context;
    sl_cu_stream streams[3];
    sl_cu_event in[SLOTS], computed[SLOTS], out[OUTS], listed[LISTS];
    sl_cu_function mix, mix_listed;
    sl_cu_exec graphs[CLASSES];
    sl_cu_at device_in[SLOTS], device_out[SLOTS], pages[PAGES], state, list;
    uint32_t *pinned_in[SLOTS], *pinned_out[OUTS], *pinned_pages[OUTS];
    struct places *pinned_lists[LISTS];
    uint32_t results[CHUNKS][2][WORDS];
};

static void ok(struct walk *w, sl_cu_result result)
{
    if (result != SL_CU_OK && w->bad == SL_CU_OK)
        w->bad = result;
}

static void make_event(struct walk *w, sl_cu_event *event)
{
    ok(w, w->cuda->event_create(event, SL_CU_EVENT_NO_TIMING));
}

static void make_memory(struct walk *w, sl_cu_at *device, uint32_t **pinned)
{
    void *memory = NULL;
    if (device)
        ok(w, w->cuda->mem_alloc(device, WORDS * 4));
    if (!pinned)
        return;
    ok(w, w->cuda->host_alloc(&memory, WORDS * 4, 0));
    *pinned = memory;
}

/* As the chunk has them. */
static struct places places_of(const struct walk *w, int chunk)
{
    int k = chunk % SLOTS;
    return (struct places){(const uint32_t *)(uintptr_t)w->device_in[k],
                           (uint32_t *)(uintptr_t)w->device_out[k],
                           (uint32_t *)(uintptr_t)w->pages[chunk % PAGES], words_of(chunk)};
}

static void launch(struct walk *w, sl_cu_function function, unsigned blocks, void *params)
{
    ok(w, w->cuda->launch(function, blocks, 1, 1, 32, 1, 1, 0, w->streams[COMPUTE], &params, NULL));
}

static void copy_list(struct walk *w, int turn)
{
    ok(w,
       w->cuda->copy_in(w->list, w->pinned_lists[turn], sizeof *w->pinned_lists[turn], w->streams[COMPUTE]));
}

static void make_graph(struct walk *w, sl_cu_exec *exec, unsigned blocks)
{
    sl_cu_graph graph = NULL;
    sl_cu_stream s = w->streams[COMPUTE];
    struct mix_listed p = {(const struct places *)(uintptr_t)w->list, (uint32_t *)(uintptr_t)w->state};
    struct mix fixed = {places_of(w, 0), p.state};
    ok(w, w->cuda->capture_begin(s, SL_CU_CAPTURE_THREAD_LOCAL));
    if (w->mutant == LIST_CAPTURED)
        copy_list(w, 0);
    if (w->mutant == PLACES_CAPTURED)
        launch(w, w->mix, blocks, &fixed);
    else
        launch(w, w->mix_listed, blocks, &p);
    ok(w, w->cuda->capture_end(s, &graph));
    ok(w, w->cuda->graph_make(exec, graph, 0));
    ok(w, w->cuda->graph_destroy(graph));
    ok(w, w->cuda->exec_upload(*exec, s));
    memset(&p, 0xFF, sizeof p), memset(&fixed, 0xFF, sizeof fixed); /* it has its own */
}

static void make_graphs(struct walk *w)
{
    make_memory(w, &w->list, NULL);
    for (int i = 0; i < LISTS; i++) {
        uint32_t *pinned = NULL;
        make_event(w, &w->listed[i]), make_memory(w, NULL, &pinned);
        w->pinned_lists[i] = (struct places *)(void *)pinned;
    }
    if (w->bad != SL_CU_OK)
        return;
    *w->pinned_lists[0] =
        places_of(w, 0); /* of which no graph needs it: it shows who reads a list too early */
    copy_list(w, 0);
    for (unsigned i = 0; i < CLASSES; i++)
        make_graph(w, &w->graphs[i], i + 1);
}

static void walk_begin(struct walk *w, enum mutant mutant, const struct sl_cu_twin_config *config)
{
    sl_cu_module module;
    *w = (struct walk){.cuda = sl_cu_twin(), .mutant = mutant};
    sl_cu_twin_start(config);
    ok(w, w->cuda->init(0));
    ok(w, w->cuda->ctx_retain(&w->context, 0));
    ok(w, w->cuda->ctx_set_current(w->context));
    ok(w, w->cuda->module_load(&module, "an image"));
    ok(w, w->cuda->module_function(&w->mix, module, "mix"));
    ok(w, w->cuda->module_function(&w->mix_listed, module, "mix_listed"));
    ok(w, w->cuda->function_load(w->mix)), ok(w, w->cuda->function_load(w->mix_listed));
    for (int i = 0; i < 3; i++)
        ok(w, w->cuda->stream_create(&w->streams[i], SL_CU_STREAM_NON_BLOCKING));
    for (int i = 0; i < SLOTS; i++) {
        make_event(w, &w->in[i]), make_event(w, &w->computed[i]);
        make_memory(w, &w->device_in[i], &w->pinned_in[i]), make_memory(w, &w->device_out[i], NULL);
    }
    for (int i = 0; i < PAGES; i++)
        make_memory(w, &w->pages[i], NULL);
    for (int i = 0; i < OUTS; i++)
        make_event(w, &w->out[i]), make_memory(w, NULL, &w->pinned_out[i]),
            make_memory(w, NULL, &w->pinned_pages[i]);
    make_memory(w, &w->state, NULL);
    make_graphs(w);
    ok(w, w->cuda->fill(w->state, 0, WORDS * 4, w->streams[COMPUTE]));
}

static void host_waits(struct walk *w, sl_cu_event event)
{
    while (w->bad == SL_CU_OK) {
        sl_cu_result result = w->cuda->event_query(event);
        if (result == SL_CU_OK)
            return;
        if (result != SL_CU_NOT_READY)
            ok(w, result);
    }
}

static void take_results(struct walk *w, int chunk)
{
    if (w->mutant != READ_EARLY)
        host_waits(w, w->out[chunk % OUTS]);
    memcpy(w->results[chunk][0], w->pinned_out[chunk % OUTS], words_of(chunk) * 4);
    memcpy(w->results[chunk][1], w->pinned_pages[chunk % OUTS], words_of(chunk) * 4);
}

static void fill_pinned(struct walk *w, int chunk)
{
    for (int i = 0; i < WORDS; i++)
        w->pinned_in[chunk % SLOTS][i] = row(chunk, i);
}

static void queue_in(struct walk *w, int chunk)
{
    int k = chunk % SLOTS;
    sl_cu_stream s = w->streams[IN];
    if (chunk >= SLOTS && w->mutant != PINNED_REFILLED)
        host_waits(w, w->in[k]);
    if (w->mutant != PINNED_FILLED_LATE)
        fill_pinned(w, chunk);
    if (chunk >= SLOTS && w->mutant != IN_SLOT_BUSY)
        ok(w, w->cuda->stream_wait(s, w->computed[k], 0));
    if (chunk >= PAGES && w->mutant != PAGE_BUSY)
        ok(w, w->cuda->stream_wait(s, w->out[(chunk - PAGES) % OUTS], 0));
    ok(w, w->cuda->fill(w->pages[chunk % PAGES], 0, WORDS * 4, s));
    if (w->mutant == STALE_WAIT && chunk >= SLOTS)
        ok(w, w->cuda->stream_wait(w->streams[COMPUTE], w->in[k], 0));
    if (w->mutant == IN_RECORDED_EARLY)
        ok(w, w->cuda->event_record(w->in[k], s));
    ok(w, w->cuda->copy_in(w->device_in[k], w->pinned_in[k], WORDS * 4, s));
    if (w->mutant != IN_RECORDED_EARLY)
        ok(w, w->cuda->event_record(w->in[k], s));
    if (w->mutant == PINNED_FILLED_LATE)
        fill_pinned(w, chunk);
}

static void queue_graph(struct walk *w, int chunk)
{
    int turn = chunk % LISTS;
    unsigned class = words_of(chunk) > BLOCK;
    if (chunk >= LISTS && w->mutant != LIST_REFILLED)
        host_waits(w, w->listed[turn]);
    *w->pinned_lists[turn] = places_of(w, chunk);
    if (w->mutant != LIST_COPIED_LATE && w->mutant != LIST_CAPTURED)
        copy_list(w, turn);
    ok(w, w->cuda->exec_launch(w->graphs[w->mutant == SMALLER_GRAPH ? 0 : class], w->streams[COMPUTE]));
    if (w->mutant == LIST_COPIED_LATE)
        copy_list(w, turn);
    ok(w, w->cuda->event_record(w->listed[turn], w->streams[COMPUTE]));
}

static void queue_compute(struct walk *w, int chunk)
{
    int k = chunk % SLOTS;
    sl_cu_stream s = w->streams[COMPUTE];
    struct mix p = {places_of(w, chunk), (uint32_t *)(uintptr_t)w->state};
    if (w->mutant == OTHER_SLOTS_IN && chunk >= 1)
        ok(w, w->cuda->stream_wait(s, w->in[1 - k], 0));
    else if (w->mutant != NO_WAIT_FOR_IN && w->mutant != STALE_WAIT)
        ok(w, w->cuda->stream_wait(s, w->in[k], 0));
    if (chunk >= SLOTS && w->mutant != OUT_SLOT_BUSY)
        ok(w, w->cuda->stream_wait(s, w->out[(chunk - SLOTS) % OUTS], 0));
    if (w->mutant == COMPUTE_RECORDED_EARLY)
        ok(w, w->cuda->event_record(w->computed[k], s));
    if (by_graph(chunk))
        queue_graph(w, chunk);
    else
        launch(w, w->mix, 1, &p);
    if (w->mutant != COMPUTE_RECORDED_EARLY)
        ok(w, w->cuda->event_record(w->computed[k], s));
}

static void queue_out(struct walk *w, int chunk)
{
    int k = chunk % SLOTS, q = chunk % OUTS;
    sl_cu_stream s = w->streams[OUT];
    if (w->mutant != NO_WAIT_FOR_COMPUTE)
        ok(w, w->cuda->stream_wait(s, w->computed[k], 0));
    ok(w, w->cuda->copy_out(w->pinned_out[q], w->device_out[k], WORDS * 4, s));
    if (w->mutant == OUT_RECORDED_EARLY)
        ok(w, w->cuda->event_record(w->out[q], s));
    ok(w, w->cuda->copy_out(w->pinned_pages[q], w->pages[chunk % PAGES], WORDS * 4, s));
    if (w->mutant != OUT_RECORDED_EARLY)
        ok(w, w->cuda->event_record(w->out[q], s));
}

static sl_cu_result walk(struct walk *w, enum mutant mutant, const struct sl_cu_twin_config *config)
{
    walk_begin(w, mutant, config);
    for (int c = 0; c < CHUNKS && w->bad == SL_CU_OK; c++) {
        if (c >= OUTS)
            take_results(w, c - OUTS);
        queue_in(w, c);
        queue_compute(w, c);
        queue_out(w, c);
    }
    for (int c = CHUNKS - OUTS; c < CHUNKS && w->bad == SL_CU_OK; c++)
        take_results(w, c);
    return w->bad;
}

static struct sl_cu_twin_config world(uint64_t seed)
{
    return (struct sl_cu_twin_config){.seed = seed,
                                      .n_devices = 1,
                                      .device_bytes = 1 << 20,
                                      .capability = 90,
                                      .kernels = kernels,
                                      .n_kernels = 2};
}

/* In how many of `n` seeds the results are wrong. */
static unsigned wrong_seeds(enum mutant mutant, unsigned n, uint64_t *misuses)
{
    static uint32_t wanted[CHUNKS][2][WORDS];
    static struct walk w;
    unsigned wrong = 0;
    expect(wanted);
    for (unsigned seed = 0; seed < n; seed++) {
        struct sl_cu_twin_config config = world(seed);
        if (walk(&w, mutant, &config) != SL_CU_OK)
            sl_test_fail(__FILE__, __LINE__, "%s, seed %u: result %u", whats[mutant], seed, w.bad);
        wrong += memcmp(w.results, wanted, sizeof wanted) != 0;
        *misuses += sl_cu_twin_take_report().misuses;
    }
    sl_cu_twin_stop();
    return wrong;
}

static unsigned n_seeds(void)
{
    const char *text = getenv("SLUICE_SEEDS");
    long n = text ? strtol(text, NULL, 10) : 0;
    return n > 100 && n < 1000000 ? (unsigned)n : 100;
}

SL_TEST(the_walk_is_right_by_every_seed)
{
    uint64_t misuses = 0;
    CHECK_INT(wrong_seeds(AS_IT_IS, n_seeds(), &misuses), 0);
    CHECK_INT(misuses, 0);
}

SL_TEST(each_mutant_of_the_walk_is_wrong_by_some_seeds)
{
    for (enum mutant m = AS_IT_IS + 1; m < N_MUTANTS; m++) {
        uint64_t misuses = 0;
        unsigned n = n_seeds(), wrong = wrong_seeds(m, n, &misuses);
        printf("%3u of %u seeds  %s\n", wrong, n, whats[m]);
        if (wrong < n / 20)
            sl_test_fail(__FILE__, __LINE__, "found by %u of %u seeds only: %s", wrong, n, whats[m]);
    }
}

/* ---- what it says of what is wrong ---- */

SL_TEST(host_code_that_follows_an_address_of_the_device_dies_of_it)
{
    static struct walk w;
    struct sl_cu_twin_config config = world(1);
    REQUIRE(walk(&w, AS_IT_IS, &config) == SL_CU_OK);
    for (int write = 0; write < 2; write++) {
        pid_t child = fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            volatile uint32_t *at = (volatile uint32_t *)(uintptr_t)w.pages[0];
            signal(SIGSEGV, SIG_DFL);
            if (write)
                *at = 1;
            _exit(*at == 0 ? 1 : 2);
        }
        int status = 0;
        waitpid(child, &status, 0);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    }
    sl_cu_twin_stop();
}

SL_TEST(an_error_of_a_launch_is_told_by_whoever_comes_next_and_by_all_after_him)
{
    static struct walk w;
    static const sl_cu_result results[] = {SL_CU_ILLEGAL_ADDRESS, SL_CU_ECC_UNCORRECTABLE,
                                           SL_CU_LAUNCH_FAILED};
    for (uint64_t seed = 0; seed < 24; seed++) {
        struct sl_cu_twin_config config = world(seed);
        config.fault =
            (struct sl_cu_twin_fault){SL_CU_TWIN_FAILS, (uint32_t)seed % CHUNKS, results[seed % 3], 0};
        CHECK_INT(walk(&w, AS_IT_IS, &config), results[seed % 3]);
        CHECK(sl_cu_twin_take_report().launches <= seed % CHUNKS);
        sl_cu_at at;
        CHECK_INT(w.cuda->mem_alloc(&at, 64), results[seed % 3]);
        CHECK_INT(w.cuda->event_query(w.in[0]), results[seed % 3]);
        CHECK_INT(w.cuda->ctx_release(0), results[seed % 3]);
        CHECK_INT(w.cuda->ctx_retain(&w.context, 0), results[seed % 3]); /* not in this process */
    }
    sl_cu_twin_stop();
}

/* The results that came before it is told are whole, and whoever believed that all is well until then lost nothing but time. */
SL_TEST(a_late_error_is_told_by_a_call_that_has_nothing_to_do_with_it)
{
    static struct walk w;
    static uint32_t wanted[CHUNKS][2][WORDS];
    expect(wanted);
    unsigned told_late = 0;
    for (uint64_t seed = 0; seed < 24; seed++) {
        struct sl_cu_twin_config config = world(seed);
        config.fault = (struct sl_cu_twin_fault){SL_CU_TWIN_FAILS, 3, SL_CU_ECC_UNCORRECTABLE, 40};
        CHECK_INT(walk(&w, AS_IT_IS, &config), SL_CU_ECC_UNCORRECTABLE);
        told_late += sl_cu_twin_take_report().launches > 4;
        for (int c = 0; c < CHUNKS; c++) /* none is wrong: it is there or not */
            CHECK(memcmp(w.results[c], wanted[c], sizeof wanted[c]) == 0 || w.results[c][0][0] == 0 ||
                  w.results[c][0][0] == 0xA5A5A5A5u || w.results[c][1][0] == 0xA5A5A5A5u);
    }
    CHECK(told_late > 0);
    sl_cu_twin_stop();
}

SL_TEST(a_launch_that_hangs_is_given_up_by_the_deadline_of_the_wait)
{
    static struct walk w;
    struct sl_err err;
    struct sl_cu_twin_config config = world(7);
    config.fault = (struct sl_cu_twin_fault){SL_CU_TWIN_HANGS, 0, SL_CU_OK, 0};
    walk_begin(&w, AS_IT_IS, &config);
    queue_in(&w, 0), queue_compute(&w, 0), queue_out(&w, 0);
    REQUIRE(w.bad == SL_CU_OK);
    CHECK_INT(sl_cu_wait(w.cuda, w.in[0], 60000, "the copy in", &err), SL_OK); /* that one is not held up */
    CHECK_INT(sl_cu_wait(w.cuda, w.out[0], 20, "the chunk", &err), SL_E_DEADLINE);
    CHECK_CONTAINS(err.text, "the chunk does not end on the GPU: given up after");
    for (int i = 0; i < 3; i++)
        CHECK(w.cuda->stream_query(w.streams[i]) == (i == IN ? SL_CU_OK : SL_CU_NOT_READY));
    sl_cu_twin_stop();
}

SL_TEST(an_error_becomes_a_sentence_with_what_was_tried)
{
    static struct walk w;
    struct sl_err err;
    struct sl_cu_twin_config config = world(3);
    config.fault = (struct sl_cu_twin_fault){SL_CU_TWIN_FAILS, 0, SL_CU_ILLEGAL_ADDRESS, 0};
    walk_begin(&w, AS_IT_IS, &config);
    queue_in(&w, 0), queue_compute(&w, 0), queue_out(&w, 0);
    CHECK_INT(sl_cu_wait(w.cuda, w.out[0], 60000, "chunk 17", &err), SL_E_UNAVAILABLE);
    CHECK_STR(err.text, "chunk 17 failed on the GPU: an illegal memory access was encountered "
                        "(CUDA_ERROR_ILLEGAL_ADDRESS, 700)");
    CHECK_INT(sl_cu_check(w.cuda, SL_CU_OUT_OF_MEMORY, "taking 3 GiB", &err), SL_E_UNAVAILABLE);
    CHECK_INT(sl_cu_check(w.cuda, 555, "this", &err), SL_E_UNAVAILABLE);
    CHECK_STR(err.text, "this failed on the GPU: no more is said (unknown to the driver, 555)");
    sl_cu_twin_stop();
}

SL_TEST(memory_ends_and_can_be_made_to_end)
{
    static struct walk w;
    sl_cu_at at, more;
    size_t free_bytes, total;
    struct sl_cu_twin_config config = world(3);
    enum {
        OF_THE_WALK = 1 + 3 + 3 * SLOTS + 3 * OUTS + 9 + 2 * LISTS + CLASSES
    }; /* module, streams, events and pinned memory, memory, graphs */
    config.fault = (struct sl_cu_twin_fault){SL_CU_TWIN_NO_MEMORY, OF_THE_WALK + 1, SL_CU_OK, 0};
    walk_begin(&w, AS_IT_IS, &config);
    REQUIRE(w.bad == SL_CU_OK);
    CHECK_INT(w.cuda->mem_info(&free_bytes, &total), SL_CU_OK);
    CHECK_INT(total - free_bytes, 9 * WORDS * 4);
    host_waits(&w, (w.cuda->event_record(w.in[0], w.streams[COMPUTE]), w.in[0]));
    CHECK_INT(w.cuda->mem_alloc(&at, free_bytes), SL_CU_OK);
    CHECK_INT(w.cuda->mem_alloc(&more, 1), SL_CU_OUT_OF_MEMORY);
    CHECK_INT(w.cuda->mem_free(at), SL_CU_OK);
    CHECK_INT(w.cuda->mem_free(at), SL_CU_INVALID_VALUE);
    CHECK_INT(w.cuda->mem_alloc(&at, 1), SL_CU_OK);
    CHECK_INT(w.cuda->copy_in(at, w.pinned_in[0], 2, w.streams[IN]), SL_CU_INVALID_VALUE);
    CHECK_INT(sl_cu_twin_take_report().misuses, 0);
    sl_cu_twin_stop();
}

/* As a driver of version 590 was seen to answer: parts are of any size, at any place, and none is registered twice. */
SL_TEST(the_hosts_memory_is_registered_once_and_given_back_as_it_was_taken)
{
    static struct walk w;
    static uint8_t plain[300];
    struct sl_cu_twin_config config = world(0);
    walk_begin(&w, AS_IT_IS, &config);
    uint8_t *pinned = (uint8_t *)w.pinned_in[0];
    host_waits(&w, (w.cuda->event_record(w.in[0], w.streams[COMPUTE]), w.in[0]));
    CHECK_INT(w.cuda->host_register(plain + 3, 100, 0), SL_CU_OK);
    CHECK_INT(w.cuda->host_register(plain + 103, 10, 0), SL_CU_OK); /* on the same page */
    CHECK_INT(w.cuda->host_register(plain + 102, 50, 0), SL_CU_ALREADY_REGISTERED);
    CHECK_INT(w.cuda->host_register(plain, 4, 0), SL_CU_ALREADY_REGISTERED);
    CHECK_INT(w.cuda->host_register(plain, sizeof plain, 0), SL_CU_ALREADY_REGISTERED);
    CHECK_INT(w.cuda->host_register(pinned + 8, 8, 0), SL_CU_ALREADY_REGISTERED);
    CHECK_INT(w.cuda->host_unregister(plain + 4), SL_CU_INVALID_VALUE);
    CHECK_INT(w.cuda->host_unregister(plain + 200), SL_CU_NOT_REGISTERED);
    CHECK_INT(w.cuda->host_unregister(pinned), SL_CU_INVALID_VALUE);
    CHECK_INT(w.cuda->host_free(plain + 3), SL_CU_INVALID_VALUE);
    CHECK_INT(w.cuda->host_free(plain + 200), SL_CU_INVALID_VALUE);
    CHECK_INT(w.cuda->host_unregister(plain + 3), SL_CU_OK);
    CHECK_INT(w.cuda->host_unregister(plain + 3), SL_CU_NOT_REGISTERED);
    CHECK_INT(w.cuda->host_unregister(plain + 103), SL_CU_OK);
    CHECK_INT(w.cuda->host_free(pinned), SL_CU_OK);
    CHECK_INT(sl_cu_twin_take_report().misuses, 0);
    sl_cu_twin_stop();
}

/* ---- what a driver would let pass ---- */

static void expect_misuse(const char *what)
{
    struct sl_cu_twin_report report = sl_cu_twin_take_report();
    CHECK_INT(report.misuses, 1);
    CHECK_CONTAINS(report.first, what);
}

SL_TEST(what_a_driver_lets_pass_is_counted_with_a_sentence)
{
    static struct walk w;
    static uint32_t plain[WORDS];
    struct sl_cu_twin_config config = world(0);
    sl_cu_event event;
    sl_cu_stream stream;
    sl_cu_function function;
    sl_cu_module module;
    walk_begin(&w, AS_IT_IS, &config);
    make_event(&w, &event);
    ok(&w, w.cuda->copy_in(w.device_in[0], plain, sizeof plain, w.streams[IN]));
    expect_misuse("a copy of 128 bytes of memory that is not pinned");
    ok(&w, w.cuda->host_register(plain, sizeof plain, 0));
    ok(&w, w.cuda->copy_in(w.device_in[0], plain, sizeof plain, w.streams[IN]));
    CHECK_INT(sl_cu_twin_take_report().misuses, 0);
    CHECK_INT(w.cuda->copy_in(w.device_in[0], plain, sizeof plain, NULL), SL_CU_INVALID_HANDLE);
    expect_misuse("work for the legacy stream");
    ok(&w, w.cuda->copy_within(w.device_in[0], w.device_in[0] + 8, 8, w.streams[IN]));
    CHECK_INT(sl_cu_twin_take_report().misuses, 0);
    ok(&w, w.cuda->copy_within(w.device_in[0], w.device_in[0] + 8, 12, w.streams[IN]));
    expect_misuse("a copy of 12 bytes onto a part of themselves");
    ok(&w, w.cuda->stream_wait(w.streams[OUT], event, 0));
    expect_misuse("waits for an event that was never recorded");
    ok(&w, w.cuda->event_query(event));
    expect_misuse("asks for an event that was never recorded");
    ok(&w, w.cuda->stream_create(&stream, 0));
    expect_misuse("make it SL_CU_STREAM_NON_BLOCKING");
    ok(&w, w.cuda->module_load(&module, "an image"));
    ok(&w, w.cuda->module_function(&function, module, "mix"));
    struct mix p = {places_of(&w, 0), (uint32_t *)(uintptr_t)w.state};
    void *arguments[] = {&p};
    ok(&w, w.cuda->launch(function, 1, 1, 1, 32, 1, 1, 0, w.streams[COMPUTE], arguments, NULL));
    expect_misuse("mix is loaded by its first launch");
    CHECK_INT(w.cuda->launch(w.mix, 1, 1, 1, 64, 1, 1, 0, w.streams[COMPUTE], arguments, NULL),
              SL_CU_INVALID_VALUE);
    CHECK_INT(w.cuda->launch(w.mix, 1u << 31, 1, 1, 32, 1, 1, 0, w.streams[COMPUTE], arguments, NULL),
              SL_CU_INVALID_VALUE);
    CHECK_INT(w.cuda->launch(w.mix, 1, 1, 1, 32, 1, 1, 50000, w.streams[COMPUTE], arguments, NULL),
              SL_CU_INVALID_VALUE);
    CHECK_INT(w.cuda->module_function(&function, module, "nothing"), SL_CU_NOT_FOUND);
    sl_cu_graph graph;
    sl_cu_exec exec;
    ok(&w, w.cuda->capture_begin(w.streams[COMPUTE], SL_CU_CAPTURE_THREAD_LOCAL));
    launch(&w, w.mix, 1, &p);
    CHECK_INT(w.cuda->event_record(event, w.streams[COMPUTE]), SL_CU_CAPTURE_UNSUPPORTED);
    ok(&w, w.cuda->capture_end(w.streams[COMPUTE], &graph));
    CHECK_INT(w.cuda->capture_end(w.streams[COMPUTE], &graph), SL_CU_INVALID_VALUE);
    ok(&w, w.cuda->graph_make(&exec, graph, 0));
    CHECK_INT(sl_cu_twin_take_report().misuses, 0);
    ok(&w, w.cuda->exec_launch(exec, w.streams[COMPUTE]));
    expect_misuse("a graph is loaded by its first launch");
    while (w.cuda->stream_query(w.streams[COMPUTE]) == SL_CU_NOT_READY)
        ;
    CHECK_INT(w.bad, SL_CU_OK);
    sl_cu_twin_stop();
}

static sl_cu_result call_while_captured(struct walk *w, int which)
{
    sl_cu_at at;
    sl_cu_module module;
    void *memory;
    static uint32_t plain[WORDS];
    switch (which) {
    case 0:
        return w->cuda->event_query(w->in[0]);
    case 1:
        return w->cuda->stream_query(w->streams[IN]);
    case 2:
        return w->cuda->mem_alloc(&at, 64);
    case 3:
        return w->cuda->mem_free(w->device_in[0]);
    case 4:
        return w->cuda->host_alloc(&memory, 64, 0);
    case 5:
        return w->cuda->host_free(w->pinned_in[0]);
    case 6:
        return w->cuda->host_register(plain, sizeof plain, 0);
    case 7:
        return w->cuda->host_unregister(w->pinned_in[0]);
    case 8:
        return w->cuda->module_load(&module, "an image");
    default:
        return w->cuda->function_load(w->mix);
    }
}

static void *end_capture(void *arg)
{
    struct walk *w = arg;
    sl_cu_graph graph;
    CHECK_INT(w->cuda->ctx_set_current(w->context), SL_CU_OK);
    CHECK_INT(w->cuda->capture_end(w->streams[COMPUTE], &graph), SL_CU_CAPTURE_WRONG_THREAD);
    return NULL;
}

SL_TEST(what_a_capture_would_not_see_is_refused_and_spoils_it)
{
    static struct walk w;
    struct sl_cu_twin_config config = world(0);
    sl_cu_graph graph;
    pthread_t thread;
    walk_begin(&w, AS_IT_IS, &config);
    struct mix p = {places_of(&w, 0), (uint32_t *)(uintptr_t)w.state};
    void *arguments[] = {&p};
    for (int which = 0; which < 10; which++) {
        REQUIRE(w.cuda->capture_begin(w.streams[COMPUTE], SL_CU_CAPTURE_THREAD_LOCAL) == SL_CU_OK);
        launch(&w, w.mix, 1, &p);
        CHECK_INT(call_while_captured(&w, which), SL_CU_CAPTURE_UNSUPPORTED);
        CHECK_INT(w.cuda->launch(w.mix, 1, 1, 1, 32, 1, 1, 0, w.streams[COMPUTE], arguments, NULL),
                  SL_CU_CAPTURE_INVALIDATED);
        CHECK_INT(w.cuda->capture_end(w.streams[COMPUTE], &graph), SL_CU_CAPTURE_INVALIDATED);
        CHECK(graph == NULL);
    }
    ok(&w, w.cuda->capture_begin(w.streams[COMPUTE], SL_CU_CAPTURE_THREAD_LOCAL));
    REQUIRE(pthread_create(&thread, NULL, end_capture, &w) == 0);
    pthread_join(thread, NULL);
    ok(&w, w.cuda->capture_end(w.streams[COMPUTE], &graph));
    CHECK_INT(w.bad, SL_CU_OK);
    sl_cu_twin_stop();
}

/* By each seed: late work is still queued then, hasty work is not. */
SL_TEST(things_that_are_not_given_back_are_counted)
{
    static const char *const what[] = {"memory of the device", "a stream", "an event", "a module",
                                       "pinned memory",        NULL};
    for (size_t i = 0; i < sizeof what / sizeof *what; i++) {
        const struct sl_cuda *cuda = sl_cu_twin();
        const struct sl_cu_twin_config config = world(1);
        sl_cu_context context;
        sl_cu_at at;
        sl_cu_stream stream;
        sl_cu_event event;
        sl_cu_module module;
        void *pinned;
        sl_cu_twin_start(&config);
        CHECK_INT(cuda->init(0) | cuda->ctx_retain(&context, 0) | cuda->ctx_set_current(context), SL_CU_OK);
        CHECK_INT(cuda->mem_alloc(&at, 8) | cuda->stream_create(&stream, SL_CU_STREAM_NON_BLOCKING) |
                      cuda->event_create(&event, 0) | cuda->module_load(&module, "an image") |
                      cuda->host_alloc(&pinned, 8, 0),
                  SL_CU_OK);
        CHECK_INT((i == 0 ? SL_CU_OK : cuda->mem_free(at)) |
                      (i == 1 ? SL_CU_OK : cuda->stream_destroy(stream)) |
                      (i == 2 ? SL_CU_OK : cuda->event_destroy(event)) |
                      (i == 3 ? SL_CU_OK : cuda->module_unload(module)) |
                      (i == 4 ? SL_CU_OK : cuda->host_free(pinned)) | cuda->ctx_release(0),
                  SL_CU_OK);
        if (what[i])
            expect_misuse(what[i]);
        CHECK_INT(sl_cu_twin_take_report().misuses, 0);
        sl_cu_twin_stop();
    }
}

SL_TEST(things_given_back_while_work_of_theirs_is_queued_are_counted)
{
    static struct walk w;
    static const char *const what[] = {"memory of the device is given back",
                                       "pinned memory is given back",
                                       "a stream is destroyed",
                                       "an event is destroyed",
                                       "a module is unloaded",
                                       "a graph is destroyed",
                                       "a context is given back while work is queued"};
    for (unsigned i = 0; i < sizeof what / sizeof *what; i++) {
        unsigned found = 0;
        for (uint64_t seed = 0; seed < 12; seed++) {
            sl_cu_module module;
            struct sl_cu_twin_config config = world(seed);
            walk_begin(&w, AS_IT_IS, &config);
            ok(&w, w.cuda->module_load(&module, "an image"));
            queue_in(&w, 0);
            if (i == 5)
                queue_graph(&w, 1);
            ok(&w, i == 0   ? w.cuda->mem_free(w.device_in[0])
                   : i == 1 ? w.cuda->host_free(w.pinned_in[0])
                   : i == 2 ? w.cuda->stream_destroy(w.streams[IN])
                   : i == 3 ? w.cuda->event_destroy(w.in[0])
                   : i == 4 ? w.cuda->module_unload(module)
                   : i == 5 ? w.cuda->exec_destroy(w.graphs[0])
                            : w.cuda->ctx_release(0));
            CHECK_INT(w.bad, SL_CU_OK);
            struct sl_cu_twin_report report = sl_cu_twin_take_report();
            found += report.misuses > 0 && strstr(report.first, what[i]);
        }
        if (found < 3 || found == 12)
            sl_test_fail(__FILE__, __LINE__, "%s: found by %u of 12 seeds", what[i], found);
    }
    sl_cu_twin_stop();
}

/* ---- another library's work ---- */

struct other { /* copies a word of the device's memory when it has been asked often enough */
    const uint32_t *from;
    uint32_t asked, asks_left, word;
};

static bool other_step(void *arg)
{
    struct other *o = arg;
    o->asked++;
    if (o->asks_left-- > 0)
        return false;
    o->word = *o->from; /* the memory is open */
    return true;
}

/* In its turn, behind what is before it and before what is behind it; meanwhile other streams go on, and nobody waits for it. */
SL_TEST(another_librarys_work_has_its_turn_in_a_stream_and_holds_up_nobody_else)
{
    const struct sl_cuda *cuda = sl_cu_twin();
    for (uint64_t seed = 0; seed < 20; seed++) {
        sl_cu_context context;
        sl_cu_stream one, two;
        sl_cu_event before, after, aside;
        sl_cu_at at;
        struct sl_err err;
        sl_cu_twin_start(&(struct sl_cu_twin_config){
            .seed = seed, .n_devices = 1, .device_bytes = 1 << 20, .capability = 90});
        REQUIRE(cuda->init(0) == SL_CU_OK && cuda->ctx_retain(&context, 0) == SL_CU_OK &&
                cuda->ctx_set_current(context) == SL_CU_OK && cuda->mem_alloc(&at, 64) == SL_CU_OK);
        REQUIRE(cuda->stream_create(&one, SL_CU_STREAM_NON_BLOCKING) == SL_CU_OK &&
                cuda->stream_create(&two, SL_CU_STREAM_NON_BLOCKING) == SL_CU_OK);
        REQUIRE(cuda->event_create(&before, SL_CU_EVENT_NO_TIMING) == SL_CU_OK &&
                cuda->event_create(&after, SL_CU_EVENT_NO_TIMING) == SL_CU_OK &&
                cuda->event_create(&aside, SL_CU_EVENT_NO_TIMING) == SL_CU_OK);
        struct other other = {.from = (const uint32_t *)(uintptr_t)at, .asks_left = UINT32_MAX};
        CHECK(!sl_cu_twin_give(&other, other_step, &other)); /* that is no stream */
        CHECK_INT(cuda->fill(at, 3, 64, two), SL_CU_OK);
        CHECK_INT(cuda->event_record(before, two), SL_CU_OK);
        CHECK_INT(cuda->stream_wait(one, before, 0), SL_CU_OK);
        CHECK(sl_cu_twin_give(one, other_step, &other));
        CHECK_INT(cuda->event_record(after, one), SL_CU_OK);
        CHECK_INT(cuda->event_record(aside, two), SL_CU_OK);
        CHECK_INT(sl_cu_wait(cuda, aside, 60000, "the other stream", &err), SL_OK);
        for (int i = 0; i < 50; i++)
            CHECK_INT(cuda->event_query(after), SL_CU_NOT_READY);
        CHECK(other.asked > 0 && other.word == 0);
        other.asks_left = 2;
        CHECK_INT(sl_cu_wait(cuda, after, 60000, "another library's work", &err), SL_OK);
        CHECK_INT(other.word, 0x03030303u);
        CHECK_INT(sl_cu_twin_take_report().misuses, 0);
        sl_cu_twin_stop();
    }
}
