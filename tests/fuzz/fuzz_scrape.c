/* What an ops port answers to `sluice top`: HTTP, /metrics and /debug/schedule are read and drawn without trust. Whatever is drawn
 * fits the terminal and holds no byte that would tell it anything. */
#include "node/client/http_get.h"
#include "node/client/top.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void require(bool promise)
{
    if (!promise)
        abort();
}

static void draw(struct sl_top *top)
{
    struct sl_text text = {0};
    sl_top_draw(top, 80, 40, false, &text);
    uint32_t lines = 0;
    for (const char *at = text.data; at && *at; at++) {
        require((unsigned char)*at >= 0x20 || *at == '\n');
        lines += *at == '\n';
    }
    require(lines <= 40);
    free(text.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static struct sl_top top;
    int status;
    size_t body_at = 0;
    const char *text = (const char *)data;
    memset(&top, 0, sizeof top);
    top.n = 1;
    top.sources[0].address = "here:1";
    if (sl_http_read(text, bytes, &status, &body_at)) {
        require(body_at <= bytes && status >= 0 && status <= 999);
        text += body_at;
        bytes -= body_at;
    }
    top.has_queue = sl_queue_view_read(&top.queue, text, bytes);
    for (uint32_t half = 1; half <= 2; half++) { /* what was there before, and more */
        struct sl_scrape scrape;
        require(sl_scrape_read(&scrape, text, bytes * half / 2));
        sl_top_take(&top, 0, &scrape, half, "");
        sl_top_note(&top);
    }
    draw(&top);
    sl_top_free(&top);
    return 0;
}
