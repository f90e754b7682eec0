"""Answers of which nobody knows how long they become: they run together in a pool that holds one whole context, and when it does
not hold them any more, one that is set back goes on with its next token."""
import concurrent.futures
import grpc
import pytest
from conftest import wait_until
from test_endpoint import ask, idle, pb, pb_grpc, whole


@pytest.fixture
def served(start_server):
    """A server whose pool has as many tokens as its context, and its client."""
    with_channel = []

    def serve(context, *args):
        server = start_server("--context", context, "--kv-tokens", context, *args)
        with_channel.append(grpc.insecure_channel(server.endpoint))
        return server, pb_grpc.VllmEngineStub(with_channel[-1])
    yield serve
    for channel in with_channel:
        channel.close()


def test_requests_that_ask_for_no_length_run_together(served):
    """What OpenAI clients send: the rest of the context is not theirs before they need it."""
    server, engine = served(8192)
    request = pb.GenerateRequest(text="Once upon a time", stream=True, sampling_params=pb.SamplingParams(ignore_eos=True))
    streams = [engine.Generate(request) for _ in range(8)]
    try:
        for stream in streams:  # each has begun before any has ended: 8 contexts are more than there are pages
            assert next(stream).chunk.token_ids
        assert server.metric("sluice_requests_running") == 8
        assert server.metric("sluice_requests_waiting") == 0
    finally:
        for stream in streams:
            stream.cancel()
    wait_until(lambda: idle(server), "all pages back")


def test_answers_that_are_set_back_go_on_with_their_next_token(served):
    server, engine = served(768)
    for i in range(40):  # short ones, so that short ones are expected
        whole(engine, max_tokens=2, ignore_eos=True)

    def one(i):
        more = {"repetition_penalty": 1.2, "frequency_penalty": 0.3, "logit_bias": {5: 2.0}} if i % 2 else {}
        *chunks, last = engine.Generate(ask([i + 3] * (40 * i + 5), stream=True, temperature=0.9, seed=i, max_tokens=400,
                                            ignore_eos=True, **more))
        assert [t for reply in chunks for t in reply.chunk.token_ids] == list(last.complete.output_ids)
        return list(last.complete.output_ids)
    alone = [one(i) for i in range(6)]
    assert server.metric("sluice_answers_set_back_total") == 0
    for i in range(400):  # long ones were seen; they are forgotten again
        whole(engine, max_tokens=2, ignore_eos=True)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert list(pool.map(one, range(6))) == alone
    assert server.metric("sluice_answers_set_back_total") > 0
    wait_until(lambda: idle(server), "all pages back")
    assert server.metric("sluice_answers_sitting_out") == 0
