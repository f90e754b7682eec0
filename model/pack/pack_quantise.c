/* Integer pieces: sixteen source rows at a time become blocks (pack_plan_impl.h).
 *
 * Here is what a block is quantised with: its rows as floats, rotated if the piece is, the moments of its
 * inputs if a text was given, and for error feedback the factor of those moments. A stack has moments for
 * each expert; the factors of a few units are made side by side, used, and dropped, so that memory does not
 * grow with the number of experts.
 *
 * A rotation is chosen before the first block is written, by quantising a sample of blocks both ways. */
#include "model/pack/pack_plan_impl.h"
#include <assert.h>
#include <stdlib.h>

/* Each costs two quantisations: a sample of every eighth expert or so, enough since all have the same origin.
 */
enum { SAMPLES = 12 };

/* A rotation costs time at every token, so the same error with less is preferred: 0.1 dB is within the
 * sample's noise. */
static const double worth = 0.977;

/* Of the damping in sl_moments_factor: that share of the mean diagonal. */
static const double damping = 0.01;

struct unit_moments { /* of the inputs of one unit, ready for the quantiser */
    struct sl_moments moments;
    float *weight, *factor; /* owned */
};

struct quantising {
    const struct sl_piece *piece;
    const struct sl_piece_job *job;
    struct unit_moments *units; /* of units first, first + 1, ...; NULL: none */
    uint32_t first, n_units;
    uint32_t stride; /* 1: all blocks; more: a sample of every so many, without feedback */
};

/* ---- moments ---- */

static const struct sl_input_moments *inputs_of(const struct sl_piece *piece, const struct sl_piece_job *job,
                                                uint32_t unit)
{
    const struct sl_pack_calibration *c = job->calibration;
    bool by_expert = piece->site == SL_SITE_EXPERTS_DOWN;
    const struct sl_input_moments *inputs = c ? c->moments(c->arg, piece->site, by_expert ? unit : 0) : NULL;
    if (!inputs || inputs->rows == 0)
        return NULL;
    assert(inputs->k == piece->k);
    return inputs;
}

static sl_status no_memory(const struct sl_piece *piece, struct sl_err *err)
{
    return sl_fail(err, SL_E_NOMEM, "no memory to quantise '%s'; without --feedback it takes less",
                   piece->name);
}

static sl_status make_factor(struct unit_moments *u, const struct sl_input_moments *inputs,
                             const struct sl_piece *piece, struct sl_err *err)
{
    size_t products = (size_t)piece->k * piece->k;
    double *h = malloc(products * sizeof *h);
    u->factor = malloc(products * sizeof *u->factor);
    sl_status status = SL_OK;
    if (!h || !u->factor)
        status = no_memory(piece, err);
    if (status == SL_OK) {
        sl_input_moments_matrix(inputs, piece->rotation, h);
        status = sl_moments_factor(h, piece->k, damping, u->weight, u->factor, err);
        u->moments.feedback = u->factor;
    }
    free(h);
    return status;
}

/* The maker of a run without output: number i is unit first + i. */
static sl_status make_unit(void *arg, uint64_t number, uint8_t *block, size_t *bytes,
                           struct sl_quantise_report *report, void *scratch, struct sl_err *err)
{
    struct quantising *q = arg;
    struct unit_moments *u = &q->units[number];
    const struct sl_input_moments *inputs = inputs_of(q->piece, q->job, q->first + (uint32_t)number);
    (void)block;
    (void)report;
    (void)scratch;
    *bytes = 0;
    *u = (struct unit_moments){.moments.k = q->piece->k};
    if (!inputs)
        return SL_OK;
    u->weight = malloc(q->piece->k * sizeof *u->weight);
    if (!u->weight)
        return no_memory(q->piece, err);
    u->moments.weight = u->weight;
    if (q->stride == 1 && q->job->calibration->feedback)
        return make_factor(u, inputs, q->piece, err);
    sl_input_moments_weight(inputs, q->piece->rotation, u->weight);
    return SL_OK;
}

static void free_units(struct quantising *q)
{
    for (uint32_t i = 0; q->units && i < q->n_units; i++) {
        free(q->units[i].weight);
        free(q->units[i].factor);
    }
    free(q->units);
    q->units = NULL;
}

/* Moments of n units from `first` on; when all units share theirs, they are those of unit 0 and stay. */
static sl_status prepare_units(struct quantising *q, uint32_t first, uint32_t n, struct sl_err *err)
{
    struct sl_quantise_report nothing = {0};
    free_units(q);
    q->first = first;
    q->n_units = n;
    q->units = calloc(n, sizeof *q->units);
    if (!q->units)
        return no_memory(q->piece, err);
    struct sl_blocks blocks = {.n = n, .threads = q->job->threads, .make = make_unit, .arg = q};
    return sl_blocks_run(&blocks, NULL, &nothing, err);
}

/* ---- blocks ---- */

static size_t rows_bytes(uint32_t k)
{
    return ((size_t)SL_LANES * k * sizeof(float) + 63) / 64 * 64;
}

static sl_status quantise_block(void *arg, uint64_t number, uint8_t *block, size_t *bytes,
                                struct sl_quantise_report *report, void *scratch, struct sl_err *err)
{
    const struct quantising *q = arg;
    const struct sl_piece *piece = q->piece;
    uint64_t at = number * q->stride;
    uint32_t blocks = sl_piece_blocks(piece), unit = q->first + (uint32_t)(at / blocks);
    const float *rows[SL_LANES];
    float *values = scratch;
    (void)bytes; /* every block is whole */
    const struct unit_moments *u =
        q->units ? &q->units[piece->site == SL_SITE_EXPERTS_DOWN ? unit - q->first : 0] : NULL;
    bool weighed = u && u->moments.weight;
    if (q->stride > 1 && q->job->calibration && !weighed)
        return SL_OK; /* an expert that the text never reached */
    SL_TRY(sl_piece_rows(piece, q->job->source, unit, (uint32_t)(at % blocks) * SL_LANES, values, rows, err));
    if (piece->rotation)
        for (uint32_t c = 0; c < SL_LANES; c++)
            if (rows[c])
                sl_rotate_weights(values + (size_t)c * piece->k, 1, piece->k, piece->rotation);
    sl_quantise_block(rows, piece->k, piece->dtype, weighed ? &u->moments : NULL, block, report,
                      (uint8_t *)scratch + rows_bytes(piece->k));
    if (q->job->calibration && !weighed)
        report->signal = report->noise = 0; /* in other units than the rest */
    return SL_OK;
}

static struct sl_blocks blocks_of(struct quantising *q, uint64_t n)
{
    return (struct sl_blocks){.n = n,
                              .block_bytes = sl_quant_block_bytes(q->piece->dtype, q->piece->k),
                              .scratch_bytes =
                                  rows_bytes(q->piece->k) + sl_quantise_scratch_bytes(q->piece->k),
                              .threads = q->job->threads,
                              .make = quantise_block,
                              .arg = q};
}

static sl_status quantise_units(struct quantising *q, struct sl_out *out, struct sl_quantise_report *report,
                                struct sl_err *err)
{
    const struct sl_piece *piece = q->piece;
    bool by_expert = q->job->calibration && piece->site == SL_SITE_EXPERTS_DOWN;
    uint32_t batch = by_expert ? q->job->threads : piece->units;
    for (uint32_t first = 0; first < piece->units; first += batch) {
        uint32_t n = piece->units - first < batch ? piece->units - first : batch;
        q->first = first;
        if (q->job->calibration)
            SL_TRY(prepare_units(q, first, by_expert ? n : 1, err));
        struct sl_blocks blocks = blocks_of(q, (uint64_t)n * sl_piece_blocks(piece));
        SL_TRY(sl_blocks_run(&blocks, out, report, err));
    }
    return SL_OK;
}

sl_status sl_piece_quantise(const struct sl_piece *piece, const struct sl_piece_job *job, struct sl_out *out,
                            struct sl_quantise_report *report, struct sl_err *err)
{
    struct quantising q = {.piece = piece, .job = job, .stride = 1};
    struct sl_quantise_report sum = {0};
    sl_status status = quantise_units(&q, out, &sum, err);
    free_units(&q);
    /* The transform of quantise.h is divided by the block, not by its root: undone here, so that classes add
     * up. */
    double scale = piece->rotation ? piece->rotation : 1;
    report->signal += sum.signal;
    report->noise += sum.noise;
    report->plain_signal += sum.plain_signal * scale;
    report->plain_noise += sum.plain_noise * scale;
    return status;
}

/* ---- the choice of a rotation ---- */

/* The mean square of a row's step over the units of a stack; 0 without calibration. */
static double mean_step2(const struct sl_piece *piece, const struct sl_piece_job *job)
{
    double sum = 0;
    uint32_t n = 0;
    for (uint32_t unit = 0; unit < (piece->site == SL_SITE_EXPERTS_DOWN ? piece->units : 1); unit++) {
        const struct sl_input_moments *inputs = inputs_of(piece, job, unit);
        if (inputs) {
            sum += sl_input_moments_step2(inputs, piece->rotation);
            n++;
        }
    }
    return n ? sum / n : 0;
}

static sl_status sample(const struct sl_piece *piece, const struct sl_piece_job *job, double *error,
                        struct sl_err *err)
{
    uint64_t n = (uint64_t)piece->units * sl_piece_blocks(piece);
    struct quantising q = {.piece = piece, .job = job};
    struct sl_quantise_report sum = {0};
    q.stride = n > SAMPLES ? (uint32_t)(n / SAMPLES) | 1u : 2; /* odd: gate and up blocks alternate */
    sl_status status = SL_OK;
    if (job->calibration)
        status = prepare_units(&q, 0, piece->site == SL_SITE_EXPERTS_DOWN ? piece->units : 1, err);
    if (status == SL_OK) {
        struct sl_blocks blocks = blocks_of(&q, (n + q.stride - 1) / q.stride);
        status = sl_blocks_run(&blocks, NULL, &sum, err);
    }
    free_units(&q);
    /* An s8 step is the variance of its rounding times 12, and that noise goes through every weight. */
    double scale = piece->rotation ? piece->rotation : 1;
    *error += job->calibration ? sum.noise + sum.plain_signal * mean_step2(piece, job) / 12
                               : sum.plain_noise * scale;
    return status;
}

sl_status sl_pieces_choose_rotation(struct sl_piece *const *pieces, uint32_t n_pieces,
                                    const struct sl_piece_job *job, struct sl_err *err)
{
    bool blind = !job->calibration && pieces[0]->dtype == SL_I8; /* what i8 gains is in the activations */
    bool off = job->rotate == SL_ROTATE_OFF || (job->rotate == SL_ROTATE_AUTO && blind);
    bool measured = job->rotate == SL_ROTATE_AUTO && !off;
    double error[2] = {0, 0};
    for (int rotated = 0; rotated < 2; rotated++)
        for (uint32_t i = 0; i < n_pieces; i++) {
            pieces[i]->rotation = rotated ? sl_rotation_of(SL_ROTATION_BLOCK, pieces[i]->k) : 0;
            if (measured)
                SL_TRY(sample(pieces[i], job, &error[rotated], err));
        }
    if (off || (measured && error[1] >= worth * error[0]))
        for (uint32_t i = 0; i < n_pieces; i++)
            pieces[i]->rotation = 0;
    return SL_OK;
}
