/* The SLUICE_... variables: which there are, those that mean nothing (said aloud, since a setting without effect is found out
 * last), and what of them a child must not inherit. */
#include "node/command/options_impl.h"

#include "base/log.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

static const char prefix[] = "SLUICE_";
/* For the whole process, whatever the command, and what the tree's own tests and scripts use. */
static const char *const for_all[] = {"SLUICE_CONFIG", NULL};
/* And for those that it starts. */
static const char *const for_children[] = {"SLUICE_LOG", "SLUICE_CPU", "SLUICE_LIBCUDA", "SLUICE_NCCL", NULL};
static const char *const of_tests[] = {"SLUICE_BUILD",       "SLUICE_TORCH_PYTHON", "SLUICE_HARNESS_PYTHON",
                                       "SLUICE_SANITIZE",    "SLUICE_TEST_SMALL",   "SLUICE_FUZZ",
                                       "SLUICE_SLOW_FACTOR", "SLUICE_RUN_ON_CPU",   "SLUICE_SEEDS",
                                       "SLUICE_JOBS",        "SLUICE_GPU",          NULL};
/* Kubernetes and Docker put these there for a service that is called sluice. */
static const char *const of_services[] = {"SLUICE_SERVICE_", "SLUICE_PORT", NULL};

void sl_option_variable(char out[SL_OPTION_NAME], const char *name)
{
    int n = snprintf(out, SL_OPTION_NAME, "%s%s", prefix, name);
    for (int i = 0; i < n && i < SL_OPTION_NAME - 1; i++)
        out[i] = out[i] == '-' ? '_' : (char)toupper((unsigned char)out[i]);
}

static bool in_list(const char *const *list, const char *name, bool begins)
{
    for (; *list; list++)
        if (begins ? strncmp(*list, name, strlen(*list)) == 0 : strcmp(*list, name) == 0)
            return true;
    return false;
}

static bool is_known(const struct sl_command *const *commands, const char *name, char nearest[SL_OPTION_NAME])
{
    uint32_t least = 4;
    nearest[0] = 0;
    for (; *commands; commands++)
        for (const struct sl_option *option = (*commands)->options; option->name; option++) {
            char variable[SL_OPTION_NAME];
            sl_option_variable(variable, option->name);
            uint32_t far = sl_option_distance(name, variable);
            if (far == 0)
                return true;
            if (far < least) {
                least = far;
                memcpy(nearest, variable, sizeof variable);
            }
        }
    return false;
}

void sl_options_warn_unknown(const struct sl_command *const *commands)
{
    for (char **at = environ; at && *at; at++) {
        char name[SL_OPTION_NAME], nearest[SL_OPTION_NAME];
        size_t bytes = strcspn(*at, "=");
        if (strncmp(*at, prefix, sizeof prefix - 1) != 0 || bytes >= sizeof name)
            continue;
        snprintf(name, sizeof name, "%.*s", (int)bytes, *at);
        if (in_list(for_all, name, false) || in_list(for_children, name, false) ||
            in_list(of_tests, name, false) || in_list(of_services, name, true) ||
            is_known(commands, name, nearest))
            continue;
        if (nearest[0])
            sl_log_warn("the environment has %s, which means nothing here; did you mean %s?", name, nearest);
        else
            sl_log_warn(
                "the environment has %s, which means nothing here; `sluice COMMAND --help` lists the options",
                name);
    }
}

void sl_options_clear_environment(void)
{
    for (char **at = environ; at && *at;) {
        char name[256];
        size_t bytes = strcspn(*at, "=");
        snprintf(name, sizeof name, "%.*s", (int)(bytes < sizeof name ? bytes : 0), *at);
        if (name[0] && strncmp(name, prefix, sizeof prefix - 1) == 0 && !in_list(for_children, name, false) &&
            unsetenv(name) == 0)
            at = environ; /* the list has moved up */
        else
            at++;
    }
}
