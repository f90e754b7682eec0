/* kernels/gpu/attend_cut: whatever the chunk, each row goes through each of its segments once, states of two rows or segments never share
 * memory unless they are to be merged there, in order, and the lists have the room that was planned for them. */
#include "kernels/gpu/attend_cut.h"
#include "kernels/page.h"
#include "tests/check.h"
#define DRAW_SEED 20261202
#include "tests/kernels/draw.h"

enum { MAX_TOKENS = 300, MAX_SLICES = 12, MAX_PAGES = 12 * 110, GUARD = 4 };

struct cut_world {
    struct sl_gpu_cut_config config;
    struct sl_attention_slice slices[MAX_SLICES];
    uint32_t n_slices, n_tokens, pages[MAX_PAGES];
    bool last;
    struct sl_gpu_cut cut;
    size_t max_items;
};

static void draw_slices(struct cut_world *w)
{
    static const uint32_t positions[] = {0, 1, 63, 64, 130, 2047, 2048, 4100, 6000};
    uint32_t n_pages = 0;
    w->n_slices = 1 + below(MAX_SLICES);
    for (uint32_t i = 0; i < w->n_slices; i++) {
        struct sl_attention_slice *s = &w->slices[i];
        *s = (struct sl_attention_slice){.row = w->n_tokens,
                                         .n = 1 + below(below(3) ? 3 : MAX_TOKENS / MAX_SLICES),
                                         .pos = positions[below(9)],
                                         .pages = w->pages + n_pages};
        s->kv_only = below(s->n + 1);
        w->n_tokens += s->n;
        n_pages += (s->pos + s->n - 1) / SL_PAGE_TOKENS + 1;
    }
    for (uint32_t i = 0; i < n_pages; i++)
        w->pages[i] = i * 7 + 1;
    w->cut.slots = take((n_pages + GUARD) * sizeof *w->cut.slots);
}

static void draw_world(struct cut_world *w)
{
    static const uint32_t reps[] = {1, 2, 3, 5, 8, 16, 20};
    *w = (struct cut_world){.last = below(2)};
    w->config.n_kv = 1 + below(3);
    w->config.n_q = w->config.n_kv * reps[below(7)];
    w->config.d_head = 64;
    w->config.item_rows = below(2) ? 16 : 8;
    w->config.wanted = below(3) ? below(300) : 0;
    draw_slices(w);
    w->config.max_states = w->n_tokens * w->config.n_q + (below(2) ? below(2000) : 100000);
    w->max_items = sl_gpu_cut_items(&w->config, w->n_tokens, w->n_slices);
    w->cut.places = take((w->n_tokens + GUARD) * sizeof *w->cut.places);
    w->cut.items = take((w->max_items + GUARD) * sizeof *w->cut.items);
    w->cut.rows = take((w->n_tokens + GUARD) * sizeof *w->cut.rows);
    w->cut.kept = take((w->n_tokens + GUARD) * sizeof *w->cut.kept);
}

static void free_world(struct cut_world *w)
{
    free(w->cut.slots), free(w->cut.places), free(w->cut.items), free(w->cut.rows), free(w->cut.kept);
}

/* Which row of the chunk, and of which slice, a token that attends is. */
static const struct sl_attention_slice *slice_of(const struct cut_world *w, uint32_t row)
{
    const struct sl_attention_slice *s = w->slices;
    while (row >= s->row + s->n)
        s++;
    return s;
}

static void check_lists(const struct cut_world *w)
{
    uint32_t n = 0, slots = 0;
    CHECK_INT(w->cut.n_places, w->n_tokens);
    for (uint32_t i = 0; i < w->n_slices; i++) {
        const struct sl_attention_slice *s = &w->slices[i];
        for (uint32_t t = 0; t < s->n; t++) {
            const struct sl_gpu_place_row *at = &w->cut.places[s->row + t];
            CHECK(at->pos == s->pos + t && at->slot == s->pages[(s->pos + t) / SL_PAGE_TOKENS]);
            if (!w->last || t >= s->kv_only)
                CHECK_INT(w->cut.kept[n++], s->row + t);
        }
        slots += (s->pos + s->n - 1) / SL_PAGE_TOKENS + 1;
    }
    CHECK_INT(w->cut.n_rows, n);
    CHECK_INT(w->cut.n_slots, slots);
    CHECK(memcmp(w->cut.slots, w->pages, slots * sizeof *w->pages) == 0);
    CHECK(w->cut.n_items <= w->max_items && w->cut.n_states <= w->config.max_states);
}

/* Walks the items as the kernel does. visits: [token][head of the group][segment]; owner: [state], token * n_q + head + 1. */
static void check_items(const struct cut_world *w, uint8_t *visits, uint32_t *owner)
{
    const uint32_t rep = w->config.n_q / w->config.n_kv, segments = 4;
    for (uint32_t i = 0; i < w->cut.n_items; i++) {
        const struct sl_gpu_attend_item *it = &w->cut.items[i];
        CHECK(it->n_rows > 0 && it->n_rows <= w->config.item_rows && it->head < rep);
        for (uint32_t r = 0; r < it->n_rows; r++) {
            const uint32_t token = it->token + (it->head + r) / rep, head = (it->head + r) % rep;
            REQUIRE(token < w->cut.n_rows);
            const struct sl_attention_slice *s = slice_of(w, w->cut.kept[token]);
            const uint32_t pos = it->pos + token - it->token;
            CHECK_INT(pos, w->cut.places[w->cut.kept[token]].pos);
            CHECK_INT(pos / SL_PAGE_TOKENS, it->pos / SL_PAGE_TOKENS);
            CHECK(w->cut.slots[it->pages] == s->pages[0]);
            for (uint32_t g = it->segment; g < it->segment_end; g++) {
                REQUIRE(g <= pos / 2048);
                visits[(token * rep + head) * segments + g]++;
                for (uint32_t h = head; h < w->config.n_q; h += rep) { /* of each KV head */
                    uint32_t state = it->state + (g - it->segment) * it->state_step +
                                     (token - it->token) * w->config.n_q + h;
                    const struct sl_gpu_mix_row *m = &w->cut.rows[token];
                    REQUIRE(state < w->cut.n_states);
                    CHECK(owner[state] == 0 ||
                          (owner[state] == token * w->config.n_q + h + 1 && it->state_step == 0));
                    owner[state] = token * w->config.n_q + h + 1;
                    CHECK_INT(m->state + (m->n_states > 1 ? g * m->state_step : 0) + h, state);
                }
            }
        }
    }
}

static void check_world(struct cut_world *w)
{
    const uint32_t rep = w->config.n_q / w->config.n_kv;
    uint8_t *visits = calloc((size_t)w->n_tokens * rep * 4, 1);
    uint32_t *owner = calloc(w->config.max_states, sizeof *owner);
    sl_gpu_cut_chunk(&w->cut, &w->config, w->slices, w->n_slices, w->last);
    check_lists(w);
    check_items(w, visits, owner);
    for (uint32_t r = 0; r < w->cut.n_rows * rep; r++)
        for (uint32_t g = 0; g < 4; g++)
            CHECK_INT(visits[r * 4 + g], g <= w->cut.places[w->cut.kept[r / rep]].pos / 2048 ? 1 : 0);
    free(visits), free(owner);
}

SL_TEST(each_row_goes_through_each_of_its_segments_once)
{
    const char *more = getenv("SLUICE_SEEDS");
    const uint64_t n = more ? strtoull(more, NULL, 10) : 400;
    uint64_t shared_out = 0, items = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct cut_world w;
        draw_world(&w);
        check_world(&w);
        shared_out += w.cut.n_states > w.cut.n_rows * w.config.n_q;
        items += w.cut.n_items > 0;
        free_world(&w);
    }
    CHECK(shared_out > n / 20 && items > n / 2);
}

SL_TEST(the_longest_come_first)
{
    struct cut_world w = {.config = {.n_q = 4, .n_kv = 1, .d_head = 64, .item_rows = 8, .max_states = 1000},
                          .n_slices = 3};
    static const uint32_t pos[] = {100, 900, 300};
    for (uint32_t i = 0; i < 3; i++)
        w.slices[i] = (struct sl_attention_slice){.row = i, .n = 1, .pos = pos[i], .pages = w.pages + i * 20};
    w.n_tokens = 3;
    w.cut.places = take(3 * sizeof *w.cut.places), w.cut.slots = take(60 * sizeof *w.cut.slots);
    w.cut.items = take(30 * sizeof *w.cut.items), w.cut.rows = take(3 * sizeof *w.cut.rows);
    w.cut.kept = take(3 * sizeof *w.cut.kept);
    sl_gpu_cut_chunk(&w.cut, &w.config, w.slices, 3, false);
    CHECK_INT(w.cut.n_items, 3);
    CHECK(w.cut.items[0].pos == 900 && w.cut.items[1].pos == 300 && w.cut.items[2].pos == 100);
    free_world(&w);
}
