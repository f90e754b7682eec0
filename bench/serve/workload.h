/* What a load asks for: classes of requests, each with its arrivals, lengths, prefixes, conversation, limits and metadata. What request
 * number i of a class is follows from (seed, class, i) alone, so two runs of a load are the same requests, whatever happened to
 * the ones before, and a prompt is made when it is sent and not kept. Pure, but for reading files. */
#ifndef SL_BENCH_SERVE_WORKLOAD_H
#define SL_BENCH_SERVE_WORKLOAD_H

#include "bench/serve/arrivals.h"
#include "bench/serve/measure.h"
#include "bench/serve/trace.h"

enum { SL_LOAD_CLASSES = 32, SL_LOAD_HEADERS = 16, SL_LOAD_MAX_TOKENS = 1 << 22 };

enum sl_length_kind { SL_LENGTH_FIXED, SL_LENGTH_UNIFORM, SL_LENGTH_NORMAL, SL_LENGTH_LOGNORMAL };
struct sl_length {
    enum sl_length_kind kind;
    double a, b; /* fixed a; uniform a..b; normal: mean a, deviation b; lognormal: median a, sigma b */
};
/* "512", "128-1024", "normal:512:100", "lognormal:512:0.8"; SL_E_USAGE says what is accepted. */
sl_status sl_length_parse(struct sl_length *length, const char *text, struct sl_err *err);
uint32_t sl_length_draw(const struct sl_length *length, struct sl_rng *rng); /* at least 1 */

/* Prompts from outside: a text of which windows are taken, or a line of JSON each. */
struct sl_corpus_line {
    const char *text;              /* "prompt" */
    const char *messages;          /* "messages", as JSON; or */
    const uint32_t *ids;           /* "input_ids" */
    uint32_t n_ids, output_tokens; /* 0: as the class says */
};
struct sl_corpus {
    char *text; /* of a text file */
    size_t bytes;
    struct sl_corpus_line *lines; /* of JSONL */
    uint32_t n_lines;
};
/* By its name: .jsonl is lines, all else is text. At most 256 MiB. */
sl_status sl_corpus_read(struct sl_corpus **corpus, const char *path, struct sl_err *err);
/* Of a malloc'ed text, ended by a zero that does not count; takes it, also when it fails. */
sl_status sl_corpus_parse(struct sl_corpus **corpus, char *text, size_t bytes, const char *name,
                          struct sl_err *err);
void sl_corpus_free(struct sl_corpus *corpus);

struct sl_load_class {
    char name[64];
    struct sl_arrivals arrivals;    /* kind and shape */
    double rate;                    /* requests (conversations, with turns) per second; 0: */
    uint32_t concurrency;           /* so many at a time; 0: */
    struct sl_arrival_trace *trace; /* when and how long are as in a trace */
    double trace_speed;
    uint32_t n_requests;                   /* 0: for as long as the run goes on */
    struct sl_length input, output;        /* input: of a turn, prefix included */
    uint32_t prefix_groups, prefix_tokens; /* 0: none; request i begins as all of group i % groups */
    uint32_t turns, think_ms;              /* 1: no conversation */
    struct sl_corpus *corpus;              /* NULL: random */
    struct sl_limits limits;
    uint32_t n_headers;
    char *header_names[SL_LOAD_HEADERS], *header_values[SL_LOAD_HEADERS]; /* malloc'ed */
    uint32_t deadline_ms;
    double cancel_share; /* of the requests, after so many tokens, or ms where not 0 */
    uint32_t cancel_tokens, cancel_ms;
};

struct sl_workload {
    struct sl_load_class classes[SL_LOAD_CLASSES];
    uint32_t n_classes;
    uint64_t seed;
    double seconds; /* arrivals after it are not drawn; 0: no bound */
};
void sl_workload_free(struct sl_workload *workload);
/* SL_E_USAGE or SL_E_DATA: what of a class cannot be, with its name. */
sl_status sl_workload_check(const struct sl_workload *workload, struct sl_err *err);
/* "Name: value"; SL_E_USAGE. */
sl_status sl_load_class_header(struct sl_load_class *load_class, const char *text, struct sl_err *err);
/* What a class is when nothing is said of it. */
void sl_load_class_init(struct sl_load_class *load_class, const char *name);
/* The file of classes (JSON; README says the members). Members that are not known are refused. */
sl_status sl_mix_read(struct sl_workload *workload, const char *path, struct sl_err *err);
sl_status sl_mix_parse(struct sl_workload *workload, const char *text, size_t bytes, const char *name,
                       struct sl_err *err);

struct sl_drawn { /* request i of a class */
    uint32_t input_tokens, output_tokens;
    uint32_t cancel_tokens, cancel_ms; /* 0: not */
    uint64_t index;                    /* of the conversation */
    uint32_t turn;
};
void sl_workload_draw(const struct sl_workload *workload, uint32_t load_class, uint64_t index, uint32_t turn,
                      struct sl_drawn *drawn);

struct sl_due { /* an arrival that is known before the run */
    uint64_t at_ns;
    uint32_t load_class;
    uint64_t index;
};
/* All of them, in order; malloc'ed. Of a closed class, its first `concurrency`, at 0. */
sl_status sl_workload_dues(const struct sl_workload *workload, struct sl_due **dues, uint32_t *n,
                           struct sl_err *err);

/* "poisson 4 requests/s, 512 in, 64 out, seed 1", cut to room */
void sl_workload_describe(const struct sl_workload *workload, char *text, size_t room);

/* ---- prompts ---- */

struct sl_talk { /* a conversation so far: one of the three is used */
    uint32_t *ids;
    uint32_t n_ids, room_ids;
    char *text; /* completions: text; chat: the members of a JSON list */
    size_t bytes, room_text;
};
void sl_talk_free(struct sl_talk *talk);

enum sl_prompt_form { SL_PROMPT_IDS, SL_PROMPT_TEXT, SL_PROMPT_CHAT };
struct sl_prompts { /* the maker, and the memory of the prompt that it made last */
    enum sl_prompt_form form;
    uint32_t
        vocabulary; /* of ids; those between 1/64 and 7/8 of it are drawn: special ones lie at the ends */
    uint32_t *ids;
    uint32_t room_ids;
    char *text;
    size_t bytes, room_text;
};
struct sl_call_ask;
/* Sets ids, n_ids, text and messages of ask. talk: NULL, or what was said before this turn, to which it is added. false: no memory. */
bool sl_prompts_make(struct sl_prompts *prompts, const struct sl_workload *workload, uint32_t load_class,
                     const struct sl_drawn *drawn, struct sl_talk *talk, struct sl_call_ask *ask);
/* What came of the answer, to be said again in the next turn. */
bool sl_talk_add_ids(struct sl_talk *talk, const uint32_t *ids, uint32_t n);
bool sl_talk_add_text(struct sl_talk *talk, enum sl_prompt_form form, const char *text);
void sl_prompts_free(struct sl_prompts *prompts);

#endif
