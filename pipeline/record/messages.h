/* The four records that flow beside the order log, as bytes: RESULT (last stage -> coordinator), ADOPT (coordinator ->
 * decode worker) TOKENS (decode worker -> coordinator) and SPOILED. Readers check every count and length before they believe it.
 * Pure; strings and arrays of a decoded record live in caller-provided room. */
#ifndef SL_PIPELINE_RECORD_MESSAGES_H
#define SL_PIPELINE_RECORD_MESSAGES_H

#include "base/bytes.h"
#include "pipeline/record/counts.h"
#include "pipeline/record/order.h"

/* ---- RESULT: written front to back while the last stage works through the slices ---- */

struct sl_result_head {
    uint64_t number;
    enum sl_order_kind kind;
    uint32_t n_slices;
    struct sl_trace traces[SL_MAX_STAGES]; /* n_stages of them */
};

struct sl_result_slice {
    uint64_t seq;
    uint32_t index, pos, n;
    bool has_token; /* the prompt ended: first holds its first output token */
    struct sl_token_out first;
    uint32_t n_more; /* and so many more, as the record asked */
    struct sl_token_out more[SL_MAX_N - 1];
    uint64_t logits_digest; /* XXH3 of the logits row, when asked */
    uint32_t n_prompt;      /* token_outs that follow: of positions pos+1 .. pos+n_prompt */
};

size_t sl_result_max_bytes(uint32_t n_stages, uint32_t max_tokens);
void sl_result_put_head(struct sl_cursor *c, const struct sl_result_head *head, uint32_t n_stages);
void sl_result_put_slice(struct sl_cursor *c, const struct sl_result_slice *slice);
/* Readers return false (and set c->bad) when the bytes are not what they must be. */
bool sl_result_get_head(struct sl_cursor *c, struct sl_result_head *head, uint32_t n_stages);
bool sl_result_get_slice(struct sl_cursor *c, struct sl_result_slice *slice);

/* ---- ADOPT ---- */

enum sl_adopt_kind {
    SL_ADOPT_TAKE = 1,
    SL_ADOPT_CANCEL,
    SL_ADOPT_FORK, /* another answer to the prompt of `from`: whole pages of it are shared, the last one is copied if it is not full */
    SL_ADOPT_GROW /* more pages: the grant. A sequence whose next position has no page sits out steps, and decides nothing */
};

/* An answer that was set back (its pages went to older ones) is taken anew in a stay of its own: its prompt is then what was
 * asked and all that was told but the last token, which first_id repeats, and it goes on as if it had never been away. */
struct sl_adopt {
    enum sl_adopt_kind kind;
    uint64_t seq;
    uint64_t from;    /* FORK: whose prompt; its TAKE came before */
    uint32_t n_forks; /* TAKE: so many FORKs follow, and it makes no token before they have what they need */
    uint32_t
        n_kept; /* TAKE: so many of the first pages of its prompt lie there already, and no stage pushes them */
    bool
        silent; /* TAKE: its text has ended; it is there for its forks, makes none, and ends when they have it */
    uint32_t prompt_tokens, first_id;
    uint32_t n_out; /* tokens that were told, first_id the last of them: 1, or of a later stay more */
    uint32_t max_tokens, min_tokens; /* of output, all that were told included */
    bool digest;
    uint64_t
        logits_digest; /* of those that were told, as the ENDED of the stay before had it; 0 in the first */
    uint32_t n_stops;  /* ids that end the text; eos among them unless ignored */
    uint32_t stops[SL_MAX_DECODE_STOPS];
    struct sl_sampling sampling;
    /* TAKE, FORK: pages of the prompt and some of the output, page_first 0; GROW: those that follow */
    uint32_t page_first, n_pages;
    const uint8_t *
        pages; /* their numbers on the decode worker, little-endian u32, unaligned; in the bytes of the record */
    uint32_t steering_bytes;
    const uint8_t *steering; /* likewise */
    uint32_t counts_bytes;   /* of what was told, when penalties count it and n_out > 1 */
    const uint8_t *counts;   /* likewise */
};

enum sl_text_end { /* what an output token means for its text */
                   SL_TEXT_GOES_ON,
                   SL_TEXT_STOPS,  /* it ends with a stop id */
                   SL_TEXT_IS_FULL /* it ends with its length */
};

/* Of output token n, from 1. The one rule: the core asks it for the first token, the decode worker for all others. */
enum sl_text_end sl_adopt_finish(const struct sl_adopt *adopt, uint32_t id, uint32_t n);

size_t sl_adopt_max_bytes(uint32_t context_tokens, uint32_t vocab);
size_t sl_adopt_pack(uint8_t *out, const struct sl_adopt *adopt); /* returns the bytes */
/* NULL, or what is wrong. limits: context_tokens, vocab and n_decode_pages count. */
const char *sl_adopt_unpack(struct sl_adopt *adopt, const uint8_t *in, size_t bytes,
                            const struct sl_order_limits *limits);

/* ---- TOKENS: any number of entries back to back ---- */

enum sl_tokens_kind {
    SL_TOKENS_TOKEN = 1, /* one more output token */
    SL_TOKENS_ARRIVED,   /* when a chunk's pages of one stage were whole and checked */
    SL_TOKENS_ADOPTED,   /* all pages are here: stages may free the sequence */
    SL_TOKENS_ENDED,     /* the sequence is gone from the decode worker and its pages are free */
    SL_TOKENS_FAILED,    /* as ENDED, because of status */
    SL_TOKENS_STEP       /* what a token step of the whole batch took; of no sequence */
};

struct sl_tokens_entry {
    enum sl_tokens_kind kind;
    uint64_t seq;
    struct sl_token_out token; /* TOKEN */
    enum sl_text_end finish;   /* TOKEN */
    uint32_t stage, chunk;     /* ARRIVED */
    uint64_t at_us;            /* ARRIVED, ADOPTED */
    uint64_t kv_digest;        /* ENDED */
    uint64_t logits_digest;    /* TOKEN and ENDED: the chain up to here, when it is wanted */
    uint32_t rows, step_us;    /* STEP */
    int32_t status;            /* FAILED */
};

size_t sl_tokens_max_bytes(uint32_t max_running, uint32_t n_stages, uint32_t context_tokens);
size_t sl_tokens_entry_max_bytes(void);
void sl_tokens_put(struct sl_cursor *c, const struct sl_tokens_entry *entry);
/* false at the end of the bytes, and when they are bad (then c->bad is set). */
bool sl_tokens_get(struct sl_cursor *c, struct sl_tokens_entry *entry);

/* ---- SPOILED: a node's last word ---- */

enum { SL_SPOILED_SENTENCE = 320, SL_SPOILED_BYTES = 12 + SL_SPOILED_SENTENCE };
struct sl_spoiled_word {
    uint64_t
        age_us; /* so long ago its weights were last known to be good; no clock of another node is needed */
    char sentence[SL_SPOILED_SENTENCE];
};
size_t sl_spoiled_pack(uint8_t out[SL_SPOILED_BYTES],
                       const struct sl_spoiled_word *word); /* returns the bytes */
/* NULL, or what is wrong. Bytes that can't be printed are replaced. */
const char *sl_spoiled_unpack(struct sl_spoiled_word *word, const uint8_t *in, size_t bytes);

#endif
