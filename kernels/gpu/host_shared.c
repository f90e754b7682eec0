/* Shared memory of the twin: its shadow, the copies that land late, and the banks (host.h). */
#include "kernels/gpu/gpu.h"
#include "kernels/gpu/host_impl.h"
#include <assert.h>
#include <string.h>

bool gpu_shared_may(uint32_t at, uint32_t bytes, int lane)
{
    if ((uint64_t)at + bytes <= gpu_machine->shared_bytes && at % bytes == 0)
        return true;
    gpu_found(GPU_BOUNDS, "shared memory beyond its end, or not aligned", at, lane);
    return false;
}

static struct gpu_word *word_at(uint32_t at)
{
    struct gpu_word *w = &gpu_machine->shadow[at / 4];
    if (w->block != gpu_machine->serial)
        *w = (struct gpu_word){.block = gpu_machine->serial};
    return w;
}

/* Whether another lane than this one is noted for one of these bytes. */
static bool another(const uint8_t lanes[4], uint8_t mask, int lane)
{
    for (int i = 0; i < 4; i++)
        if ((mask >> i & 1) && lanes[i] != lane)
            return true;
    return false;
}

/* Notes it. Bytes of which `more` knows already have several, when it is another. */
static void note(uint8_t lanes[4], uint8_t mask, uint8_t more, int lane)
{
    for (int i = 0; i < 4; i++)
        if (mask >> i & 1)
            lanes[i] = (more >> i & 1) && lanes[i] != lane ? GPU_LANES_SEVERAL : (uint8_t)lane;
}

static void note_read(struct gpu_word *w, uint8_t mask, int lane)
{
    const struct gpu_warp *self = gpu_machine->self;
    struct gpu_seen *r = &w->read[self->index];
    bool same = r->clock == self->past.clock[self->index] && r->sync == self->syncs;
    note(r->lane, mask, same ? r->bytes : 0, lane);
    r->bytes = same ? r->bytes | mask : mask;
    r->clock = self->past.clock[self->index];
    r->sync = self->syncs;
}

void gpu_word_note_product(uint32_t at)
{
    note_read(word_at(at), 15, GPU_LANES_SEVERAL);
}

void gpu_word_read(uint32_t at, uint8_t mask, int lane)
{
    struct gpu_word *w = word_at(at);
    const struct gpu_warp *self = gpu_machine->self;
    if (w->state == GPU_WORD_COPY)
        gpu_found(GPU_RACE_COPY, "a read of the target of a copy that is under way", at, lane);
    else if ((w->written & mask) != mask)
        gpu_found(GPU_UNWRITTEN, "a read of shared memory that nobody wrote", at, lane);
    else if (!gpu_knows(w->writer, w->clock))
        gpu_found(GPU_RACE_WARPS, "a read without a barrier after another warp's write", at, lane);
    else if (w->writer == self->index && w->sync == self->syncs && another(w->lane, w->bytes & mask, lane))
        gpu_found(GPU_RACE_LANES, "a read without warp_sync after another lane's write", at, lane);
    note_read(w, mask, lane);
}

static void before_write(const struct gpu_word *w, uint32_t at, uint8_t mask, int lane)
{
    const struct gpu_warp *self = gpu_machine->self;
    bool mine = w->writer == self->index && w->sync == self->syncs;
    if (w->state == GPU_WORD_COPY)
        gpu_found(GPU_RACE_COPY, "a write to the target of a copy that is under way", at, lane);
    else if (w->state == GPU_WORD_WRITTEN && !gpu_knows(w->writer, w->clock))
        gpu_found(GPU_RACE_WARPS, "a write without a barrier after another warp's write", at, lane);
    else if (w->state == GPU_WORD_WRITTEN && mine && another(w->lane, w->bytes & mask, lane))
        gpu_found(GPU_RACE_LANES, "a write without warp_sync after another lane's write", at, lane);
    for (uint32_t i = 0; i < gpu_machine->n_warps; i++) {
        const struct gpu_seen *r = &w->read[i];
        if (i != self->index && (r->bytes & mask) && r->clock > self->past.clock[i])
            gpu_found(GPU_RACE_WARPS, "a write without a barrier after another warp's read", at, lane);
        if (i == self->index && r->sync == self->syncs && another(r->lane, r->bytes & mask, lane))
            gpu_found(GPU_RACE_LANES, "a write without warp_sync after another lane's read", at, lane);
    }
}

void gpu_word_write(uint32_t at, uint8_t mask, int lane, bool copy)
{
    struct gpu_word *w = word_at(at);
    const struct gpu_warp *self = gpu_machine->self;
    before_write(w, at, mask, lane);
    bool more = w->state == GPU_WORD_WRITTEN && w->writer == self->index && w->sync == self->syncs;
    note(w->lane, mask, 0, lane);
    w->bytes = more ? w->bytes | mask : mask;
    w->state = copy ? GPU_WORD_COPY : GPU_WORD_WRITTEN;
    w->written |= mask;
    w->writer = (uint8_t)self->index;
    w->clock = self->past.clock[self->index];
    w->sync = self->syncs;
    w->fence = self->past.fences[self->index];
}

/* Lanes go in groups of 128 bytes, and in a wavefront a bank serves one word. */
void gpu_count_banks(const uint32_t at[32], uint32_t bytes, uint32_t lanes)
{
    uint32_t words = bytes < 4 ? 1 : bytes / 4, group = 32 / words;
    if (gpu_bounds_only)
        return;
    for (uint32_t first = 0; first < 32; first += group) {
        uint32_t seen[32][32], n[32] = {0}, most = 0;
        for (uint32_t l = first; l < first + group; l++)
            for (uint32_t i = 0; i < words && (lanes >> l & 1); i++) {
                uint32_t word = at[l] / 4 + i, bank = word % 32, j = 0;
                while (j < n[bank] && seen[bank][j] != word)
                    j++;
                if (j == n[bank])
                    seen[bank][n[bank]++] = word;
                most = n[bank] > most ? n[bank] : most;
            }
        gpu_report.wavefronts += most;
        gpu_report.wavefronts_ideal += most > 0;
    }
    gpu_report.accesses++;
}

static void count(wu at, uint32_t bytes, wb on)
{
    uint32_t offsets[32];
    GPU_EACH_LANE offsets[l] = at[l];
    gpu_count_banks(offsets, bytes, w_ballot(on));
}

/* Which bytes of the word at `at` an access of so many bytes from there on means. */
static uint8_t mask_of(uint32_t at, uint32_t bytes)
{
    return (uint8_t)(bytes >= 4 ? 15u : ((1u << bytes) - 1u) << at % 4);
}

void gpu_shared_read(wu at, uint32_t bytes, wu *v)
{
    uint32_t words = (bytes + 3) / 4;
    assert(bytes <= 16);
    count(at, bytes, w_all());
    for (uint32_t i = 0; i < words; i++)
        v[i] = (wu){0};
    GPU_EACH_LANE
    {
        uint32_t word[4] = {0}, from = at[l];
        if (!gpu_shared_may(from, bytes, l))
            continue;
        for (uint32_t i = 0; i < words && !gpu_bounds_only; i++)
            gpu_word_read(from + 4 * i, mask_of(from, bytes), l);
        memcpy(word, gpu_machine->shared + from, bytes);
        for (uint32_t i = 0; i < words; i++)
            v[i][l] = word[i];
    }
}

void gpu_shared_write(wu at, wb on, uint32_t bytes, const wu *v)
{
    uint32_t words = (bytes + 3) / 4;
    count(at, bytes, on);
    GPU_EACH_LANE
    {
        uint32_t word[4], to = at[l];
        if (!on[l] || !gpu_shared_may(to, bytes, l))
            continue;
        for (uint32_t i = 0; i < words; i++) {
            word[i] = v[i][l];
            if (!gpu_bounds_only)
                gpu_word_write(to + 4 * i, mask_of(to, bytes), l, false);
        }
        memcpy(gpu_machine->shared + to, word, bytes);
    }
}

/* ---- copies ---- */

static void begin_copy(uint32_t to, const uint8_t *from, int lane)
{
    struct gpu_warp *w = gpu_machine->self;
    if (w->n_copies == GPU_COPIES_MAX) {
        gpu_found(GPU_OVERFLOW, "more copies than a warp may have under way", to, lane);
        return;
    }
    struct gpu_copy *c = &w->copies[w->n_copies++];
    *c = (struct gpu_copy){.to = to, .lane = (uint8_t)lane};
    for (uint32_t i = 0; i < 16 && !gpu_bounds_only; i += 4)
        gpu_word_write(to + i, 15, lane, true);
    memset(gpu_machine->shared + to, 0xC5, 16); /* for whoever reads too early */
    if (from && gpu_global_may(from, 16, false, lane))
        memcpy(c->bytes, from, 16);
    gpu_report.copies++;
}

void cp_async16(wu to, const void *base, wu row, size_t stride, wu from, wb on, wb act)
{
    count(to, 16, act);
    GPU_EACH_LANE
    {
        if (act[l] && gpu_shared_may(to[l], 16, l))
            begin_copy(to[l], on[l] ? (const uint8_t *)base + row[l] * stride + from[l] : NULL, l);
    }
}

void cp_commit(void)
{
    struct gpu_warp *w = gpu_machine->self;
    if (w->n_groups == GPU_GROUPS_MAX)
        gpu_found(GPU_OVERFLOW, "more groups of copies than a warp may have under way", 0, -1);
    else
        w->group_end[w->n_groups++] = w->n_copies;
}

/* To the lane that asked for it; others of the warp see it after a warp_sync, others of the block after a barrier. */
static void land(const struct gpu_copy *c)
{
    const struct gpu_warp *w = gpu_machine->self;
    memcpy(gpu_machine->shared + c->to, c->bytes, 16);
    for (uint32_t i = 0; i < 16 && !gpu_bounds_only; i += 4) {
        struct gpu_word *s = word_at(c->to + i);
        s->state = GPU_WORD_WRITTEN;
        s->writer = (uint8_t)w->index;
        note(s->lane, 15, 0, c->lane);
        s->bytes = 15;
        s->clock = w->past.clock[w->index];
        s->sync = w->syncs;
        s->fence = w->past.fences[w->index];
    }
}

void cp_wait(uint32_t n)
{
    struct gpu_warp *w = gpu_machine->self;
    if (w->n_groups <= n)
        return;
    uint32_t groups = w->n_groups - n, end = w->group_end[groups - 1];
    for (uint32_t i = 0; i < end; i++)
        land(&w->copies[i]);
    memmove(w->copies, w->copies + end, (w->n_copies - end) * sizeof *w->copies);
    w->n_copies -= end;
    w->n_groups = n;
    for (uint32_t i = 0; i < n; i++)
        w->group_end[i] = w->group_end[i + groups] - end;
}
