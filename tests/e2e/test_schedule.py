"""The schedule with real processes under loads of `sluice bench serve`: mixed lengths, overload, deadlines, tenants, a gateway.
What is asserted are counts and who came before whom, never how long something took; that is bench/figures/schedule.py."""
import json

import pytest
from conftest import run, wait_until
from gateway import Gateway

pytestmark = pytest.mark.slow
INVALID, UNANSWERED = 3, 69  # a busy machine may make the harness late; a load may be refused as a whole
HOUR = {"x-slo-ttft-ms": "3600000"}


@pytest.fixture
def load(tmp_path):
    """Sends a mix; its requests, by class."""
    def send(target, *classes):
        (tmp_path / "mix.json").write_text(json.dumps({"classes": classes}))
        done = run("bench", "serve", *target, "--mix", tmp_path / "mix.json", "--save-requests", tmp_path / "r.jsonl")
        assert done.returncode in (0, INVALID, UNANSWERED), (done.returncode, done.stdout, done.stderr)
        requests = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
        return [[r for r in requests if r["class"] == c["name"]] for c in classes]
    return send


def at(server):
    return ["--grpc", server.endpoint]


def all_done(requests):
    return [r["error"] for r in requests if r["ending"] != "done"] == []


def refused(server):
    return sum(server.metric(f'sluice_requests_refused_total{{reason="{why}"}}') for why in ("queue", "time", "promise", "share"))


def wait_idle(server):
    wait_until(lambda: all(server.metric(name) == 0 for name in (
        "sluice_requests_running", "sluice_requests_waiting", "sluice_kv_cache_usage_ratio", "sluice_decode_kv_cache_usage_ratio")),
        "idleness")


def test_short_prompts_pass_long_ones_that_came_before_them(start_server, load):
    def passing(server):
        """Of those that came one after the other, how many were done before the first long one had its first token."""
        short, long = load(at(server), {"name": "short", "concurrency": 1, "requests": 40, "input": 64, "output": 2},
                           {"name": "long", "concurrency": 2, "requests": 2, "input": 8192, "output": 2})
        assert all_done(short + long)
        first = min(r["first_ns"] for r in long)
        return sum(r["end_ns"] < first for r in short)
    assert passing(slo := start_server("--schedule", "slo")) >= 10
    assert passing(start_server("--schedule", "fifo")) <= 2  # the first one, and one that came between the long ones
    assert refused(slo) == 0
    wait_idle(slo)


def test_a_crowd_without_deadlines_is_served_whoever_hangs_up(start_server, load):
    """From the first second of a server on."""
    server = start_server()
    classes = [{"name": str(n), "rate": 1000, "requests": 50, "input": n, "output": "1-24", "cancel": {"share": 0.3, **when}}
               for n, when in ((20, {"ms": 5}), (64, {"tokens": 3}), (300, {"ms": 200}), (1500, {"ms": 1000}))]
    crowd = [r for requests in load(at(server), *classes) for r in requests]
    assert {r["ending"] for r in crowd} <= {"done", "cancelled"}, [r["error"] for r in crowd if r["error"]]
    assert all(r["output_tokens"] == r["wanted_tokens"] for r in crowd if r["ending"] == "done")
    assert refused(server) == 0
    wait_idle(server)
    assert server.stop() == 0, server.log()


def test_what_cannot_be_in_time_is_refused_and_the_rest_is_not(start_server, load):
    """More than can be done, from the first second of a server on."""
    server = start_server()
    patient, hopeless, over = load(
        at(server), {"name": "patient", "rate": 100, "requests": 100, "input": "20-400", "output": 2, "headers": HOUR},
        {"name": "hopeless", "rate": 100, "requests": 100, "input": 4000, "output": 2, "headers": {"x-slo-ttft-ms": "1"}},
        {"name": "over", "rate": 100, "requests": 50, "input": 3000, "output": 2, "deadline_ms": 1})
    assert all_done(patient)
    assert all("can't be there in time" in (r["error"] or "") and r["first_ns"] is None for r in hopeless)
    assert not any(r["ending"] == "done" for r in over)
    assert server.metric('sluice_requests_refused_total{reason="time"}') >= len(hopeless)
    assert server.metric('sluice_prompt_tokens_total{source="computed"}') == sum(r["input_tokens"] for r in patient)
    wait_idle(server)


def test_a_tenant_does_not_wait_for_the_flood_of_another(start_server, load):
    def before(server):
        """How many of a flood were done when a tenant that asks one thing after the other had all its answers."""
        calm, flood = load(at(server), *({"name": name, "concurrency": width, "requests": n, "input": 256, "output": 1,
                                          "headers": {"x-tenant-id": name}} for name, width, n in (("calm", 1, 20), ("flood", 64, 500))))
        assert all_done(calm + flood)
        last = max(r["end_ns"] for r in calm)
        return sum(r["end_ns"] < last for r in flood)
    assert before(start_server("--schedule", "slo")) <= 250
    assert before(start_server("--schedule", "fifo")) >= 450


def test_all_of_a_mix_is_answered_through_a_gateway(server, load, tmp_path):
    gateway = Gateway(tmp_path, [server.endpoint])
    try:
        url = str(gateway.client.base_url).rstrip("/")
        short, long, talks = load(["--openai", url], {"name": "short", "rate": 20, "requests": 60, "input": 30, "output": 4},
                                  {"name": "long", "concurrency": 2, "requests": 4, "input": 3000, "output": 4},
                                  {"name": "talks", "concurrency": 2, "requests": 6, "turns": 3, "input": 100, "output": 8})
        assert all_done(short + long + talks)
    finally:
        gateway.stop()
    wait_idle(server)
