"""Traces (--otlp-endpoint): what a collector gets, as OpenTelemetry's own messages read it; whose child a request is; that nothing of
what was asked is in it; and that a collector that is dead, slow or refuses costs spans and no request."""
import collections
import http.server
import os
import re
import signal
import socket
import threading
import time

import grpc
import pytest
from conftest import PATIENCE, free_port, run, wait_until
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc
from test_processes import Stream, ask, generate

Span = collections.namedtuple("Span", "trace id parent name kind begin end values status")


class Collector:
    """An HTTP server that keeps what is posted; `answer` is its status."""

    def __init__(self):
        self.bodies, self.paths, self.types, self.answer = [], [], [], 200
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                collector.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                collector.paths.append(self.path)
                collector.types.append(self.headers["Content-Type"])
                self.send_response(collector.answer)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def spans(self):
        found = []
        for body in list(self.bodies):
            for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resource = {a.key: a.value.string_value for a in of_resource.resource.attributes}
                for of_scope in of_resource.scope_spans:
                    assert of_scope.scope.name == "sluice"
                    for s in of_scope.spans:
                        values = {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in s.attributes}
                        found.append(Span(s.trace_id.hex(), s.span_id.hex(), s.parent_span_id.hex(), s.name, s.kind,
                                          s.start_time_unix_nano, s.end_time_unix_nano, values, s.status))
        return found

    def request(self, request_id):
        """The spans of one request, when they are here: its root first."""
        def there():
            roots = [s for s in self.spans() if s.values.get("sluice.request.id") == request_id]
            return roots and [roots[0]] + [s for s in self.spans() if s.trace == roots[0].trace and s.id != roots[0].id]
        return wait_until(there, f"the spans of {request_id}")


@pytest.fixture
def collector():
    it = Collector()
    yield it
    it.close()


def send(endpoint, request_id, metadata=(), **how):
    message = ask(**how)
    message.request_id = request_id
    with grpc.insecure_channel(endpoint) as channel:
        return list(pb_grpc.VllmEngineStub(channel).Generate(message, timeout=PATIENCE, metadata=metadata))


def spans_counted(server):
    return {result: server.metric(f'sluice_otlp_spans_total{{result="{result}"}}') for result in ("sent", "lost")}


def test_a_request_is_a_tree_of_spans_within_each_other(start_server, collector):
    server = start_server("--otlp-endpoint", collector.url, "--chunk", 128)
    before = time.time_ns()
    send(server.endpoint, "the-first", n_ids=1000, max_tokens=12)
    after = time.time_ns()
    spans = collector.request("the-first")
    names = collections.Counter(s.name for s in spans)
    assert {name: names[name] for name in ("generate", "queue", "prefill", "decode", "kv tail")} == \
        {"generate": 1, "queue": 1, "prefill": 1, "decode": 1, "kv tail": names["kv tail"]} and names["kv tail"] <= 1
    assert names["chunk"] >= 2 * 8 and sum(names.values()) == len(spans)
    by_id = {s.id: s for s in spans}
    assert len(by_id) == len(spans) and len({s.trace for s in spans}) == 1 and all(len(s.id) == 16 and len(s.trace) == 32 for s in spans)
    root = spans[0]
    assert root.parent == "" and root.kind == 2 and root.status.code == 0
    assert before - 10**9 < root.begin < root.end < after + 10**9
    for s in spans[1:]:
        parent = by_id[s.parent]
        assert parent.name == ("prefill" if s.name == "chunk" else "generate")
        assert parent.begin <= s.begin <= s.end <= parent.end, (s, parent)
    assert root.values["gen_ai.usage.input_tokens"] == 1000 and root.values["gen_ai.usage.output_tokens"] == 12
    assert root.values["sluice.finish"] == "length" and root.values["sluice.cached_tokens"] == 0
    for stage in range(2):
        chunks = sorted((s.values["sluice.position"], s.values["sluice.tokens"]) for s in spans if s.name == "chunk" and s.values["sluice.stage"] == stage)
        at = 0
        for position, tokens in chunks:
            assert position == at
            at += tokens
        assert at == 1000
    only = {s.name: s for s in spans if s.name != "chunk"}
    assert only["queue"].end == only["prefill"].begin and only["prefill"].end == only["decode"].begin
    assert set(collector.paths) == {"/v1/traces"} and set(collector.types) == {"application/x-protobuf"}
    assert collector.resource["service.name"] == "sluice" and collector.resource["gen_ai.request.model"] == "demo"
    wait_until(lambda: spans_counted(server) == {"sent": len(spans), "lost": 0}, "their count")
    assert server.stop() == 0, server.log()


def test_a_request_is_part_of_the_trace_that_its_client_names(start_server, collector):
    server = start_server("--otlp-endpoint", collector.url)
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    send(server.endpoint, "named", [("traceparent", f"00-{trace}-{parent}-01")])
    root = collector.request("named")[0]
    assert root.trace == trace and root.parent == parent
    assert re.search(rf'request \\?"named\\?": .* trace_id={trace}', server.log())
    send(server.endpoint, "unrecorded", [("traceparent", f"00-{trace}-{parent}-00")])
    for i, bad in enumerate(["", "00", f"00-{trace}-{parent}", f"00-{'0' * 32}-{parent}-01", f"00-{trace.upper()}-{parent}-01", f"ff-{trace}-{parent}-01"]):
        send(server.endpoint, f"bad-{i}", [("traceparent", bad)])
        root = collector.request(f"bad-{i}")[0]
        assert root.trace != trace and root.parent == "", bad
    assert "unrecorded" not in {s.values.get("sluice.request.id") for s in collector.spans()}
    assert server.stop() == 0, server.log()


def test_generate_takes_part_in_a_trace(start_server, collector, pack):
    server = start_server("--otlp-endpoint", collector.url)
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    named, own, other = f"00-{trace}-{parent}-01", {"TRACEPARENT": f"00-{trace[::-1]}-{parent}-01"}, {"TRACEPARENT": "none of it"}

    def go(*args, env=None):
        done = run("generate", "--endpoint", server.endpoint, "--prompt", "It was", "--max-tokens", 2, *args,
                   env={**os.environ, **(env or {})})
        assert done.returncode == 0, done.stderr
        return done.stderr

    def roots():
        return {(s.trace, s.parent) for s in collector.spans() if s.name == "generate"}
    assert go("--traceparent", named, env=own) == "" and go(env=own) == "" and go(env=other) == ""
    said = re.fullmatch(r"trace ([0-9a-f]{32})\n", go("--traceparent", "new"))[1]
    wait_until(lambda: len(roots()) == 4, "four requests")
    assert {(trace, parent), (trace[::-1], parent)} < roots() and {t for t, p in roots() if p == ""}.isdisjoint({trace, said})
    assert [p for t, p in roots() if t == said] not in ([], [""])
    for bad in ("", "00", named.upper(), f"00-{'0' * 32}-{parent}-01"):
        done = run("generate", "--endpoint", server.endpoint, "--prompt", "x", "--traceparent", bad)
        assert done.returncode == 64 and "--traceparent takes new, or 00-" in done.stderr, (bad, done.stderr)
    done = run("generate", "--model", pack, "--prompt", "x", "--traceparent", named)
    assert done.returncode == 64 and "goes with --endpoint" in done.stderr
    assert server.stop() == 0, server.log()


def test_nothing_that_was_asked_or_answered_is_in_a_trace(start_server, collector):
    server = start_server("--otlp-endpoint", collector.url)
    secret = "the zygomorphic orchid of Pernambuco"
    with grpc.insecure_channel(server.endpoint) as channel:
        message = pb.GenerateRequest(request_id="secret", text=secret, sampling_params=pb.SamplingParams(max_tokens=4, stop=["zygo-stop"]))
        with pytest.raises(grpc.RpcError):  # one that fails after it was queued is told, too
            for _ in pb_grpc.VllmEngineStub(channel).Generate(message, timeout=PATIENCE, metadata=[("x-tenant-id", "orchid-tenant")]):
                raise grpc.RpcError
    collector.request("secret")
    for body in collector.bodies:
        for word in (b"zygo", b"Pernambuco", b"orchid"):
            assert word not in body
    assert server.stop() == 0


def test_a_request_that_fails_says_how(start_server, collector):
    server = start_server("--otlp-endpoint", collector.url, "--lost-after", 2, "--drain-timeout", 0)
    stream = Stream(server.endpoint, n_ids=20, max_tokens=4000).wait_begun()
    server.signal(signal.SIGTERM)
    assert stream.end().error is not None
    assert server.wait() == 0, server.log()
    spans = collector.spans()  # the last post came before the end
    assert [s.name for s in spans if s.name == "generate"] == ["generate"]
    root = spans[0]
    assert (root.status.code, root.values["sluice.finish"]) in {(2, "stop"), (2, "length"), (2, "abort"), (0, "abort")}


def check_unharmed(server, n=40):
    for i in range(n):
        assert len(generate(server.endpoint, n_ids=20 + i, max_tokens=3)) == 3


def test_a_dead_collector_costs_spans_and_no_request(start_server):
    server = start_server("--otlp-endpoint", f"http://127.0.0.1:{free_port()}")
    check_unharmed(server)
    wait_until(lambda: spans_counted(server)["lost"] > 0, "lost spans")
    assert spans_counted(server)["sent"] == 0
    assert "no spans can be brought to http://127.0.0.1" in server.log()
    assert server.stop() == 0, server.log()


def test_a_collector_that_never_answers_costs_spans_and_no_request(start_server):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = start_server("--otlp-endpoint", f"http://127.0.0.1:{silent.getsockname()[1]}")
        check_unharmed(server)
        assert server.stop() == 0, server.log()  # it does not wait for it either


def test_a_collector_that_refuses_is_said_once_a_second_and_forgotten(start_server, collector):
    collector.answer = 503
    server = start_server("--otlp-endpoint", collector.url + "/custom")
    check_unharmed(server, 5)
    wait_until(lambda: spans_counted(server)["lost"] > 0, "lost spans")
    assert "answers 503: its spans are lost" in server.log() and set(collector.paths) == {"/custom"}
    collector.answer = 200
    def until_sent():
        check_unharmed(server, 1)
        return spans_counted(server)["sent"] > 0
    wait_until(until_sent, "a span that was taken")
    assert server.stop() == 0, server.log()


def test_without_the_option_nothing_is_opened_and_bad_ones_are_named(start_server, pack):
    server = start_server()
    maps = open(f"/proc/{server.children()['coordinator']}/maps").read()
    assert "libcurl" not in maps and "sluice_otlp" not in server.get("/metrics")[1]
    for bad in ("localhost:4318", "ftp://x", "http://", "http:///v1"):
        done = run("coordinator", pack, "--listen", f"127.0.0.1:{free_port()}", "--ops", f"127.0.0.1:{free_port()}", "--otlp-endpoint", bad)
        assert done.returncode == 64 and f"--otlp-endpoint {bad} is no URL; say http://HOST:4318" in done.stderr, done.stderr
