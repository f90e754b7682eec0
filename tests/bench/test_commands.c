/* Tests of the table of all commands: an option is one thing wherever it is given. Environment and YAML file know no command,
 * so a SLUICE_CONTEXT that two commands read in two ways is a trap; where that is meant, it is declared here, with the reason. */
#include "bench/commands.h"
#include "node/command/options_impl.h"
#include "tests/check.h"

#include <string.h>

/* Rows that differ from those of the same name on purpose. */
static const struct {
    const char *command, *option, *reason;
} different[] = {
    {"bench prefill", "chunk",
     "the size of the measured chunk, the same for all its prompts: never by prompt"},
    {"bench layout", "chunk", "whole pages, which are dealt to nodes"},
    {"bench layout", "nodes", "how many, and not a file that says which"},
    {"bench layout", "svg", "another drawing: latency over nodes"},
    {"bench prefill", "context", "tokens before the measured ones, not a bound"},
    {"bench decode", "context", "likewise"},
    {"bench prefill", "prompt-tokens", "several prompts; bench pipeline has one"},
    {"eval", "context", "the length of a window"},
    {"eval", "max-tokens", "of a text that is read, and not of one that is written"},
    {"bench serve", "requests", "how many a load has, and not how many run at once"},
    {"bench schedule", "requests", "likewise, of a simulated load"},
    {"simulate", "requests", "likewise, of a seed"},
    {"simulate", "context", "of a model that there is not"},
    {"simulate", "load", "when requests come; bench schedule has a choice of loads"},
    {"simulate", "decoders", "at least one, and they come and go"},
    {"simulate", "trace", "what happened, written down; bench serve reads one"},
    {"bench schedule", "rate", "in capacities of the world, and not in requests a second"},
    {"bench serve", "slo", "what counts as good in what was measured, and not what a server aims at"},
    {"pack", "layers", "how many a random model has, and not which stage has how many"},
    {"plan", "decoders", "0 lets the load decide; a server waits for so many"},
    {"plan", "max-running", "0 lets the load decide"},
    {"plan", "nodes", "a file of machines, and not how many"},
    {"plan", "svg", "another drawing"},
    {"plan", "load", "sizes and a rate, or a trace, and not the name of a simulated one"},
    {"plan", "slo", "what a plan must keep"},
    {"score", "output", "the same three forms of another result"},
};
enum { N_DIFFERENT = sizeof different / sizeof *different };

static bool is_different(const struct sl_command *command, const struct sl_option *option)
{
    for (int i = 0; i < N_DIFFERENT; i++)
        if (strcmp(different[i].command, command->name) == 0 &&
            strcmp(different[i].option, option->name) == 0)
            return true;
    return false;
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool same(const struct sl_option *a, const struct sl_option *b)
{
    return a->type == b->type && a->minimum == b->minimum && a->maximum == b->maximum &&
           same_text(a->choices, b->choices) && same_text(a->unit, b->unit) && same_text(a->help, b->help);
}

static const struct sl_option *find(const struct sl_command *command, const char *name)
{
    for (const struct sl_option *o = command->options; o->name; o++)
        if (strcmp(o->name, name) == 0)
            return o;
    return NULL;
}

SL_TEST(an_option_is_the_same_in_every_command)
{
    uint32_t n_shared = 0;
    for (const struct sl_command *const *a = sl_commands_all; *a; a++)
        for (const struct sl_command *const *b = a + 1; *b; b++)
            for (const struct sl_option *mine = (*a)->options; mine->name; mine++) {
                const struct sl_option *other = find(*b, mine->name);
                if (!other || is_different(*a, mine) || is_different(*b, other))
                    continue;
                n_shared++;
                if (!same(mine, other))
                    sl_test_fail(__FILE__, __LINE__,
                                 "--%s of `%s` and of `%s` differ in type, bounds, unit or help", mine->name,
                                 (*a)->name, (*b)->name);
            }
    CHECK(n_shared > 50);
}

SL_TEST(what_is_declared_different_differs)
{
    for (int i = 0; i < N_DIFFERENT; i++) {
        uint32_t n_others = 0;
        const struct sl_option *row = NULL;
        for (const struct sl_command *const *c = sl_commands_all; *c; c++)
            if (strcmp((*c)->name, different[i].command) == 0)
                row = find(*c, different[i].option);
        REQUIRE(row != NULL);
        for (const struct sl_command *const *c = sl_commands_all; *c; c++) {
            const struct sl_option *other = find(*c, different[i].option);
            n_others += other && !same(row, other);
        }
        if (n_others == 0)
            sl_test_fail(__FILE__, __LINE__, "--%s of `%s` is like the others: it needs no declaration",
                         different[i].option, different[i].command);
    }
}

SL_TEST(every_command_accepts_its_own_defaults)
{
    union {
        max_align_t align;
        char bytes[1024];
    } values;
    for (const struct sl_command *const *c = sl_commands_all; *c; c++) {
        static char word[] = "x";
        char *argv[] = {word, word, word, NULL};
        const char *args[4];
        struct sl_err err = {0};
        uint32_t n_args;
        bool help;
        REQUIRE((*c)->struct_bytes <= sizeof values && (*c)->min_args <= 2);
        if (sl_options_parse(*c, 1 + (int)(*c)->min_args, argv, values.bytes, args, &n_args, &help, &err) !=
            SL_OK)
            sl_test_fail(__FILE__, __LINE__, "`%s` without options: %s", (*c)->name, err.text);
    }
}

SL_TEST(what_other_engines_call_an_option_is_one_of_ours_and_none_of_ours_is_shadowed)
{
    for (const struct sl_foreign_option *f = sl_foreign_options(); f->name; f++) {
        bool known = !f->ours;
        for (const struct sl_command *const *c = sl_commands_all; *c; c++) {
            known = known || find(*c, f->ours);
            if (find(*c, f->name))
                sl_test_fail(__FILE__, __LINE__, "--%s is an option of `%s`", f->name, (*c)->name);
        }
        if (!known)
            sl_test_fail(__FILE__, __LINE__, "--%s is said to be --%s, which no command has", f->name,
                         f->ours);
    }
}
