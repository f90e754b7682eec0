/* HTTP/2 frames, as any stranger could send them: the bytes of an input are what the client says, the second half of a long one
 * what the core says. Whole and in pieces they must come to the same end with the same output, and nothing may be larger than
 * its bound. */
#include "node/rpc/frames.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

struct fuzz_side {
    struct sl_frames frames;
    uint8_t core[SL_FRAMES_OUT_BYTES], client[SL_FRAMES_OUT_BYTES];
    struct sl_frames_out to_core, to_client;
    enum sl_frames_end end;
};
static struct fuzz_side whole, pieces;

static void require(bool promise)
{
    if (!promise)
        abort();
}

static void on_event(void *context, struct sl_frames_stream *stream)
{
    struct fuzz_side *side = context;
    require(stream >= side->frames.streams && stream < side->frames.streams + side->frames.n_streams);
}

static void feed(struct fuzz_side *side, const uint8_t *data, size_t bytes, bool from_core, size_t piece)
{
    const struct sl_frames_events events = {side, on_event, on_event};
    for (size_t at = 0; at < bytes && !side->end; at += piece) {
        size_t n = bytes - at < piece ? bytes - at : piece;
        side->end = from_core ? sl_frames_down(&side->frames, data + at, n, 1, &events, &side->to_client)
                              : sl_frames_up(&side->frames, data + at, n, 1, &events, &side->to_core,
                                             &side->to_client);
        require(side->to_core.bytes <= sizeof side->core && side->to_client.bytes <= sizeof side->client);
        require(side->frames.n_streams <= SL_FRAMES_MAX_STREAMS);
        require(side->frames.n_unfinished <= side->frames.n_streams);
        require(side->frames.replay_bytes <= SL_FRAMES_REPLAY_BYTES);
    }
}

static void run(struct fuzz_side *side, const uint8_t *data, size_t bytes, size_t piece)
{
    static const uint8_t settings[9] = {[3] = 4};
    size_t half = bytes > 64 ? bytes / 2 : bytes;
    sl_frames_init(&side->frames, 1, 1);
    side->to_core = (struct sl_frames_out){side->core, 0};
    side->to_client = (struct sl_frames_out){side->client, 0};
    side->end = SL_FRAMES_GO_ON;
    feed(side, settings, sizeof settings, false, sizeof settings);
    feed(side, data, half, false, piece);
    if (side->frames.live)
        feed(side, data + half, bytes - half, true, piece);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes > SL_FRAMES_IN_BYTES - 9)
        bytes = SL_FRAMES_IN_BYTES - 9;
    run(&whole, data, bytes, SL_FRAMES_IN_BYTES);
    run(&pieces, data, bytes, 1 + bytes % 13);
    require(whole.end == pieces.end);
    if (!whole.end) {
        require(whole.to_core.bytes == pieces.to_core.bytes &&
                whole.to_client.bytes == pieces.to_client.bytes);
        require(memcmp(whole.core, pieces.core, whole.to_core.bytes) == 0);
        require(memcmp(whole.client, pieces.client, whole.to_client.bytes) == 0);
        require(whole.frames.n_streams == pieces.frames.n_streams);
    }
    sl_frames_fini(&whole.frames);
    sl_frames_fini(&pieces.frames);
    return 0;
}
