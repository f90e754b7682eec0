/* Names of the numerics profiles (profile.h), and lists of them for people.
 *
 * The names are what nodes exchange at Join, what options take and what `inspect` prints: this is their only table. The
 * numbers are in the header of a frame of KV pages (pipeline/record/wire.h), so a new profile goes to the end. A profile with a
 * higher number is faster where it is offered at all: that is how the best of a set is found. */
#include "base/profile.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

static const char *const names[SL_PROFILES] = {
    [SL_PROFILE_F32] = "f32",
    [SL_PROFILE_BF16DOT] = "bf16dot",
};

const char *sl_profile_name(enum sl_profile profile)
{
    assert((unsigned)profile < SL_PROFILES);
    return names[profile];
}

bool sl_profile_parse(enum sl_profile *profile, const char *name)
{
    for (unsigned i = 0; i < SL_PROFILES; i++) {
        if (strcmp(names[i], name) == 0) {
            *profile = (enum sl_profile)i;
            return true;
        }
    }
    return false;
}

uint32_t sl_profile_allowed(const char *numerics)
{
    enum sl_profile profile;
    if (strcmp(numerics, "auto") == 0)
        return (1u << SL_PROFILES) - 1;
    return sl_profile_parse(&profile, numerics) ? 1u << profile : 0;
}

enum sl_profile sl_profile_best(uint32_t set)
{
    unsigned best = SL_PROFILES - 1;
    assert(set != 0 && set < 1u << SL_PROFILES);
    while (!(set & 1u << best))
        best--;
    return (enum sl_profile)best;
}

const char *sl_profile_list(uint32_t set, char *buffer, uint32_t bytes)
{
    uint32_t used = 0;
    assert(bytes > 0);
    buffer[0] = 0;
    for (unsigned i = 0; i < SL_PROFILES; i++) {
        if (!(set & 1u << i) || used >= bytes)
            continue;
        int n = snprintf(buffer + used, bytes - used, "%s%s", used ? ", " : "", names[i]);
        used += (uint32_t)n;
    }
    return buffer;
}
