/* Fuzzing of what the scripted server reads: the first byte says as what the rest is taken, the body of a completion or of a chat,
 * or the value of --stall, --fail or --ttft-law.
 *
 * What is accepted is within its bounds, what is refused has a sentence. */
#include "bench/serve/selftest/openai.h"
#include "bench/serve/selftest/script.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void fuzz_body(bool chat, const char *body, size_t bytes)
{
    struct sl_openai_ask ask = {0};
    struct sl_err err = {SL_OK, ""};
    if (sl_openai_ask_read(&ask, chat, body, bytes, &err) == SL_OK) {
        assert(ask.max_tokens <= SL_MAX_SCRIPTED_TOKENS);
        assert(ask.n_ids ? !ask.text && ask.n_ids <= bytes : !ask.text || ask.text[ask.text_bytes] == 0);
    } else {
        assert(err.text[0] && !strchr(err.text, '\n'));
    }
    sl_openai_fini(&ask);
}

static void fuzz_script(unsigned kind, const char *text)
{
    struct sl_script script = {.tokens_per_message = 1};
    struct sl_err err = {SL_OK, ""};
    sl_status status = kind == 0   ? sl_script_parse_stalls(&script, text, &err)
                       : kind == 1 ? sl_script_parse_faults(&script, text, &err)
                                   : sl_law_parse(&script.ttft_law, "ttft-law", text, &err);
    assert(status == SL_OK || (status == SL_E_USAGE && err.text[0]));
    if (status != SL_OK)
        return;
    uint64_t last_ns = 0, work_ns;
    for (uint32_t i = 0; i < 64; i++) {
        assert(sl_script_fault(&script, i) < SL_FAULTS);
        uint64_t at_ns = sl_script_after(&script, (uint64_t)i << 30, 1000);
        assert(at_ns >= last_ns && at_ns >= ((uint64_t)i << 30) + 1000);
        last_ns = at_ns;
        sl_script_draw(&script, i, 1, &work_ns);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes == 0)
        return 0;
    char *text = malloc(bytes);
    if (!text)
        return 0;
    memcpy(text, data + 1, bytes - 1);
    text[bytes - 1] = 0;
    if (data[0] % 5 < 2)
        fuzz_body(data[0] % 5 == 1, text, bytes - 1);
    else
        fuzz_script(data[0] % 5 - 2u, text);
    free(text);
    return 0;
}
