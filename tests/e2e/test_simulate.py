"""`sluice simulate`: what it says of seeds, that a seed is the same world every time, and what it answers to what cannot be."""

import json

import pytest

from conftest import run


def simulate(*args):
    return run("simulate", *args)


def test_seeds_are_run_compared_and_said():
    done = simulate("--seeds", "1:3", "--requests", "20", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["seeds"] == 3 and said["failed"] == 0 and said["requests"] == 60
    assert said["answers_compared"] > 30 and said["records"] > 100 and said["faults"] > 10 and said["seeds_per_s"] > 0
    assert "first_failed" not in said


def test_a_seed_is_the_same_world_every_time(tmp_path):
    traces = [tmp_path / name for name in "ab"]
    for trace in traces:
        assert simulate("--seeds", "5", "--requests", "10", "--trace", str(trace)).returncode == 0
    assert traces[0].read_text() == traces[1].read_text() and traces[0].read_text().count("\n") > 500


def test_a_seed_that_fails_is_said_with_the_line_that_runs_it_again():
    done = simulate("--seeds", "3:5", "--requests", "10", "--max-events", "1000", "--faults", "delay,crash", "--json")
    assert done.returncode == 70
    said, errors = json.loads(done.stdout), done.stderr.splitlines()
    assert said["failed"] == 3 and said["first_failed"] == 3 and "goes on after 1000 events" in said["sentence"]
    assert errors[0].startswith("seed 3: it goes on after 1000 events") and errors[0].endswith(said["again"])
    assert sum(line.startswith("seed ") for line in errors) == 3
    assert any(" us  " in line for line in errors)  # its last events
    assert errors[-1] == "sluice simulate: 3 of 3 seeds broke a promise, the first is 3"
    again = simulate(*said["again"].split()[2:])
    assert again.returncode == 70 and again.stderr.splitlines()[0] == errors[0]


HEADER = "Timestamp,Request tokens,Response tokens\n"


@pytest.mark.parametrize(
    "text, part",
    [
        (HEADER + "nan,5,5\n", "line 2: its time is no number"),
        (HEADER + "1,nan,5\n", "line 2: its lengths are no numbers"),
        (HEADER + "2,5,5\n1,5,5\n", "line 3: its time is before that of the row above; sort the trace"),
        (HEADER, "has no rows"),
        ("rubbish\n", "is no trace"),
    ],
)
def test_a_load_that_is_none_is_refused_by_its_line(tmp_path, text, part):
    load = tmp_path / "load.csv"
    load.write_text(text)
    done = simulate("--load", str(load))
    assert done.returncode == 65 and part in done.stderr
    assert done.stderr.startswith("sluice simulate: ") and done.stderr.count("\n") == 1


def test_of_a_load_of_ten_million_rows_only_those_are_read_that_are_wanted(tmp_path):
    load = tmp_path / "load.csv"
    with load.open("w") as file:
        file.write(HEADER)
        for second in range(100):
            file.write("".join(f"{second},30,2\n" for _ in range(100000)))
    done = simulate("--load", str(load), "--requests", "5", "--seeds", "1", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["requests"] == 5, done.stderr


@pytest.mark.parametrize(
    "args, code, part",
    [
        (["--faults", "gremlins"], 64, '--faults: "gremlins" is no fault; say none, all, or some of delay, '),
        (["--faults", "none,crash"], 64, "none and all stand alone"),
        (["--seeds", "9:3"], 64, "--seeds 9:3 is not A:B"),
        (["--seeds", "1:99999999999999999999"], 64, "is not A:B"),
        (["--load", "poisson:-1"], 64, "is not poisson:RATE"),
        (["--load", "poisson:4,in=none"], 64, "none is no length"),
        (["--load", "/nowhere/load"], 74, "/nowhere/load cannot be opened"),
        (["--trace", "/tmp/x"], 64, "--trace is of one seed"),
        (["--seeds", "1", "--trace", "/nowhere/x"], 74, "/nowhere/x cannot be written"),
        (["--stages", "0"], 64, "--stages"),
        (["--requests", "5000"], 64, "--requests"),
    ],
)
def test_what_cannot_be_is_one_sentence(args, code, part):
    done = simulate(*args)
    assert done.returncode == code and part in done.stderr
    assert done.stderr.startswith("sluice simulate: ") and done.stderr.count("\n") == 1
