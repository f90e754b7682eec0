/* Checksums and digests. CRC32C for headers, XXH3 for payloads (integrity only, not against an attacker),
 * SHA-256 and HMAC for files and link admission. Any thread. */
#ifndef SL_BASE_DIGEST_H
#define SL_BASE_DIGEST_H

#include "base/status.h"
#include <stdint.h>

uint32_t sl_crc32c(uint32_t seed, const void *data, size_t bytes); /* Castagnoli, seed 0 to start */
uint64_t sl_xxh3(const void *data, size_t bytes);
uint32_t sl_crc32_zip(uint32_t seed, const void *data, size_t bytes); /* IEEE 802.3, for zip files */

struct sl_sha256;                        /* an incremental SHA-256 */
struct sl_sha256 *sl_sha256_begin(void); /* NULL: out of memory */
void sl_sha256_add(struct sl_sha256 *sha, const void *data, size_t bytes);
void sl_sha256_end(struct sl_sha256 *sha, char hex[65]); /* frees sha */

/* Of 32 bytes (NULL: of none) and of data behind them, at once: without memory of its own or a lock. */
void sl_sha256_chain(const uint8_t before[32], const void *data, size_t bytes, uint8_t digest[32]);

void sl_hmac_sha256(const uint8_t key[32], const void *data, size_t bytes, uint8_t mac[32]);

/* The same with a key that is used again and again: without memory of its own or a lock. */
struct sl_hmac_key {
    uint64_t inner[14], outer[14]; /* SHA-256 behind the key's block */
};
void sl_hmac_key(struct sl_hmac_key *made, const uint8_t key[32]);
void sl_hmac_with(const struct sl_hmac_key *key, const void *data, size_t bytes, uint8_t mac[32]);

struct sl_gmac;                                       /* AES-256-GMAC with one key; one thread */
struct sl_gmac *sl_gmac_begin(const uint8_t key[32]); /* NULL: out of memory */
void sl_gmac_end(struct sl_gmac *gmac);               /* NULL: nothing */
/* Over head and the data behind it. number: no two texts of a key may have the same. false: the library failed. */
bool sl_gmac_of(struct sl_gmac *gmac, uint64_t number, const void *head, size_t head_bytes, const void *data,
                size_t bytes, uint8_t mac[16]);
bool sl_equal_constant_time(const void *a, const void *b, size_t bytes);
sl_status sl_random_bytes(void *out, size_t bytes);

#endif
