"""Our harness beside aiperf and guidellm (bench/peers/harnesses.py): one load by each, through smg, on the scripted server. How far
their medians lie from ours is a figure, printed; asserted is what holds however busy the machine is: all requests were made
and found at the server, and no token came before the server let it go. Slow tier: needs the Python with both that `./dev full`
names in SLUICE_HARNESS_PYTHON; skipped aloud without."""
import copy
import os
import sys

import pytest
from conftest import ROOT, SLUICE, free_port

sys.path.insert(0, str(ROOT / "bench/peers"))
import harnesses  # noqa: E402

PYTHON = os.environ.get("SLUICE_HARNESS_PYTHON")


def arguments(*words):
    return harnesses.options().parse_args(["--sluice", str(SLUICE), "--smg", os.path.join(os.path.dirname(sys.executable), "smg"),
                                           *words])


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="SLUICE_HARNESS_PYTHON does not name a Python with aiperf and guidellm")
def test_other_harnesses_see_what_ours_sees(tmp_path, capsys):
    args = arguments("--python", PYTHON)
    tools = harnesses.versions(args)
    with harnesses.Served(args, tmp_path, free_port) as served:
        runs = harnesses.rounds_of(args, served, tmp_path, lambda _: None)
    rows = harnesses.rows_of(args, runs)
    with capsys.disabled():
        print()
        for line in (harnesses.table(args, runs, rows, tools) + "\n" + harnesses.verdict(args, rows)).splitlines():
            print("figure:", line)
    assert [sentence for run in runs for sentence in harnesses.impossible(args, run["tool"], run)] == []
    assert sum(row["ratio"] is not None for row in rows) == 2 * len(harnesses.JUDGED) - 1  # guidellm records no gaps


def made(n, concurrency, lag):
    """A closed loop by hand: each request takes 360 ms, and the next is sent `lag` ms after it; ids as the server has them."""
    records, truth, free = [], [], [0.0] * concurrency
    for k in range(n):
        slot = k % concurrency
        sent = free[slot] + (lag if k >= concurrency else slot)
        records.append({"id": f"r{k}", "due": None, "sent": sent, "first": sent + 301, "last": sent + 361, "end": sent + 362,
                        "gaps": [29.0, 31.0], "tokens": 3, "done": True})
        at = [int(1e6 * (sent + t)) for t in (0.5, 300.5, 330.5, 360.5)]
        truth.append({"id": f"r{k}-of-the-gateway", "arrival_ns": at[0], "token_ns": at[1:], "output_tokens": 3, "prompt_tokens": 5,
                      "ending": "done"})
        free[slot] = sent + 362
    return {"own": {"ttft_sent": 301.0, "itl": 30.0}, "records": harnesses.with_due(records, concurrency), "truth": truth}


def test_medians_are_of_our_definitions():
    run = made(20, 4, lag=7)
    told = harnesses.medians(run["records"])
    assert {key: round(value, 6) for key, value in told.items()} == {"ttft": 308, "ttft_sent": 301, "itl": 29, "tpot": 30,
                                                                     "e2el": 368, "lag": 7}
    run["records"][3] |= {"done": False}
    assert harnesses.nearest_rank(harnesses.values_of(run["records"])["e2el"], 1) == float("inf")
    assert harnesses.values_of(run["records"])["ttft"][3] == 301


PLANTED = {
    "too few": (lambda run: run["records"].pop(), "19 are in its records"),
    "a stranger": (lambda run: run["records"][5].update(id="r99"), "unknown to the server"),
    "too early": (lambda run: run["records"][5].update(first=run["records"][5]["sent"] + 299), "first token of request r5"),
    "too early by the server": (lambda run: run["truth"][6].update(token_ns=[t + 2_000_000 for t in run["truth"][6]["token_ns"]]),
                                "token of request r6"),
    "failed": (lambda run: run["records"][7].update(done=False), "it failed"),
    "short": (lambda run: run["records"][8].update(tokens=2), "has 2 tokens of 3"),
    "cut by the server": (lambda run: run["truth"][9].update(ending="dropped"), "ended dropped"),
    "another clock": (lambda run: run["own"].update(ttft_sent=308.0), "its records say"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_what_cannot_be_is_said(fault):
    args = arguments("--requests", "20", "--output", "3")
    run = made(20, 4, lag=1)
    assert harnesses.impossible(args, "aiperf", run) == []
    broken = copy.deepcopy(run)
    plant, sentence = PLANTED[fault]
    plant(broken)
    assert any(sentence in said for said in harnesses.impossible(args, "aiperf", broken))


def test_a_median_that_is_off_is_in_the_verdict():
    args = arguments("--requests", "20", "--output", "3", "--rounds", "1")
    runs = [made(20, 4, lag) | {"tool": tool, "round": 0} for tool, lag in (("sluice", 0), ("aiperf", 1), ("guidellm", 20))]
    runs = [run | {"medians": harnesses.medians(run["records"]), "server": harnesses.medians(
        [harnesses.truth_record(line) for line in run["truth"]])} for run in runs]
    rows = harnesses.rows_of(args, runs)
    off = [(row["tool"], row["measure"]) for row in rows if row["within"] is False]
    assert off == [("guidellm", "ttft"), ("guidellm", "e2el")]
    assert "guidellm's TTFT (1.066)" in harnesses.verdict(args, rows) and "OFF BY MORE THAN 5 %" in harnesses.table(args, runs, rows, {})
