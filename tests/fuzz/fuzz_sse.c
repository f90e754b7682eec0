/* Answers over HTTP: the same events come whole and byte by byte, and what they say is read without trust. */
#include "bench/serve/openai.h"
#include "bench/serve/sse.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

struct fuzz_heard {
    uint64_t n, sum;
};

static void require(bool promise)
{
    if (!promise)
        abort();
}

static void hear(void *user, char *data, size_t bytes)
{
    struct fuzz_heard *heard = user;
    struct sl_openai_piece piece;
    require(data[bytes] == 0);
    heard->n++;
    for (size_t i = 0; i < bytes; i++)
        heard->sum = heard->sum * 31 + (uint8_t)data[i];
    if (sl_openai_read(&piece, data, bytes) != SL_OK)
        return;
    require(!piece.text || piece.text[0]);
    require(!piece.failed || piece.text);
    sl_openai_free(&piece);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct sl_sse whole = {0}, pieces = {0};
    struct fuzz_heard a = {0}, b = {0};
    char name[32];
    sl_openai_model((const char *)data, bytes, name, sizeof name);
    require(sl_sse_feed(&whole, (const char *)data, bytes, hear, &a) == SL_OK);
    for (size_t i = 0; i < bytes; i++)
        require(sl_sse_feed(&pieces, (const char *)data + i, 1, hear, &b) == SL_OK);
    sl_sse_end(&whole, hear, &a);
    sl_sse_end(&pieces, hear, &b);
    require(a.n == b.n && a.sum == b.sum);
    sl_sse_free(&whole);
    sl_sse_free(&pieces);
    return 0;
}
