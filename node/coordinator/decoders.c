/* The decode workers as the coordinator's thread sees them (coordinator_impl.h): who has which place, over which link, and what
 * becomes of one that is told to go or is lost. What that means for answers is the core's to decide. */
#include "base/log.h"
#include "node/coordinator/coordinator_impl.h"
#include <stdio.h>

struct sl_coordinator_decoder *sl_decoder_by_link(struct sl_coordinator *c, uint64_t link)
{
    for (uint32_t d = 0; d < c->plan.max_decoders; d++)
        if (link && c->decoders[d].link == link)
            return &c->decoders[d];
    return NULL;
}

bool sl_is_decoder_link(const struct sl_coordinator *c, uint64_t link)
{
    return sl_plan_decoder_of(&c->plan, sl_plan_link_peer(link, 0)) != SL_NO_DECODER;
}

static const char *name_of(const struct sl_coordinator *c, uint32_t d, char name[24])
{
    return sl_plan_node_name(&c->plan, sl_plan_decode_node(&c->plan, d), name);
}

void sl_coordinator_expect_decoder(struct sl_coordinator *c, uint32_t d, uint32_t life)
{
    struct sl_coordinator_decoder *decoder = &c->decoders[d];
    c->plan.decoder_life[d] = life;
    decoder->link = decoder->adopts.link = sl_plan_link_id(&c->plan, 0, sl_plan_decode_node(&c->plan, d));
    decoder->life = life;
    decoder->up = decoder->ready = decoder->here = false;
    decoder->silent = 0;
}

/* Nobody has the place any more; its link says so to who had it. */
static void forget(struct sl_coordinator *c, uint32_t d, const char *sentence)
{
    struct sl_coordinator_decoder *decoder = &c->decoders[d];
    sl_io_drop(c->io, decoder->link);
    decoder->link = 0;
    decoder->here = decoder->adopts.stuck = false;
    if (c->config.on_decoder_gone)
        c->config.on_decoder_gone(c->config.user, d, decoder->life, sentence);
}

static bool is_last(const struct sl_coordinator *c, uint32_t d)
{
    for (uint32_t i = 0; i < c->plan.max_decoders; i++)
        if (i != d && c->decoders[i].here)
            return false;
    return true;
}

void sl_decoder_lose(struct sl_coordinator *c, uint32_t d, sl_status status, const char *sentence,
                     bool spoiled)
{
    struct sl_coordinator_decoder *decoder = &c->decoders[d];
    struct sl_core_load load;
    char name[24], all[320];
    if (!decoder->link)
        return;
    bool needed = c->links.state != SL_LINKS_UP ? d < c->plan.n_decoders
                                                : decoder->here && is_last(c, d) && c->config.alone_ms == 0;
    snprintf(all, sizeof all, "%.250s; %s", sentence,
             spoiled ? "what was answered can't be trusted, send the request again"
                     : "the request was not finished, send it again");
    if (needed) {
        sl_coordinator_lose(c, status, all);
        return;
    }
    sl_core_load(c->core, &load);
    if (load.life == SL_LIFE_READY || load.live > 0) { /* else it goes as we do */
        c->now.meter.decoders_lost[spoiled]++;
        sl_log_error("%s; %s, and the place of %s is free", sentence,
                     !decoder->here ? "nothing had begun there"
                     : spoiled      ? "what was told ends, the rest is prefilled again for another"
                                    : "what was decoded there is prefilled again for another",
                     name_of(c, d, name));
    }
    sl_core_decoder_lost(c->core, d, spoiled ? all : NULL, &c->actions);
    forget(c, d, sentence);
    sl_coordinator_carry_out(c);
}

void sl_decoder_left(struct sl_coordinator *c, uint32_t d)
{
    char name[24];
    if (!c->decoders[d].link)
        return;
    sl_log_info("%s has nothing left and goes", name_of(c, d, name));
    forget(c, d, NULL);
}

/* It is used when both ends say that all is up. */
static void join_when_complete(struct sl_coordinator *c, uint32_t d)
{
    struct sl_coordinator_decoder *decoder = &c->decoders[d];
    char name[24];
    if (!decoder->link || !decoder->up || !decoder->ready || decoder->here)
        return;
    decoder->here = true;
    sl_core_decoder_joins(c->core, d, decoder->life, &c->actions);
    sl_log_info("%s is ready: answers begin there", name_of(c, d, name));
    sl_coordinator_carry_out(c);
}

void sl_decoder_on_link(struct sl_coordinator *c, const struct sl_io_event *event)
{
    struct sl_coordinator_decoder *decoder = sl_decoder_by_link(c, event->link);
    if (!decoder)
        return; /* of one that is gone */
    uint32_t d = (uint32_t)(decoder - c->decoders);
    if (event->kind == SL_IO_LINK_UP) {
        decoder->up = true;
        join_when_complete(c, d);
        return;
    }
    char name[24], sentence[320];
    snprintf(sentence, sizeof sentence, "%s was lost (%s)", name_of(c, d, name),
             event->reason ? event->reason : "the link is down");
    sl_decoder_lose(c, d, SL_E_UNAVAILABLE, sentence, false);
}

void sl_decoder_set_silent(struct sl_coordinator *c, uint32_t d, uint32_t whom, bool silent)
{
    struct sl_coordinator_decoder *decoder = &c->decoders[d];
    char name[24];
    uint32_t before = decoder->silent;
    decoder->silent = silent ? before | whom : before & ~whom;
    if (!decoder->link || (decoder->silent != 0) == (before != 0))
        return;
    sl_log_warn(decoder->silent ? "%s is silent: nothing new is begun there until it is heard again"
                                : "%s is heard again",
                name_of(c, d, name));
    sl_core_decoder_silence(c->core, d, decoder->silent != 0, &c->actions);
    sl_coordinator_carry_out(c);
}

void sl_decoder_on_post(struct sl_coordinator *c, const struct sl_post *post)
{
    uint32_t d = (uint32_t)post->handle;
    struct sl_coordinator_decoder *decoder = &c->decoders[d];
    if (!decoder->link || decoder->life != post->life)
        return; /* of one that is gone */
    switch (post->kind) {
    case SL_POST_DECODER_READY:
        decoder->ready = true;
        join_when_complete(c, d);
        break;
    case SL_POST_DECODER_LEAVES:
        if (decoder->here)
            sl_core_decoder_leaves(c->core, d, c->config.leave_ms * UINT64_C(1000), &c->actions);
        else
            forget(c, d, NULL);
        break;
    default:
        sl_decoder_lose(c, d, SL_E_UNAVAILABLE, post->text, false);
        break;
    }
}
