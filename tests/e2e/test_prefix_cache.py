"""Prefixes that are computed once, in real processes: what is cached is told, gives the same tokens, is shared within a salt alone,
goes when it is told to, and is followed by who subscribes; what lies at the decode worker is not pushed again."""
import json
import queue
import statistics
import threading
import time
import urllib.error
import urllib.request

import grpc
import pytest
from conftest import PATIENCE, run, wait_until
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc
from smg_grpc_proto.generated import common_pb2

PAGE = 64


def ask(ids, max_tokens=6):
    request = pb.GenerateRequest(stream=True)
    request.tokenized.input_ids.extend(ids)
    request.sampling_params.CopyFrom(pb.SamplingParams(temperature=0.8, seed=7, max_tokens=max_tokens, ignore_eos=True, logprobs=2))
    return request


def prompt(n, kind=0):
    return [(i * 37 + kind * 101 + i * i) % 4000 for i in range(n)]


class Answer:
    def __init__(self, stub, ids, salt=None, timeout=PATIENCE, **more):
        metadata = [("x-cache-salt", salt)] if salt is not None else None
        begin = time.monotonic()
        self.ids, self.logprobs = [], []
        for message in stub.Generate(ask(ids, **more), timeout=timeout, metadata=metadata):
            if message.WhichOneof("response") == "chunk":
                if not self.ids:
                    self.first_s = time.monotonic() - begin
                    self.cached_in_chunk = message.chunk.cached_tokens
                self.ids += message.chunk.token_ids
                self.logprobs += message.chunk.output_logprobs.token_logprobs
            else:
                self.cached = message.complete.cached_tokens
        assert self.cached == self.cached_in_chunk


@pytest.fixture
def stub_of():
    channels = []

    def make(server):
        channels.append(grpc.insecure_channel(server.endpoint))
        return pb_grpc.VllmEngineStub(channels[-1])
    yield make
    for channel in channels:
        channel.close()


def flush(server, method="POST", **headers):
    request = urllib.request.Request(f"http://{server.ops}/debug/flush_prefix_cache", method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_an_answer_is_the_same_and_says_what_was_cached(start_server, stub_of):
    server = start_server("--prefix-cache", "on")
    stub, ids = stub_of(server), prompt(400)
    first, again = Answer(stub, ids), Answer(stub, ids)
    assert (first.cached, again.cached) == (0, 384)
    assert again.ids == first.ids and again.logprobs == first.logprobs
    other = Answer(stub, ids[:150] + prompt(200, 1))
    assert other.cached == 128
    salted, salted_again, unsalted = Answer(stub, ids, salt="a"), Answer(stub, ids, salt="a"), Answer(stub, ids, salt="")
    assert (salted.cached, salted_again.cached, unsalted.cached, Answer(stub, ids, salt="b").cached) == (0, 384, 384, 0)
    assert salted.ids == salted_again.ids == first.ids
    cached = 384 + 128 + 384 + 384
    assert server.metric('sluice_prompt_tokens_total{source="cached"}') == cached
    assert server.metric('sluice_prompt_tokens_total{source="computed"}') == 6 * 400 + 350 - cached

    def load_of_idle():
        load = stub.GetLoads(pb.GetLoadsRequest(), timeout=PATIENCE).loads[0]
        return load if load.num_used_tokens == 0 else None
    load = wait_until(load_of_idle, "the return of every page")
    assert load.cache_hit_rate == pytest.approx(cached / (6 * 400 + 350))
    assert flush(server, "GET")[0] == 405
    assert flush(server, **{"X-Forwarded-For": "10.0.0.1"})[0] == 403
    assert Answer(stub, ids).cached == 384
    assert flush(server) == (200, "ok\n")
    assert Answer(stub, ids).cached == 0
    assert server.stop() == 0, server.log()


def test_the_next_turn_of_a_conversation_begins_behind_the_answer(start_server, stub_of):
    server = start_server("--kv-tokens", 64 * PAGE, "--context", 64 * PAGE)
    stub, ids = stub_of(server), prompt(150)
    first = Answer(stub, ids, max_tokens=200)
    whole = (150 + 200) // PAGE  # pages of prompt and answer, which the stages fill when nobody wants anything of them
    wait_until(lambda: server.metric("sluice_prefix_cache_usage_ratio") >= whole / 64 and server.metric("sluice_kv_cache_usage_ratio") == 0,
               "the answer in the cache, and the end of its filling, which whoever comes would cut short")
    again = ids + first.ids + prompt(40, 3)
    second = Answer(stub, again)
    assert second.cached == whole * PAGE and server.metric('sluice_prompt_tokens_total{source="computed"}') == 150 + len(again) - second.cached
    kept = (150 + 199) // PAGE * PAGE  # the decode worker wrote all positions but that of the last token, and has them still
    assert server.metric('sluice_handoff_tokens_total{source="kept"}') == kept
    assert server.metric('sluice_handoff_tokens_total{source="pushed"}') == 150 + len(again) - kept
    assert json.loads(server.get("/debug/schedule")[1])["decoders"][0]["kept_pages"] == (len(again) + 5) // PAGE
    assert flush(server) == (200, "ok\n")
    wait_until(lambda: server.metric('sluice_decoder_kept_pages{decoder="0"}') == 0, "nothing to be kept")
    uncached = Answer(stub, again)
    assert server.metric('sluice_handoff_tokens_total{source="kept"}') == kept  # as before
    assert uncached.cached == 0 and uncached.ids == second.ids and uncached.logprobs == second.logprobs


def test_a_long_salt_is_one_sentence_and_nothing_else_changes(server, stub_of):
    stub = stub_of(server)
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.Generate(ask(prompt(10)), timeout=PATIENCE, metadata=[("x-cache-salt", "s" * 257)]))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "x-cache-salt has 257 bytes: send at most 256, or a digest of it"
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.Generate(ask(prompt(10)), timeout=PATIENCE, metadata=[("x-cache-salt", "s" * (1 << 20))]))
    assert refused.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
    assert len(Answer(stub_of(server), prompt(10), salt="s" * 256).ids) == 6


def test_it_can_be_off(start_server, stub_of):
    server = start_server("--prefix-cache", "off")
    stub, ids = stub_of(server), prompt(300)
    assert [Answer(stub, ids).cached for _ in range(3)] == [0, 0, 0]
    assert flush(server)[0] == 409
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.SubscribeKvEvents(common_pb2.SubscribeKvEventsRequest(), timeout=PATIENCE))
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED and "--prefix-cache is off" in refused.value.details()
    wrong = run("serve", "demo", "--prefix-cache", "maybe")
    assert wrong.returncode != 0 and "--prefix-cache" in wrong.stderr


def test_answers_that_were_cut_short_leave_a_cache_that_can_be_trusted(start_server, stub_of):
    """Cancelled in prefill and in decode, beside others with the same beginning, in a pool of few prompts."""
    server = start_server("--context", 1024, "--kv-tokens", 2048, "--max-running", 4)
    stub, ids = stub_of(server), prompt(900)
    expected = Answer(stub, ids)
    for round_ in range(12):
        calls = [stub.Generate(ask(ids[:700] + prompt(200, kind) if kind else ids, 20), timeout=PATIENCE) for kind in range(4)]
        for k, call in enumerate(calls):
            if (round_ + k) % 3 == 0:
                call.cancel()
            elif (round_ + k) % 3 == 1:
                next(call)
                call.cancel()
            else:
                assert len(list(call)) > 0
    again = Answer(stub, ids)
    assert again.ids == expected.ids and again.logprobs == expected.logprobs
    assert server.stop() == 0, server.log()


class Follower:
    """What a gateway makes of the events: {block hash: (parent, ids)}."""

    def __init__(self, stub, start=0):
        self.call = stub.SubscribeKvEvents(common_pb2.SubscribeKvEventsRequest(start_sequence_number=start))
        self.batches, self.blocks, self.numbers, self.kinds = queue.Queue(), {}, [], []
        threading.Thread(target=self.receive, daemon=True).start()

    def receive(self):
        try:
            for batch in self.call:
                self.batches.put(batch)
        except grpc.RpcError as error:
            self.batches.put(error)

    def hear(self, n):
        for _ in range(n):
            batch = self.batches.get(timeout=PATIENCE)
            if isinstance(batch, grpc.RpcError):
                raise batch
            self.numbers.append(batch.sequence_number)
            for event in batch.events:
                self.kinds.append(event.WhichOneof("data"))
                if self.kinds[-1] == "cleared":
                    self.blocks.clear()
                elif self.kinds[-1] == "stored":
                    for block in event.stored.blocks:
                        parent = event.stored.parent_block_hash if event.stored.HasField("parent_block_hash") else None
                        self.blocks[block.block_hash] = (parent, list(block.token_ids))
                else:
                    for name in event.removed.block_hashes:
                        self.blocks.pop(name, None)

    def chain(self, ids):
        """How many tokens of a prompt are cached, as it knows it."""
        at, n = None, 0
        while (found := [name for name, block in self.blocks.items() if block == (at, ids[n:n + PAGE])]):
            at, n = found[0], n + PAGE
        return n


def test_who_subscribes_knows_what_is_cached_and_goes_on_where_it_left(start_server, stub_of):
    server = start_server()
    stub, ids = stub_of(server), prompt(400)
    follower = Follower(stub)
    follower.hear(1)
    assert follower.kinds == ["cleared"]
    Answer(stub, ids)
    Answer(stub, ids, salt="secret")  # nobody is told
    follower.hear(6)
    assert follower.chain(ids) == 384 == Answer(stub, ids).cached
    follower.call.cancel()
    last = follower.numbers[-1]
    assert follower.numbers == list(range(last - 6, last + 1))
    other = prompt(200, 3)
    Answer(stub, other)
    late, resumed, stale = Follower(stub), Follower(stub, last + 1), Follower(stub, 5)
    resumed.hear(3)
    assert resumed.numbers == [last + 1, last + 2, last + 3] and resumed.kinds == ["stored"] * 3
    for new in late, stale:  # nothing is known, or what another life of the node has told
        new.hear(1 + 9)
        assert new.kinds == ["cleared"] + ["stored"] * 9 and new.numbers == [last + 3] * 10
        assert new.chain(ids) == 384 and new.chain(other) == 192
    flush(server)
    for each in late, resumed:
        each.hear(1)
        assert each.kinds[-1] == "cleared" and each.numbers[-1] == last + 4 and not each.blocks
    assert server.stop() == 0, server.log()
    with pytest.raises(grpc.RpcError) as over:
        late.hear(1)
    assert over.value.code() == grpc.StatusCode.UNAVAILABLE


def test_what_goes_is_told(start_server, stub_of):
    server = start_server("--context", 1024, "--kv-tokens", 1024)
    stub = stub_of(server)
    follower, kinds = Follower(stub), range(8)
    for kind in kinds:
        Answer(stub, prompt(300, kind))
    for kind in reversed(kinds):
        now = Follower(stub)  # the number of its first message is that of the last event
        now.hear(1)
        while follower.numbers[-1:] < now.numbers:
            follower.hear(1)
        now.call.cancel()
        known = follower.chain(prompt(300, kind))
        assert Answer(stub, prompt(300, kind)).cached == known
    assert follower.kinds.count("stored") >= 8 * 4 and "removed" in follower.kinds
    assert server.stop() == 0, server.log()


@pytest.mark.slow
def test_a_long_prefix_costs_a_tenth(start_server, stub_of, capsys):
    """figure: time to first token of an 8k-token prompt whose beginning was there, over that of one that was not."""
    server = start_server("--context", 16384)
    stub = stub_of(server)
    Answer(stub, prompt(2000, 9))
    ratios = []
    for kind in range(5):
        ids = prompt(8192, 20 + kind) + prompt(32, kind)
        miss, hit = Answer(stub, ids, timeout=None), Answer(stub, ids, timeout=None)  # nothing may be refused for want of time
        assert (miss.cached, hit.cached) == (0, 8192) and hit.ids == miss.ids
        ratios.append(hit.first_s / miss.first_s)
        with capsys.disabled():
            print(f"\nfigure: 8k prefix: miss {miss.first_s * 1e3:.0f} ms, hit {hit.first_s * 1e3:.1f} ms, ratio {ratios[-1]:.4f}", end="")
    with capsys.disabled():
        print(f"\nfigure: 8k prefix hit / miss, median of 5: {statistics.median(ratios):.4f}")
    assert server.stop() == 0, server.log()
