/* Prefill throughput of one pipeline, of one stage alone, and of N single-stage processes at the
 * same time.
 *
 * N workers that share a machine share its caches, memory bandwidth and turbo, so the yardstick for
 * a pipeline of N stages is not N times one worker but what N workers side by side really get.
 * Against it stands the time in which a pipeline fills and drains, and that its stages do not share
 * the work equally (pipeline_bound.h). The ratios printed are
 *
 *     pipeline / (side by side, all N together * what fill and drain allow)
 *     the same / what the split of the work allows
 *
 * Every arm is a process of its own, forked before any thread exists, started and warmed up before
 * the first round, and told over a pipe when to go; the rounds are interleaved so that a slow
 * minute of the machine hits all arms alike. */
#include "bench/bench_pipeline.h"
#include "bench/pipeline_bound.h"
#include "bench/samples.h"

#include "base/clock.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "model/pack/pack.h"
#include "model/pack/pack_cache.h"
#include "node/client/client.h"
#include "pipeline/decide/layers.h"
#include "pipeline/stage/stage.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_WORKERS = SL_MAX_STAGES, MAX_ROUNDS = 101 };

struct bench_worker { /* a forked process with a cluster in it */
    pid_t pid;
    int go, answer; /* our ends of its pipes */
};

struct reply { /* what it sends back after start-up and after each request */
    sl_status status;
    uint64_t elapsed_ns;
    char text[320];
    struct sl_chunk_times times;
};

struct arms {
    struct bench_worker pipeline;
    struct bench_worker single[MAX_WORKERS];
    uint32_t n_started; /* of single */
    bool pipeline_started;
};

/* ---- In the worker. ---- */

static sl_status read_times(struct sl_chunk_times *times, const struct sl_timeline *t, struct sl_err *err)
{
    *times = (struct sl_chunk_times){.n_stages = t->n_stages};
    for (uint32_t i = 0; i < t->n_spans; i++) {
        const struct sl_span *span = &t->spans[i];
        if (span->stage >= MAX_WORKERS || span->chunk >= SL_CHUNK_TIMES_MAX)
            return sl_fail(err, SL_E_CONFIG, "the prompt has more than %d chunks; use a larger --chunk",
                           SL_CHUNK_TIMES_MAX);
        times->us[span->stage][span->chunk] = (uint32_t)(span->end_us - span->begin_us);
        if (span->chunk >= times->n_chunks)
            times->n_chunks = span->chunk + 1;
    }
    return SL_OK;
}

static sl_status measure(struct sl_client *client, const struct sl_generate *generate, struct reply *reply,
                         struct sl_err *err)
{
    struct sl_answer answer;
    uint64_t begin_ns = sl_clock_ns();
    sl_status status = sl_client_generate(client, generate, NULL, NULL, &answer, err);
    reply->elapsed_ns = sl_clock_ns() - begin_ns;
    if (status == SL_OK)
        status = read_times(&reply->times, &answer.timeline, err);
    sl_answer_free(&answer);
    return status;
}

static sl_status open_cluster(struct sl_client **client, const struct sl_bench_pipeline *bench,
                              uint32_t n_stages, struct sl_err *err)
{
    struct sl_client_config config = {
        .cluster = {.model = bench->model,
                    .n_stages = n_stages,
                    .n_threads = bench->n_threads,
                    .chunk_tokens = bench->chunk_tokens,
                    .transport = bench->transport,
                    .kv = bench->kv,
                    .max_running = 1,
                    .without_decode = true,
                    .quiet = true},
    };
    uint32_t layers[SL_MAX_STAGES];
    if (n_stages == bench->n_stages)
        SL_TRY(sl_layers_read(&config.cluster.layers, layers, bench->layers, n_stages, err));
    SL_TRY(sl_client_open(client, &config, err));
    return sl_client_start(*client, bench->prompt_tokens, err);
}

static bool send_reply(int to, sl_status status, struct reply *reply, const struct sl_err *err)
{
    reply->status = status;
    if (status != SL_OK)
        snprintf(reply->text, sizeof reply->text, "%s", err->text);
    return write(to, reply, sizeof *reply) == (ssize_t)sizeof *reply;
}

/* Never returns. One request to warm up, then one for every byte that comes; the end of the pipe is
 * the end. */
static void work(const struct sl_bench_pipeline *bench, uint32_t n_stages, const uint32_t *ids, int go,
                 int answer)
{
    struct sl_client *client = NULL;
    struct sl_err err = {0};
    struct sl_generate generate = {.ids = ids,
                                   .n_ids = bench->prompt_tokens,
                                   .sampling = {.top_p = 1, .n_logprobs = -1},
                                   .prompt_logprobs = -1,
                                   .deadline_ms = -1,
                                   .want_timeline = true};
    static struct reply reply;
    char byte;
    sl_status status = open_cluster(&client, bench, n_stages, &err);
    if (status == SL_OK)
        status = measure(client, &generate, &reply, &err);
    while (send_reply(answer, status, &reply, &err) && status == SL_OK && read(go, &byte, 1) == 1)
        status = measure(client, &generate, &reply, &err);
    sl_client_close(client);
    _exit(0);
}

/* ---- In the bench. ---- */

/* least: NULL, or what becomes less by it. */
static sl_status take_reply(const struct bench_worker *worker, uint64_t *elapsed_ns,
                            struct sl_chunk_times *least, struct sl_err *err)
{
    static struct reply reply;
    uint8_t *at = (uint8_t *)&reply;
    for (size_t got = 0; got < sizeof reply;) {
        ssize_t n = read(worker->answer, at + got, sizeof reply - got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return sl_fail(err, SL_E_INTERNAL,
                           "a measuring process died; run `sluice generate --model` to see why");
        got += (size_t)n;
    }
    *elapsed_ns = reply.elapsed_ns;
    if (least && reply.status == SL_OK)
        sl_chunk_times_least(least, &reply.times);
    return reply.status == SL_OK ? SL_OK : sl_fail(err, reply.status, "%s", reply.text);
}

static sl_status go(const struct bench_worker *worker, struct sl_err *err)
{
    return write(worker->go, "g", 1) == 1 ? SL_OK : sl_fail(err, SL_E_INTERNAL, "a measuring process died");
}

static sl_status start_worker(struct bench_worker *worker, const struct sl_bench_pipeline *bench,
                              uint32_t n_stages, const uint32_t *ids, struct arms *arms, struct sl_err *err)
{
    int to[2], from[2];
    if (pipe2(to, O_CLOEXEC) != 0)
        return sl_fail(err, SL_E_UNAVAILABLE, "no pipe: %s", strerror(errno));
    if (pipe2(from, O_CLOEXEC) != 0) {
        close(to[0]);
        close(to[1]);
        return sl_fail(err, SL_E_UNAVAILABLE, "no pipe: %s", strerror(errno));
    }
    fflush(NULL);
    worker->pid = fork();
    if (worker->pid == 0) { /* the other workers' pipes must end with the bench, not with us */
        for (uint32_t i = 0; i < arms->n_started; i++)
            close(arms->single[i].go);
        if (arms->pipeline_started)
            close(arms->pipeline.go);
        close(to[1]);
        close(from[0]);
        work(bench, n_stages, ids, to[0], from[1]);
    }
    close(to[0]);
    close(from[1]);
    worker->go = to[1];
    worker->answer = from[0];
    if (worker->pid > 0)
        return SL_OK;
    close(to[1]);
    close(from[0]);
    return sl_fail(err, SL_E_UNAVAILABLE, "no process can be started: %s", strerror(errno));
}

static void stop_worker(const struct bench_worker *worker)
{
    close(worker->go);
    close(worker->answer);
    waitpid(worker->pid, NULL, 0);
}

static sl_status start_all(struct arms *arms, const struct sl_bench_pipeline *bench, const uint32_t *ids,
                           struct sl_err *err)
{
    uint64_t warm_ns;
    SL_TRY(start_worker(&arms->pipeline, bench, bench->n_stages, ids, arms, err));
    arms->pipeline_started = true;
    SL_TRY(take_reply(&arms->pipeline, &warm_ns, NULL, err));
    for (uint32_t i = 0; i < bench->n_stages; i++) {
        SL_TRY(start_worker(&arms->single[i], bench, 1, ids, arms, err));
        arms->n_started++;
        SL_TRY(take_reply(&arms->single[i], &warm_ns, NULL, err));
    }
    return SL_OK;
}

static void stop_all(const struct arms *arms)
{
    if (arms->pipeline_started)
        stop_worker(&arms->pipeline);
    for (uint32_t i = 0; i < arms->n_started; i++)
        stop_worker(&arms->single[i]);
}

struct rounds { /* tokens per second */
    double pipeline[MAX_ROUNDS], alone[MAX_ROUNDS], beside[MAX_ROUNDS];
    struct sl_chunk_times in_pipeline, on_one; /* the least of each chunk */
};

static sl_status run_round(const struct arms *arms, const struct sl_bench_pipeline *bench,
                           struct rounds *rounds, uint32_t r, struct sl_err *err)
{
    double tokens = bench->prompt_tokens * 1e9;
    uint64_t elapsed_ns;
    SL_TRY(go(&arms->pipeline, err));
    SL_TRY(take_reply(&arms->pipeline, &elapsed_ns, &rounds->in_pipeline, err));
    rounds->pipeline[r] = tokens / (double)elapsed_ns;
    SL_TRY(go(&arms->single[0], err));
    SL_TRY(take_reply(&arms->single[0], &elapsed_ns, &rounds->on_one, err));
    rounds->alone[r] = tokens / (double)elapsed_ns;
    rounds->beside[r] = 0;
    for (uint32_t i = 0; i < bench->n_stages; i++)
        SL_TRY(go(&arms->single[i], err));
    for (uint32_t i = 0; i < bench->n_stages; i++) {
        SL_TRY(take_reply(&arms->single[i], &elapsed_ns, &rounds->on_one, err));
        rounds->beside[r] += tokens / (double)elapsed_ns;
    }
    return SL_OK;
}

/* The order of the rounds is kept in the samples: pairs of one round are comparable, the medians
 * sum up. */
static void print_samples(const char *key, const double *values, uint32_t n)
{
    printf(", \"%s\": [", key);
    for (uint32_t i = 0; i < n; i++)
        printf("%s%.1f", i > 0 ? ", " : "", values[i]);
    fputs("]", stdout);
}

static void print_result(const struct sl_bench_pipeline *bench, const struct rounds *rounds)
{
    uint32_t n_chunks = rounds->on_one.n_chunks;
    struct sl_pipeline_bound bound = sl_pipeline_bound_of(&rounds->on_one, &rounds->in_pipeline);
    double pipeline = sl_median(rounds->pipeline, bench->rounds),
           alone = sl_median(rounds->alone, bench->rounds);
    double beside = sl_median(rounds->beside, bench->rounds), full = bound.fill_drain;
    double ratio = pipeline / (beside * full);
    if (bench->json) {
        printf("{\"stages\": %u, \"threads\": %u, \"prompt_tokens\": %u, \"chunks\": %u, "
               "\"rounds\": %u, \"transport\": \"%s\"",
               bench->n_stages, bench->n_threads, bench->prompt_tokens, n_chunks, bench->rounds,
               bench->transport);
        printf(", \"pipeline_tok_s\": %.1f, \"one_stage_tok_s\": %.1f, \"side_by_side_tok_s\": "
               "%.1f, \"fill_drain\": %.4f, "
               "\"ratio\": %.4f, \"split\": %.4f, \"ratio_of_split\": %.4f, \"speedup\": %.4f",
               pipeline, alone, beside, full, ratio, bound.split, ratio / bound.split, pipeline / alone);
        print_samples("pipeline", rounds->pipeline, bench->rounds);
        print_samples("one_stage", rounds->alone, bench->rounds);
        print_samples("side_by_side", rounds->beside, bench->rounds);
        fputs("}\n", stdout);
        return;
    }
    printf("prefill of %u tokens in %u chunks, medians of %u interleaved rounds, %u thread%s a "
           "stage, %s\n",
           bench->prompt_tokens, n_chunks, bench->rounds, bench->n_threads, bench->n_threads == 1 ? "" : "s",
           bench->transport);
    printf("  one stage alone             %10.1f tokens/s\n", alone);
    printf("  %2u stages, one pipeline     %10.1f tokens/s   %.2f x one stage\n", bench->n_stages, pipeline,
           pipeline / alone);
    printf("  %2u processes side by side   %10.1f tokens/s   %.2f x one stage\n", bench->n_stages, beside,
           beside / alone);
    printf("  fill and drain allow %.4f of side by side: %.1f tokens/s; the pipeline reaches %.1f "
           "%% of that\n",
           full, beside * full, 100 * ratio);
    printf("  stages of unequal work allow %.4f of that: %.1f tokens/s; the pipeline reaches %.1f %% "
           "of that\n",
           bound.split, beside * full * bound.split, 100 * ratio / bound.split);
}

static sl_status run_rounds(const struct sl_bench_pipeline *bench, const uint32_t *ids, struct rounds *rounds,
                            struct sl_err *err)
{
    struct arms arms = {0};
    sl_status status = start_all(&arms, bench, ids, err);
    for (uint32_t r = 0; status == SL_OK && r < bench->rounds; r++)
        status = run_round(&arms, bench, rounds, r, err);
    stop_all(&arms);
    return status;
}

sl_status sl_bench_pipeline(const struct sl_bench_pipeline *given, struct sl_err *err)
{
    struct sl_bench_pipeline bench = *given;
    if (bench.n_stages > MAX_WORKERS || bench.rounds > MAX_ROUNDS || bench.rounds == 0)
        return sl_fail(err, SL_E_USAGE, "at most %d stages and 1 to %d rounds", MAX_WORKERS, MAX_ROUNDS);
    bench.n_threads = sl_cpu_threads(bench.n_threads, bench.n_stages);
    signal(SIGPIPE, SIG_IGN); /* a worker that died is an error to report */
    char *pack = NULL;
    struct sl_shape shape;
    SL_TRY(sl_pack_ensure(bench.model, &pack, err)); /* once, before the workers would all do it */
    bench.model = pack;
    sl_status status = sl_shape_load(&shape, pack, err);
    uint32_t *ids = malloc(bench.prompt_tokens * sizeof *ids);
    struct rounds *rounds = calloc(1, sizeof *rounds);
    if (status == SL_OK && (!ids || !rounds))
        status = sl_fail(err, SL_E_NOMEM, "no memory for the prompt");
    for (uint32_t i = 0; status == SL_OK && i < bench.prompt_tokens; i++)
        ids[i] = (uint32_t)(sl_rng_at(1, i) % shape.vocab);
    if (status == SL_OK)
        status = run_rounds(&bench, ids, rounds, err);
    if (status == SL_OK)
        print_result(&bench, rounds);
    free(rounds);
    free(ids);
    free(pack);
    return status;
}
