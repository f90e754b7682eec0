/* What --device says of a node: which kind of device (kernels/device.h) runs its chunks. */
#ifndef SL_PIPELINE_STAGE_DEVICE_KIND_H
#define SL_PIPELINE_STAGE_DEVICE_KIND_H

#include "base/status.h"
#include "pipeline/decide/share.h"

/* "cpu", "twin"; "cuda" (any GPU that is free), "cuda:N" or "cuda:UUID"; "auto": a GPU if this machine has one and the program kernels
 * for it, else the CPU. NULL is the CPU. SL_E_USAGE: none of these; SL_OK does not say that it is there. */
sl_status sl_device_kind_read(enum sl_device_kind *kind, const char *text, struct sl_err *err);

/* Of a text that was read so: a GPU that other stages may have, too. */
bool sl_device_is_shared(const char *text);

/* Before anything else is done for a stage on it: SL_OK, or why this machine has none of the kind. A GPU's driver is started. */
sl_status sl_device_look(enum sl_device_kind kind, struct sl_err *err);

/* The numerics that it has on this machine: a bit each, as sl_ops_profiles(). */
uint32_t sl_device_profiles(enum sl_device_kind kind);

/* The entry of a list with commas, copied; the last ones may be left out, and are "cpu". SL_E_USAGE: one of the list is no device, or
 * it has more than n_nodes. */
enum { SL_DEVICE_TEXT = 64 };
sl_status sl_device_of_list(char text[SL_DEVICE_TEXT], const char *list, uint32_t number, uint32_t n_nodes,
                            struct sl_err *err);

#endif
