"""What a request says of itself beside its message (x-tenant-id, x-priority, x-slo-ttft-ms, grpc-timeout), how it is refused, and
where whoever runs the node sees it: the log, /metrics, /debug/schedule."""
import json
import os
import re
import signal
import socket
import time

import grpc
import pytest
from conftest import PATIENCE, ROOT, get, run, wait_until
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, duration_pb2, message_factory
from hostile import DATA, END_HEADERS, END_STREAM, Connection, frame, message
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

GENERATE = "/vllm.grpc.engine.VllmEngine/Generate"
INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED


def ask(n_ids=3, max_tokens=2, request_id="", stream=False):
    request = pb.GenerateRequest(request_id=request_id, stream=stream)
    request.tokenized.input_ids.extend(range(5, 5 + n_ids))
    request.sampling_params.CopyFrom(pb.SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True))
    return request


@pytest.fixture
def engine(server):
    with grpc.insecure_channel(server.endpoint) as channel:
        yield pb_grpc.VllmEngineStub(channel)


def lines_about(server, request_id):
    """What the log has about a request, as {name: value}."""
    found = []
    for line in server.log().splitlines():
        if line.startswith("{") and f'request "{request_id}"' in (text := json.loads(line)["message"]):
            found.append({name: value.strip('"') for name, value in re.findall(r'(\w+)=("[^"]*"|\S+)', text)})
    return found


def google_rpc():
    """Classes Status and RetryInfo, as googleapis has them."""
    file = descriptor_pb2.FileDescriptorProto(name="refusal.proto", package="google.rpc", syntax="proto3", dependency=[
        "google/protobuf/any.proto", "google/protobuf/duration.proto"])
    status = file.message_type.add(name="Status")
    status.field.add(name="code", number=1, type=5, label=1)
    status.field.add(name="message", number=2, type=9, label=1)
    status.field.add(name="details", number=3, type=11, label=3, type_name=".google.protobuf.Any")
    retry = file.message_type.add(name="RetryInfo")
    retry.field.add(name="retry_delay", number=1, type=11, label=1, type_name=".google.protobuf.Duration")
    pool = descriptor_pool.DescriptorPool()
    for known in (any_pb2, duration_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(f"google.rpc.{name}"))
            for name in ("Status", "RetryInfo")]


def test_metadata_is_taken_and_is_in_the_log_line_of_the_request(server, engine):
    list(engine.Generate(ask(request_id="said", max_tokens=4), timeout=PATIENCE, metadata=(
        ("x-tenant-id", "team-7"), ("x-priority", "-2"), ("x-slo-ttft-ms", "86400000"))))
    line, = wait_until(lambda: lines_about(server, "said"), "a log line")
    assert line["tenant"] == "team-7" and line["priority"] == "-2" and line["status"] == "ok"
    assert (line["prompt_tokens"], line["output_tokens"], line["finish"]) == ("3", "4", "length")
    assert float(line["predicted_ttft_ms"]) > 0
    assert server.metric('sluice_request_ttft_error_ratio_count{class="short"}') >= 1
    assert 0 <= float(line["queue_ms"]) <= float(line["ttft_ms"]) <= float(line["total_ms"])


def test_a_request_without_metadata_and_one_with_an_empty_tenant_are_nobodys(server, engine):
    list(engine.Generate(ask(request_id="bare"), timeout=PATIENCE))
    list(engine.Generate(ask(request_id="empty"), timeout=PATIENCE, metadata=(("x-tenant-id", ""),)))
    for name in "bare", "empty":
        line, = wait_until(lambda: lines_about(server, name), "a log line")
        assert line["tenant"] == "" and line["priority"] == "0"


@pytest.mark.parametrize("metadata", [
    [("x-priority", "3")], [("x-priority", "high")], [("x-priority", "")], [("x-priority", "1.5")],
    [("x-slo-ttft-ms", "0")], [("x-slo-ttft-ms", "-5")], [("x-slo-ttft-ms", "86400001")], [("x-slo-ttft-ms", "nan")],
    [("x-slo-ttft-ms", "18446744073709551617")], [("x-tenant-id", "two words")], [("x-tenant-id", "x" * 64)],
    [("x-tenant-id", "mine"), ("x-tenant-id", "yours")],
])
def test_hostile_metadata_is_refused_in_a_sentence(engine, metadata):
    with pytest.raises(grpc.RpcError) as caught:
        list(engine.Generate(ask(), timeout=PATIENCE, metadata=metadata))
    assert caught.value.code() == INVALID
    assert caught.value.details().startswith(metadata[0][0]) and not caught.value.details().endswith(".")
    assert "grpc-retry-pushback-ms" not in dict(caught.value.trailing_metadata() or ())


@pytest.mark.parametrize("timeout", [b"0m", b"1n", b"0S", b"-1m", b"99999999H", b"99999999999999999999n", b"soon", b""])
def test_whatever_grpc_timeout_says_the_call_ends_and_nothing_is_left(server, engine, timeout):
    started = server.metric("sluice_generation_tokens_total")
    client = Connection(server.endpoint, timeout=PATIENCE)
    stream = client.open(GENERATE, END_HEADERS, more=[(b"grpc-timeout", timeout)])
    client.send(frame(DATA, END_STREAM, stream, message(ask().SerializeToString())))
    end = time.monotonic() + PATIENCE
    while stream not in client.ended and not client.closed and time.monotonic() < end:
        client.take(1)
    assert stream in client.ended or client.closed
    client.close()
    if timeout in (b"0m", b"1n", b"0S"):
        assert server.metric("sluice_generation_tokens_total") == started  # it was never begun
    assert list(engine.Generate(ask(), timeout=PATIENCE))[-1].complete.completion_tokens == 2
    wait_until(lambda: server.metric("sluice_requests_running") == server.metric("sluice_requests_waiting") == 0, "idleness")


@pytest.fixture
def stopped(start_server):
    """A small node whose stage 1 stands still, so that whoever comes waits; and a stub."""
    server = start_server("--schedule", "fifo", "--max-waiting", 2, "--max-prefill", 1, "--max-decoders", 1, "--max-running", 1, "--lost-after", 3600,
                          "--tenant-weight", "blue=2.5", "--tenant-weight", "red=0.5", "--trust-headers", host="0.0.0.0")
    stage = server.children()["stage 1"]
    os.kill(stage, signal.SIGSTOP)
    with grpc.insecure_channel(server.endpoint) as channel:
        yield server, pb_grpc.VllmEngineStub(channel)
    os.kill(stage, signal.SIGCONT)


def test_a_full_queue_refuses_with_pushback_and_retry_info_and_is_shown_to_this_machine(stopped):
    server, engine = stopped
    calls = []
    for i in range(4):
        calls.append(engine.Generate(ask(request_id=f"r{i}", stream=True), timeout=PATIENCE, metadata=(
            ("x-tenant-id", "blue" if i % 2 else "red"), ("x-priority", str(i % 3 - 1)))))
        wait_until(lambda: f'"r{i}"' in server.get("/debug/schedule")[1]
                   or (i == 0 and server.metric("sluice_kv_cache_usage_ratio") > 0), f"r{i} in the queue, or in the log")

    def refused():
        try:
            list(engine.Generate(ask(max_tokens=1, request_id="late"), timeout=1))
        except grpc.RpcError as error:
            return error if error.code() == EXHAUSTED else None
    error = wait_until(refused, "a refusal")
    trailers = dict(error.trailing_metadata())
    assert trailers["grpc-retry-pushback-ms"] == "1000"
    status_class, retry_class = google_rpc()
    status = status_class.FromString(trailers["grpc-status-details-bin"])
    assert (status.code, status.message) == (EXHAUSTED.value[0], error.details())
    detail, = status.details
    assert detail.type_url == "type.googleapis.com/google.rpc.RetryInfo"
    assert retry_class.FromString(detail.value).retry_delay.ToMilliseconds() == 1000
    assert server.metric('sluice_requests_refused_total{reason="queue"}') >= 1

    code, body = server.get("/debug/schedule")
    shown = json.loads(body)
    assert code == 200 and shown["schedule"] == "fifo" and shown["pages"]["of"] > 0
    by_id = {entry["request"]: entry for entry in shown["queue"]}
    assert shown["requests"] == len(shown["queue"]) == len(by_id) >= 3, body
    assert by_id["r3"]["tenant"] == "blue" and by_id["r3"]["priority"] == -1
    assert 0 < by_id["r3"]["deadline_ms"] <= 1.1 * PATIENCE * 1000  # rounded up by its sender
    weights = {tenant["tenant"]: tenant["weight"] for tenant in shown["tenants"]}
    assert weights == {"blue": 2.5, "red": 0.5}
    for call in calls:
        call.cancel()


def test_a_first_token_that_cannot_be_there_in_time_is_refused_at_once(server, engine):
    before = server.metric('sluice_requests_refused_total{reason="time"}')
    with pytest.raises(grpc.RpcError) as caught:  # a thousand tokens in a millisecond
        list(engine.Generate(ask(n_ids=1000, request_id="hasty"), timeout=PATIENCE, metadata=(("x-slo-ttft-ms", "1"),)))
    assert caught.value.code() == EXHAUSTED and "can't be there in time" in caught.value.details()
    trailers = dict(caught.value.trailing_metadata())
    status_class, retry_class = google_rpc()
    detail, = status_class.FromString(trailers["grpc-status-details-bin"]).details
    pushback = int(trailers["grpc-retry-pushback-ms"])
    assert pushback > 0 and retry_class.FromString(detail.value).retry_delay.ToMilliseconds() == pushback
    assert server.metric('sluice_requests_refused_total{reason="time"}') == before + 1
    line, = wait_until(lambda: lines_about(server, "hasty"), "a log line")
    assert line["status"].startswith("exhausted") and line["ttft_ms"] == "-"


def own_address():
    """Of this machine, as others see it; None when it has only loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            return None
        host = s.getsockname()[0]
        return None if host.startswith("127.") else host


def test_who_is_not_on_this_machine_is_not_shown_the_queue(start_server):
    host = own_address()
    if not host:
        pytest.skip("this machine has no address but loopback")
    server = start_server(host="0.0.0.0")
    assert server.get("/debug/schedule")[0] == 200
    code, text = get(f"{host}:{server.ops.rsplit(':')[-1]}", "/debug/schedule")
    assert code == 403 and text == "/debug/schedule is answered to this machine alone: ask from it, without a proxy\n"
    assert get(f"{host}:{server.ops.rsplit(':')[-1]}", "/livez")[0] == 200


def test_the_commands_of_ours_say_the_same(server, tmp_path):
    done = run("generate", "--endpoint", server.endpoint, "--prompt", "Hello", "--max-tokens", 2, "--tenant", "ours",
               "--priority", -1, "--slo-ttft", 60000)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: re.search(r'tenant=\\"ours\\" priority=-1 ', server.log()), "its log line")
    done = run("bench", "serve", "--grpc", server.endpoint, "--rate", 20, "--duration", 1, "--input-length", 4,
               "--output-length", 2, "--header", "x-tenant-id:measured", "--header", "x-priority:2")
    assert done.returncode in (0, 3), done.stderr  # 3: a second is too short for figures
    wait_until(lambda: re.search(r'tenant=\\"measured\\" priority=2 ', server.log()), "its log line")
    done = run("generate", "--model", ROOT / "demo", "--prompt", "Hello", "--max-tokens", 1, "--tenant", "two words")
    assert done.returncode == 64 and "--tenant takes at most 63 printable characters" in done.stderr


@pytest.mark.parametrize("args, env, code, sentence", [
    (["--tenant-weight", "a=0"], {}, 64, '--tenant-weight has "a=0"; a weight is a number from 0.001 to 1000'),
    (["--tenant-weight", "a=-1"], {}, 64, '--tenant-weight has "a=-1"; a weight is a number from 0.001 to 1000'),
    (["--tenant-weight", "a"], {}, 64, '--tenant-weight has "a"; it takes NAME=W'),
    (["--tenant-weight", "a=1", "--tenant-weight", "a=2"], {}, 64, '--tenant-weight gives "a" two weights'),
    ([], {"SLUICE_TENANT_WEIGHT": "a=none"}, 64, 'has "a=none"; a weight is a number'),
    (["--schedule", "edf"], {}, 64, '--schedule is "edf"; it takes one of slo|fifo'),
    (["--slo", "86400001"], {}, 64, "--slo is"),
    (["--scheduling-policy", "fcfs"], {}, 64, "here it is --schedule slo|fifo"),
])
def test_options_that_mean_nothing_are_refused_before_anything_starts(args, env, code, sentence):
    done = run("serve", ROOT / "demo", *args, env={**os.environ, **env})
    assert done.returncode == code and sentence in done.stderr, done.stderr
