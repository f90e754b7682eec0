/* The scripted server with its clock: one thread that wakes whoever has something to send, and one that writes the truth.
 *
 * A turn is malloc'ed by who takes the request, lent to the play by sl_play_arrive, and given away by sl_play_end. In between, what
 * scene.h says is of who performs it belongs to the one thread that does. Any thread may call. */
#ifndef SL_BENCH_SERVE_SELFTEST_PLAY_H
#define SL_BENCH_SERVE_SELFTEST_PLAY_H

#include "bench/serve/selftest/scene.h"

struct sl_play_config {
    const struct sl_script *script; /* outlives the play */
    uint32_t n_servers;             /* 0: no bound */
    const char *truth;              /* a line per request; NULL: none */
};

struct sl_play;
/* SL_E_IO names the file. */
sl_status sl_play_start(struct sl_play **play, const struct sl_play_config *config, struct sl_err *err);
/* The request is here, now. SL_E_EXHAUSTED: too many; the turn stays the caller's. */
sl_status sl_play_arrive(struct sl_play *play, struct sl_turn *turn, struct sl_err *err);
/* What is due now; false: nothing, and it will be woken. To be asked again until it says so. */
bool sl_play_send(struct sl_play *play, struct sl_turn *turn, struct sl_send *send);
void sl_play_wake_at(struct sl_play *play, struct sl_turn *turn, uint64_t at_ns);
/* It is over; ending is a static string. Nobody wakes it any more. */
void sl_play_end(struct sl_play *play, struct sl_turn *turn, const char *ending);

/* `gone` is set when the other end of this socket is shut, until unwatch. */
void sl_play_watch(struct sl_play *play, struct sl_turn *turn, int fd);
void sl_play_unwatch(struct sl_play *play, int fd);
void sl_play_abort(struct sl_play *play, const char *id); /* `gone`, by id; nobody: nothing */
/* From now on every turn is gone, and so is whoever arrives. */
void sl_play_close(struct sl_play *play);
bool sl_play_is_closed(struct sl_play *play);

struct sl_play_load {
    uint32_t n_served, n_waiting, n_arrived;
    uint64_t up_ns;
};
void sl_play_load(struct sl_play *play, struct sl_play_load *load);
/* All turns have ended. Writes what is left; SL_E_IO: not all of the truth could be written. */
sl_status sl_play_stop(struct sl_play *play, struct sl_err *err);

#endif
