/* What a refusal says to clients of the richer error model: a google.rpc.Status with a google.rpc.RetryInfo, as the trailer
 * grpc-status-details-bin has it. Packed by hand: three messages of two fields, and no proto to carry along. Pure. */
#ifndef SL_NODE_RPC_STATUS_DETAILS_H
#define SL_NODE_RPC_STATUS_DETAILS_H

#include <stddef.h>
#include <stdint.h>

enum { SL_STATUS_DETAILS_BYTES = 640 };

/* code and sentence: as they are in grpc-status and grpc-message, or clients find that the two contradict each other. Returns the
 * bytes; 0: the sentence is too long for the room, or has bytes beyond ASCII. */
size_t sl_status_details_pack(uint8_t out[SL_STATUS_DETAILS_BYTES], int code, const char *sentence,
                              uint32_t retry_after_ms);

#endif
