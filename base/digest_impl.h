/* What digest.c has of the file that is compiled for another instruction set. */
#ifndef SL_BASE_DIGEST_IMPL_H
#define SL_BASE_DIGEST_IMPL_H

#include <stddef.h>
#include <stdint.h>

uint64_t sl_xxh3_avx2(const void *data, size_t bytes); /* on a processor with AVX2 alone */

#endif
