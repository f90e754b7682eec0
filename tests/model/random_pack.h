/* A pack of weights at random for the tests of stages: of a config.json in a string, in the folder of the test. */
#ifndef SL_TESTS_MODEL_RANDOM_PACK_H
#define SL_TESTS_MODEL_RANDOM_PACK_H

#include "base/log.h"
#include "model/pack/pack.h"
#include "tests/model/files.h"

/* `dense`: of attention, dense layers and the head. NULL, and the test has failed: the pack cannot be made. The caller closes it. */
static inline struct sl_pack *random_pack_of(const char *config_text, enum sl_dtype dense,
                                             enum sl_dtype experts, enum sl_rotate rotate)
{
    static int number;
    char name[32], config[512], path[512];
    struct sl_err err = {0};
    struct sl_pack *pack = NULL;
    struct sl_pack_options options = {.rotate = rotate, .threads = 1};
    options.formats.classes[SL_CLASS_ATTENTION] = options.formats.classes[SL_CLASS_DENSE] =
        options.formats.classes[SL_CLASS_HEAD] = dense;
    options.formats.classes[SL_CLASS_GATE_UP] = options.formats.classes[SL_CLASS_DOWN] = experts;
    sl_log_init("test", SL_LOG_ERROR);
    snprintf(config, sizeof config, "%s", path_in(sl_test_dir(), "config.json"));
    write_text(config, config_text);
    snprintf(name, sizeof name, "pack%d", number++);
    snprintf(path, sizeof path, "%s", path_in(sl_test_dir(), name));
    if (sl_pack_write_random(config, 0, 7, path, &options, &err) != SL_OK ||
        sl_pack_open(&pack, path, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return pack;
}

#endif
