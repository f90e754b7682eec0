/* google.rpc.Status {1: code, 2: message, 3: Any {1: type_url, 2: RetryInfo {1: Duration {1: seconds, 2: nanos}}}}. */
#include "node/rpc/status_details.h"
#include <string.h>

struct packing {
    uint8_t *at;
};

static void put_varint(struct packing *out, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        *out->at++ = (uint8_t)(value | 0x80);
    *out->at++ = (uint8_t)value;
}

static void put_number(struct packing *out, uint32_t field, uint64_t value)
{
    if (value == 0) /* proto3: a default is left out */
        return;
    put_varint(out, field << 3);
    put_varint(out, value);
}

static void put_bytes(struct packing *out, uint32_t field, const void *bytes, size_t n)
{
    put_varint(out, field << 3 | 2);
    put_varint(out, n);
    memcpy(out->at, bytes, n);
    out->at += n;
}

size_t sl_status_details_pack(uint8_t out[SL_STATUS_DETAILS_BYTES], int code, const char *sentence,
                              uint32_t retry_after_ms)
{
    static const char type[] = "type.googleapis.com/google.rpc.RetryInfo";
    uint8_t duration[16], info[24], any[96];
    size_t n = strlen(sentence);
    if (n > SL_STATUS_DETAILS_BYTES - sizeof any - 32)
        return 0;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)sentence[i] >= 0x80)
            return 0;
    struct packing p = {duration};
    put_number(&p, 1, retry_after_ms / 1000u);
    put_number(&p, 2, retry_after_ms % 1000u * UINT64_C(1000000));
    size_t bytes = (size_t)(p.at - duration);
    p.at = info;
    put_bytes(&p, 1, duration, bytes);
    bytes = (size_t)(p.at - info);
    p.at = any;
    put_bytes(&p, 1, type, sizeof type - 1);
    put_bytes(&p, 2, info, bytes);
    bytes = (size_t)(p.at - any);
    p.at = out;
    put_number(&p, 1, (uint64_t)code);
    if (n)
        put_bytes(&p, 2, sentence, n);
    put_bytes(&p, 3, any, bytes);
    return (size_t)(p.at - out);
}
