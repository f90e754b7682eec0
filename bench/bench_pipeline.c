/* Prefill throughput of one pipeline, of one stage alone, and of N single-stage processes at the
 * same time.
 *
 * N workers that share a machine share its caches, memory bandwidth and turbo, so the yardstick for
 * a pipeline of N stages is not N times one worker but what N workers side by side really get.
 * Against it stands the time in which a pipeline fills and drains: with C chunks, N stages are
 * N*C/(C+N-1) times as fast as one at best. The ratio printed is
 *
 *     pipeline / (side by side, all N together * C/(C+N-1))
 *
 * Every arm is a process of its own, forked before any thread exists, started and warmed up before
 * the first round, and told over a pipe when to go; the rounds are interleaved so that a slow
 * minute of the machine hits all arms alike. */
#include "bench/bench_pipeline.h"
#include "bench/samples.h"

#include "base/clock.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "model/pack/pack.h"
#include "model/pack/pack_cache.h"
#include "node/client/client.h"
#include "pipeline/stage/stage.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_WORKERS = 64, MAX_ROUNDS = 101 };

struct bench_worker { /* a forked process with a cluster in it */
    pid_t pid;
    int go, answer; /* our ends of its pipes */
};

struct reply { /* what it sends back after start-up and after each request */
    sl_status status;
    uint64_t elapsed_ns;
    char text[320];
};

struct arms {
    struct bench_worker pipeline;
    struct bench_worker single[MAX_WORKERS];
    uint32_t n_started; /* of single */
    bool pipeline_started;
};

/* ---- In the worker. ---- */

static sl_status measure(struct sl_client *client, const struct sl_generate *generate, uint64_t *elapsed_ns,
                         struct sl_err *err)
{
    struct sl_answer answer;
    uint64_t begin_ns = sl_clock_ns();
    sl_status status = sl_client_generate(client, generate, NULL, NULL, &answer, err);
    *elapsed_ns = sl_clock_ns() - begin_ns;
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
    SL_TRY(sl_client_open(client, &config, err));
    return sl_client_start(*client, bench->prompt_tokens, err);
}

static bool send_reply(int to, sl_status status, uint64_t elapsed_ns, const struct sl_err *err)
{
    struct reply reply = {.status = status, .elapsed_ns = elapsed_ns};
    if (status != SL_OK)
        snprintf(reply.text, sizeof reply.text, "%s", err->text);
    return write(to, &reply, sizeof reply) == (ssize_t)sizeof reply;
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
                                   .deadline_ms = -1};
    uint64_t elapsed_ns = 0;
    char byte;
    sl_status status = open_cluster(&client, bench, n_stages, &err);
    if (status == SL_OK)
        status = measure(client, &generate, &elapsed_ns, &err);
    while (send_reply(answer, status, elapsed_ns, &err) && status == SL_OK && read(go, &byte, 1) == 1)
        status = measure(client, &generate, &elapsed_ns, &err);
    sl_client_close(client);
    _exit(0);
}

/* ---- In the bench. ---- */

static sl_status take_reply(const struct bench_worker *worker, uint64_t *elapsed_ns, struct sl_err *err)
{
    struct reply reply;
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
    SL_TRY(take_reply(&arms->pipeline, &warm_ns, err));
    for (uint32_t i = 0; i < bench->n_stages; i++) {
        SL_TRY(start_worker(&arms->single[i], bench, 1, ids, arms, err));
        arms->n_started++;
        SL_TRY(take_reply(&arms->single[i], &warm_ns, err));
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
};

static sl_status run_round(const struct arms *arms, const struct sl_bench_pipeline *bench,
                           struct rounds *rounds, uint32_t r, struct sl_err *err)
{
    double tokens = bench->prompt_tokens * 1e9;
    uint64_t elapsed_ns;
    SL_TRY(go(&arms->pipeline, err));
    SL_TRY(take_reply(&arms->pipeline, &elapsed_ns, err));
    rounds->pipeline[r] = tokens / (double)elapsed_ns;
    SL_TRY(go(&arms->single[0], err));
    SL_TRY(take_reply(&arms->single[0], &elapsed_ns, err));
    rounds->alone[r] = tokens / (double)elapsed_ns;
    rounds->beside[r] = 0;
    for (uint32_t i = 0; i < bench->n_stages; i++)
        SL_TRY(go(&arms->single[i], err));
    for (uint32_t i = 0; i < bench->n_stages; i++) {
        SL_TRY(take_reply(&arms->single[i], &elapsed_ns, err));
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

static void print_result(const struct sl_bench_pipeline *bench, uint32_t n_chunks,
                         const struct rounds *rounds)
{
    double pipeline = sl_median(rounds->pipeline, bench->rounds),
           alone = sl_median(rounds->alone, bench->rounds);
    double beside = sl_median(rounds->beside, bench->rounds),
           full = (double)n_chunks / (n_chunks + bench->n_stages - 1);
    double ratio = pipeline / (beside * full);
    if (bench->json) {
        printf("{\"stages\": %u, \"threads\": %u, \"prompt_tokens\": %u, \"chunks\": %u, "
               "\"rounds\": %u, \"transport\": \"%s\"",
               bench->n_stages, bench->n_threads, bench->prompt_tokens, n_chunks, bench->rounds,
               bench->transport);
        printf(", \"pipeline_tok_s\": %.1f, \"one_stage_tok_s\": %.1f, \"side_by_side_tok_s\": "
               "%.1f, \"fill_drain\": %.4f, "
               "\"ratio\": %.4f, \"speedup\": %.4f",
               pipeline, alone, beside, full, ratio, pipeline / alone);
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
}

static sl_status count_chunks(const struct sl_bench_pipeline *bench, const struct sl_shape *shape,
                              uint32_t *n_chunks, struct sl_err *err)
{
    struct sl_plan plan;
    struct sl_plan_options options = {.n_stages = bench->n_stages,
                                      .chunk_tokens = bench->chunk_tokens,
                                      .max_running = 1,
                                      .context_tokens = bench->prompt_tokens,
                                      .epoch = 1};
    SL_TRY(sl_plan_for_shape(&plan, shape, &options, err));
    uint32_t chunk = sl_plan_chunk_for(&plan, bench->prompt_tokens);
    *n_chunks = (bench->prompt_tokens + chunk - 1) / chunk;
    return SL_OK;
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
    uint32_t n_chunks = 0;
    SL_TRY(sl_pack_ensure(bench.model, &pack, err)); /* once, before the workers would all do it */
    bench.model = pack;
    sl_status status = sl_shape_load(&shape, pack, err);
    if (status == SL_OK)
        status = count_chunks(&bench, &shape, &n_chunks, err);
    uint32_t *ids = malloc(bench.prompt_tokens * sizeof *ids);
    struct rounds *rounds = calloc(1, sizeof *rounds);
    if (status == SL_OK && (!ids || !rounds))
        status = sl_fail(err, SL_E_NOMEM, "no memory for the prompt");
    for (uint32_t i = 0; status == SL_OK && i < bench.prompt_tokens; i++)
        ids[i] = (uint32_t)(sl_rng_at(1, i) % shape.vocab);
    if (status == SL_OK)
        status = run_rounds(&bench, ids, rounds, err);
    if (status == SL_OK)
        print_result(&bench, n_chunks, rounds);
    free(rounds);
    free(ids);
    free(pack);
    return status;
}
