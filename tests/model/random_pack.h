/* A pack of weights at random for the tests of stages: of a config.json in a string, in the folder of the test. */
#ifndef SL_TESTS_MODEL_RANDOM_PACK_H
#define SL_TESTS_MODEL_RANDOM_PACK_H

#include "base/log.h"
#include "model/pack/pack.h"
#include "tests/model/files.h"

/* The caller closes it. */
static inline struct sl_pack *random_pack(const char *config_text, const struct sl_formats *formats,
                                          enum sl_rotate rotate)
{
    static int number;
    char name[32];
    struct sl_err err = {0};
    struct sl_pack *pack = NULL;
    const struct sl_pack_options options = {.formats = *formats, .rotate = rotate, .threads = 1};
    sl_log_init("test", SL_LOG_ERROR);
    const char *config = path_in(sl_test_dir(), "config.json");
    write_text(config, config_text);
    snprintf(name, sizeof name, "pack%d", number++);
    const char *path = path_in(sl_test_dir(), name);
    SET_UP(sl_pack_write_random(config, 0, 7, path, &options, &err) == SL_OK &&
               sl_pack_open(&pack, path, &err) == SL_OK,
           err.text);
    return pack;
}

/* `dense`: of attention, dense layers and the head. */
static inline struct sl_pack *random_pack_of(const char *config_text, enum sl_dtype dense,
                                             enum sl_dtype experts, enum sl_rotate rotate)
{
    const struct sl_formats formats = {.classes = {[SL_CLASS_ATTENTION] = dense,
                                                   [SL_CLASS_DENSE] = dense,
                                                   [SL_CLASS_HEAD] = dense,
                                                   [SL_CLASS_GATE_UP] = experts,
                                                   [SL_CLASS_DOWN] = experts}};
    return random_pack(config_text, &formats, rotate);
}

#endif
