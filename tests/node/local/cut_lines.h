/* A network that blinks: the lines of a cluster are cut again and again while it works, in a thread. */
#ifndef SL_TESTS_NODE_LOCAL_CUT_LINES_H
#define SL_TESTS_NODE_LOCAL_CUT_LINES_H

#include "base/rng.h"
#include "node/local/cluster.h"
#include "pipeline/link/transport_impl.h"
#include "tests/check.h"
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

struct cutter {
    struct sl_cluster *cluster;
    uint32_t n_nodes, most; /* so many cuts; 0: any number */
    uint64_t seed;          /* of when, within 30 ms; 0: every 30 ms */
    pthread_t thread;
    _Atomic bool over;
    uint32_t n_cuts;
};

static inline uint64_t links_up(const struct cutter *cutter)
{
    uint64_t n = 0;
    for (uint32_t node = 0; node < cutter->n_nodes; node++) {
        struct sl_io_stats stats;
        sl_io_stats(sl_cluster_io(cutter->cluster, node), &stats);
        n += stats.links_up;
    }
    return n;
}

/* Lines are cut that are up: one that is cut while UCX connects its endpoint ends the process now and then (UCX 1.13, in the
 * progress of its tcp interface; HACKING.md has it among what was seen). */
static inline void *cut_lines(void *arg)
{
    struct cutter *cutter = arg;
    for (uint64_t all = links_up(cutter);
         !atomic_load(&cutter->over) && (cutter->most == 0 || cutter->n_cuts < cutter->most);
         cutter->n_cuts++) {
        while (links_up(cutter) < all && !atomic_load(&cutter->over))
            usleep(1000);
        sl_io_fault_cut(sl_cluster_io(cutter->cluster, cutter->n_cuts % cutter->n_nodes));
        usleep(cutter->seed ? (useconds_t)(sl_rng_at(cutter->seed, cutter->n_cuts) % 30000) : 30000);
    }
    return NULL;
}

static inline void cutter_begin(struct cutter *cutter)
{
    SET_UP(pthread_create(&cutter->thread, NULL, cut_lines, cutter) == 0, "a thread");
}

static inline void cutter_end(struct cutter *cutter)
{
    atomic_store(&cutter->over, true);
    pthread_join(cutter->thread, NULL);
}

#endif
