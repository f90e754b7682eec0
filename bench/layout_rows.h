/* The rows of one layer under way: who wants which experts, as a frame; what arrives, as work for the experts that are here; and
 * what they make of it, as a frame back. Bytes and sums, no links.
 *
 * A frame of rows (little-endian):  u32 rows | u32 pairs | u32 pairs of each row | u32 expert of each pair | f32 gate of each pair |
 * from the next 64 bytes on the rows: f32, bf16, or s8 with scale and sum (one or two digits), as they go into gate|up.
 * A frame back: f32 [pairs][d_model], or bf16 [rows][d_model] with the gates in them. */
#ifndef SL_BENCH_LAYOUT_ROWS_H
#define SL_BENCH_LAYOUT_ROWS_H

#include "bench/layout_world.h"
#include "experts/experts.h"

struct sl_layout_ticket { /* of one frame of rows: what is needed to make use of what comes back */
    uint32_t n_rows, n_pairs;
    uint32_t *rows;     /* [n_rows] of the home */
    uint32_t *of_row;   /* [n_rows] pairs of each */
    uint32_t *position; /* of each pair, among the outputs; of guests only */
    uint32_t first;     /* of the rows, among the guests; of guests only */
};

struct sl_layout_rows {
    uint32_t n_nodes, index, max_rows;
    enum sl_layout_combine combine;
    struct sl_experts *home;                          /* normed, normed8, experts and gates of the own rows */
    struct sl_experts guest;                          /* all rows that the experts here were chosen for */
    struct sl_layout_ticket out[SL_LAYOUT_NODES_MAX]; /* by whose experts */
    struct sl_layout_ticket in[SL_LAYOUT_NODES_MAX];  /* by whose rows */
    uint32_t *index_of;                               /* [max_rows][top_k]: of a pair, in its frame */
    const float **summands;                           /* [top_k] */
    uint32_t *pair_expert;                            /* of pairs of all that came, in order */
    float *pair_gate;
    uint32_t n_guests, n_guest_pairs;
    struct sl_arena arena, guest_arena;
};

sl_status sl_layout_rows_init(struct sl_layout_rows *r, struct sl_experts *home, uint32_t n_nodes,
                              uint32_t index, uint32_t max_rows, enum sl_layout_combine combine,
                              struct sl_err *err);
void sl_layout_rows_fini(struct sl_layout_rows *r);

size_t sl_layout_rows_bytes(const struct sl_experts_dims *dims, uint32_t n_nodes,
                            uint32_t max_rows); /* the most of a frame */
size_t sl_layout_back_bytes(const struct sl_experts_dims *dims, uint32_t n_nodes, uint32_t max_rows,
                            enum sl_layout_combine combine);

/* Home: the own n_rows are dealt to the nodes; then a frame each, into `to`; returns its bytes. */
void sl_layout_deal(struct sl_layout_rows *r, uint32_t n_rows);
size_t sl_layout_pack_rows(struct sl_layout_rows *r, const struct sl_experts_weights *w, uint32_t node,
                           uint8_t *to);

/* Guests: begin, then a frame of every node in ascending order (of the own index: what it packed), then serve. false: the frame is
 * not one. */
void sl_layout_guests_begin(struct sl_layout_rows *r);
bool sl_layout_guests_add(struct sl_layout_rows *r, const struct sl_experts_weights *w, uint32_t node,
                          const uint8_t *from, size_t bytes);
void sl_layout_guests_group(struct sl_layout_rows *r); /* then sl_experts_serve(&r->guest, w) */
size_t sl_layout_pack_back(struct sl_layout_rows *r, uint32_t node, uint8_t *to);

/* Home again: x [n_rows][d_model] += what the frames back [n_nodes] say. */
void sl_layout_sum(struct sl_layout_rows *r, float *x, uint32_t n_rows, const uint8_t *const *back);

#endif
