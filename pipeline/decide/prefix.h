/* A prefix cache: which complete KV pages nodes with one table of pages, the stages or a decode worker, keep of what is gone, under
 * names that say what is in them.
 *
 * A page's name is the SHA-256 of the name of the page before it and its own ids, so it names the whole prefix; the first one's
 * comes from a seed, of zeros or of a salt, and prompts of two seeds share nothing. Pages form a tree. Who uses a prefix holds its
 * deepest page, and by that all before it; what nobody holds is there until its page is needed, and goes by last use, the deeper
 * of one use first, so that a page goes before the one it follows and the oldest is always a leaf.
 *
 * What is in a page is never looked at: a record that fills it is in the log before any that shares it, and every node applies
 * the log in order. Nodes therefore know nothing of the cache but the numbers in records. Pure: tables in an arena. */
#ifndef SL_PIPELINE_DECIDE_PREFIX_H
#define SL_PIPELINE_DECIDE_PREFIX_H

#include "base/arena.h"
#include "pipeline/decide/limits.h"

enum { SL_PREFIX_NAME = 32, SL_PREFIX_EVENTS = 4096 /* that are kept for who asks later */ };
#define SL_PREFIX_NONE UINT32_MAX

struct sl_prefix_page; /* of the tree, by the number of its page */

enum sl_prefix_event_kind { SL_PREFIX_CLEARED = 1, SL_PREFIX_STORED, SL_PREFIX_REMOVED };

struct sl_prefix_event { /* told to gateways; nothing of salted prefixes is */
    enum sl_prefix_event_kind kind;
    bool has_parent;
    uint64_t name, parent; /* the first bytes of the names: of the page, of the one before it */
    uint32_t ids[SL_PAGE]; /* STORED */
};

struct sl_prefix {
    uint32_t n_pages; /* of the pool */
    struct sl_prefix_page *pages;
    uint32_t *buckets; /* [n_buckets], the first page of each */
    uint32_t n_buckets;
    uint64_t secret;         /* that decides buckets, so that nobody can fill one of them */
    uint32_t oldest, newest; /* of those that nobody holds */
    uint32_t first, last;    /* of those that are told of, as they were stored: parents before children */
    uint32_t n_cached, n_held;
    uint32_t (*ids)[SL_PAGE];       /* [n_pages], which events tell; NULL: nobody is told of anything */
    struct sl_prefix_event *events; /* [SL_PREFIX_EVENTS], event i at i % SL_PREFIX_EVENTS; NULL likewise */
    uint64_t n_events;              /* ever; the first is 1 */
    uint64_t n_evicted;
};

struct sl_prefix_at { /* how far a prompt has come: it holds page `page` of the tree */
    uint32_t page;    /* SL_PREFIX_NONE: nothing */
    uint32_t depth;   /* pages of the prompt that have been named */
    bool astray;      /* what it had was flushed: what follows is no longer cached */
    bool salted, has_next;
    uint8_t name[SL_PREFIX_NAME]; /* of page depth - 1, or the seed */
    uint8_t next[SL_PREFIX_NAME]; /* of page depth, once it was asked for */
};

/* told: it has events, for which ids are kept; else it is a third as large. */
size_t sl_prefix_bytes(uint32_t n_pages, bool told);
/* SL_E_NOMEM: the arena was planned too small. secret: any number that outsiders can't know. */
sl_status sl_prefix_init(struct sl_prefix *p, struct sl_arena *arena, uint32_t n_pages, bool told,
                         uint64_t secret);

/* Before the first page. seed: NULL or zeros: that of all who have no salt. */
void sl_prefix_begin(struct sl_prefix_at *at, const uint8_t seed[SL_PREFIX_NAME]);
/* The next whole page of a prompt has these ids. Whether it is cached: then it is held, as all before it are. To be asked again
 * when it was not (then the ids are not looked at), and only of what comes before the last token. */
bool sl_prefix_step(struct sl_prefix *p, struct sl_prefix_at *at, const uint32_t ids[SL_PAGE]);
/* The next page of a prompt is complete: it has these ids and is `page` of the pool. true: it is the cache's now, and held;
 * false: it stays its sequence's, as there is another of that name already, which is held instead. */
bool sl_prefix_add(struct sl_prefix *p, struct sl_prefix_at *at, const uint32_t ids[SL_PAGE], uint32_t page);
/* Whether sl_prefix_add would hold a page of that name that nobody holds now. */
bool sl_prefix_would_hold(const struct sl_prefix *p, struct sl_prefix_at *at, const uint32_t ids[SL_PAGE]);
/* A prompt may be looked for in several caches at once, its names being made once: the name of its next page; in which page a
 * cache has that (SL_PREFIX_NONE: nowhere); on to the one behind it, with nothing held; and last, of one that holds nothing, what
 * it holds in the cache where most was found: its first `depth` pages, the deepest of which is `page`. */
void sl_prefix_name(struct sl_prefix_at *at, const uint32_t ids[SL_PAGE]);
uint32_t sl_prefix_find(const struct sl_prefix *p, const struct sl_prefix_at *at);
void sl_prefix_pass(struct sl_prefix_at *at);
void sl_prefix_hold(struct sl_prefix *p, struct sl_prefix_at *at, uint32_t page, uint32_t depth);
/* It holds nothing any more, and is before the first page again. */
void sl_prefix_let_go(struct sl_prefix *p, struct sl_prefix_at *at, const uint8_t seed[SL_PREFIX_NAME]);
/* Numbers of the pages that it holds, the first of the prompt first: at->depth of them, if all were found by steps. */
void sl_prefix_numbers(const struct sl_prefix *p, const struct sl_prefix_at *at, uint32_t *numbers);

/* What it has of its own behind page `first` of its prompt is not to be trusted: its pages numbers[first .. depth) are cached no
 * longer, as far as they are the cache's, and `at` is before the first page again. Returns how many those were, in `gone`, which has
 * room for all. SL_PREFIX_NONE: others hold one of them or begin behind it, or there was a flush; nothing is changed. */
uint32_t sl_prefix_forget(struct sl_prefix *p, struct sl_prefix_at *at, const uint32_t *numbers,
                          uint32_t first, uint32_t *gone);

/* The number of the page that nobody has held for longest, which is no longer cached; false: all are held. */
bool sl_prefix_evict(struct sl_prefix *p, uint32_t *page);
/* Nothing is found any more. Pages are still to be evicted; those that are held can be when they are let go. */
void sl_prefix_flush(struct sl_prefix *p);

/* Where someone is who follows the events: after number `number`, or, while `walking`, in the state as of that number. */
struct sl_prefix_reader {
    uint64_t number;
    bool walking;
    uint32_t page;   /* the last that was told in the walk; SL_PREFIX_NONE: none yet */
    uint64_t stored; /* its event */
};

/* Who knows everything up to `number` (0: nothing) goes on from there, if that is kept; else it is told CLEARED, what is cached
 * now, and what happens from then on. */
void sl_prefix_read_from(const struct sl_prefix *p, struct sl_prefix_reader *reader, uint64_t number);
/* The next that it is told; reader->number is its number then. false: nothing more yet. After CLEARED a page may be stored behind
 * one that was not told of: that one went in the meantime, and this one did, which comes as an event. */
bool sl_prefix_read(const struct sl_prefix *p, struct sl_prefix_reader *reader,
                    struct sl_prefix_event *event);

/* For tests: whether a page of the pool is cached, and is held; how many hold something. */
bool sl_prefix_has(const struct sl_prefix *p, uint32_t page, bool *held);
uint32_t sl_prefix_n_holders(const struct sl_prefix *p);
/* For tests: NULL, or which promise its tables break (static). */
const char *sl_prefix_check(const struct sl_prefix *p);

#endif
