/* The scrubber over the ways in which weights change under who computes with them, and SIGBUS with it and without. */
#include "base/clock.h"
#include "model/pack/bus_error.h"
#include "model/pack/scrub.h"
#include "model/pack/weights_impl.h"
#include "tests/model/files.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

struct watched_weights {
    const char *dst;
    struct sl_pack *pack;
    struct sl_weights weights;
    struct sl_scrubber *scrubber;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    char sentence[320];
    uint64_t good_ns;
    uint32_t told;
};

static void on_spoiled(void *user, const struct sl_spoiled *spoiled)
{
    struct watched_weights *w = user;
    pthread_mutex_lock(&w->lock);
    snprintf(w->sentence, sizeof w->sentence, "%s", spoiled->sentence);
    w->good_ns = spoiled->good_ns;
    w->told++;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

static struct watched_weights *begin(bool copy, bool scrub)
{
    struct watched_weights *w = calloc(1, sizeof *w);
    struct sl_err err = {0};
    w->dst = path_in(sl_test_dir(), "dst");
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    SET_UP(sl_pack_write(checkpoint_plain(false), w->dst, &(struct sl_pack_options){0}, &err) == SL_OK &&
               sl_pack_open(&w->pack, w->dst, &err) == SL_OK &&
               sl_weights_open(&w->weights, w->pack, 0, LAYERS, true, true,
                               &(struct sl_loading){.copy = copy}, &err) == SL_OK,
           err.text);
    SET_UP(!scrub || sl_scrubber_start(&w->scrubber, &w->weights, &(struct sl_scrub_config){on_spoiled, w},
                                       &err) == SL_OK,
           err.text);
    return w;
}

static void await_word(struct watched_weights *w)
{
    pthread_mutex_lock(&w->lock);
    while (w->told == 0)
        pthread_cond_wait(&w->changed, &w->lock);
    pthread_mutex_unlock(&w->lock);
    CHECK(sl_scrubber_found(w->scrubber));
    CHECK_INT(w->told, 1);
}

static void end(struct watched_weights *w)
{
    sl_scrubber_stop(w->scrubber);
    sl_weights_close(&w->weights);
    sl_pack_close(w->pack);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

SL_TEST(a_write_to_a_file_in_use_is_found_and_named)
{
    struct watched_weights *w = begin(false, true);
    CHECK(!sl_scrubber_found(w->scrubber));
    flip_byte(path_in(w->dst, "layer-0001.safetensors"), 4096 + 700);
    await_word(w);
    CHECK_CONTAINS(w->sentence, "layer-0001.safetensors has other bytes");
    CHECK_CONTAINS(w->sentence, "tensor");
    CHECK(w->good_ns <= sl_clock_ns() && w->good_ns > 0);
    end(w);
}

SL_TEST(a_bit_lost_in_private_memory_is_found_by_going_round)
{
    struct watched_weights *w = begin(true, false);
    const struct sl_weights_files *files = w->weights.private_maps;
    struct sl_st_file *st = &files->files[2].index.files[0];
    REQUIRE(files->files[2].copied &&
            mprotect((void *)(uintptr_t)st->map, st->bytes, PROT_READ | PROT_WRITE) == 0);
    ((uint8_t *)(uintptr_t)st->map)[st->bytes - 9] ^= 4; /* before the thread is there: memory asks nobody */
    REQUIRE(sl_scrubber_start(&w->scrubber, &w->weights, &(struct sl_scrub_config){on_spoiled, w}, NULL) ==
            SL_OK);
    await_word(w);
    CHECK_CONTAINS(w->sentence, files->files[2].file->name);
    end(w);
}

SL_TEST(a_round_over_few_weights_is_no_race)
{
    struct watched_weights *w = begin(false, false);
    uint64_t cpu_ns = 0, bytes = 0, began = sl_clock_ns(), looks;
    REQUIRE(sl_scrubber_start(&w->scrubber, &w->weights, &(struct sl_scrub_config){on_spoiled, w}, NULL) ==
            SL_OK);
    while (bytes == 0 || cpu_ns == 0) /* until a look is over */
        sl_scrubber_account(w->scrubber, &cpu_ns, &bytes);
    looks = (sl_clock_ns() - began) / 250000000 + 1;
    CHECK(bytes <= looks * (1 << 20)); /* a block a look; its share of the time would be thousands */
    end(w);
}

SL_TEST(a_truncated_file_gives_zeros_and_the_word_that_they_are)
{
    struct watched_weights *w = begin(false, true);
    const float *norm = w->weights.final_norm;
    CHECK(!sl_weights_faulted());
    REQUIRE(truncate(path_in(w->dst, "head.safetensors"), 0) == 0);
    CHECK(*norm == 0); /* or this process would be dead */
    CHECK(sl_weights_faulted());
    await_word(w);
    CHECK_CONTAINS(w->sentence, "head.safetensors changed its size");
    end(w);
}

SL_TEST(without_a_scrubber_a_truncated_file_ends_the_process_with_a_sentence)
{
    struct watched_weights *w = begin(false, false);
    int ends[2], status = -1;
    char said[1000] = "";
    REQUIRE(truncate(path_in(w->dst, "head.safetensors"), 0) == 0 && pipe(ends) == 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        _exit(*(volatile const float *)w->weights.final_norm == 0 ? 1 : 2);
    }
    close(ends[1]);
    ssize_t n = read(ends[0], said, sizeof said - 1);
    (void)n;
    close(ends[0]);
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 65);
    CHECK_CONTAINS(said, "head.safetensors became shorter");
    CHECK_CONTAINS(said, "--weights copy");
    end(w);
}

SL_TEST(a_bus_error_elsewhere_is_what_it_always_was)
{
    signal(SIGBUS, SIG_DFL); /* not the test framework's */
    struct watched_weights *w = begin(false, true);
    int status = -1;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        int fd = open(path_in(w->dst, "pack.json"), O_RDONLY);
        volatile const uint8_t *map = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 0);
        if (truncate(path_in(w->dst, "pack.json"), 0) != 0)
            _exit(3);
        _exit(map[0]);
    }
    waitpid(child, &status, 0);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    end(w);
}

/* It goes round and round over whole files, touched ones and replaced ones, and has nothing to say. */
SL_TEST(what_did_not_change_is_not_found)
{
    struct watched_weights *w = begin(false, true);
    uint64_t cpu_ns, bytes = 0;
    struct timespec times[2] = {{1000, 0}, {1000, 0}};
    REQUIRE(utimensat(AT_FDCWD, path_in(w->dst, "embed.safetensors"), times, 0) == 0);
    const char *other = path_in(w->dst, "config.json");
    REQUIRE(rename(other, path_in(w->dst, "head.safetensors")) == 0); /* the open file is what it was */
    while (bytes < 20 * w->weights.mapped_bytes && !sl_scrubber_found(w->scrubber))
        sl_scrubber_account(w->scrubber, &cpu_ns, &bytes);
    CHECK(!sl_scrubber_found(w->scrubber));
    CHECK_INT(w->told, 0);
    end(w);
}
