/* sl_core_view as JSON. An id is UTF-8, as the edge has seen to, and a tenant's name printable: only what JSON itself means
 * something by is escaped. */
#include "node/edge/schedule_json.h"
#include <math.h>
#include <stdlib.h>

static void add_string(struct sl_text *text, const char *bytes)
{
    sl_text_add(text, "\"");
    for (const char *at = bytes; *at; at++) {
        unsigned char c = (unsigned char)*at;
        if (c == '"' || c == '\\')
            sl_text_add(text, "\\%c", c);
        else if (c < 0x20 || c == 0x7f)
            sl_text_add(text, "\\u%04x", c);
        else
            sl_text_add(text, "%c", c);
    }
    sl_text_add(text, "\"");
}

static void add_number(struct sl_text *text, const char *name, double value)
{
    if (isfinite(value))
        sl_text_add(text, ",\"%s\":%.10g", name, value);
    else
        sl_text_add(text, ",\"%s\":null", name);
}

static void add_time(struct sl_text *text, const char *name, uint64_t at_us, uint64_t now_us)
{
    add_number(text, name, at_us ? ((double)at_us - (double)now_us) * 1e-3 : NAN);
}

static const char *yes(bool is)
{
    return is ? "true" : "false";
}

static void add_entry(struct sl_text *text, const struct sl_view_entry *e, uint64_t now_us)
{
    sl_text_add(text, "{\"request\":");
    add_string(text, e->id);
    sl_text_add(text, ",\"tenant\":");
    add_string(text, e->tenant);
    sl_text_add(text,
                ",\"priority\":%d,\"prompt_tokens\":%u,\"tokens_cut\":%u,\"pages\":%u,\"cached_pages\":%u,"
                "\"admitted\":%s,"
                "\"set_back\":%s,\"late\":%s,\"tenant_is_ahead\":%s",
                e->priority, e->prompt_tokens, e->pos, e->pages, e->shared_pages, yes(e->admitted),
                yes(e->again), yes(e->late), yes(e->outside));
    add_time(text, "deadline_ms", e->deadline_us, now_us);
    add_time(text, "due_ms", e->due_us, now_us);
    add_number(text, "key_ms", (e->key_us - (double)now_us) * 1e-3);
    add_number(text, "work_ms", e->work_us * 1e-3);
    add_time(text, "predicted_begin_ms", e->predicted_begin_us, now_us);
    add_time(text, "predicted_end_ms", e->predicted_end_us, now_us);
    sl_text_add(text, "}");
}

static void add_tenant(struct sl_text *text, const struct sl_view_tenant *t)
{
    sl_text_add(text, "{\"tenant\":");
    add_string(text, t->tenant);
    add_number(text, "weight", t->weight);
    add_number(text, "used_ms", t->used_us * 1e-3);
    sl_text_add(text, ",\"requests\":%u,\"tokens_uncut\":%llu}", t->n_entries,
                (unsigned long long)t->uncut_tokens);
}

/* Places that nobody has are left out. */
static void add_decoders(struct sl_text *text, const struct sl_core_view *view)
{
    const char *separator = "\n";
    for (uint32_t i = 0; i < view->n_decoders; i++) {
        const struct sl_decoder_load *d = &view->decoders[i];
        if (d->state == SL_DECODER_NONE)
            continue;
        sl_text_add(text,
                    "%s{\"decoder\":%u,\"leaving\":%s,\"silent\":%s,\"answers\":%u,\"pages\":%u,"
                    "\"kept_pages\":%u}",
                    separator, i, yes(d->state == SL_DECODER_LEAVING), yes(d->silent), d->decoding,
                    d->pages_used, d->pages_kept);
        separator = ",\n";
    }
}

void sl_schedule_json(const struct sl_core_view *view, struct sl_text *text)
{
    sl_text_add(text, "{\"schedule\":\"%s\"", view->schedule == SL_SCHEDULE_FIFO ? "fifo" : "slo");
    add_number(text, "budget_ms", view->budget_us ? (double)view->budget_us * 1e-3 : NAN);
    sl_text_add(text,
                ",\"runs_in_flight\":%u,\"max_runs\":%u,"
                "\"pages\":{\"stages\":%u,\"cached\":%u,\"decode\":%u,\"of\":%u},\"decoders\":[",
                view->runs, view->max_runs, view->pages_used, view->pages_cached, view->decode_pages_used,
                view->n_pages);
    add_decoders(text, view);
    sl_text_add(text, "],\"requests\":%u,\"queue\":[", view->n_entries_all);
    for (uint32_t i = 0; i < view->n_entries; i++) {
        sl_text_add(text, i ? ",\n" : "\n");
        add_entry(text, &view->entries[i], view->now_us);
    }
    sl_text_add(text, "],\"all_tenants\":%s,\"tenants\":[", yes(!view->more_tenants));
    for (uint32_t i = 0; i < view->n_tenants; i++) {
        sl_text_add(text, i ? ",\n" : "\n");
        add_tenant(text, &view->tenants[i]);
    }
    sl_text_add(text, "]}\n");
}
