"""The scripted server (`sluice bench scripted`): it says what its script has it say, over gRPC and HTTP, and its truth is whole.

Nothing here measures: times are compared with one another only where they hold by construction (what is due at a time leaves
after it), and the truth's are the server's own clock."""
import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import signal
import socket

import grpc
import openai
import pytest
from conftest import PATIENCE, ROOT, free_port, run, wait_until
from gateway import Gateway
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc

MS = 1_000_000
QUICK = ["--ttft", 20, "--tpot", 2]


def check_bounds(line, ttft_ms, tpot_ms, per_message=1):
    """Nothing leaves before it is due."""
    assert line["arrival_ns"] <= line["begin_ns"]
    times = line["token_ns"]
    assert times == sorted(times) and line["first_ns"] == times[0] and times[-1] <= line["end_ns"]
    for k, at in enumerate(times):
        assert at >= line["begin_ns"] + (ttft_ms + k // per_message * per_message * tpot_ms) * MS


def test_grpc_streams_and_whole_answers(scripted):
    it = scripted(*QUICK)
    streamed = list(it.call(5, request_id="first"))
    assert [list(m.chunk.token_ids) for m in streamed[:-1]] == [[i] for i in streamed[-1].complete.output_ids]
    assert [m.chunk.completion_tokens for m in streamed[:-1]] == [1, 2, 3, 4, 5]
    done = streamed[-1].complete
    assert (done.finish_reason, done.prompt_tokens, done.completion_tokens) == ("length", 3, 5)
    whole = list(it.call(4, stream=False, request_id='"second"'))
    assert len(whole) == 1 and len(whole[0].complete.output_ids) == 4
    text = list(it.stub.Generate(pb.GenerateRequest(text="one two", stream=True), timeout=PATIENCE))
    assert text[-1].complete.prompt_tokens == 2 and text[-1].complete.completion_tokens == 16
    first, second, third = it.truth(3)
    assert [line["id"] for line in (first, second, third)] == ["first", '"second"', "2"]
    assert [line["stream"] for line in (first, second, third)] == [True, False, True]
    check_bounds(first, 20, 2)
    check_bounds(third, 20, 2)
    assert len(set(second["token_ns"])) == 1 and second["first_ns"] >= second["begin_ns"] + 26 * MS
    assert all(line["fault"] == "none" and line["ending"] == "done" and line["protocol"] == "grpc" for line in
               (first, second, third))
    it.stop()


def test_openai_streams_and_whole_answers(scripted):
    it = scripted(*QUICK)
    assert [model.id for model in it.openai.models.list()] == ["scripted"]
    ask = {"model": "scripted", "max_tokens": 5}
    whole = it.openai.completions.create(prompt=[1, 2, 3, 4], **ask, extra_headers={"x-request-id": "mine"})
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (4, 5)
    assert len(whole.choices[0].text.split()) == 5 and whole.choices[0].finish_reason == "length"
    pieces = list(it.openai.completions.create(prompt="a b c", stream=True, stream_options={"include_usage": True}, **ask))
    assert [len(p.choices[0].text.split()) for p in pieces[:-1]] == [1, 1, 1, 1, 1, 0]
    assert pieces[-1].choices == [] and pieces[-1].usage.total_tokens == 8
    chat = it.openai.chat.completions.create(messages=[{"role": "user", "content": "a b"}], **ask)
    assert len(chat.choices[0].message.content.split()) == 5 and chat.usage.prompt_tokens == 2
    pieces = list(it.openai.chat.completions.create(messages=[{"role": "user", "content": "a b"}], stream=True, **ask))
    assert [p.choices[0].finish_reason for p in pieces] == [None] * 5 + ["length"]
    assert it.events(2)[-1] == b"[DONE]"
    lines = it.truth(5)
    assert [line["id"] for line in lines] == ["mine", "1", "2", "3", "4"]
    for line in lines:
        assert line["protocol"] == "http" and line["ending"] == "done"
        if line["stream"]:
            check_bounds(line, 20, 2)
    it.stop()


def test_tokens_of_a_message_leave_together(scripted):
    it = scripted(*QUICK, "--tokens-per-message", 3)
    assert [len(m.chunk.token_ids) for m in it.call(7)] == [3, 3, 1, 0]
    texts = [json.loads(e)["choices"][0]["text"] for e in it.events(7)[:-1]]
    assert [len(text.split()) for text in texts] == [3, 3, 1, 0]
    for line in it.truth(2):
        check_bounds(line, 20, 2, per_message=3)
        assert len(set(line["token_ns"])) == 3


def test_more_at_once_than_a_queue_holds_comes_whole(scripted):
    it = scripted("--ttft", 0, "--tpot", 0)
    streamed = list(it.call(5000))
    assert [i for m in streamed[:-1] for i in m.chunk.token_ids] == list(streamed[-1].complete.output_ids)
    assert len(list(it.call(32768, stream=False))[0].complete.output_ids) == 32768
    assert len(it.events(5000)) == 5002
    whole = it.openai.completions.create(model="scripted", prompt="a", max_tokens=32768)
    assert len(whole.choices[0].text.split()) == 32768
    assert [line["output_tokens"] for line in it.truth(4)] == [5000, 32768, 5000, 32768]


def test_faults_over_grpc(scripted):
    kinds = ["refuse", "drop", "garbage", "twice", "empty", "usage-lie", "half"]
    # of several that fit a request the first counts: the n-th of a long round meets the n-th kind
    it = scripted(*QUICK, "--fail", ",".join(f"{i + 1}:{kind}" for i, kind in reversed(list(enumerate(kinds)))))
    refused = pytest.raises(grpc.RpcError, lambda: list(it.call(4)))
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE and "as the script has it" in refused.value.details()
    got = []
    with pytest.raises(grpc.RpcError):
        got.extend(m for m in it.call(4))  # the second: dropped
    dropped = it.truth(2)[1]
    assert dropped["fault"] == "drop" and dropped["output_tokens"] == 2
    with pytest.raises(grpc.RpcError) as caught:
        list(it.call(4))
    assert caught.value.code() == grpc.StatusCode.INTERNAL  # what this client says of bytes that are no message
    twice = [m.WhichOneof("response") for m in it.call(2)]
    assert twice == ["chunk", "chunk", "complete", "chunk", "complete"]
    assert [len(m.chunk.token_ids) for m in it.call(2)][:-1] == [0, 1, 0, 1]
    lie = list(it.call(4))[-1].complete
    assert lie.completion_tokens != 4 and lie.prompt_tokens != 3 and len(lie.output_ids) == 4
    half = list(it.call(4))
    assert [m.WhichOneof("response") for m in half] == ["chunk", "chunk"]
    lines = it.truth(7)
    assert [line["fault"] for line in lines] == kinds
    assert [line["output_tokens"] for line in lines] == [0, 2, 0, 2, 2, 4, 2]
    assert [line["ending"] for line in lines] == ["refused"] + ["done"] * 6


def test_faults_over_http(scripted):
    kinds = ["refuse", "drop", "garbage", "twice", "empty", "usage-lie", "half", "slow"]
    it = scripted(*QUICK, "--fail", ",".join(f"{i + 1}:{kind}" for i, kind in reversed(list(enumerate(kinds)))))
    with pytest.raises(openai.InternalServerError, match="as the script has it"):
        it.openai.completions.create(model="scripted", prompt="a", max_tokens=4)
    with pytest.raises(http.client.IncompleteRead) as caught:
        it.events(4)
    assert caught.value.partial.count(b"data: ") == 2
    with pytest.raises(ValueError):
        json.loads(it.events(4)[0])
    twice = it.events(2)
    assert twice.count(b"[DONE]") == 2 and twice.index(b"[DONE]") == 3 and len(twice) == 7
    assert [json.loads(e)["choices"][0]["text"] == "" for e in it.events(2)[:-1]] == [True, False, True, False, True]
    lie = json.loads(it.events(4, stream_options={"include_usage": True})[-2])["usage"]
    assert lie["completion_tokens"] != 4
    half = it.events(4)
    assert len(half) == 2 and json.loads(half[-1])["choices"][0]["finish_reason"] is None
    slow = it.events(2)
    assert len(slow) == 4 and slow[-1] == b"[DONE]"
    lines = it.truth(8)
    assert [line["fault"] for line in lines] == kinds
    # a byte every 0.2 ms, and a token counts with its last
    assert lines[7]["first_ns"] >= lines[7]["begin_ns"] + 20 * MS + (len(slow[0]) + len("data: \n\n") - 1) * MS // 5


def test_never_is_until_the_client_leaves(scripted):
    it = scripted("--fail", "1:never")
    call = it.call(4, request_id="patient")
    sock = socket.create_connection(("127.0.0.1", it.http_port))
    body = json.dumps({"prompt": "a"})
    sock.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    wait_until(lambda: it.running() == 2, "both requests")
    call.cancel()
    sock.close()
    lines = it.truth(2)
    assert [(line["fault"], line["ending"], line["first_ns"]) for line in lines] == [("never", "left", None)] * 2
    it.stop()


def test_one_server_serves_in_order_and_its_queue_is_exact(scripted):
    it = scripted(*QUICK, "--servers", 1)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        grpcs = [pool.submit(lambda: list(it.call(3))) for _ in range(8)]
        https = [pool.submit(it.events, 3) for _ in range(8)]
        assert all(len(f.result()) == 4 for f in grpcs) and all(f.result()[-1] == b"[DONE]" for f in https)
    free_ns = 0
    for line in it.truth(16):
        assert line["begin_ns"] == max(line["arrival_ns"], free_ns)
        free_ns = line["begin_ns"] + (20 + 2 * 2) * MS
        check_bounds(line, 20, 2)


def test_who_leaves_makes_room_for_who_waits(scripted):
    it = scripted("--ttft", 1, "--tpot", min(1000 * PATIENCE, 1e6), "--servers", 1)
    served = it.call(2)
    next(served)
    waiting = it.call(1)  # after the other: its server would be free in some minutes
    wait_until(lambda: it.running() == 2, "the second request")
    served.cancel()
    assert len(list(waiting)) == 2
    left, done = it.truth(2)
    assert (left["ending"], left["output_tokens"], done["ending"]) == ("left", 1, "done")
    assert done["begin_ns"] == left["end_ns"]


def test_a_stall_moves_everything(scripted):
    it = scripted(*QUICK, "--stall", "0.01:0.5", "--stall", "3600:1")
    assert len(list(it.call(3))) == 4
    line = it.truth(1)[0]
    assert line["first_ns"] >= line["arrival_ns"] + 520 * MS


def test_abort_by_id(scripted):
    it = scripted("--ttft", 1, "--tpot", min(1000 * PATIENCE, 1e6))
    call = it.call(2, request_id="mine")
    next(call)
    it.stub.Abort(pb.AbortRequest(request_ids=["nobody", "mine"]), timeout=PATIENCE)
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() == grpc.StatusCode.CANCELLED
    assert it.truth(1)[0]["ending"] == "aborted"


def test_what_cannot_be_served_is_refused_and_counts_as_no_request(scripted):
    it = scripted(*QUICK)
    for wrong, part in [({"n": 0}, "max_tokens is 0"), ({"n": 100000}, "max_tokens is 100000"),
                        ({"request_id": "x" * 200}, "request_id")]:
        with pytest.raises(grpc.RpcError, match=part) as caught:
            list(it.call(**wrong))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError, match="no prompt"):
        list(it.stub.Generate(pb.GenerateRequest(), timeout=PATIENCE))
    connection = http.client.HTTPConnection("127.0.0.1", it.http_port, timeout=PATIENCE)
    for method, path, body, headers, status in [
            ("GET", "/health", None, {}, 200), ("GET", "/v1/nothing", None, {}, 404), ("GET", "/v1/completions", None, {}, 405),
            ("POST", "/v1/models", "", {}, 405), ("POST", "/v1/completions", "{", {}, 400),
            ("POST", "/v1/completions", '{"prompt": "a", "max_tokens": 0}', {}, 400),
            ("POST", "/v1/completions", '{"prompt": "a"}', {"x-request-id": 'a"b'}, 400),
            ("POST", "/v1/completions", " " * (9 << 20), {}, 413)]:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == status, (path, text)
        assert status < 400 or json.loads(text)["error"]["message"]
    assert len(list(it.call(1))) == 2
    assert [line["number"] for line in it.truth(1)] == [0]


def test_sigterm_ends_streams_and_writes_the_truth(scripted):
    it = scripted("--ttft", 1, "--tpot", min(1000 * PATIENCE, 1e6), "--fail", "3:never")
    call = it.call(2)
    next(call)
    sockets = []
    for stream in (True, True, False):  # the first of them is never answered
        sock = socket.create_connection(("127.0.0.1", it.http_port))
        body = json.dumps({"prompt": "a", "max_tokens": 2, "stream": stream})
        sock.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        sockets.append(sock)
    wait_until(lambda: it.running() == 4, "all requests")
    it.stop()
    with pytest.raises(grpc.RpcError):
        list(call)
    assert [line["ending"] for line in it.truth(4)] == ["stopped"] * 4


@pytest.mark.parametrize("args, code, part", [
    ([], 64, "--grpc-listen"),
    (["--http-listen", "127.0.0.1:0", "--stall", "1"], 64, "--stall takes AT:FOR"),
    (["--http-listen", "127.0.0.1:0", "--fail", "3:explode"], 64, "--fail takes EVERY:KIND"),
    (["--grpc-listen", "127.0.0.1:0", "--fail", "3:slow"], 64, "slow is a fault of HTTP"),
    (["--grpc-listen", "127.0.0.1:0", "--ttft-law", "gauss"], 64, "--ttft-law takes"),
    (["--grpc-listen", "127.0.0.1:0", "--ttft", "-1"], 64, "--ttft"),
    (["--grpc-listen", "127.0.0.1:0", "--truth", "/nowhere/truth"], 74, "--truth /nowhere/truth cannot be written"),
    (["--grpc-listen", "127.0.0.1:0", "--model", "/nowhere"], None, "/nowhere"),
])
def test_nonsense_is_one_sentence(args, code, part):
    done = run("bench", "scripted", *args)
    assert done.returncode == code if code else done.returncode > 0
    assert part in done.stderr and done.stderr.startswith("sluice bench scripted: ") and done.stderr.count("\n") == 1


def test_a_port_in_use_and_a_slow_start(spawn):
    taken = socket.create_server(("127.0.0.1", 0))
    done = run("bench", "scripted", "--http-listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 69 and str(taken.getsockname()[1]) in done.stderr
    port = free_port()
    sleeper = spawn("sleeper", "bench", "scripted", "--http-listen", f"127.0.0.1:{port}", "--slow-start", 86400)

    def plays():
        with contextlib.suppress(OSError):  # a thread that has ended since it was listed
            return any((task / "comm").read_text() == "sl-play\n" for task in pathlib.Path(f"/proc/{sleeper.process.pid}/task").iterdir())
    wait_until(plays, "its threads")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    sleeper.signal(signal.SIGTERM)
    assert sleeper.wait() == 0


@pytest.mark.slow
def test_two_thousand_streams_of_grpc_and_six_hundred_of_http(scripted):
    it = scripted("--ttft", 3000, "--tpot", 100)
    channels = [grpc.insecure_channel(f"127.0.0.1:{it.grpc_port}", options=[("grpc.use_local_subchannel_pool", 1)])
                for _ in range(10)]  # a connection has 256 streams
    stubs = [pb_grpc.VllmEngineStub(channel) for channel in channels]
    calls = [it.call(10, request_id=f"g{i}", stub=stubs[i % 10]) for i in range(2000)]
    body = json.dumps({"prompt": "a b", "max_tokens": 10, "stream": True})
    sockets = []
    for i in range(600):
        sock = socket.create_connection(("127.0.0.1", it.http_port), timeout=PATIENCE)
        sock.sendall((f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nx-request-id: h{i}\r\nConnection: close\r\n"
                      f"Content-Length: {len(body)}\r\n\r\n{body}").encode())
        sockets.append(sock)
    for call in calls:
        assert len(list(call)) == 11
    for sock in sockets:
        data = b""
        while piece := sock.recv(65536):
            data += piece
        assert data.count(b"data: ") == 12 and data.endswith(b"0\r\n\r\n")
        sock.close()
    lines = it.truth(2600)
    assert {line["id"] for line in lines} == {f"g{i}" for i in range(2000)} | {f"h{i}" for i in range(600)}
    for line in lines:
        check_bounds(line, 3000, 100)
    for channel in channels:
        channel.close()
    it.stop()


@pytest.mark.slow
def test_behind_the_gateway(scripted, tmp_path):
    it = scripted(*QUICK, "--model", ROOT / "demo")
    gateway = Gateway(tmp_path, [f"127.0.0.1:{it.grpc_port}"])
    client, model = gateway.client, gateway.client.model
    try:
        whole = client.completions.create(model=model, prompt="It was the best of times, it was the", max_tokens=12)
        assert whole.usage.prompt_tokens == 10 and whole.usage.completion_tokens == 12
        assert len(whole.choices[0].text.split()) == 12
        ask = {"model": model, "messages": [{"role": "user", "content": "Tell me of the sea."}], "max_tokens": 12}
        pieces = [c.choices[0].delta.content or "" for c in client.chat.completions.create(stream=True, **ask) if c.choices]
        assert len("".join(pieces).split()) == 12 and sum(1 for piece in pieces if piece) == 12
        assert len(client.chat.completions.create(**ask).choices[0].message.content.split()) == 12
    finally:
        gateway.stop()
