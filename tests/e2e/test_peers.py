"""The arithmetic of bench/peers/serve.py, without a server: what waits are, what lies in the tail, ratios, the figure."""
import math
import pathlib
import sys
import xml.dom.minidom

import pytest

PEERS = pathlib.Path(__file__).resolve().parents[2] / "bench/peers"


@pytest.fixture(scope="module")
def serve():
    sys.path.insert(0, str(PEERS))
    try:
        import serve as module
        yield module
    finally:
        sys.path.remove(str(PEERS))


def request(first_ms, last_ms, tokens, ending="done"):
    return {"due_ns": 5_000_000, "first_ns": None if first_ms is None else int((5 + first_ms) * 1e6),
            "last_ns": None if last_ms is None else int((5 + last_ms) * 1e6), "output_tokens": tokens, "ending": ending}


def test_waits_count_from_the_due_time_and_failures_are_infinite(serve):
    assert serve.waits_of(request(40, 130, 10)) == {"ttft": 40, "tpot": 10, "e2e": 130}
    assert serve.waits_of(request(40, 40, 1)) == {"ttft": 40, "tpot": None, "e2e": 40}
    assert serve.waits_of(request(40, 90, 6, "timeout")) == {"ttft": 40, "tpot": math.inf, "e2e": math.inf}
    assert serve.waits_of(request(None, None, 0, "failed")) == {"ttft": math.inf, "tpot": math.inf, "e2e": math.inf}


def test_a_percentile_is_the_nearest_rank_or_nothing(serve):
    values = [*range(1, 100), math.inf]
    assert serve.nearest(values, 0.5) == 50
    assert serve.nearest(values, 0.99) == 99
    assert serve.nearest([math.inf] + values, 0.99) == math.inf
    assert serve.nearest(values[:99], 0.99) is None and serve.nearest([1], 0.5) is None and serve.nearest([], 0.5) is None


def test_a_ratio_is_of_one_round_and_a_failed_one_is_said(serve):
    assert serve.ratio_of([10, 20, 30], [20, 60, 30]) == "2.00x"
    assert serve.ratio_of([10, 20, 30], [20, math.inf, math.inf]) == "failed"
    assert serve.ratio_of([None, math.inf], [5, 5]) == ""


def test_loads_that_differ_are_refused(serve):
    serve.same_prompts("x", {0: 256, 1: 255}, {0: 256, 2: 9})
    with pytest.raises(SystemExit, match="request 1 counts 254 tokens of input, and sluice 255"):
        serve.same_prompts("x", {0: 256, 1: 254}, {0: 256, 1: 255})


@pytest.mark.parametrize("rates", [[4.0], [1.0, 2.0, 8.0]])
def test_the_figure_is_xml_with_a_line_a_server(serve, rates):
    rows = [{"rate": rate, "engine": name, "ttft_p50": 10 * rate, "ttft_p99": math.inf if rate > 4 else None,
             "tpot_p50": 3.0, "tpot_p99": None, "good_per_s": 0.0} for rate in rates for name in ("sluice", "a<b")]
    drawn = serve.figure.draw("it & others", rows, ["sluice", "a<b"])
    lines = xml.dom.minidom.parseString(drawn).getElementsByTagName("polyline")
    assert len(lines) == 2 * 5 + 1
    assert drawn.count("failed</title>") == (2 if max(rates) > 4 else 0)
    assert "nan" not in drawn
