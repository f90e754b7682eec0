/* Every limit of a pipeline that is a number of ours and not of the model's or of the user's, with the relations that hold
 * between them: buffers never run out because these hold, so they are asserted where they are written. */
#ifndef SL_PIPELINE_DECIDE_LIMITS_H
#define SL_PIPELINE_DECIDE_LIMITS_H

#include "pipeline/record/order.h"

/* Of the requests that wait, as predicted of the slowest stage: batches without targets may take the night. */
#define SL_WAITING_WORK_US (UINT64_C(4) * 3600 * 1000000)

enum {
    SL_MAX_CHUNK = 2048,                   /* rows of a chunk by default */
    SL_MAX_CHUNK_ASKED = 4 * SL_MAX_CHUNK, /* and by --chunk */
    SL_MAX_BATCH = 256, /* slices that a stage runs at once: a decode step has one a sequence */
    SL_DEFAULT_RUNNING = 16,
    SL_LEAST_PREFILL =
        128, /* prompts at once, unless asked: some chunks of short ones are under way, each of SL_MAX_SLICES */
    SL_GRANT_AHEAD =
        SL_PAGE /
        2, /* positions that a decode worker has pages for before it needs them: the time of a grant */
    SL_DEFAULT_WAITING = 1024,    /* requests in the queue */
    SL_WAITING_TOKENS = 64 << 20, /* of their prompts */
    SL_WAITING_BYTES = 64 << 20,  /* that they hold together; see sl_core_config */
    SL_MAX_WAITING = 8192,        /* by --max-waiting: of the smallest that is what these bytes hold */
    SL_MAX_PARTS = 8,             /* processes that a decode worker is cut into, by layers */
    SL_IO_LINKS = 64,             /* that one node can have */
    /* of a whole pipeline: the chain with the way back, and of each decode worker one to the coordinator, those of its ring, and
     * one from every stage to each part with layers of it */
    SL_MAX_LINKS = SL_MAX_STAGES + 1 + SL_MAX_DECODERS * (SL_MAX_STAGES + 2 * SL_MAX_PARTS),

    /* Slots that a node lends to a neighbour: frames that may be under way on a link. */
    SL_ORDER_SLOTS = 4,
    SL_RESULT_SLOTS = 16,
    SL_KV_SLOTS = 16,
    SL_ADOPT_SLOTS = 32,
    SL_RING_SLOTS = 16,     /* between the parts of a decode worker */
    SL_NO_SLOT_BYTES = 256, /* a slot on the way back of a link that carries nothing that way */

    /* Buffers that a role sends from. */
    SL_RESULT_BUFFERS = SL_RESULT_SLOTS, /* RESULT frames of the last stage */
    SL_TOKENS_BUFFERS = 16,              /* TOKENS frames of the decode worker, or of a part */
    SL_STEP_BUFFERS = SL_MAX_PARTS + 2,  /* STEP frames that its chief begins */
    SL_ENDS_BUFFERS = 4,                 /* ENDS frames, likewise */
    SL_ORPHANS = 32,    /* ends of sequences that never were at the chief, which wait for such a frame */
    SL_IO_SENDS = 1024, /* frames that an io takes before it says SL_AGAIN */

    /* Frames that a role keeps: what it was given and has not applied. */
    SL_STAGE_QUEUE = 64,
    SL_DECODE_QUEUE = SL_MAX_STAGES * SL_KV_SLOTS + SL_ADOPT_SLOTS,

    SL_RECORD_PAGES = SL_MAX_CHUNK_ASKED / SL_PAGE + 2 * SL_MAX_SLICES, /* that one record's slices touch */
    SL_STAGE_ACTIONS = SL_RECORD_PAGES + 2, /* of one step: its pages, its frame or result, its slot */
    SL_FRAMES_IN_A_ROW = 32, /* that the decode worker takes while a batch waits for its next token */
};

_Static_assert(SL_MAX_CHUNK % SL_PAGE == 0, "a default chunk is whole pages");
_Static_assert((int)SL_MAX_SLICES <= (int)SL_MAX_BATCH, "a stage can run what a record may hold");
_Static_assert(SL_STAGE_QUEUE >= SL_ORDER_SLOTS,
               "a stage has room for every record that its neighbour has credit for");
_Static_assert(SL_RESULT_BUFFERS <= SL_RESULT_SLOTS,
               "a result that has a buffer has a slot, sooner or later");
_Static_assert(SL_TOKENS_BUFFERS <= SL_RESULT_SLOTS,
               "as many TOKENS frames under way as the coordinator lends slots");
_Static_assert((int)SL_STAGE_ACTIONS < (int)SL_IO_SENDS, "what one record makes a stage send fits its io");
_Static_assert((int)SL_TOKENS_BUFFERS + 1 + (int)SL_STEP_BUFFERS + (int)SL_ENDS_BUFFERS +
                       (int)SL_ADOPT_SLOTS <
                   (int)SL_IO_SENDS,
               "what the decode worker sends fits its io, what it passes on and its last word included");

#endif
