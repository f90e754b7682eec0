/* Launches of the twin's machine, as files (written.h): a table of the memory that there is, and what is in it. */
#include "tests/gpu/written.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MEMORIES = 4096, KERNELS = 96 };

static struct {
    const void *at;
    size_t bytes;
} memories[MEMORIES];
static uint32_t n_memories, n_written;
static struct {
    const struct gpu_kernel *kernel;
    uint32_t n;
} seen[KERNELS];

void written_alloc(const void *at, size_t bytes)
{
    assert(n_memories < MEMORIES);
    memories[n_memories].at = at;
    memories[n_memories++].bytes = bytes;
}

void written_free(const void *at)
{
    for (uint32_t i = n_memories; i-- > 0;)
        if (!at || memories[i].at == at)
            memories[i] = memories[--n_memories];
}

static bool is_one_of_the_first(const struct gpu_kernel *kernel)
{
    uint32_t i = 0;
    while (seen[i].kernel && seen[i].kernel != kernel)
        i++;
    assert(i + 1 < KERNELS);
    seen[i].kernel = kernel;
    return seen[i].n++ < WRITTEN_MOST;
}

static void put(FILE *f, const void *at, size_t bytes)
{
    if (bytes == 0 || fwrite(at, bytes, 1, f) == 1)
        return;
    fprintf(stderr, "written: a launch can't be written down: is the disk full?\n");
    _Exit(2);
}

static FILE *begin(const char *folder, const struct gpu_kernel *kernel)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%04u-%s.launch", folder, n_written++, kernel->name);
    FILE *f = fopen(path, "wb");
    if (f)
        return f;
    fprintf(stderr, "written: %s can't be made: is there such a folder?\n", path);
    _Exit(2);
}

void written_launch(const char *folder, written_run *run, const struct gpu_kernel *kernel, const void *params,
                    uint32_t n_blocks, size_t shared_bytes, uint64_t seed)
{
    if (n_blocks == 0 || !is_one_of_the_first(kernel)) {
        run(kernel, params, n_blocks, shared_bytes, seed);
        return;
    }
    struct written_head head = {.magic = "LAUNCH1",
                                .blocks = n_blocks,
                                .threads = kernel->warps * 32,
                                .shared_bytes = shared_bytes,
                                .params_bytes = kernel->params_bytes,
                                .memories = n_memories};
    snprintf(head.kernel, sizeof head.kernel, "%s", kernel->name);
    FILE *f = begin(folder, kernel);
    put(f, &head, sizeof head);
    put(f, params, kernel->params_bytes);
    for (int after = 0; after < 2; after++) {
        for (uint32_t i = 0; i < n_memories; i++) {
            uint64_t place[2] = {(uint64_t)(uintptr_t)memories[i].at, memories[i].bytes};
            put(f, place, sizeof place);
            put(f, memories[i].at, memories[i].bytes);
        }
        if (!after)
            run(kernel, params, n_blocks, shared_bytes, seed);
    }
    fclose(f);
}
