/* A chunk cut into lists (attend_cut.h). Items are some rows of one page. When there are too few of them to fill the device, each goes
 * through a range of its segments only, as far as there is room for the states. Slices go by the length of their context, longest
 * first, and a slice's items from its end on, so that the last ones to be taken are short. */
#include "kernels/gpu/attend_cut.h"
#include "kernels/isa.h"
#include "kernels/team_ops.h"
#include <assert.h>

struct cutting {
    struct sl_gpu_cut *cut;
    const struct sl_gpu_cut_config *config;
    const struct sl_attention_slice *slice;
    uint32_t begin; /* the slice's first row that attends */
    uint32_t row;   /* its number among those of the chunk that do */
    uint32_t pages; /* where the slice's page list begins */
    uint32_t ranges, state, state_step;
};

static uint32_t rep_of(const struct sl_gpu_cut_config *c)
{
    return c->n_q / c->n_kv;
}

/* Of a page with so many tokens. */
static uint32_t items_of(const struct sl_gpu_cut_config *c, uint32_t tokens)
{
    return (tokens * rep_of(c) + c->item_rows - 1) / c->item_rows;
}

size_t sl_gpu_cut_items(const struct sl_gpu_cut_config *c, uint32_t max_tokens, uint32_t max_slices)
{
    /* Full ones, and one that is not for each page that a slice is on; ranges only while that is less than wanted. */
    size_t pages = max_tokens / SL_PAGE_TOKENS + 2 * (size_t)max_slices;
    size_t items = (size_t)max_tokens * rep_of(c) / c->item_rows + pages;
    return items + 2 * (size_t)c->wanted;
}

static uint32_t first_of(const struct sl_attention_slice *s, bool last)
{
    return last ? s->kv_only : 0;
}

/* Tokens [*begin, end) of the slice are those of one page: the last one that has any before `end`. */
static void page_before(const struct cutting *k, uint32_t end, uint32_t *begin)
{
    uint32_t on_page = (k->slice->pos + end - 1) % SL_PAGE_TOKENS + 1;
    *begin = end - k->begin < on_page ? k->begin : end - on_page;
}

static uint32_t slice_items(const struct cutting *k)
{
    uint32_t n = 0;
    for (uint32_t end = k->slice->n, begin; end > k->begin; end = begin) {
        page_before(k, end, &begin);
        n += items_of(k->config, end - begin);
    }
    return n;
}

/* Rows `first` on of the page's tokens [begin, end), with a range of segments each. */
static void add_items(struct cutting *k, uint32_t begin, uint32_t end, uint32_t first)
{
    const uint32_t rep = rep_of(k->config), rows = (end - begin) * rep - first, token = begin + first / rep;
    const uint32_t pos = k->slice->pos + token, segments = sl_attend_segments(pos);
    const uint32_t ranges = k->ranges < segments ? k->ranges : segments, in_slice = token - k->begin;
    for (uint32_t r = 0; r < ranges; r++) {
        uint32_t from, to;
        sl_piece(segments, 1, ranges, r, &from, &to);
        k->cut->items[k->cut->n_items++] =
            (struct sl_gpu_attend_item){.token = k->row + in_slice,
                                        .head = first % rep,
                                        .n_rows = rows < k->config->item_rows ? rows : k->config->item_rows,
                                        .pos = pos,
                                        .pages = k->pages,
                                        .segment = from,
                                        .segment_end = to,
                                        .state = k->state + in_slice * k->config->n_q + from * k->state_step,
                                        .state_step = k->state_step};
    }
}

/* Whether the slice's segments are shared out, and where its states lie. */
static void place_states(struct cutting *k, uint32_t ranges)
{
    const uint32_t tokens = k->slice->n - k->begin,
                   segments = sl_attend_segments(k->slice->pos + k->slice->n - 1);
    const uint64_t states = (uint64_t)segments * tokens * k->config->n_q;
    k->ranges = 1;
    k->state = k->row * k->config->n_q;
    k->state_step = 0;
    if (ranges > 1 && segments > 1 && states <= k->config->max_states - k->cut->n_states) {
        k->ranges = ranges;
        k->state = k->cut->n_states;
        k->state_step = tokens * k->config->n_q;
        k->cut->n_states += (uint32_t)states;
    }
    for (uint32_t t = k->begin; t < k->slice->n; t++)
        k->cut->rows[k->row + t - k->begin] =
            (struct sl_gpu_mix_row){.state = k->state + (t - k->begin) * k->config->n_q,
                                    .n_states = k->state_step > 0 ? sl_attend_segments(k->slice->pos + t) : 1,
                                    .state_step = k->state_step};
}

static void cut_slice(struct cutting *k, uint32_t ranges)
{
    place_states(k, ranges);
    for (uint32_t end = k->slice->n, begin; end > k->begin; end = begin) {
        page_before(k, end, &begin);
        for (uint32_t i = 0; i < items_of(k->config, end - begin); i++)
            add_items(k, begin, end, i * k->config->item_rows);
    }
}

/* The slice whose turn comes after those that end at (end, index): the next shorter one, of equal ones the next. */
static const struct sl_attention_slice *next_slice(const struct sl_attention_slice *slices, uint32_t n,
                                                   const struct sl_attention_slice *before)
{
    const struct sl_attention_slice *best = NULL;
    for (const struct sl_attention_slice *s = slices; s < slices + n; s++) {
        uint32_t end = s->pos + s->n;
        if (before && (end > before->pos + before->n || (end == before->pos + before->n && s <= before)))
            continue;
        if (!best || end > best->pos + best->n)
            best = s;
    }
    return best;
}

/* What a slice is to others: how many rows that attend, and pages, come before it. */
static struct cutting cutting_of(struct sl_gpu_cut *cut, const struct sl_gpu_cut_config *config,
                                 const struct sl_attention_slice *slices,
                                 const struct sl_attention_slice *slice, bool last)
{
    struct cutting k = {.cut = cut, .config = config, .slice = slice, .begin = first_of(slice, last)};
    for (const struct sl_attention_slice *s = slices; s < slice; s++) {
        k.row += s->n - first_of(s, last);
        k.pages += (s->pos + s->n - 1) / SL_PAGE_TOKENS + 1;
    }
    return k;
}

static void list_rows(struct sl_gpu_cut *cut, const struct sl_attention_slice *s, bool last)
{
    for (uint32_t i = 0; i < s->n; i++) {
        uint32_t pos = s->pos + i;
        cut->places[cut->n_places] =
            (struct sl_gpu_place_row){.slot = s->pages[pos / SL_PAGE_TOKENS], .pos = pos};
        if (i >= first_of(s, last))
            cut->kept[cut->n_rows++] = cut->n_places;
        cut->n_places++;
    }
    for (uint32_t i = 0; i <= (s->pos + s->n - 1) / SL_PAGE_TOKENS; i++)
        cut->slots[cut->n_slots++] = s->pages[i];
}

void sl_gpu_cut_chunk(struct sl_gpu_cut *cut, const struct sl_gpu_cut_config *config,
                      const struct sl_attention_slice *slices, uint32_t n_slices, bool last)
{
    uint32_t items = 0;
    cut->n_places = cut->n_slots = cut->n_items = cut->n_rows = 0;
    for (uint32_t i = 0; i < n_slices; i++) {
        struct cutting k = cutting_of(cut, config, slices, &slices[i], last);
        assert(slices[i].n > 0);
        list_rows(cut, &slices[i], last);
        items += slice_items(&k);
    }
    cut->n_states = cut->n_rows * config->n_q;
    assert(cut->n_states <= config->max_states);
    const uint32_t tasks = items * config->n_kv;
    const uint32_t ranges = tasks > 0 && tasks < config->wanted ? (config->wanted + tasks - 1) / tasks : 1;
    const struct sl_attention_slice *s = NULL;
    for (uint32_t i = 0; i < n_slices; i++) {
        s = next_slice(slices, n_slices, s);
        struct cutting k = cutting_of(cut, config, slices, s, last);
        if (k.begin < s->n)
            cut_slice(&k, ranges);
    }
}
