/* Metadata of a Generate (with all of the bytes as a traceparent, too), and lists of weights. Lines: the first begins with how often each header is there; then a value each.
 * Whatever is taken is within its bounds. */
#include "node/coordinator/tenants.h"
#include "node/edge/headers.h"
#include "node/edge/traceparent.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void require(bool promise)
{
    if (!promise)
        abort();
}

static void read_weights(const uint8_t *data, size_t bytes)
{
    static struct sl_tenant_weights weights;
    struct sl_err err = {0};
    char *list = malloc(bytes + 1);
    require(list != NULL);
    memcpy(list, data, bytes);
    list[bytes] = 0;
    if (sl_tenant_weights_read(&weights, list, "--tenant-weight", &err) != SL_OK)
        require(err.text[0] != 0);
    require(weights.n <= SL_MAX_WEIGHTS);
    for (uint32_t i = 0; i < weights.n; i++)
        require(weights.list[i].weight >= 0.001 && weights.list[i].weight <= 1000);
    free(list);
}

/* What is read is written back to the same digits. */
static void read_traceparent(const uint8_t *data, size_t bytes)
{
    struct sl_traceparent out;
    char hex[33];
    if (!sl_traceparent_read(&out, (const char *)data, bytes))
        return;
    require(bytes >= 55);
    sl_hex_write(hex, out.trace_id, sizeof out.trace_id);
    require(memcmp(hex, data + 3, 32) == 0);
    sl_hex_write(hex, out.parent_id, sizeof out.parent_id);
    require(memcmp(hex, data + 36, 16) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct sl_header_value values[SL_HEADERS] = {{0}};
    struct sl_generate generate = {.deadline_ms = -1};
    struct sl_err err = {0};
    read_weights(data, bytes);
    read_traceparent(data, bytes);
    for (int k = 0; k < SL_HEADERS && bytes > 0; k++) {
        const uint8_t *end = memchr(data + 1, '\n', bytes - 1);
        size_t line = end ? (size_t)(end - data) : bytes;
        values[k] = (struct sl_header_value){data[0] % 3u, (const char *)data + 1, line - 1};
        line += end != NULL;
        data += line;
        bytes -= line;
    }
    if (sl_headers_read(&generate, values, &err) != SL_OK) {
        require(err.text[0] != 0);
        return 0;
    }
    require(sl_tenant_is_name(generate.tenant, strnlen(generate.tenant, sizeof generate.tenant)));
    require(generate.priority >= SL_PRIORITY_LEAST && generate.priority <= SL_PRIORITY_MOST);
    require(generate.slo_ms <= SL_MAX_SLO_MS);
    return 0;
}
