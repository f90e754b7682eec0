/* Checksums: CRC32C in hardware where SSE4.2 is there (all x86-64 servers), by table otherwise; XXH3 and OpenSSL for
 * the rest. This file and digest_avx2.c alone include the libraries. */
#include "base/digest.h"
#include "base/digest_impl.h"
#include <nmmintrin.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wshadow"
#include <xxhash.h>
#pragma GCC diagnostic pop

__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const uint8_t *p, size_t n)
{
    uint64_t c = crc;
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        c = _mm_crc32_u64(c, v);
    }
    crc = (uint32_t)c;
    for (; n > 0; n--, p++)
        crc = _mm_crc32_u8(crc, *p);
    return crc;
}

static uint32_t crc_bitwise(uint32_t crc, const uint8_t *p, size_t n, uint32_t polynomial)
{
    for (; n > 0; n--, p++) {
        crc ^= *p;
        for (int k = 0; k < 8; k++)
            crc = (crc >> 1) ^ (polynomial & (0u - (crc & 1u)));
    }
    return crc;
}

uint32_t sl_crc32c(uint32_t seed, const void *data, size_t bytes)
{
    if (__builtin_cpu_supports("sse4.2"))
        return ~crc32c_sse42(~seed, data, bytes);
    return ~crc_bitwise(~seed, data, bytes, 0x82F63B78u);
}

static uint32_t zip_table[256];

static void zip_table_fill(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint8_t byte = (uint8_t)i;
        zip_table[i] = crc_bitwise(0, &byte, 1, 0xEDB88320u);
    }
}

uint32_t sl_crc32_zip(uint32_t seed, const void *data, size_t bytes)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, zip_table_fill);
    uint32_t crc = ~seed;
    for (const uint8_t *p = data; bytes > 0; bytes--, p++)
        crc = (crc >> 8) ^ zip_table[(crc ^ *p) & 0xFF];
    return ~crc;
}

uint64_t sl_xxh3(const void *data, size_t bytes)
{
    enum { WORTH_IT = 4096 }; /* below, the call costs what the wider vectors save */
    if (bytes >= WORTH_IT && __builtin_cpu_supports("avx2"))
        return sl_xxh3_avx2(data, bytes);
    return XXH3_64bits(data, bytes);
}

struct sl_sha256 {
    EVP_MD_CTX *context;
};

struct sl_sha256 *sl_sha256_begin(void)
{
    struct sl_sha256 *sha = malloc(sizeof *sha);
    if (!sha)
        return NULL;
    sha->context = EVP_MD_CTX_new();
    if (!sha->context || EVP_DigestInit_ex(sha->context, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(sha->context);
        free(sha);
        return NULL;
    }
    return sha;
}

void sl_sha256_add(struct sl_sha256 *sha, const void *data, size_t bytes)
{
    EVP_DigestUpdate(sha->context, data, bytes);
}

void sl_sha256_end(struct sl_sha256 *sha, char hex[65])
{
    uint8_t digest[EVP_MAX_MD_SIZE] = {0};
    unsigned n = 0;
    EVP_DigestFinal_ex(sha->context, digest, &n);
    EVP_MD_CTX_free(sha->context);
    free(sha);
    for (int i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

/* OpenSSL would have EVP used, which allocates and locks. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
void sl_sha256_chain(const uint8_t before[32], const void *data, size_t bytes, uint8_t digest[32])
{
    SHA256_CTX sha;
    SHA256_Init(&sha);
    if (before)
        SHA256_Update(&sha, before, 32);
    SHA256_Update(&sha, data, bytes);
    SHA256_Final(digest, &sha);
}

_Static_assert(sizeof(SHA256_CTX) <= sizeof((struct sl_hmac_key){{0}, {0}}.inner),
               "it has room for the state");

static void behind_block(uint64_t state[14], const uint8_t key[32], uint8_t pad)
{
    uint8_t block[SHA256_CBLOCK];
    SHA256_CTX sha;
    for (uint32_t i = 0; i < sizeof block; i++)
        block[i] = (uint8_t)(i < 32 ? key[i] ^ pad : pad);
    SHA256_Init(&sha);
    SHA256_Update(&sha, block, sizeof block);
    memcpy(state, &sha, sizeof sha);
    OPENSSL_cleanse(block, sizeof block);
}

void sl_hmac_key(struct sl_hmac_key *made, const uint8_t key[32])
{
    behind_block(made->inner, key, 0x36);
    behind_block(made->outer, key, 0x5c);
}

void sl_hmac_with(const struct sl_hmac_key *key, const void *data, size_t bytes, uint8_t mac[32])
{
    SHA256_CTX inner, outer;
    memcpy(&inner, key->inner, sizeof inner);
    memcpy(&outer, key->outer, sizeof outer);
    SHA256_Update(&inner, data, bytes);
    SHA256_Final(mac, &inner);
    SHA256_Update(&outer, mac, SHA256_DIGEST_LENGTH);
    SHA256_Final(mac, &outer);
}
#pragma GCC diagnostic pop

void sl_hmac_sha256(const uint8_t key[32], const void *data, size_t bytes, uint8_t mac[32])
{
    struct sl_hmac_key made;
    sl_hmac_key(&made, key);
    sl_hmac_with(&made, data, bytes, mac);
    OPENSSL_cleanse(&made, sizeof made);
}

struct sl_gmac *sl_gmac_begin(const uint8_t key[32])
{
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    if (context && EVP_EncryptInit_ex(context, EVP_aes_256_gcm(), NULL, key, NULL) != 1) {
        EVP_CIPHER_CTX_free(context);
        context = NULL;
    }
    return (struct sl_gmac *)context;
}

void sl_gmac_end(struct sl_gmac *gmac)
{
    EVP_CIPHER_CTX_free((EVP_CIPHER_CTX *)gmac);
}

/* GCM of no text: all is what it authenticates beside it. */
static bool authenticate(EVP_CIPHER_CTX *context, const uint8_t *data, size_t bytes)
{
    enum { AT_ONCE = 1 << 30 };
    int n;
    for (; bytes > AT_ONCE; data += AT_ONCE, bytes -= AT_ONCE)
        if (EVP_EncryptUpdate(context, NULL, &n, data, AT_ONCE) != 1)
            return false;
    return bytes == 0 || EVP_EncryptUpdate(context, NULL, &n, data, (int)bytes) == 1;
}

bool sl_gmac_of(struct sl_gmac *gmac, uint64_t number, const void *head, size_t head_bytes, const void *data,
                size_t bytes, uint8_t mac[16])
{
    EVP_CIPHER_CTX *context = (EVP_CIPHER_CTX *)gmac;
    uint8_t iv[12] = {0}, nothing[16];
    int n;
    memcpy(iv + 4, &number, sizeof number);
    return EVP_EncryptInit_ex(context, NULL, NULL, NULL, iv) == 1 &&
           authenticate(context, head, head_bytes) && authenticate(context, data, bytes) &&
           EVP_EncryptFinal_ex(context, nothing, &n) == 1 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_GET_TAG, 16, mac) == 1;
}

bool sl_equal_constant_time(const void *a, const void *b, size_t bytes)
{
    return CRYPTO_memcmp(a, b, bytes) == 0;
}

sl_status sl_random_bytes(void *out, size_t bytes)
{
    return RAND_bytes(out, (int)bytes) == 1 ? SL_OK : SL_E_INTERNAL;
}
