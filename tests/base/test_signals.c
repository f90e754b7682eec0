/* Which signals end a node, and that handlers set before main do not outlive it. */
#include "base/signals.h"
#include "tests/check.h"

static void on_signal(int number)
{
    (void)number;
}

SL_TEST(what_took_a_signal_since_the_start_gives_it_back)
{
    struct sigaction now;
    signal(SIGHUP, on_signal);
    sl_signals_give_back();
    REQUIRE(sigaction(SIGHUP, NULL, &now) == 0);
    CHECK(now.sa_handler == SIG_DFL);
}

SL_TEST(a_hangup_ends_but_does_not_insist)
{
    sigset_t set;
    sl_signals_of_end(&set);
    CHECK(sigismember(&set, SIGTERM) && sigismember(&set, SIGINT) && sigismember(&set, SIGHUP));
    CHECK(!sigismember(&set, SIGSEGV) && !sigismember(&set, SIGUSR1) && !sigismember(&set, SIGQUIT));
    CHECK(sl_signal_ends(SIGHUP) && sl_signal_ends(SIGTERM) && !sl_signal_ends(SIGUSR1) &&
          !sl_signal_ends(0));
    CHECK(!sl_signal_insists(SIGHUP) && sl_signal_insists(SIGTERM) && sl_signal_insists(SIGINT));
}
