"""The public endpoint over the wire, as foreign clients meet it: VllmEngine with the stubs of smg-grpc-proto, health,
reflection (a client built from nothing else), the Open Inference Protocol, ops HTTP, and bytes that are none of these."""
import concurrent.futures
import hashlib
import io
import json
import math
import random
import shutil
import signal
import socket
import threading
import urllib.request
import zipfile

import grpc
import pytest
from conftest import PATIENCE, ROOT, SLUICE, wait_until
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc
from smg_grpc_proto.generated import common_pb2
from tokenizers import Tokenizer

INVALID, UNIMPLEMENTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
PROMPT = "The old gentleman"
GENERATE = "/vllm.grpc.engine.VllmEngine/Generate"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(ROOT / "demo" / "tokenizer.json"))


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.endpoint) as it:
        yield it


@pytest.fixture(scope="module")
def engine(channel):
    return pb_grpc.VllmEngineStub(channel)


def ask(prompt=PROMPT, stream=False, request_id="", more=None, **sampling):
    request = pb.GenerateRequest(stream=stream, request_id=request_id, **(more or {}))
    if isinstance(prompt, str):
        request.text = prompt
    elif prompt is not None:
        request.tokenized.input_ids.extend(prompt)
    request.sampling_params.CopyFrom(pb.SamplingParams(**{"temperature": 0, "max_tokens": 8, **sampling}))
    return request


def whole(engine, *args, **more):
    replies = list(engine.Generate(ask(*args, **more), timeout=PATIENCE))
    assert len(replies) == 1
    return replies[0].complete


def idle(server):
    return all(server.metric(name) == 0 for name in ("sluice_requests_running", "sluice_requests_waiting",
                                                     "sluice_kv_cache_usage_ratio",
                                                     "sluice_decode_kv_cache_usage_ratio"))


# ---- Generate ----

def test_text_and_tokens_give_the_same(engine, tokenizer):
    ids = tokenizer.encode(PROMPT, add_special_tokens=False).ids
    from_text, from_ids = whole(engine, PROMPT), whole(engine, ids)
    assert from_text == from_ids
    assert from_text.finish_reason == "length"
    assert from_text.prompt_tokens == len(ids)
    assert from_text.completion_tokens == len(from_text.output_ids) == 8


def test_a_stream_carries_the_same_tokens_piece_by_piece(engine):
    complete = whole(engine, max_tokens=40)
    *chunks, last = engine.Generate(ask(stream=True, max_tokens=40), timeout=PATIENCE)
    ids = []
    for reply in chunks:
        assert reply.WhichOneof("response") == "chunk"
        ids += reply.chunk.token_ids
        assert reply.chunk.completion_tokens == len(ids)
        assert reply.chunk.prompt_tokens == complete.prompt_tokens
    assert len(chunks) > 3
    assert ids == list(complete.output_ids) == list(last.complete.output_ids)
    assert last.complete.finish_reason == "length"


def test_absent_fields_have_their_defaults(engine):
    request = pb.GenerateRequest(text=PROMPT, sampling_params=pb.SamplingParams(max_tokens=30))
    one, two = (list(next(engine.Generate(request, timeout=PATIENCE)).complete.output_ids) for _ in range(2))
    assert one != two  # temperature 1 and a random seed
    bare = pb.GenerateRequest(text=PROMPT, stream=True)  # no max_tokens: until it stops or the context is full
    pieces = engine.Generate(bare, timeout=PATIENCE)
    assert len(next(pieces).chunk.token_ids) > 0
    pieces.cancel()


def test_a_seed_fixes_a_sampled_text(engine):
    def sampled(seed):
        return list(whole(engine, temperature=1.0, top_p=0.95, seed=seed, max_tokens=30).output_ids)
    assert sampled(-7) == sampled(-7)
    assert sampled(-7) != sampled(8)


# ---- what moves the logits ----

def steps(complete):
    """[(chosen id, {id: raw log-probability} of the 20 best)] of a greedy answer that was asked for 20."""
    lp = complete.output_logprobs
    return [(token, dict(zip(top.token_ids, top.values)))
            for token, top in zip(complete.output_ids, lp.top_logprobs, strict=True)]


def check_greedy(complete, move):
    """Each token is the best of the 20 after move(id, log-probability, output so far), and better than any 21st can be."""
    said, moved = [], 0
    for token, top in steps(complete):
        after = {i: move(i, value, said) for i, value in top.items()}
        best = max(after, key=after.get)
        assert after[best] > min(top.values()), "not decided by the 20 best"
        assert token == best or after[token] > after[best] - 1e-4, (token, best, after)
        moved += token != max(top, key=top.get)
        said.append(token)
    return moved


@pytest.mark.parametrize("presence, frequency", [(0.7, 0), (0, 0.6), (0.9, 0.4), (-0.3, -0.2)])
def test_presence_and_frequency_penalties(engine, presence, frequency):
    got = whole(engine, max_tokens=40, ignore_eos=True, logprobs=20, presence_penalty=presence,
                frequency_penalty=frequency)
    moved = check_greedy(got, lambda i, lp, said: lp - presence * (i in said) - frequency * said.count(i))
    assert moved > 0
    assert list(got.output_ids) != list(whole(engine, max_tokens=40, ignore_eos=True).output_ids)


def test_logit_bias(engine):
    free = steps(whole(engine, max_tokens=1, logprobs=20))[0][1]
    first, second, *_ = sorted(free, key=free.get, reverse=True)
    assert list(whole(engine, max_tokens=1, logit_bias={first: -100}).output_ids) == [second]
    assert list(whole(engine, max_tokens=5, ignore_eos=True, logit_bias={777: 100}).output_ids) == [777] * 5
    bias = {first: -1.5, second: 0.75, 5: 1.0}
    got = whole(engine, max_tokens=30, ignore_eos=True, logprobs=20, logit_bias=bias)
    assert check_greedy(got, lambda i, lp, said: lp + bias.get(i, 0)) > 0
    assert abs(steps(got)[0][1][first] - free[first]) < 1e-6  # log-probabilities are of the raw logits


def test_repetition_penalty_counts_prompt_and_output(engine, tokenizer):
    ids = tokenizer.encode(PROMPT, add_special_tokens=False).ids
    plain = list(whole(engine, ids, max_tokens=30, ignore_eos=True).output_ids)
    assert len(set(plain)) < 30  # it repeats
    got = list(whole(engine, ids, max_tokens=30, ignore_eos=True, repetition_penalty=50).output_ids)
    assert len(set(got)) == 30 and not set(got) & set(ids)
    # the first token: a prompt that holds what it would be, though not where it would change what is predicted
    wanted = plain[0]
    holds = [wanted] + ids
    free = steps(whole(engine, holds, max_tokens=1, logprobs=20))[0][1]
    best = max(free, key=free.get)
    assert list(whole(engine, [best] + ids, max_tokens=1, repetition_penalty=50).output_ids)[0] not in {best, *ids}
    # presence and frequency know only the output: the first token is as it was
    one = whole(engine, holds, max_tokens=1, presence_penalty=2, frequency_penalty=2)
    assert list(one.output_ids) == [best]
    assert list(whole(engine, ids, max_tokens=30, ignore_eos=True, repetition_penalty=1).output_ids) == plain


# ---- several answers to one prompt ----

def answers(engine, n, *args, **more):
    """{index: complete} of one call, not streamed."""
    replies = [r.complete for r in engine.Generate(ask(*args, n=n, **more), timeout=PATIENCE)]
    assert sorted(r.index for r in replies) == list(range(n))
    return {r.index: r for r in replies}


@pytest.mark.parametrize("length", [1, 64, 65, 200])  # a part of a page, a page, one more, several
def test_n_answers_are_those_of_the_seeds_that_follow(engine, length):
    ids = [(11 * k + length) % 4000 for k in range(length)]
    how = {"temperature": 1.0, "max_tokens": 70, "ignore_eos": True, "logprobs": 2, "repetition_penalty": 1.1,
           "presence_penalty": 0.3}
    got = answers(engine, 5, ids, seed=40, **how)
    for i in range(5):
        one = whole(engine, ids, seed=40 + i, **how)
        one.index = i
        one.cached_tokens = got[i].cached_tokens  # the beginning was there by then
        assert got[i] == one
    assert len({tuple(a.output_ids) for a in got.values()}) == 5


def test_answers_end_each_for_itself(engine, server, tokenizer):
    how = {"temperature": 1.0, "max_tokens": 60, "ignore_eos": True, "seed": 3}
    free = answers(engine, 4, **how)
    word = tokenizer.decode(list(free[2].output_ids)).split()[6]
    first = free[0].output_ids[0]  # the first token of index 0 ends it, and the others are made of it all the same
    got = answers(engine, 4, stop=[word], stop_token_ids=[first], **how)
    for i in range(4):
        n = len(got[i].output_ids)
        assert list(got[i].output_ids) == list(free[i].output_ids)[:n]
        one = whole(engine, **{**how, "seed": 3 + i, "stop": [word], "stop_token_ids": [first]})
        assert one.finish_reason == got[i].finish_reason and one.output_ids == got[i].output_ids
        assert one.matched_stop_str == got[i].matched_stop_str and one.matched_token_id == got[i].matched_token_id
    assert len(got[0].output_ids) == 1 and got[0].matched_token_id == first
    assert got[2].finish_reason == "stop"
    assert [len(a.output_ids) for a in answers(engine, 3, max_tokens=1).values()] == [1, 1, 1]
    wait_until(lambda: idle(server), "all pages back after n answers")


def test_n_answers_are_streamed_by_index_and_aborted_together(engine, server):
    how = {"temperature": 1.0, "max_tokens": 40, "ignore_eos": True, "seed": 9, "prompt_logprobs": 0}
    free = answers(engine, 3, **how)
    parts, ends = {0: [], 1: [], 2: []}, {}
    for reply in engine.Generate(ask(stream=True, n=3, **how), timeout=PATIENCE):
        if reply.HasField("chunk"):
            parts[reply.chunk.index] += reply.chunk.token_ids
            assert reply.chunk.completion_tokens == len(parts[reply.chunk.index])
        else:
            ends[reply.complete.index] = reply.complete
    for i in range(3):
        assert parts[i] == list(free[i].output_ids) == list(ends[i].output_ids)
    stream = engine.Generate(ask(stream=True, n=3, request_id="three", **LONG | {"max_tokens": 2000}), timeout=PATIENCE)
    next(stream)
    engine.Abort(pb.AbortRequest(request_ids=["three"]))
    assert [r.complete.finish_reason for r in stream if r.HasField("complete")] == ["abort"] * 3
    wait_until(lambda: idle(server), "all pages back after an abort")
    streams = [engine.Generate(ask(stream=True, n=3, **LONG | {"max_tokens": 2000})) for _ in range(3)]
    for stream in streams:
        next(stream)
        stream.cancel()
    wait_until(lambda: idle(server), "all pages back after a cancel")


def test_many_who_want_several_answers_do_not_mix(engine, server):
    def one(i):
        got = answers(engine, 1 + i % 5, [i + 1] * (30 * i + 1), temperature=0.9, seed=100 * i, max_tokens=20)
        return [list(got[k].output_ids) for k in range(1 + i % 5)]
    alone = [one(i) for i in range(10)]
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        assert list(pool.map(one, range(10))) == alone
    wait_until(lambda: idle(server), "all pages back after many answers")


def test_penalties_are_the_same_in_company(engine):
    def sampled(i):
        return list(whole(engine, [i + k for k in range(40 * i + 3)], max_tokens=25, ignore_eos=True, temperature=0.9,
                          seed=i, repetition_penalty=1.2 + 0.1 * i, presence_penalty=0.5, frequency_penalty=0.25,
                          logit_bias={100 + i: 3}).output_ids)
    alone = [sampled(i) for i in range(10)]
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        assert list(pool.map(sampled, range(10))) == alone


def test_recommended_penalties_are_told(start_server, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(ROOT / "demo", model)
    (model / "generation_config.json").write_text(json.dumps({"repetition_penalty": 1.05, "temperature": 0.7, "top_k": 20}))
    server = start_server(model=model)
    with grpc.insecure_channel(server.endpoint) as channel:
        info = pb_grpc.VllmEngineStub(channel).GetModelInfo(pb.GetModelInfoRequest(), timeout=PATIENCE)
    assert json.loads(info.default_sampling_params_json) == {"repetition_penalty": 1.05, "temperature": 0.7, "top_k": 20}


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_the_output(engine, stream):
    replies = list(engine.Generate(ask(stream=stream, logprobs=3), timeout=PATIENCE))
    parts = [r.chunk.output_logprobs for r in replies if r.HasField("chunk")] if stream else \
        [replies[0].complete.output_logprobs]
    ids, values, tops = [], [], []
    for part in parts:
        ids += part.token_ids
        values += part.token_logprobs
        tops += part.top_logprobs
    assert ids == list(replies[-1].complete.output_ids)
    assert len(values) == len(tops) == 8
    for token, value, top in zip(ids, values, tops):
        assert len(top.values) == len(top.token_ids) == 3
        assert top.token_ids[0] == token and top.values[0] == value  # greedy: the best is the chosen one
        assert list(top.values) == sorted(top.values, reverse=True) and sum(map(math.exp, top.values)) <= 1.0001


def test_logprobs_of_the_prompt(engine, tokenizer):
    ids = tokenizer.encode(PROMPT, add_special_tokens=False).ids
    complete = whole(engine, prompt_logprobs=1, max_tokens=2)
    got = complete.input_logprobs
    assert list(got.token_ids) == ids
    assert [lp.HasField("value") for lp in got.token_logprobs] == [False] + [True] * (len(ids) - 1)
    scored = whole(engine, prompt_logprobs=1, max_tokens=0)  # prefill only
    assert scored.input_logprobs == got and not scored.output_ids
    first, *rest = engine.Generate(ask(stream=True, prompt_logprobs=1, max_tokens=3), timeout=PATIENCE)
    assert first.chunk.input_logprobs == got
    assert not any(r.chunk.HasField("input_logprobs") for r in rest if r.HasField("chunk"))


def test_stop_strings_and_ids(engine, tokenizer):
    free = whole(engine, max_tokens=24)
    text = tokenizer.decode(list(free.output_ids))
    word = text.split()[4]
    stopped = whole(engine, max_tokens=24, stop=["never in any text \u00e9", word])
    assert stopped.finish_reason == "stop"
    assert stopped.matched_stop_str == word
    assert len(stopped.output_ids) < len(free.output_ids)
    stop_id = free.output_ids[3]
    by_id = whole(engine, max_tokens=24, stop_token_ids=[stop_id])
    assert by_id.finish_reason == "stop" and by_id.matched_token_id == stop_id
    first = list(free.output_ids).index(stop_id)
    assert list(by_id.output_ids)[:first] == list(free.output_ids)[:first] and len(by_id.output_ids) <= first + 1


def test_no_id_that_ends_the_text_comes_before_min_tokens(engine):
    free = list(whole(engine, max_tokens=4).output_ids)
    for i, stop in enumerate(free):  # the first token is chosen by the last stage, the others by the decode worker
        held = list(whole(engine, max_tokens=8, min_tokens=i + 1, stop_token_ids=[stop]).output_ids)
        assert held[:i] == free[:i] and stop not in held[:i + 1]


def test_a_nul_in_the_text_is_a_character(engine, tokenizer):
    text = PROMPT + "\0 and more of it"
    assert whole(engine, text, max_tokens=1).prompt_tokens == len(tokenizer.encode(text, add_special_tokens=False).ids)


def test_timeline_rides_in_kv_transfer_params_json(engine):
    complete = whole(engine, "word " * 300, more={"kv_transfer_params_json": '{"sluice_timeline": true}'})
    timeline = json.loads(complete.kv_transfer_params_json)["timeline"]
    assert timeline["n_stages"] == 2
    assert timeline["submit_us"] < timeline["first_token_us"] <= timeline["done_us"]
    for stage in (0, 1):
        spans = sorted((s for s in timeline["spans"] if s["stage"] == stage), key=lambda s: s["pos"])
        assert sum(s["tokens"] for s in spans) == complete.prompt_tokens
        assert all(s["recv_us"] <= s["begin_us"] <= s["end_us"] for s in spans)
    assert not whole(engine).HasField("kv_transfer_params_json")


def test_a_timeline_has_what_the_stages_did_for_others(engine):
    """A prompt that comes while another is prefilled: what it waited for is foreign, its own chunks are not."""
    wanted = {"kv_transfer_params_json": '{"sluice_timeline": true}'}
    foreign = []
    for attempt in range(10):  # the other prompt may be done before this one has come
        stream = engine.Generate(ask(f"{attempt} " + "other " * 3000, stream=True, max_tokens=2), timeout=PATIENCE)
        complete = whole(engine, f"{attempt} " + "word " * 200, more=wanted)
        list(stream)
        timeline = json.loads(complete.kv_transfer_params_json)["timeline"]
        foreign = timeline["foreign"]
        if foreign:
            break
    assert foreign
    for f in foreign:
        assert f["stage"] in (0, 1)
        assert timeline["submit_us"] <= f["begin_us"] < f["end_us"] <= timeline["first_token_us"]
        assert (f["stage"], f["begin_us"]) not in {(s["stage"], s["begin_us"]) for s in timeline["spans"]}
    alone = json.loads(whole(engine, "quiet " * 100, more=wanted).kv_transfer_params_json)["timeline"]
    assert alone["foreign"] == []


LONG = {"max_tokens": 15000, "ignore_eos": True}


def test_abort_by_id_ends_the_stream_well(engine, server):
    stream = engine.Generate(ask(stream=True, request_id="to-abort", **LONG), timeout=PATIENCE)
    next(stream)
    with pytest.raises(grpc.RpcError) as twice:
        whole(engine, request_id="to-abort")
    assert twice.value.code() == grpc.StatusCode.ALREADY_EXISTS
    engine.Abort(pb.AbortRequest(request_ids=["unknown", "to-abort"]))
    assert list(stream)[-1].complete.finish_reason == "abort"
    wait_until(lambda: idle(server), "all pages back after an abort")


def test_a_client_that_leaves_and_a_deadline_free_the_work(engine, server):
    stream = engine.Generate(ask(stream=True, **LONG))
    next(stream)
    stream.cancel()
    wait_until(lambda: idle(server), "all pages back after a cancel")
    with pytest.raises(grpc.RpcError) as late:
        list(engine.Generate(ask(**LONG), timeout=0.3))
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: idle(server), "all pages back after a deadline")


def test_many_streams_at_once_do_not_mix(engine):
    prompts = [[(7 * i + k) % 4000 for k in range(5 + i)] for i in range(12)]
    alone = [list(whole(engine, p, max_tokens=12).output_ids) for p in prompts]
    together = [None] * len(prompts)

    def one(i):
        *chunks, _ = engine.Generate(ask(prompts[i], stream=True, max_tokens=12), timeout=PATIENCE)
        together[i] = [t for reply in chunks for t in reply.chunk.token_ids]
    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert together == alone


# ---- what is refused, and how ----

NAN = float("nan")
BAD = {
    "no prompt": (INVALID, "tokenized.input_ids or text", {"prompt": None}),
    "empty ids": (INVALID, "tokenized.input_ids is empty", {"more": {"tokenized": pb.TokenizedInput()}, "prompt": None}),
    "empty text": (INVALID, "text is empty", {"prompt": ""}),
    "id outside": (INVALID, "999999", {"prompt": [1, 999999]}),
    "too long": (INVALID, "16384", {"prompt": [5] * 17000}),
    "max_tokens too long": (INVALID, "max_tokens", {"max_tokens": 20000}),
    "n 17": (INVALID, "sampling_params.n is 17; 1 to 16", {"n": 17}),
    "n of nothing": (INVALID, "n is 2: ask for 1 to 16 answers of at least one token", {"n": 2, "max_tokens": 0}),
    "json_schema": (INVALID, "json_schema", {"json_schema": "{}"}),
    "regex": (INVALID, "regex", {"regex": "a"}),
    "grammar": (INVALID, "sampling_params.grammar ", {"grammar": "a"}),
    "structural_tag": (INVALID, "structural_tag", {"structural_tag": "a"}),
    "json_object": (INVALID, "json_object", {"json_object": True}),
    "choice": (INVALID, "choice", {"choice": pb.ChoiceConstraint(choices=["a"])}),
    "frequency_penalty": (INVALID, "frequency_penalty is 2.5", {"frequency_penalty": 2.5}),
    "frequency_penalty nan": (INVALID, "frequency_penalty", {"frequency_penalty": NAN}),
    "presence_penalty": (INVALID, "presence_penalty is -2.5", {"presence_penalty": -2.5}),
    "repetition_penalty nan": (INVALID, "repetition_penalty", {"repetition_penalty": NAN}),
    "repetition_penalty -1": (INVALID, "repetition_penalty", {"repetition_penalty": -1}),
    "logit_bias 101": (INVALID, "logit_bias of token id 5 is 101", {"logit_bias": {5: 101.0}}),
    "logit_bias nan": (INVALID, "logit_bias of token id 5", {"logit_bias": {5: NAN}}),
    "logit_bias outside": (INVALID, "token id 999999 of logit_bias", {"logit_bias": {5: 1.0, 999999: 1.0}}),
    "logit_bias below": (INVALID, "token id -1 of sampling_params.logit_bias", {"logit_bias": {-1: 1.0}}),
    "logit_bias large": (INVALID, "logit_bias has 1025 entries", {"logit_bias": {i: 1.0 for i in range(1025)}}),
    "truncate": (INVALID, "truncate_prompt_tokens", {"truncate_prompt_tokens": 5}),
    "temperature -1": (INVALID, "temperature", {"temperature": -1}),
    "temperature nan": (INVALID, "temperature", {"temperature": NAN}),
    "temperature inf": (INVALID, "temperature", {"temperature": math.inf}),
    "top_p 1.5": (INVALID, "top_p", {"top_p": 1.5}),
    "top_p -1": (INVALID, "top_p", {"top_p": -1}),
    "top_p nan": (INVALID, "top_p", {"top_p": NAN}),
    "min_p 2": (INVALID, "min_p", {"min_p": 2}),
    "min_p nan": (INVALID, "min_p", {"min_p": NAN}),
    "logprobs 99": (INVALID, "logprobs is 99", {"logprobs": 99}),
    "logprobs -1": (INVALID, "logprobs is -1", {"logprobs": -1}),
    "prompt_logprobs": (INVALID, "prompt_logprobs", {"prompt_logprobs": 21}),
    "min_tokens": (INVALID, "min_tokens", {"min_tokens": 9}),
    "empty stop": (INVALID, "stop[1]", {"stop": ["a", ""]}),
    "nul in stop": (INVALID, "NUL", {"stop": ["a\0b"]}),
    "17 stops": (INVALID, "17 strings", {"stop": ["a"] * 17}),
    "long stop": (INVALID, "sampling_params.stop[1] has 1025 bytes; at most 1024", {"stop": ["a", "x" * 1025]}),
    "long stops": (INVALID, "stop have more than 4096 bytes", {"stop": ["\u00e9" * 500] * 5}),
    "long text": (INVALID, "text has", {"prompt": "x" * (30 << 20)}),
    "long kv json": (INVALID, "kv_transfer_params_json has 2000 bytes; at most 1024",
                     {"more": {"kv_transfer_params_json": " " * 2000}}),
    "65 stop ids": (INVALID, "65 ids", {"stop_token_ids": [1] * 65}),
    "request_id": (INVALID, "request_id", {"request_id": "x" * 128}),
    "nul in request_id": (INVALID, "request_id", {"request_id": "x\0"}),
    "kv_transfer_params": (INVALID, "kv_transfer_params", {"more": {"kv_transfer_params": pb.KvTransferParams()}}),
    "kv json": (INVALID, "kv_transfer_params_json",
                {"more": {"kv_transfer_params_json": '{"sluice_timeline": true, "x": 1}'}}),
    "mm_inputs": (INVALID, "mm_inputs", {"more": {"mm_inputs": pb.MultimodalInputs()}}),
    "media_refs": (INVALID, "media_refs", {"more": {"media_refs": pb.MediaRefs(items=[pb.MediaRef(url="x")])}}),
    "rank": (INVALID, "data_parallel_rank", {"more": {"data_parallel_rank": 3}}),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_refused_by_name(engine, case):
    code, part, how = BAD[case]
    with pytest.raises(grpc.RpcError) as refused:
        list(engine.Generate(ask(**how), timeout=PATIENCE))
    assert refused.value.code() == code, refused.value.details()
    assert part in refused.value.details()
    assert "\n" not in refused.value.details()


def test_abort_takes_so_many_ids_of_such_a_length(engine):
    for ids, part in ((["a"] * 1025, "request_ids has 1025 ids"), (["a", "x" * 128], "request_ids[1] has 128 bytes")):
        with pytest.raises(grpc.RpcError) as refused:
            engine.Abort(pb.AbortRequest(request_ids=ids), timeout=PATIENCE)
        assert refused.value.code() == INVALID and part in refused.value.details()
    engine.Abort(pb.AbortRequest(request_ids=["a" * 127] * 1024), timeout=PATIENCE)


def inside(server):
    """Read in this order, a request that starts meanwhile may be missed, and is never counted twice."""
    return sum(server.metric(name) for name in ("sluice_requests_running", "sluice_requests_waiting"))


def test_what_waits_holds_few_bytes_and_is_counted(engine, server):
    """Room for the log-probabilities of a prompt (172 bytes a token) is taken when it runs."""
    ahead, many, ids = 20, 100, [5] * 16000  # more ahead than run at once
    streams = [engine.Generate(ask(stream=True, **LONG)) for _ in range(ahead)]
    try:
        wait_until(lambda: inside(server) == ahead, "all of those ahead")
        before = server.metric("sluice_jemalloc_allocated_bytes")
        streams += [engine.Generate(ask(ids, prompt_logprobs=20, max_tokens=1)) for _ in range(many)]
        wait_until(lambda: inside(server) == ahead + many, "a queue of all the others")
        held = server.metric("sluice_requests_waiting_bytes")
        assert many * 8 * len(ids) <= held <= many * 8 * len(ids) + (ahead + many) * 16384
        assert server.metric("sluice_jemalloc_allocated_bytes") - before < held + (80 << 20)  # of 275 MB more
    finally:
        for stream in streams:
            stream.cancel()
    wait_until(lambda: idle(server), "an empty queue")
    assert server.metric("sluice_requests_waiting_bytes") == 0


def raw_call(channel, path, message, **more):
    return channel.unary_stream(path, request_serializer=bytes, response_deserializer=bytes)(message, timeout=PATIENCE, **more)


@pytest.mark.parametrize("message, code", [
    (b"\xff" * 40, INVALID),                # not protobuf
    (b"\x22\x05abc", INVALID),              # a field longer than the message
    (b"\x1a\x02\xff\xfe", INVALID),         # text that is not UTF-8
    (b"\x78\x01" * (1 << 19), EXHAUSTED),   # 1 MiB of unknown fields: 50 times as much when unpacked
    (b"\x5a\x00" * (1 << 19), EXHAUSTED),   # 1 MiB of empty messages
    (bytes((32 << 20) + 1), EXHAUSTED),     # over 32 MiB
])
def test_hostile_messages(channel, engine, message, code):
    with pytest.raises(grpc.RpcError) as refused:
        list(raw_call(channel, GENERATE, message))
    assert refused.value.code() == code
    assert engine.HealthCheck(pb.HealthCheckRequest(), timeout=PATIENCE).healthy


def test_mutated_requests_end_with_a_status(channel, engine, server):
    generator = random.Random(5)
    good = ask([1, 2, 3], stop=["abc"], stop_token_ids=[9], logprobs=2, seed=1,
               stream=True, more={"kv_transfer_params_json": '{"sluice_timeline":true}'}).SerializeToString()
    for _ in range(300):
        message = bytearray(good)
        for _ in range(generator.randrange(1, 6)):
            at = generator.randrange(len(message))
            what = generator.randrange(3)
            if what == 0:
                message[at] = generator.randrange(256)
            elif what == 1:
                del message[at:at + generator.randrange(1, 8)]
            else:
                message[at:at] = generator.randbytes(generator.randrange(1, 8))
            message = message or bytearray(b"\0")
        call = raw_call(channel, GENERATE, bytes(message))
        try:
            next(call, None)
        except grpc.RpcError as refused:
            assert refused.code() in (INVALID, EXHAUSTED), refused
        call.cancel()
    assert len(whole(engine).output_ids) == 8
    wait_until(lambda: idle(server), "all pages back after mutated requests")


def test_unknown_methods_metadata_and_compression(channel, engine):
    with pytest.raises(grpc.RpcError) as refused:
        list(raw_call(channel, "/vllm.grpc.engine.VllmEngine/Nothing", b""))
    assert refused.value.code() == UNIMPLEMENTED and "VllmEngine/Nothing" in refused.value.details()
    with pytest.raises(grpc.RpcError) as refused:
        engine.HealthCheck(pb.HealthCheckRequest(), metadata=[("x-big", "y" * 9000)], timeout=PATIENCE)
    assert refused.value.code() == EXHAUSTED and "8192" in refused.value.details()
    with pytest.raises(grpc.RpcError) as refused:
        list(engine.Generate(ask(), compression=grpc.Compression.Gzip, timeout=PATIENCE))
    assert refused.value.code() == UNIMPLEMENTED
    assert engine.HealthCheck(pb.HealthCheckRequest(), timeout=PATIENCE).healthy


@pytest.mark.parametrize("method, request_type", [
    ("Embed", pb.EmbedRequest), ("FlushCache", common_pb2.FlushCacheRequest),
    ("StartProfile", common_pb2.StartProfileRequest), ("StopProfile", common_pb2.StopProfileRequest)])
def test_the_rest_says_that_it_is_not_served(engine, method, request_type):
    with pytest.raises(grpc.RpcError) as refused:
        reply = getattr(engine, method)(request_type(), timeout=PATIENCE)
        list(reply)
    assert refused.value.code() == UNIMPLEMENTED
    assert method in refused.value.details()


def test_garbage_to_both_ports(server, engine):
    generator = random.Random(4)
    host, grpc_port = server.endpoint.split(":")
    openings = [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"]
    for port in (grpc_port, server.ops.split(":")[1]):
        for i in range(200):
            with socket.create_connection((host, int(port)), timeout=PATIENCE) as s:
                s.sendall(openings[i % 4] + generator.randbytes(generator.randrange(1, 200)))
    assert len(whole(engine).output_ids) == 8
    assert server.get("/livez")[0] == 200


# ---- what it says about itself ----

def test_info_and_loads(engine, server):
    assert engine.HealthCheck(pb.HealthCheckRequest()).healthy
    model = engine.GetModelInfo(pb.GetModelInfoRequest())
    config = json.loads((ROOT / "demo" / "config.json").read_text())
    assert model.is_generation and not model.supports_vision
    assert model.vocab_size == config["vocab_size"]
    assert model.max_context_length == config["max_position_embeddings"]
    assert list(model.architectures) == config["architectures"] and model.model_type == config["model_type"]
    assert list(model.eos_token_ids) == [config["eos_token_id"]]
    assert json.loads(model.default_sampling_params_json) == {"temperature": 0.8, "top_p": 0.95}
    assert Tokenizer.from_file(model.tokenizer_path + "/tokenizer.json").get_vocab_size() > 4000
    info = engine.GetServerInfo(pb.GetServerInfoRequest())
    assert info.server_type == "sluice" and info.data_parallel_size == 1 and info.block_size == 64
    assert info.uptime_seconds > 0 and not info.is_paused
    wait_until(lambda: idle(server), "idleness")
    loads = engine.GetLoads(pb.GetLoadsRequest(include=["core", "disagg", "queues", "memory"]))
    assert len(loads.loads) == loads.dp_rank_count == 1
    assert loads.loads[0].num_total_reqs == 0 and loads.loads[0].max_total_num_tokens > 0
    assert not engine.GetLoads(pb.GetLoadsRequest(dp_rank=1)).loads


def test_tokenizer_comes_as_a_zip_with_its_digest(engine):
    def download():
        *_, last = chunks = list(engine.GetTokenizer(common_pb2.GetTokenizerRequest(), timeout=PATIENCE))
        assert all(not c.sha256 for c in chunks[:-1])
        data = b"".join(c.data for c in chunks)
        assert hashlib.sha256(data).hexdigest() == last.sha256
        return data
    data = download()
    assert data == download()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        for name in ("tokenizer.json", "tokenizer_config.json"):
            assert archive.read(name) == (ROOT / "demo" / name).read_bytes()


def test_health_of_every_service(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "vllm.grpc.engine.VllmEngine", "inference.GRPCInferenceService"):
        reply = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as unknown:
        health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=PATIENCE)
    assert unknown.value.code() == grpc.StatusCode.NOT_FOUND
    watch = health.Watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=PATIENCE)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_watch_sees_the_drain(start_server):
    server = start_server()
    with grpc.insecure_channel(server.endpoint) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""), timeout=PATIENCE)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as ended:
            next(watch)
        assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
    assert server.wait() == 0, server.log()


def reflection_types(package):
    """The reflection messages, written down here: a client cannot ask for them before it has them."""
    string, message, byte = 9, 11, 12
    file = descriptor_pb2.FileDescriptorProto(name=package + ".proto", package=package, syntax="proto3")
    for name, fields in {
        "Request": [("file_by_filename", 3, string), ("file_containing_symbol", 4, string), ("list_services", 7, string)],
        "Files": [("file_descriptor_proto", 1, byte, "repeated")],
        "Service": [("name", 1, string)],
        "Services": [("service", 1, message, "repeated", "Service")],
        "Error": [("error_code", 1, 5), ("error_message", 2, string)],
        "Response": [("file_descriptor_response", 4, message, "", "Files"),
                     ("list_services_response", 6, message, "", "Services"),
                     ("error_response", 7, message, "", "Error")],
    }.items():
        kind = file.message_type.add(name=name)
        for field_name, number, field_type, *rest in fields:
            field = kind.field.add(name=field_name, number=number, type=field_type, label=3 if rest[:1] == ["repeated"] else 1)
            if field_type == message:
                field.type_name = f".{package}.{rest[1]}"
            if name == "Request":  # a client sets exactly one, even an empty one
                field.oneof_index = 0
        if name == "Request":
            kind.oneof_decl.add(name="asked")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{n}")) for n in ("Request", "Response")]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_a_client_built_from_reflection_alone(channel, version):
    request_type, response_type = reflection_types("reflection_" + version)

    def ask_all(*requests):  # one stream, several questions
        call = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                                     request_serializer=request_type.SerializeToString,
                                     response_deserializer=response_type.FromString)
        return list(call(iter(requests), timeout=PATIENCE))
    listed, missing = ask_all(request_type(list_services=""), request_type(file_containing_symbol="no.such.Thing"))
    names = {s.name for s in listed.list_services_response.service}
    assert {"vllm.grpc.engine.VllmEngine", "grpc.health.v1.Health", "inference.GRPCInferenceService",
            f"grpc.reflection.{version}.ServerReflection"} <= names
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]

    pool = descriptor_pool.DescriptorPool()
    known = set()

    def add(reply):
        for data in reply.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(data)
            for needed in file.dependency:
                if needed not in known:
                    add(ask_all(request_type(file_by_filename=needed))[0])
            known.add(file.name)
            pool.Add(file)
    for symbol in ("vllm.grpc.engine.VllmEngine", "vllm.grpc.engine.VllmEngine.Generate", "vllm.grpc.engine.SamplingParams.top_k",
                   "smg.grpc.common.Modality", "inference.ModelInferRequest.InferInputTensor"):
        found, = ask_all(request_type(file_containing_symbol=symbol))
        assert found.HasField("file_descriptor_response"), symbol
    add(ask_all(request_type(file_containing_symbol="vllm.grpc.engine.VllmEngine"))[0])
    method = pool.FindServiceByName("vllm.grpc.engine.VllmEngine").methods_by_name["GetModelInfo"]
    call = channel.unary_unary("/vllm.grpc.engine.VllmEngine/GetModelInfo",
                               response_deserializer=message_factory.GetMessageClass(method.output_type).FromString)
    assert call(b"", timeout=PATIENCE).vocab_size == 4096
    generate = message_factory.GetMessageClass(pool.FindServiceByName("vllm.grpc.engine.VllmEngine")
                                               .methods_by_name["Generate"].input_type)
    request = generate(text=PROMPT)
    request.sampling_params.max_tokens = 0  # a field with presence keeps it
    assert pb.GenerateRequest.FromString(request.SerializeToString()).sampling_params.HasField("max_tokens")


def test_every_field_is_where_the_published_proto_has_it(channel):
    """Names, numbers, types and presence of what reflection serves, against smg-grpc-proto."""
    request_type, response_type = reflection_types("reflection_compare")
    call = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                                 request_serializer=request_type.SerializeToString,
                                 response_deserializer=response_type.FromString)
    for ours_name, theirs in (("vllm_engine.proto", pb.DESCRIPTOR), ("smg_common.proto", common_pb2.DESCRIPTOR)):
        reply, = call(iter([request_type(file_by_filename=ours_name)]), timeout=PATIENCE)
        ours = descriptor_pb2.FileDescriptorProto.FromString(reply.file_descriptor_response.file_descriptor_proto[0])
        published = descriptor_pb2.FileDescriptorProto()
        theirs.CopyToProto(published)

        def table(file):
            found = {}
            for kind in file.message_type:
                for field in kind.field:
                    presence = field.HasField("oneof_index") and kind.oneof_decl[field.oneof_index].name
                    found[kind.name, field.name] = (field.number, field.type, field.label, field.type_name, presence)
            return found
        mine, published_table = table(ours), table(published)
        assert mine and {name: published_table.get(name) for name in mine} == mine


def test_open_inference_protocol(channel, engine):
    """Answers by their bytes: true is field 1 varint 1, the name is field 1 string."""
    def call(method, message=b""):
        return channel.unary_unary("/inference.GRPCInferenceService/" + method)(message, timeout=PATIENCE)
    name = engine.GetModelInfo(pb.GetModelInfoRequest()).served_model_name.encode()
    named = b"\x0a" + bytes([len(name)]) + name
    assert call("ServerLive") == call("ServerReady") == call("ModelReady", named) == b"\x08\x01"
    assert b"sluice" in call("ServerMetadata")
    assert call("ModelMetadata", named).startswith(named) and b"input_ids" in call("ModelMetadata", named)
    for method, message, code in (("ModelReady", b"\x0a\x01x", grpc.StatusCode.NOT_FOUND), ("ModelInfer", named, UNIMPLEMENTED)):
        with pytest.raises(grpc.RpcError) as refused:
            call(method, message)
        assert refused.value.code() == code


# ---- ops HTTP ----

def test_ops_pages(server):
    assert [server.get(path)[0] for path in ("/livez", "/readyz", "/startupz", "/nope")] == [200, 200, 200, 404]
    assert json.loads(server.get("/version")[1])["name"] == "sluice"
    head = urllib.request.urlopen(urllib.request.Request(f"http://{server.ops}/livez", method="HEAD"), timeout=PATIENCE)
    assert head.status == 200 and head.read() == b""
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{server.ops}/livez", data=b"x", timeout=PATIENCE)
    assert refused.value.code == 405


def test_metrics_are_openmetrics(server, engine):
    wait_until(lambda: idle(server), "idleness")
    before = server.metric("sluice_generation_tokens_total")
    whole(engine, max_tokens=5)
    wait_until(lambda: server.metric("sluice_generation_tokens_total") >= before + 5, "five tokens counted")
    lines = server.get("/metrics")[1].splitlines()
    assert lines[-1] == "# EOF"
    types = {}
    for line in lines[:-1]:
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name not in types and ":" not in name
            types[name] = kind
        elif not line.startswith("#"):
            name = line.split("{")[0].split(" ")[0]
            float(line.rsplit(" ", 1)[1])
            family = next((n for n in (name, *(name.removesuffix(s) for s in ("_total", "_bucket", "_count", "_sum", "_info")))
                           if n in types), None)
            assert family, f"{name} has no TYPE line above it"
            assert types[family] != "counter" or name.endswith("_total")
    assert {"sluice_requests_running", "sluice_requests_waiting", "sluice_kv_cache_usage_ratio",
            "sluice_time_to_first_token_seconds", "process_cpu_seconds"} <= types.keys()
    if b"libjemalloc" in SLUICE.read_bytes():  # a sanitizer's build has its own allocator
        assert server.metric("sluice_jemalloc_allocated_bytes") > 0
