"""bench/figures/operate.py: when memory counts as flat, and that each row runs. What comes of them is no business of a test."""
import importlib
import json
import subprocess
import sys

import pytest
from conftest import PATIENCE, ROOT, SLUICE
from prometheus import tool

FIGURES = ROOT / "bench/figures"


@pytest.fixture(scope="module")
def grown():
    sys.path.insert(0, str(FIGURES))
    yield importlib.import_module("operate").grown
    sys.path.remove(str(FIGURES))


@pytest.mark.parametrize("values, growth, width", [([100] * 50, 0, 0), ([100, 110] * 25, 0, 0.1), ([*range(100, 150)], 49 / 124.5, 0.49),
                                                   ([100] * 25 + [104] * 25, 0.04, 0.04), ([200] + [100] * 49, 0, 1)],
                         ids=["flat", "noise", "a leak", "a step", "what is given back"])
def test_growth_is_between_the_ends_and_not_of_single_samples(grown, values, growth, width):
    got = grown([{"decode": {"RssAnon": value}} for value in values], "decode", "RssAnon")
    assert got[:2] == pytest.approx((growth, width), abs=0.003) and got[2] == values


@pytest.mark.slow
def test_every_row_of_operating_runs(tmp_path):
    tool("prometheus")  # unpacked, if it is not there
    rows = {"idle": "idle: all of it", "tls": "TLS both ways: a new connection", "links": "--link-auth header", "drain": "SIGTERM with 64 under way: lost",
            "soak": "soak: alerts that fired", "overload": "2x: how long who is refused waits"}
    done = subprocess.run([sys.executable, FIGURES / "operate.py", *rows, "--quick", "--scale", "0.1", "--first", "nice -n 0",
                           "--sluice", SLUICE, "--save", tmp_path / "table.json"], capture_output=True, text=True, timeout=4 * PATIENCE)
    assert done.returncode == 0, done.stderr
    table = {row["measure"]: row for row in json.loads((tmp_path / "table.json").read_text())}
    for name, begin in rows.items():
        assert any(measure.startswith(begin) for measure in table), f"{name} has no row that begins with {begin!r}"
    assert table["SIGTERM with 64 under way: lost"]["value"] == 0 and table["soak: requests that failed"]["value"] == 0
