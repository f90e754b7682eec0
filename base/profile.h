/* Numerics profiles: the order and the width of every rounding step, under a name.
 *
 * Within a profile a model's output has the same bits whatever the stages, chunks, threads and neighbours, so nodes of
 * one pipeline must run the same one: it is offered at Join, decided by the coordinator, told in the plan, and the
 * digest of a KV cache means something only together with it. What each does is specified in kernels/ref:
 *   f32      ops_ref.c   rows in f32, one chain of fused multiply-adds; any machine
 *   bf16dot  bf16_ref.c  rows rounded to bf16 where weights or KV pages are bf16, sums by the processor's bf16 dot
 *                        product; machines with AVX512_BF16
 * Integer weights and KV take the same exact sums in both. */
#ifndef SL_BASE_PROFILE_H
#define SL_BASE_PROFILE_H

#include <stdbool.h>
#include <stdint.h>

enum sl_profile { SL_PROFILE_F32 = 0, SL_PROFILE_BF16DOT = 1, SL_PROFILES };

const char *sl_profile_name(enum sl_profile profile);
/* false: no profile has this name. */
bool sl_profile_parse(enum sl_profile *profile, const char *name);

/* Sets of profiles are bits 1u << profile. */
const char *sl_profile_list(uint32_t set, char *buffer, uint32_t bytes); /* "f32, bf16dot" */
/* What --numerics allows: all of them for "auto", else the one of this name; 0: no profile has this name. */
uint32_t sl_profile_allowed(const char *numerics);
/* The fastest of a set that is not empty. */
enum sl_profile sl_profile_best(uint32_t set);

#define SL_NUMERICS_CHOICES "f32|bf16dot|auto" /* of --numerics */

#endif
