"""The simulated pipeline decides as processes do: one scripted load, and the order logs are equal record by record, with slices,
sequences and pages, on the stages and on the decode worker.

The processes are a coordinator, stages that wait for what their chunks are said to cost (`sluice stage --waits`) and a decode worker;
what they wrote is read from /debug/records. The simulated one (tests/bench/simulate/scripted.c) is told the same costs, options and
requests. When a request comes is scripted by what is written before it. What may not count is luck: scripts are drawn until
one is found whose order, as simulated, stays the same when each piece of work and each frame is late by up to LATE_MS, so that
machines may be busy."""
import json
import random
import subprocess
import threading
import time

import grpc
import pytest
from conftest import PATIENCE, SLUICE, Process, Server, free_port, wait_until
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

SCRIPTED = SLUICE.parent / "simulate-scripted"
LATE_MS, WAITING = 30, 1024
DEFAULTS = {"stages": 2, "layers": 6, "schedule": "slo", "chunk": 256, "chunk_ms": 0, "prefix_cache": True, "max_prefill": 128,
            "max_running": 16, "context": 2048, "kv_tokens": 16384, "seed": 0, "late_ms": 0}


def cost(share):
    """c, gamma, b, a, w, e in microseconds, and p: 15 ms a chunk and 48 for each page of it."""
    return [share * us for us in (15000, 0, 750, 0, 0, 0, 0)]


def draw(seed, n, longest, most_apart, **options):
    """A script: a long prompt, and others that come while it is at work, each so many records after the one before; some begin alike, some
    want more than one answer."""
    dice = random.Random(seed)
    script = {**DEFAULTS, "costs": [cost(1), cost(0.6), cost(0.8)], "decode_cost": [2000, 0, 0, 0, 0, 0, 0], **options}
    script["costs"] = script["costs"][:script["stages"]]
    script["max_requests"] = WAITING + script["max_prefill"] + script["max_running"]
    texts = [[dice.randrange(10, 100) for _ in range(longest)] for _ in range(3)]
    script["requests"], after = [{"after": 0, "after_ms": 0, "ids": texts[0], "max_tokens": 5, "n": 1, "priority": 0,
                                "slo_ms": 0}], 0
    while len(script["requests"]) < n:
        after += dice.randrange(most_apart + 1)
        ids = dice.choice(texts)[:dice.randrange(longest)] + [dice.randrange(10, 100) for _ in range(dice.randrange(1, 200))]
        script["requests"].append({"after": after, "after_ms": dice.randrange(20, 60), "ids": ids, "max_tokens": dice.choice((1, 2, 5)),
                                   "n": dice.choice((1, 1, 1, 2)), "priority": dice.choice((0, 0, 2)), "slo_ms": dice.choice((0, 0, 0, 3000))})
    return script


def simulate(script, tmp_path):
    path = tmp_path / "script.json"
    path.write_text(json.dumps(script))
    done = subprocess.run([SCRIPTED, path], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def what(records):
    """What was decided, without when. Sequences are counted as they come: their numbers hold which place in a table was free, and that
    depends on when others were gone."""
    known = {}

    def plain(thing):
        named = {"seq": known.setdefault(thing["seq"], len(known))} if "seq" in thing else {}
        return {**thing, **named, "at_ms": None}
    return [{**plain(record), "slices": [plain(s) for s in record.get("slices", ())]} for record in records]


def find(tmp_path, seeds, **kind):
    """The first script whose order does not change when everything may be late, and what is written then."""
    for seed in seeds:
        script = draw(seed, **kind)
        records = simulate(script, tmp_path)
        if all(what(simulate({**script, "late_ms": LATE_MS, "seed": late}, tmp_path)) == what(records) for late in range(1, 16)):
            return script, records
    raise AssertionError(f"no script is robust: {kind}")


class Pipeline(Server):
    def __init__(self, folder, pack, script):
        ports = free_port(), free_port()
        self.endpoint, self.ops = (f"127.0.0.1:{port}" for port in ports)
        options = [word for name in ("stages", "schedule", "chunk", "chunk_ms", "max_prefill", "max_running", "context", "kv_tokens")
                   for word in ("--" + name.replace("_", "-"), script[name])]
        Process.__init__(self, folder, "coordinator", "coordinator", pack, "--listen", self.endpoint, "--ops", self.ops,
                         "--max-decoders", 1, "--max-waiting", WAITING, "--prefix-cache", "on" if script["prefix_cache"] else "off",
                         *options)
        join = ["--threads", 1, "--coordinator", self.endpoint]
        self.workers = [Process(folder, f"stage-{k}", "stage", pack, "--stage", k, "--waits", ",".join(map(str, costs)), *join)
                        for k, costs in enumerate(script["costs"])]
        self.workers.append(Process(folder, "decode", "decode", pack, *join))

    def records(self):
        status, body = self.get("/debug/records")
        assert status == 200, body
        return [json.loads(line) for line in body.splitlines()]

    def kill(self):
        for worker in self.workers:
            worker.kill()
        super().kill()


@pytest.fixture
def start(tmp_path, pack):
    started = []

    def one(script):
        started.append(Pipeline(tmp_path, pack, script))
        return started[-1].wait_ready()
    yield one
    for pipeline in started:
        pipeline.kill()


def ask(engine, request, name, failed):
    asked = pb.GenerateRequest(request_id=name, stream=True)
    asked.tokenized.input_ids.extend(request["ids"])
    asked.sampling_params.CopyFrom(pb.SamplingParams(temperature=0, max_tokens=request["max_tokens"], n=request["n"], ignore_eos=True))
    said = [("x-priority", str(request["priority"]))] + ([("x-slo-ttft-ms", str(request["slo_ms"]))] if request["slo_ms"] else [])
    try:
        list(engine.Generate(asked, metadata=said))  # without a timeout, which would be a deadline that the decider heeds
    except grpc.RpcError as error:
        failed.append(f"{name}: {error}")


def play(pipeline, script, n_records):
    """Each request comes when it should come in the simulated world; until n_records are written."""
    threads, failed, came = [], [], 0
    with grpc.insecure_channel(pipeline.endpoint) as channel:
        engine = pb_grpc.VllmEngineStub(channel)
        for i, request in enumerate(script["requests"]):
            after = request["after"]
            written = wait_until(lambda: (len(r := pipeline.records()) >= after and (r, time.monotonic())), f"record {after}")
            begin = max(came, written[1] + written[0][after - 1]["at_ms"] / 1000 if after else 0)
            time.sleep(max(0, begin + request["after_ms"] / 1000 - time.monotonic()))  # the script's: what it follows has been seen
            n_before = len(pipeline.records())
            threads.append(threading.Thread(target=ask, args=(engine, request, f"r{i}", failed), daemon=True))
            threads[-1].start()
            wait_until(lambda: f'"r{i}"' in pipeline.get("/debug/schedule")[1] or len(pipeline.records()) > n_before, "its arrival")
            came = time.monotonic()
        for thread in threads:
            thread.join(PATIENCE)
    assert not failed, failed
    wait_until(lambda: len(pipeline.records()) >= n_records, "the last record")
    return pipeline.records()


def compare(tmp_path, start, script, simulated):
    real = play(start(script), script, len(simulated))
    assert what(real) == what(simulated), script
    return real


def test_processes_write_what_the_simulated_pipeline_writes(tmp_path, start):
    script, simulated = find(tmp_path, range(300), n=6, longest=700, most_apart=3)
    real = compare(tmp_path, start, script, simulated)
    assert {r["kind"] for r in real} == {"run", "free"} and any(len(r.get("slices", ())) > 1 for r in real)
    # and it would be seen if they did not
    for option, other in {"schedule": "fifo", "chunk": 192, "prefix_cache": False, "max_prefill": 1, "kv_tokens": 2048}.items():
        assert what(simulate({**script, option: other}, tmp_path)) != what(real), option


@pytest.mark.slow
@pytest.mark.parametrize("kind", [
    {"n": 6, "longest": 700},
    {"n": 8, "longest": 700, "schedule": "fifo", "stages": 3},
    {"n": 8, "longest": 700, "stages": 3, "prefix_cache": False},
    {"n": 8, "longest": 700, "max_running": 2, "max_prefill": 3, "kv_tokens": 2304},  # who comes waits for places and pages
    {"n": 3, "longest": 1900, "stages": 1},
], ids=str)
def test_many_loads_are_written_alike(tmp_path, start, kind):
    seeds = iter(range(100, 2000))
    for _ in range(6):
        compare(tmp_path, start, *find(tmp_path, seeds, most_apart=3, **kind))
