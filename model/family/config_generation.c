/* generation_config.json: what it says of sampling is told to clients, who send it back with their requests, and there each
 * value has a range. One outside would make every such request fail, so it is refused here, with the model. */
#include "model/family/config_impl.h"
#include <math.h>

static const struct sampling_key {
    const char *name, *accepted;
    double above, at_least, at_most; /* `above` is excluded */
    bool whole;
} sampling_keys[] = {{"temperature", "0 (greedy) or a positive number", -1, 0, 1e6, false},
                     {"top_p", "a number above 0 and up to 1 (off)", 0, 0, 1, false},
                     {"min_p", "a number from 0 (off) to 1", -1, 0, 1, false},
                     {"top_k", "0 (off) or a positive whole number", -1, 0, INT32_MAX, true},
                     {"repetition_penalty", "a number above 0; 1 is off", 0, 0, 1e6, false},
                     {"presence_penalty", "a number from -2 to 2", -3, -2, 2, false},
                     {"frequency_penalty", "a number from -2 to 2", -3, -2, 2, false}};

sl_status sl_config_generation(const json_t *generation, struct sl_err *err)
{
    for (size_t i = 0; i < sizeof sampling_keys / sizeof *sampling_keys; i++) {
        const struct sampling_key *key = &sampling_keys[i];
        const json_t *value = sl_config_value(generation, key->name);
        int64_t whole;
        if (!value)
            continue;
        double number = json_number_value(value);
        if (!json_is_number(value) ||
            !(number > key->above && number >= key->at_least && number <= key->at_most) ||
            (key->whole && !sl_config_integral(value, &whole)))
            return sl_fail(err, SL_E_DATA, "generation_config.json: %s must be %s; correct it or remove it",
                           key->name, key->accepted);
    }
    return SL_OK;
}
