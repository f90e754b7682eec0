/* Prompts (workload.h), made when they are sent: token p of a stream is a hash of (stream, p), so prefixes that are shared are the
 * same bytes, and nothing is kept. As text, a token is a common English word, which most tokenizers know as one; how many it was, the
 * server says. */
#include "bench/serve/target.h"
#include "bench/serve/workload.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT_BYTES_MAX = 64 << 20, WORD_BYTES = 5 /* of a text, to a token */ };

static const char *const words[] = {
    "the",  "of",      "and",   "to",    "in",     "that",    "was",   "his",     "he",    "it",
    "with", "is",      "for",   "as",    "had",    "you",     "not",   "be",      "her",   "on",
    "at",   "by",      "which", "have",  "or",     "from",    "this",  "him",     "but",   "all",
    "she",  "they",    "were",  "my",    "are",    "me",      "one",   "their",   "so",    "an",
    "said", "them",    "we",    "who",   "would",  "been",    "will",  "no",      "when",  "there",
    "if",   "more",    "out",   "up",    "into",   "do",      "any",   "your",    "what",  "has",
    "man",  "could",   "other", "than",  "our",    "some",    "very",  "time",    "upon",  "about",
    "may",  "its",     "only",  "now",   "like",   "little",  "then",  "can",     "made",  "should",
    "did",  "us",      "such",  "great", "before", "must",    "two",   "these",   "see",   "know",
    "over", "much",    "down",  "after", "first",  "good",    "men",   "own",     "never", "most",
    "old",  "shall",   "day",   "where", "those",  "came",    "come",  "himself", "way",   "work",
    "life", "without", "go",    "make",  "well",   "through", "being", "long",    "say",   "might",
    "how",  "am",      "too",   "even",  "again",  "many",    "back",  "here"};
enum { N_WORDS = sizeof words / sizeof *words };

/* ---- room ---- */

static bool make_room(void **array, uint32_t *room, uint64_t n, size_t size)
{
    if (n <= *room)
        return true;
    if (n > UINT32_MAX / 2)
        return false;
    void *grown = realloc(*array, (size_t)(2 * n) * size);
    if (!grown)
        return false;
    *array = grown;
    *room = (uint32_t)(2 * n);
    return true;
}

static bool append(char **text, size_t *bytes, size_t *room, const char *more, size_t n)
{
    if (*bytes + n + 1 > *room) {
        size_t wanted = 2 * (*bytes + n + 1);
        char *grown = wanted < PROMPT_BYTES_MAX ? realloc(*text, wanted) : NULL;
        if (!grown)
            return false;
        *text = grown;
        *room = wanted;
    }
    memcpy(*text + *bytes, more, n);
    *bytes += n;
    (*text)[*bytes] = 0;
    return true;
}

/* ---- streams of tokens ---- */

/* Which stream of random tokens position p of a request is of, and where in it. */
struct source {
    const struct sl_arrival_trace *trace;
    const struct sl_arrival_row *row;
    uint64_t shared, own; /* seeds */
    uint32_t n_shared;
};

static struct source source_of(const struct sl_workload *w, uint32_t load_class, const struct sl_drawn *d)
{
    const struct sl_load_class *c = &w->classes[load_class];
    uint64_t seed = sl_rng_at(w->seed, 16 * (uint64_t)load_class + 8);
    struct source s = {.own = sl_rng_at(seed, 2 * (d->index * 64 + d->turn) + 1)};
    if (c->trace) {
        s.trace = c->trace;
        s.row = &c->trace->rows[d->index % c->trace->n_rows];
        s.shared = sl_rng_at(w->seed, 7); /* a hash is the same block in every class */
    } else if (c->prefix_groups && d->turn == 0) {
        s.n_shared = c->prefix_tokens < d->input_tokens ? c->prefix_tokens : d->input_tokens;
        s.shared = sl_rng_at(seed, 2 * (d->index % c->prefix_groups));
    }
    return s;
}

static uint64_t bits_at(const struct source *s, uint32_t p)
{
    if (s->row && p / SL_TRACE_BLOCK < s->row->n_hashes) {
        uint64_t hash = s->trace->hashes[s->row->first_hash + p / SL_TRACE_BLOCK];
        return sl_rng_at(sl_rng_at(s->shared, hash), p % SL_TRACE_BLOCK);
    }
    return sl_rng_at(p < s->n_shared ? s->shared : s->own, p);
}

static bool random_ids(struct sl_prompts *prompts, const struct source *source, uint32_t n)
{
    uint64_t low = prompts->vocabulary / 64, width = (uint64_t)prompts->vocabulary * 7 / 8 - low;
    if (!make_room((void **)&prompts->ids, &prompts->room_ids, n, sizeof *prompts->ids))
        return false;
    for (uint32_t p = 0; p < n; p++)
        prompts->ids[p] = (uint32_t)(low + ((bits_at(source, p) >> 32) * (width ? width : 1) >> 32));
    return true;
}

static bool random_text(struct sl_prompts *prompts, const struct source *source, uint32_t n)
{
    bool fits = true;
    for (uint32_t p = 0; p < n && fits; p++) {
        const char *word = words[bits_at(source, p) % N_WORDS];
        fits = (p == 0 || append(&prompts->text, &prompts->bytes, &prompts->room_text, " ", 1)) &&
               append(&prompts->text, &prompts->bytes, &prompts->room_text, word, strlen(word));
    }
    return fits;
}

/* A window of the text, from and to the begin of a word, of about n tokens. */
static bool window(struct sl_prompts *prompts, const struct sl_corpus *corpus, const struct source *source,
                   uint32_t n)
{
    size_t wanted = (size_t)n * WORD_BYTES, at = 0;
    if (wanted >= corpus->bytes)
        wanted = corpus->bytes;
    else
        at = (size_t)(sl_rng_at(source->own, 0) % (corpus->bytes - wanted));
    while (at > 0 && at < corpus->bytes && corpus->text[at - 1] != ' ' && corpus->text[at - 1] != '\n')
        at++;
    size_t left = corpus->bytes - at, bytes = wanted < left ? wanted : left;
    while (bytes < left && (corpus->text[at + bytes] & 0xc0) == 0x80)
        bytes++; /* a letter is not cut */
    return append(&prompts->text, &prompts->bytes, &prompts->room_text, corpus->text + at, bytes);
}

/* ---- a prompt ---- */

static bool append_json_string(char **text, size_t *bytes, size_t *room, const char *value)
{
    bool fits = append(text, bytes, room, "\"", 1);
    for (; *value && fits; value++) {
        unsigned char c = (unsigned char)*value;
        char escaped[8];
        int n = c == '"' || c == '\\' ? snprintf(escaped, sizeof escaped, "\\%c", c)
                : c < 0x20            ? snprintf(escaped, sizeof escaped, "\\u%04x", c)
                                      : snprintf(escaped, sizeof escaped, "%c", c);
        fits = append(text, bytes, room, escaped, (size_t)n);
    }
    return fits && append(text, bytes, room, "\"", 1);
}

static bool say(struct sl_talk *talk, const char *role, const char *text)
{
    char head[64];
    int n = snprintf(head, sizeof head, "%s{\"role\":\"%s\",\"content\":", talk->bytes ? "," : "", role);
    return append(&talk->text, &talk->bytes, &talk->room_text, head, (size_t)n) &&
           append_json_string(&talk->text, &talk->bytes, &talk->room_text, text) &&
           append(&talk->text, &talk->bytes, &talk->room_text, "}", 1);
}

bool sl_talk_add_ids(struct sl_talk *talk, const uint32_t *ids, uint32_t n)
{
    if (!make_room((void **)&talk->ids, &talk->room_ids, (uint64_t)talk->n_ids + n, sizeof *talk->ids))
        return false;
    memcpy(talk->ids + talk->n_ids, ids, n * sizeof *ids);
    talk->n_ids += n;
    return true;
}

bool sl_talk_add_text(struct sl_talk *talk, enum sl_prompt_form form, const char *text)
{
    return form == SL_PROMPT_CHAT ? say(talk, "assistant", text)
                                  : append(&talk->text, &talk->bytes, &talk->room_text, text, strlen(text));
}

/* The new turn is in prompts; it is put behind what was said, and all of it is the prompt. */
static bool continue_talk(struct sl_prompts *prompts, struct sl_talk *talk, uint32_t n_ids,
                          struct sl_call_ask *ask)
{
    if (prompts->form == SL_PROMPT_IDS) {
        if (!sl_talk_add_ids(talk, prompts->ids, n_ids))
            return false;
        ask->ids = talk->ids;
        ask->n_ids = talk->n_ids;
        return true;
    }
    if (prompts->form == SL_PROMPT_TEXT) {
        if (!append(&talk->text, &talk->bytes, &talk->room_text, prompts->text, prompts->bytes))
            return false;
        ask->text = talk->text;
        return true;
    }
    if (!say(talk, "user", prompts->text))
        return false;
    prompts->bytes = 0;
    if (!append(&prompts->text, &prompts->bytes, &prompts->room_text, "[", 1) ||
        !append(&prompts->text, &prompts->bytes, &prompts->room_text, talk->text, talk->bytes) ||
        !append(&prompts->text, &prompts->bytes, &prompts->room_text, "]", 1))
        return false;
    ask->messages = prompts->text;
    return true;
}

bool sl_prompts_make(struct sl_prompts *prompts, const struct sl_workload *workload, uint32_t load_class,
                     const struct sl_drawn *drawn, struct sl_talk *talk, struct sl_call_ask *ask)
{
    const struct sl_corpus *corpus = workload->classes[load_class].corpus;
    struct source source = source_of(workload, load_class, drawn);
    prompts->bytes = 0;
    if (corpus && corpus->n_lines) {
        const struct sl_corpus_line *line = &corpus->lines[drawn->index % corpus->n_lines];
        ask->ids = line->ids;
        ask->n_ids = line->n_ids;
        ask->text = line->text;
        ask->messages = line->messages;
        return true;
    }
    bool made = corpus                           ? window(prompts, corpus, &source, drawn->input_tokens)
                : prompts->form == SL_PROMPT_IDS ? random_ids(prompts, &source, drawn->input_tokens)
                                                 : random_text(prompts, &source, drawn->input_tokens);
    if (!made)
        return false;
    if (talk)
        return continue_talk(prompts, talk, drawn->input_tokens, ask);
    bool as_ids = prompts->form == SL_PROMPT_IDS && !corpus;
    ask->ids = as_ids ? prompts->ids : NULL;
    ask->n_ids = as_ids ? drawn->input_tokens : 0;
    ask->text = as_ids ? NULL : prompts->text;
    return true;
}

void sl_talk_free(struct sl_talk *talk)
{
    free(talk->ids);
    free(talk->text);
    *talk = (struct sl_talk){0};
}

void sl_prompts_free(struct sl_prompts *prompts)
{
    free(prompts->ids);
    free(prompts->text);
    *prompts = (struct sl_prompts){.form = prompts->form, .vocabulary = prompts->vocabulary};
}
