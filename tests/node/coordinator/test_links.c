/* node/coordinator/links.c: a node's links, followed through the events of its io. */
#include "node/coordinator/links.h"
#include "tests/check.h"

static const struct sl_plan plan = {.n_stages = 3, .n_decoders = 1, .max_decoders = 1, .epoch = 9};

static bool tell(struct sl_links *links, enum sl_io_kind kind, uint32_t from, uint32_t to, const char *reason,
                 struct sl_err *err)
{
    struct sl_io_event event = {.kind = kind, .link = sl_plan_link_id(&plan, from, to), .reason = reason};
    return sl_links_on_event(links, &event, "do this", err);
}

SL_TEST(a_node_is_up_with_its_last_link_and_lost_with_the_first_that_goes)
{
    struct sl_links links = {.plan = &plan, .node = 2, .n_links = 3};
    struct sl_err err = {0};
    CHECK_INT(links.state, SL_LINKS_FORMING);
    CHECK(!tell(&links, SL_IO_LINK_UP, 1, 2, NULL, &err));
    CHECK(!tell(&links, SL_IO_NUDGE, 1, 2, NULL, &err));
    CHECK(!tell(&links, SL_IO_LINK_UP, 2, 3, NULL, &err));
    CHECK_INT(links.state, SL_LINKS_FORMING);
    CHECK(tell(&links, SL_IO_LINK_UP, 2, 4, NULL, &err));
    CHECK_INT(links.state, SL_LINKS_UP);
    CHECK(!tell(&links, SL_IO_FRAME, 2, 4, NULL, &err));
    CHECK(tell(&links, SL_IO_LINK_DOWN, 2, 4, "it said goodbye", &err));
    CHECK_INT(links.state, SL_LINKS_LOST);
    CHECK_INT(err.status, SL_E_PEER_LOST);
    CHECK_STR(err.text, "decode was lost (it said goodbye); do this");
    CHECK(!tell(&links, SL_IO_LINK_DOWN, 1, 2, "another", &err)); /* the first is the cause */
    CHECK(!tell(&links, SL_IO_LINK_UP, 1, 2, NULL, &err));
    CHECK_INT(links.state, SL_LINKS_LOST);
    CHECK_CONTAINS(err.text, "decode was lost");
}

SL_TEST(a_neighbour_that_never_came_is_lost_too)
{
    struct sl_links links = {.plan = &plan, .node = 1, .n_links = 3};
    struct sl_err err;
    CHECK(tell(&links, SL_IO_LINK_DOWN, 0, 1, NULL, &err));
    CHECK_STR(err.text, "coordinator was lost (the link is down); do this");
}
