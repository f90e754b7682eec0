"""`sluice bench serve` against the scripted server, whose truth is known, and against sluice: what is sent, what is written down,
what is said of servers that misbehave. Nothing asserts how long something took."""
import concurrent.futures
import http.server
import json
import re
import signal
import socket
import ssl
import subprocess
import threading

import grpc
import pytest
from conftest import PATIENCE, free_port, run, wait_until
from scripted_server import MS_NS
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc

QUICK = ["--ttft", 5, "--tpot", 1]
INVALID = 3  # a busy machine may make the harness late, which it says itself


def bench(*args, codes=(0, INVALID), **more):
    done = run("bench", "serve", *args, **more)
    assert done.returncode in codes, (done.returncode, done.stdout, done.stderr)
    return done


def at(server, way):
    return ["--grpc", f"127.0.0.1:{server.grpc_port}"] if way == "grpc" else ["--openai", f"http://127.0.0.1:{server.http_port}/v1"]


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def truth_of(server, n):
    """What the server saw of a run's n requests, in the order in which they were made: on a busy machine some overtake others."""
    return sorted(server.truth(n), key=lambda line: int(line["id"].rpartition("-")[2]))


BOTH = pytest.mark.parametrize("way", ["grpc", "openai"])


@BOTH
def test_what_is_written_is_what_the_server_saw(scripted, tmp_path, way):
    server = scripted(*QUICK)
    bench(*at(server, way), "--rate", 200, "--requests", 60, "--output-length", "3-9", "--slo", "ttft=10000",
          "--save", tmp_path / "a.json", "--save-requests", tmp_path / "a.jsonl", "--save-page", tmp_path / "a.html",
          "--save-histograms", tmp_path / "h")
    truth = truth_of(server, 60)
    requests = lines_of(tmp_path / "a.jsonl")
    result = json.loads((tmp_path / "a.json").read_text())
    assert len(requests) == 60 and result["completed"] == 60 and result["failed"] == 0
    assert [r["output_tokens"] for r in requests] == [t["output_tokens"] for t in truth]
    assert result["total_output_tokens"] == sum(t["output_tokens"] for t in truth)
    assert result["total_input_tokens"] == sum(t["prompt_tokens"] for t in truth)
    began = requests[0]["run"]["began_ns"]
    for request, line in zip(requests, truth):
        assert line["ending"] == "done" and request["ending"] == "done"
        assert request["due_ns"] <= request["sent_ns"] <= line["arrival_ns"] - began
        assert line["first_ns"] <= request["first_ns"] + began  # it left before it came
        assert line["token_ns"][-1] <= request["last_ns"] + began
        assert len(request["gaps_ms"]) == request["arrivals"] - 1
    for key in ("ttft", "tpot", "itl", "e2el"):
        assert {f"mean_{key}_ms", f"median_{key}_ms", f"std_{key}_ms", f"p99_{key}_ms"} <= result.keys()
    assert len(result["ttfts"]) == len(result["itls"]) == len(result["input_lens"]) == 60
    page = (tmp_path / "a.html").read_text()
    assert "<svg" in page and not re.search(r'(src|href)="(?!#)', page)
    assert "#[Mean" in (tmp_path / "h-ttft.hgrm").read_text()


@BOTH
def test_a_load_is_the_same_whoever_answers_and_whatever_happens(scripted, tmp_path, way):
    server = scripted("--ttft", 1, "--tpot", 0.1, "--fail", "3:refuse")
    for name in "ab":
        bench(*at(server, way), "--rate", 500, "--requests", 30, "--input-length", "1-99", "--output-length", "1-9", "--seed", 5,
              "--save-requests", tmp_path / name)
    a, b = lines_of(tmp_path / "a"), lines_of(tmp_path / "b")
    assert [(x["due_ns"], x["wanted_tokens"]) for x in a] == [(x["due_ns"], x["wanted_tokens"]) for x in b]


FAULTS = {  # what a server does: what a request is, over either way, and what it is said to be
    "refuse": ("failed", r"."),
    "drop": ("failed", r"."),
    "garbage": ("failed", r"."),
    "twice": ("failed", r"went on after|after its"),
    "half": ("failed", r"without a GenerateComplete|ended without its end"),
    "never": ("timeout", r"no end within"),
    "empty": ("done", r""),
    "usage-lie": ("done", r""),
}


@BOTH
@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_misbehaves_is_said_to_and_the_others_are_measured(scripted, tmp_path, way, fault):
    server = scripted(*QUICK, "--fail", f"4:{fault}")
    patience = PATIENCE / 100 if fault == "never" else PATIENCE  # those that are to be spared must not run into it
    done = bench(*at(server, way), "--rate", 400, "--requests", 40, "--output-length", 6, "--timeout", patience,
                 "--save-requests", tmp_path / "r", "--save", tmp_path / "s")
    truth = truth_of(server, 40)
    requests = lines_of(tmp_path / "r")
    hit = [r for r, t in zip(requests, truth) if t["fault"] == fault]
    spared = [r for r, t in zip(requests, truth) if t["fault"] == "none"]
    ending, sentence = FAULTS[fault]
    assert len(hit) == 10 and len(spared) == 30
    assert {r["ending"] for r in spared} == {"done"} and {r["output_tokens"] for r in spared} == {6}
    assert {r["ending"] for r in hit} == {ending}, hit[0]
    assert all(re.search(sentence, r["error"] or "") for r in hit), hit[0]
    assert {r["output_tokens"] for r in hit} == {6} if ending == "done" else True
    result = json.loads((tmp_path / "s").read_text())
    lost = 0 if ending == "done" else 10
    assert result["completed"] == 40 - lost and result["failed"] == lost
    ttft = result["sluice"]["all"]["ttft"]
    assert ttft["samples"] == 40  # nothing is dropped
    if fault in ("refuse", "never"):
        assert ttft["failed"] == 10 and ("10 failed" in done.stdout or "10 timed out" in done.stdout)
    if fault == "usage-lie":
        assert "usage says" in done.stdout or "the server counts" in done.stdout


def test_requests_that_failed_are_the_tail(scripted, tmp_path):
    server = scripted("--ttft", 1, "--tpot", 0.1, "--fail", "5:refuse")
    bench(*at(server, "grpc"), "--rate", 1000, "--requests", 1500, "--output-length", 1, "--save", tmp_path / "s")
    result = json.loads((tmp_path / "s").read_text())
    ttft = result["sluice"]["all"]["ttft"]
    assert ttft["p50"]["value"] is not None and not ttft["p50"]["among_failed"]
    assert ttft["p90"]["among_failed"] and ttft["p90"]["value"] is None and result["p90_ttft_ms"] is None


@BOTH
def test_a_share_is_cancelled_and_the_server_knows(scripted, tmp_path, way):
    server = scripted("--ttft", 1, "--tpot", 5)  # a second for a cancel to be there before the end, on a busy machine, too
    bench(*at(server, way), "--rate", 200, "--requests", 40, "--output-length", 200, "--cancel", "0.5:5", "--save-requests", tmp_path / "r")
    requests = lines_of(tmp_path / "r")
    truth = truth_of(server, 40)
    cancelled = [r["ending"] == "cancelled" for r in requests]
    assert 5 < sum(cancelled) < 35
    assert [t["ending"] == "left" for t in truth] == cancelled
    assert all(5 <= r["output_tokens"] < 200 and r["error"] is None for r in requests if r["ending"] == "cancelled")


def test_a_closed_loop_has_so_many_at_a_time_and_says_so(scripted, tmp_path):
    server = scripted(*QUICK)
    done = bench(*at(server, "grpc"), "--concurrency", 3, "--requests", 30, "--output-length", 4, "--save", tmp_path / "s")
    assert "closed loop, 3 at a time" in done.stdout
    assert json.loads((tmp_path / "s").read_text())["max_concurrent_requests"] == 3
    events = sorted(e for t in server.truth(30) for e in ((t["arrival_ns"], 1), (t["end_ns"], -1)))
    running = most = 0
    for _, step in events:
        running += step
        most = max(most, running)
    assert most <= 3


@BOTH
def test_turns_say_all_that_was_said_before(scripted, way):
    server = scripted(*QUICK)
    extra = ["--api", "chat"] if way == "openai" else []
    bench(*at(server, way), *extra, "--rate", 50, "--requests", 4, "--turns", 3, "--input-length", 10, "--output-length", 5)
    prompts = sorted(t["prompt_tokens"] for t in server.truth(12))
    if way == "grpc":
        assert prompts == [10] * 4 + [25] * 4 + [40] * 4
    else:
        assert prompts[:4] < prompts[4:8] < prompts[8:]


def test_a_mix_has_classes_of_their_own(scripted, tmp_path):
    server = scripted(*QUICK)
    mix = {"classes": [
        {"name": "chat", "rate": 100, "arrivals": "gamma:0.5", "requests": 30, "input": "10-20", "output": 4, "slo": {"ttft": 60000},
         "headers": {"X-Tenant-Id": "a"}, "prefix_groups": 2, "prefix_tokens": 8},
        {"name": "batch", "concurrency": 2, "requests": 10, "input": 100, "output": 8, "slo": {"e2e": 0.001}},
    ]}
    (tmp_path / "mix.json").write_text(json.dumps(mix))
    done = bench(*at(server, "grpc"), "--mix", tmp_path / "mix.json", "--save", tmp_path / "s", "--save-requests", tmp_path / "r")
    assert "class chat" in done.stdout and "class batch" in done.stdout
    ours = json.loads((tmp_path / "s").read_text())["sluice"]
    assert ours["classes"]["chat"]["requests"] == 30 and ours["classes"]["chat"]["good"] == 30
    assert ours["classes"]["batch"]["requests"] == 10 and ours["classes"]["batch"]["good"] == 0
    assert ours["all"]["requests"] == 40 and ours["all"]["good"] == 30
    assert {r["input_tokens"] for r in lines_of(tmp_path / "r") if r["class"] == "batch"} == {100}
    server.truth(40)


def test_a_trace_is_played_with_its_times_and_lengths(scripted, tmp_path):
    server = scripted(*QUICK)
    rows = [{"timestamp": 1000 * i, "input_length": 600 + i, "output_length": 1 + i, "hash_ids": [1, i]} for i in range(8)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bench(*at(server, "grpc"), "--trace", tmp_path / "t.jsonl", "--trace-speed", 20, "--save-requests", tmp_path / "r")
    requests = lines_of(tmp_path / "r")
    assert [r["due_ns"] for r in requests] == [50 * MS_NS * i for i in range(8)]
    assert [(t["prompt_tokens"], t["output_tokens"]) for t in truth_of(server, 8)] == [(600 + i, 1 + i) for i in range(8)]


def test_a_sweep_ends_when_the_server_cannot_follow(scripted, tmp_path):
    server = scripted("--ttft", 20, "--tpot", 0.1, "--servers", 1)  # 50 requests/s and no more
    done = bench(*at(server, "grpc"), "--sweep", "rate=10,300,600", "--requests", 60, "--output-length", 1,
                 "--save", tmp_path / "s", "--save-page", tmp_path / "p.html")
    assert "the sweep ends here" in done.stderr
    points = json.loads((tmp_path / "s").read_text())
    assert [p["request_rate"] for p in points] == [10, 300]
    assert "The sweep" in (tmp_path / "p.html").read_text()


def test_two_results_are_compared_and_chance_is_told_from_difference(scripted, tmp_path):
    slow, fast = scripted("--ttft", PATIENCE / 5, "--tpot", 1), None  # ms: the slower the machine, the more its noise
    common = ["--rate", 100, "--requests", 50, "--output-length", 3, "--repeat", 4]
    bench(*at(slow, "grpc"), *common, "--save", tmp_path / "a.json")
    bench(*at(slow, "grpc"), *common, "--save", tmp_path / "a2.json")
    fast = scripted("--ttft", 5, "--tpot", 1)
    bench(*at(fast, "grpc"), *common, "--save", tmp_path / "b.json")
    better = bench("--compare", tmp_path / "a.json", tmp_path / "b.json").stdout
    assert re.search(r"TTFT p50 .*BETTER \(p =", better), better
    worse = bench("--compare", tmp_path / "b.json", tmp_path / "a.json").stdout
    assert re.search(r"TTFT p50 .*WORSE", worse)
    assert "TTFT p50" in bench("--compare", tmp_path / "a.json", tmp_path / "a2.json").stdout
    single = bench("--compare", tmp_path / "nothing.json", tmp_path / "a.json", codes=(65,))
    assert "nothing.json" in single.stderr


def test_a_server_that_vanishes_leaves_what_was_measured(scripted, tmp_path):
    server = scripted("--ttft", 1, "--tpot", 20)
    killer = threading.Thread(target=lambda: (wait_until(lambda: server.truth_path.read_text().count("\n") >= 3, "some answers"),
                                              server.process.kill()))
    killer.start()
    bench(*at(server, "grpc"), "--rate", 50, "--requests", 150, "--output-length", 5, "--save-requests", tmp_path / "r")
    killer.join()
    requests = lines_of(tmp_path / "r")
    endings = {e: sum(r["ending"] == e for r in requests) for e in ("done", "failed", "timeout")}
    assert len(requests) == 150 and endings["done"] >= 3 and endings["failed"] > 0 and sum(endings.values()) == 150


def test_an_interrupt_writes_what_was_measured(scripted, spawn, tmp_path):
    server = scripted(*QUICK)
    process = spawn("bench", "bench", "serve", *at(server, "grpc"), "--rate", 100, "--duration", 1000, "--output-length", 2,
                    "--save", tmp_path / "s")
    wait_until(lambda: server.truth_path.read_text().count("\n") >= 200, "answers")  # of which some came to be counted, too
    process.signal(signal.SIGINT)
    assert process.wait() == 130
    assert json.loads((tmp_path / "s").read_text())["completed"] >= 5


def test_nobody_there_is_said_at_once_when_the_time_is_up(tmp_path):
    for target in (["--grpc", f"127.0.0.1:{free_port()}"], ["--openai", f"http://127.0.0.1:{free_port()}/v1"]):
        done = bench(*target, "--rate", 1, "--ready-timeout", 0.2, codes=(69,))
        assert "was not ready in time" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_port_with_another_protocol_is_no_server():
    with socket.create_server(("127.0.0.1", 0)) as it:
        def rubbish():
            for _ in range(100):
                try:
                    peer, _ = it.accept()
                    peer.sendall(b"220 mail.example ESMTP\r\n")
                    peer.close()
                except OSError:
                    return
        threading.Thread(target=rubbish, daemon=True).start()
        port = it.getsockname()[1]
        for target in (["--grpc", f"127.0.0.1:{port}"], ["--openai", f"http://127.0.0.1:{port}"]):
            done = bench(*target, "--rate", 1, "--ready-timeout", 0.5, codes=(69,))
            assert str(port) in done.stderr


@pytest.mark.parametrize("args, sentence", [
    ([], "say whom to ask"),
    (["--grpc", "127.0.0.1:1", "--openai", "http://x"], "say whom to ask"),
    (["--openai", "127.0.0.1:1", "--rate", 1], "is no URL"),
    (["--grpc", "127.0.0.1:1"], "say how requests arrive"),
    (["--grpc", "127.0.0.1:1", "--rate", 1, "--concurrency", 1], "several kinds"),
    (["--grpc", "127.0.0.1:1", "--rate", "fast"], "--rate"),
    (["--grpc", "127.0.0.1:1", "--rate", "nan"], "--rate"),
    (["--grpc", "127.0.0.1:1", "--rate", -1], "--rate"),
    (["--grpc", "127.0.0.1:1", "--rate", 1, "--arrivals", "gamma:0"], "gamma:0"),
    (["--grpc", "127.0.0.1:1", "--rate", 1, "--input-length", "5-1"], "5-1"),
    (["--grpc", "127.0.0.1:1", "--rate", 1, "--slo", "ttft=x"], "--slo"),
    (["--grpc", "127.0.0.1:1", "--rate", 1, "--cancel", "half"], "--cancel"),
    (["--grpc", "127.0.0.1:1", "--rate", 1, "--header", "nothing"], "header"),
    (["--grpc", "127.0.0.1:1", "--rate", 1, "--sweep", "speed=1"], "--sweep"),
    (["--grpc", "127.0.0.1:1", "--rate", 1, "--cpus", "x"], "--cpus"),
    (["--grpc", "127.0.0.1:1", "--rate", 1, "--cpus", "1000"], "--cpus"),
    (["--grpc", "127.0.0.1:1", "--rate", 1, "--tls-cert", "x"], "go together"),
    (["--grpc", "127.0.0.1:1", "--rate", 1, "--extra-body", "{}"], "--extra-body"),
    (["--compare", "a.json"], "two results"),
])
def test_nonsense_is_refused_with_one_sentence(args, sentence):
    done = run("bench", "serve", *args)
    assert done.returncode == 64 and sentence in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("text, sentence", [
    ("", "no rows"),
    ("a,b\n1,2\n", "is no trace"),
    ('{"timestamp": 5, "input_length": 1, "output_length": 1}\n{"timestamp": 4, "input_length": 1, "output_length": 1}\n', "line 2"),
    ('{"timestamp": 5, "input_length": 1}\n', "line 1"),
])
def test_a_trace_with_holes_is_refused_with_its_line(tmp_path, text, sentence):
    (tmp_path / "t").write_text(text)
    done = run("bench", "serve", "--grpc", "127.0.0.1:1", "--trace", tmp_path / "t")
    assert done.returncode == 65 and sentence in done.stderr and "/t" in done.stderr


def test_a_slow_server_bounds_what_is_in_flight(scripted, tmp_path):
    server = scripted("--ttft", 100000, "--tpot", 1)
    done = bench(*at(server, "grpc"), "--rate", 500, "--requests", 100, "--max-in-flight", 20, "--timeout", 1,
                 "--save-requests", tmp_path / "r", codes=(69,))
    requests = lines_of(tmp_path / "r")
    assert sum(r["ending"] == "unsent" for r in requests) >= 50
    assert "not sent: 20 requests were in flight (--max-in-flight)" in done.stdout


def test_the_server_is_ours_and_ttft_is_split_into_parts_that_add_up(server, tmp_path):
    done = bench("--grpc", server.endpoint, "--rate", 5, "--requests", 10, "--input-length", 200, "--output-length", 4,
                 "--save-requests", tmp_path / "r", "--save-page", tmp_path / "p.html")
    assert "queue" in done.stdout and "KV tail" in done.stdout
    for r in lines_of(tmp_path / "r"):
        parts = r["parts_us"]
        whole = sum(v for k, v in parts.items() if k != "kv")
        assert abs(whole - (r["first_ns"] - r["sent_ns"]) // 1000) <= 1, r
        assert r["input_tokens"] == 200 and r["output_tokens"] == 4
    assert "Stages over time" in (tmp_path / "p.html").read_text()


def test_prompts_come_from_a_file(scripted, server, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"input_ids": [5, 6, 7], "output_tokens": 2}\n{"input_ids": [5, 6], "output_tokens": 3}\n')
    it = scripted(*QUICK)
    bench(*at(it, "grpc"), "--prompts", tmp_path / "p.jsonl", "--rate", 100, "--requests", 4)
    assert [(t["prompt_tokens"], t["output_tokens"]) for t in truth_of(it, 4)] == [(3, 2), (2, 3)] * 2
    (tmp_path / "text.txt").write_text("It was the best of times, it was the worst of times. " * 50)
    bench("--grpc", server.endpoint, "--prompts", tmp_path / "text.txt", "--rate", 100, "--requests", 3, "--input-length", 20,
          "--output-length", 2, "--save-requests", tmp_path / "r")
    assert all(r["ending"] == "done" and 10 < r["input_tokens"] < 40 for r in lines_of(tmp_path / "r"))


# ---- TLS, tokens and metadata: a server in Python, with other people's libraries ----


def certificate(folder, name):
    key, cert = folder / f"{name}.key", folder / f"{name}.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
                    f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert], check=True, capture_output=True)
    return key, cert


class Engine(pb_grpc.VllmEngineServicer):
    def __init__(self):
        self.metadata = []

    def HealthCheck(self, request, context):
        return pb.HealthCheckResponse(healthy=True)

    def GetModelInfo(self, request, context):
        return pb.GetModelInfoResponse(served_model_name="py", vocab_size=1000, max_context_length=1000)

    def Generate(self, request, context):
        self.metadata.append(dict(context.invocation_metadata()))
        n = request.sampling_params.max_tokens
        for i in range(n):
            yield pb.GenerateResponse(chunk=pb.GenerateStreamChunk(token_ids=[i]))
        yield pb.GenerateResponse(complete=pb.GenerateComplete(output_ids=range(n), finish_reason="length", prompt_tokens=5,
                                                               completion_tokens=n))


def test_tls_a_certificate_of_ours_and_a_token_reach_a_grpc_server(tmp_path):
    key, cert = certificate(tmp_path, "server")
    our_key, our_cert = certificate(tmp_path, "client")
    engine = Engine()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    pb_grpc.add_VllmEngineServicer_to_server(engine, server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())], our_cert.read_bytes(), True))
    server.start()
    try:
        common = ["--grpc", f"127.0.0.1:{port}", "--rate", 100, "--requests", 5, "--output-length", 3, "--ready-timeout", PATIENCE]
        ours = ["--tls-cert", our_cert, "--tls-key", our_key]
        bench(*common, "--tls-ca", cert, *ours, "--header", "X-Tenant-Id:a", "--token", "secret", "--save-requests", tmp_path / "r",
              "--save", tmp_path / "s")
        assert [(r["ending"], r["output_tokens"]) for r in lines_of(tmp_path / "r")] == [("done", 3)] * 5
        assert all(m["authorization"] == "Bearer secret" and m["x-tenant-id"] == "a" for m in engine.metadata)
        assert "secret" not in (tmp_path / "s").read_text()
        for wrong in (["--tls", *ours], ["--tls-ca", cert]):  # a server that nobody vouches for, and nobody vouches for us
            assert "was not ready in time" in bench(*common, "--ready-timeout", 1, *wrong, codes=(69,)).stderr
        for missing in (["--tls-ca", tmp_path / "none"], ["--tls-ca", cert, "--tls-cert", our_cert, "--tls-key", tmp_path / "none"]):
            assert "none" in bench(*common, *missing, codes=(65,)).stderr
    finally:
        server.stop(None)


def test_a_server_of_generate_alone_is_measured(tmp_path):
    class Bare(pb_grpc.VllmEngineServicer):
        Generate = Engine.Generate
        metadata = []
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    pb_grpc.add_VllmEngineServicer_to_server(Bare(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        common = ["--grpc", f"127.0.0.1:{port}", "--rate", 100, "--requests", 5, "--output-length", 3]
        assert "--vocabulary" in bench(*common, codes=(64,)).stderr
        bench(*common, "--vocabulary", 1000, "--save-requests", tmp_path / "r")
        assert [(r["ending"], r["output_tokens"]) for r in lines_of(tmp_path / "r")] == [("done", 3)] * 5
    finally:
        server.stop(None)


class OpenAI(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen = []

    def log_message(self, *args):
        pass

    def send(self, body, kind="application/json"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.send(b'{"data": [{"id": "py"}]}')

    def do_POST(self):
        ask = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.headers["Authorization"], self.headers["X-Priority"], ask))
        events = [{"choices": [{"delta": {"content": "a"}}]}] * ask["max_tokens"] + [{"choices": [{"delta": {}, "finish_reason": "length"}]}]
        self.send(b"".join(b"data: " + json.dumps(e).encode() + b"\r\n\r\n" for e in events) + b"data: [DONE]\r\n\r\n",
                  "text/event-stream; charset=utf-8")


def test_a_server_without_a_list_of_models_is_asked_by_name(tmp_path):
    class Bare(OpenAI):
        def do_GET(self):
            self.send_error(404)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bare)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        common = ["--openai", f"http://127.0.0.1:{server.server_port}", "--api", "chat", "--rate", 100, "--requests", 5, "--output-length", 3]
        assert "--served-model" in bench(*common, codes=(64,)).stderr
        bench(*common, "--served-model", "m", "--save-requests", tmp_path / "r")
        assert [(r["ending"], r["output_tokens"]) for r in lines_of(tmp_path / "r")] == [("done", 3)] * 5
    finally:
        server.shutdown()


def test_tls_a_token_and_extra_members_reach_an_http_server(tmp_path):
    key, cert = certificate(tmp_path, "server")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), OpenAI)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        common = ["--openai", f"https://127.0.0.1:{server.server_port}", "--api", "chat", "--rate", 100, "--requests", 5, "--output-length", 3]
        bench(*common, "--tls-ca", cert, "--header", "X-Priority:2", "--token", "secret", "--extra-body", '{"cache_prompt": false}',
              "--save-requests", tmp_path / "r")
        assert [(r["ending"], r["output_tokens"]) for r in lines_of(tmp_path / "r")] == [("done", 3)] * 5
        seen = [s for s in OpenAI.seen if s[0]]
        assert len(seen) == 5
        for authorization, priority, ask in seen:
            assert authorization == "Bearer secret" and priority == "2"
            assert ask["cache_prompt"] is False and ask["model"] == "py" and ask["messages"][0]["role"] == "user"
        assert "was not ready in time" in bench(*common, "--ready-timeout", 0.3, codes=(69,)).stderr  # nobody vouches for it
    finally:
        server.shutdown()
