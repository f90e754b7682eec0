/* node/role/role_decode.c on a GPU's device, by the twin of one: sequences that come and go while others are decoded have the tokens,
 * and the digests of logits and pages, that a decode worker on the CPU gives them, whoever has prefilled them. */
#include "kernels/gpu/device.h"
#include "tests/node/role/world.h"

enum { STEPS = 64, CANCEL_AFTER = 3, BATCH_MOST = 16, SEQS = 3 * BATCH_MOST + 2, MOST_ROUNDS = 20000 };

static struct sl_sampling sampling_of(uint32_t seq)
{
    return seq % 3 == 0
               ? w_greedy
               : (struct sl_sampling){.temperature = 0.9f, .top_p = 0.95f, .seed = seq, .n_logprobs = -1};
}
static uint32_t prompt_of(uint32_t seq)
{
    return 1 + seq * 29 % 90;
}
/* The first one is there all the time; the others leave at different steps. */
static uint32_t tokens_of(uint32_t seq)
{
    return seq == 1 ? STEPS : 4 + seq * 17 % 23;
}
static uint32_t sequences_of(uint32_t batch)
{
    return 3 * batch + 2;
}
static bool is_cancelled(uint32_t seq)
{
    return seq % 5 == 2;
}

/* ---- a coordinator that keeps `batch` sequences running ---- */

struct company {
    struct w_world *w;
    uint32_t batch, n, n_begun, n_over, most_rows, fewest_rows;
    struct {
        bool taken, freed, cancelled;
    } did[1 + SEQS];
};

static void follow(struct company *p, uint32_t seq)
{
    const struct w_heard *h = &p->w->heard[seq];
    const struct sl_sampling sampling = sampling_of(seq);
    if (h->first && !p->did[seq].taken)
        p->did[seq].taken = w_take(p->w, seq, prompt_of(seq), tokens_of(seq), &sampling) == SL_OK;
    if (is_cancelled(seq) && h->n >= CANCEL_AFTER && h->ended == 0 && !p->did[seq].cancelled)
        p->did[seq].cancelled = w_cancel(p->w, seq) == SL_OK;
    if (h->adopted && !p->did[seq].freed)
        p->did[seq].freed = w_write_control(p->w, SL_ORDER_FREE, seq) == SL_OK;
}

static void coordinate(struct company *p)
{
    uint32_t over = 0;
    for (uint32_t seq = 1; seq <= p->n_begun; seq++) {
        follow(p, seq);
        over += p->w->heard[seq].ended;
    }
    p->n_over = over;
    if (p->n_begun - over == p->batch || p->n_begun == p->n)
        return;
    const struct sl_sampling sampling = sampling_of(p->n_begun + 1);
    p->n_begun += w_write_run(p->w, p->n_begun + 1, prompt_of(p->n_begun + 1), &sampling) == SL_OK;
}

/* All others work until they have nothing to do, the decode worker does one thing, and what they send arrives: pages, too, between
 * one token step and the next. */
static void go_on(struct company *p)
{
    struct w_world *w = p->w;
    for (uint32_t i = 1; i <= sl_plan_n_members(&w->plan); i++) {
        struct w_node *n = &w->nodes[i];
        uint32_t steps = w->n_steps, rows = w->step_rows;
        if (n == w_decode(w) ? w_step(n, NULL) != SL_OK : w_work(n) < 0)
            sl_test_fail(__FILE__, __LINE__, "node %u: %s", i, n->err.text);
        for (uint32_t s = 0; s < n->n_sent;)
            s += w_deliver(w, n, s) == SL_AGAIN;
        if (w->n_steps == steps)
            continue;
        rows = w->step_rows - rows;
        p->most_rows = rows > p->most_rows ? rows : p->most_rows;
        p->fewest_rows = rows < p->fewest_rows ? rows : p->fewest_rows;
    }
}

static struct w_world *decode(uint32_t n_stages, uint32_t batch, const enum sl_device_kind *devices)
{
    struct company p = {.batch = batch, .n = sequences_of(batch), .fewest_rows = UINT32_MAX};
    memcpy(w_devices, devices, sizeof w_devices);
    p.w = w_open(n_stages, batch, (p.n + 1) * (W_CONTEXT / SL_PAGE));
    uint32_t round = 0;
    for (coordinate(&p); p.n_over < p.n; coordinate(&p)) {
        go_on(&p);
        if (++round == MOST_ROUNDS) {
            sl_test_fail(__FILE__, __LINE__, "%u of %u sequences have ended", p.n_over, p.n_begun);
            break;
        }
    }
    w_settle(p.w);
    CHECK_INT(p.most_rows, batch);
    CHECK(batch == 1 || p.fewest_rows < batch); /* some were not there all the time */
    CHECK_INT(p.w->heard[1].n, STEPS);
    for (uint32_t i = 1; i <= sl_plan_n_members(&p.w->plan); i++)
        CHECK_INT(w_pages_used(&p.w->nodes[i]), 0);
    return p.w;
}

/* ---- what must not matter ---- */

static void compare(uint32_t batch, struct w_world *got, const struct w_world *want, const char *what)
{
    for (uint32_t seq = 1; seq <= sequences_of(batch); seq++) {
        const struct w_heard *a = &got->heard[seq], *b = &want->heard[seq];
        if (is_cancelled(seq)) { /* when that comes depends on how many are asked for their part */
            uint32_t n = a->n < b->n ? a->n : b->n;
            CHECK(n >= CANCEL_AFTER && a->ended && memcmp(a->ids, b->ids, n * sizeof *a->ids) == 0);
            continue;
        }
        if (a->n != b->n || memcmp(a->ids, b->ids, sizeof a->ids) != 0)
            sl_test_fail(__FILE__, __LINE__, "%s: sequence %u has other tokens", what, seq);
        if (a->ended != b->ended || a->failed != b->failed || a->logits_digest != b->logits_digest ||
            a->kv_digest != b->kv_digest)
            sl_test_fail(__FILE__, __LINE__, "%s: sequence %u ended otherwise", what, seq);
    }
    w_close(got);
}

static void in_integers(void)
{
    enum sl_dtype *classes = w_formats.classes;
    classes[SL_CLASS_ATTENTION] = classes[SL_CLASS_DENSE] = classes[SL_CLASS_HEAD] = SL_I8;
    classes[SL_CLASS_GATE_UP] = classes[SL_CLASS_DOWN] = SL_I4;
    w_kv_dtype = SL_I8;
    sl_gpu_twin_as(&(struct sl_gpu_twin){.seed = 5});
}

#define C SL_DEVICE_CPU
#define T SL_DEVICE_TWIN
static const enum sl_device_kind on_cpus[W_STAGES + W_PARTS] = {C, C};

static void sequences_come_and_go(uint32_t batch)
{
    static const enum sl_device_kind decoder[W_STAGES + W_PARTS] = {C, T};
    in_integers();
    struct w_world *want = decode(1, batch, on_cpus);
    CHECK(want->heard[1].kv_digest != 0 && want->heard[1].logits_digest != 0);
    compare(batch, decode(1, batch, decoder), want, "decoded on a GPU");
    w_close(want);
}

SL_TEST(one_after_the_other_has_the_cpus_tokens_and_digests)
{
    sequences_come_and_go(1);
}
SL_TEST(four_that_come_and_go_have_the_cpus_tokens_and_digests)
{
    sequences_come_and_go(4);
}
SL_TEST(sixteen_that_come_and_go_have_the_cpus_tokens_and_digests)
{
    sequences_come_and_go(16);
}

SL_TEST(who_has_prefilled_a_sequence_does_not_matter_nor_how_the_worker_is_cut)
{
    static const struct {
        enum sl_device_kind kinds[W_STAGES + W_PARTS];
        uint32_t n_stages, n_parts;
        const char *what;
    } ways[] = {{{T, T, C}, 2, 1, "GPUs before a CPU"},
                {{T, C, T}, 2, 1, "a GPU and a CPU before a GPU"},
                {{C, T, C, T}, 1, 3, "a worker of three parts, two of them GPUs"}};
    in_integers();
    struct w_world *want = decode(1, 2, on_cpus);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        w_parts = ways[i].n_parts;
        compare(2, decode(ways[i].n_stages, 2, ways[i].kinds), want, ways[i].what);
    }
    w_parts = 1;
    w_close(want);
}
