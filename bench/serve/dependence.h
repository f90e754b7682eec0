/* How long the blocks must be that samples of one queue are cut into to be independent of each other. Pure.
 *
 * Samples are summed in blocks of 1, 2, 4, ... At each length von Neumann's ratio says whether neighbours still hang together, and
 * the variance of the block means how many samples are worth one independent one (the inflation). A length will do when
 *
 *   - at no length from half of it on neighbours are seen to hang together: the test is made where there are twice as many blocks, since
 *     with 20 it sees little;
 *   - it is five times the inflation or more: a run that happens to be calm looks less tied together than it is, and the few runs
 *     of those that would be wrong are then mostly too short for an answer;
 *   - 20 blocks of it are there.
 *
 * Samples that pass the test as they are, and at every longer length, count as independent. The numbers were chosen by simulation; what
 * they do is measured by tests/bench/serve/test_interval.c: of a queue at 0.8 load, where some 70 samples are worth one, some 90 % of runs
 * of 20,000 get an interval, 15 % of those of 5,000 and none of those of 1,000. The few that are too short and get one all the same are
 * calm ones, and theirs cover less than they say. */
#ifndef SL_BENCH_SERVE_DEPENDENCE_H
#define SL_BENCH_SERVE_DEPENDENCE_H

#include <stdint.h>

enum { SL_BLOCK_LEVELS = 32 };

struct sl_block_level { /* blocks of 2^level samples */
    uint32_t n_blocks;
    double correlation; /* of neighbours */
    double z;           /* the same in standard deviations of what independent blocks show */
    double variance;    /* of a block's mean */
    double degrees; /* of freedom of that variance: fewer than blocks - 1 when few of the blocks make it up */
};

/* Levels with SL_INTERVAL_BLOCKS blocks or more, and how many these are. x[n] is overwritten. */
uint32_t sl_block_levels(double *x, uint32_t n, struct sl_block_level levels[SL_BLOCK_LEVELS]);
/* How many samples are worth one, seen at this level, with what still ties neighbours together counted on; not below 0. */
double sl_block_inflation(const struct sl_block_level *levels, uint32_t level);
/* The level that will do for what `own` was made of; scores: of the values' ranks, by which the test sees best. 0: independent;
 * n_levels: none. */
uint32_t sl_block_choose(const struct sl_block_level *scores, const struct sl_block_level *own,
                         uint32_t n_levels);

#endif
