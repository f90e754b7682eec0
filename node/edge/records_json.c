/* Records of the order log as lines of JSON (records_json.h). Nothing in them comes from a user: there is nothing to escape. */
#include "node/edge/records_json.h"

static const char *kind_name(enum sl_order_kind kind)
{
    return kind == SL_ORDER_RUN ? "run" : kind == SL_ORDER_CANCEL ? "cancel" : "free";
}

static void add_slice(struct sl_text *text, const struct sl_tail *tail, const struct sl_tail_record *record,
                      const struct sl_order_slice *s)
{
    static const struct {
        enum sl_slice_flags flag;
        const char *name;
    } flags[] = {{SL_SLICE_FIRST, "first"}, {SL_SLICE_LAST, "last"}, {SL_SLICE_RESTORE, "restore"}};
    sl_text_add(text, "{\"seq\":%llu,\"pos\":%u,\"tokens\":%u", (unsigned long long)s->seq, s->pos, s->n);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (s->flags & flags[i].flag)
            sl_text_add(text, ",\"%s\":true", flags[i].name);
    if (s->flags & SL_SLICE_HANDOFF)
        sl_text_add(text, ",\"decoder\":%u", s->decoder);
    sl_text_add(text, ",\"first_page\":%u,\"pages\":[", s->page_first);
    for (uint32_t i = 0; i < s->n_pages; i++) {
        struct sl_page_numbers page = sl_tail_page(tail, record, s->pages_at + i);
        sl_text_add(text, i ? ",[%u" : "[%u", page.stage);
        if (page.decode != SL_NO_PAGE)
            sl_text_add(text, ",%u", page.decode);
        sl_text_add(text, "]");
    }
    sl_text_add(text, "]}");
}

void sl_records_json(const struct sl_tail *tail, uint64_t now_us, struct sl_text *text)
{
    struct sl_tail_record record;
    uint64_t at = tail->begin;
    sl_text_add(text, "%s", "");
    while (sl_tail_next(tail, &at, &record)) {
        const struct sl_order *o = &record.order;
        sl_text_add(text, "{\"record\":%llu,\"at_ms\":%.3f,\"kind\":\"%s\"", (unsigned long long)o->number,
                    ((double)record.at_us - (double)now_us) * 1e-3, kind_name(o->kind));
        if (o->kind != SL_ORDER_RUN)
            sl_text_add(text, ",\"seq\":%llu", (unsigned long long)o->seq);
        for (uint32_t i = 0; i < o->n_slices; i++) {
            sl_text_add(text, i ? "," : ",\"slices\":[");
            add_slice(text, tail, &record, &o->slices[i]);
        }
        sl_text_add(text, o->n_slices ? "]}\n" : "}\n");
    }
}
