"""tests/gpu/run, which says on a machine with a GPU what is true there, from end to end with the twin; and what it makes of programs
that hang, that launch nothing, and of a machine without a GPU. And the bundle that it needs on a bare machine."""
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from conftest import SLUICE

BUILD, ROOT = SLUICE.parent, Path(__file__).resolve().parents[2]
FACTOR = float(os.environ.get("SLUICE_SLOW_FACTOR", "1"))
KERNELS = ["fill", "elements", "lanes", "norm", "quantise", "gemm", "route", "attend", "attend8", "gemm8", "peak"]


def words_of(out, *options, build=BUILD):
    return [sys.executable, ROOT / "tests/gpu/run", "--out", out, "--build", build, *options]


def environment_of(**more):
    return {name: value for name, value in os.environ.items() if name not in ("OUT", "SLUICE_GPU", "SLUICE_LIBCUDA")} | more


def run(out, *options, build=BUILD, path=None, **more):
    environment = environment_of(**more)
    if path:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    done = subprocess.run(words_of(out, *options, build=build), capture_output=True, text=True, env=environment)
    results = json.loads((out / "gpu.json").read_text())["phases"] if (out / "gpu.json").exists() else None
    return done, results


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


GOOD = 'echo "3 passed, 0 failed, 0 skipped"; echo "by the driver: 5 launches of 1 kernels on a fake (9.0)"\n'


def fake_build(folder, **texts):
    """Test programs that are scripts: all good, but for those that are given."""
    for name in KERNELS:
        script(folder / f"tests/kernels_gpu_test_{name}", texts.get(name, GOOD))
    script(folder / "gpu-probe", GOOD)
    return folder


def test_phases_run_with_the_twin_and_say_what_they_found(tmp_path):
    done, phases = run(tmp_path, "--twin", "--phases", "1-6", "--patience", str(FACTOR), OUT=str(tmp_path / "back"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert phases["2"]["state"] == "passed" and phases["2"]["steps"]["probe"]["wrong"] == []
    steps = phases["3"]["steps"]
    assert list(steps) == KERNELS
    for name, step in steps.items():
        assert step["state"] == "passed" and step["launches"] > 0 and step["on"] == "a twin of a GPU (9.0)", (name, step)
    assert sum(step["kernels"] for step in steps.values()) >= 55
    lines = (tmp_path / "probe.txt").read_text().splitlines()
    assert (tmp_path / "back/probe.txt").read_text().splitlines() == lines and not (tmp_path / "back/model.pack").exists()
    assert len(lines) > 100 and any(line.startswith("WGMMA_3 0 hash:") for line in lines)
    if phases["5"]["state"] == "skipped":  # aloud
        assert "5 device: skipped: not there" in done.stdout
    else:
        assert phases["5"]["state"] == "passed" and all(row["equal"] for row in phases["5"]["steps"]["rows"]["rows"])
    assert phases["6"]["state"] == "passed" and phases["6"]["steps"]["33 tokens"]["device"]["digest"]["kv"]
    assert phases["1"]["steps"]["host"]["cpus"] > 0
    assert json.loads((tmp_path / "gpu.json").read_text())["left"] == [7, 8, 9] and "gpu.json: left are 7, 8, 9" in done.stdout
    # What is there is not done again: the programs may be gone by now.
    again, phases = run(tmp_path, "--twin", "--phases", "2-3", build=BUILD)
    assert again.returncode == 0 and "3 gemm8" not in again.stdout


def test_the_twin_is_held_to_a_file_of_answers_and_a_changed_one_is_found(tmp_path):
    probe = BUILD / "gpu-probe"
    answers = tmp_path / "probe.txt"
    subprocess.run([probe, "--write", answers], check=True, capture_output=True)
    same = subprocess.run([probe, "--compare", answers], capture_output=True, text=True)
    assert same.returncode == 0 and "MMA_U8S8: 768 words, 0 differ from plain C; 0 cases differ from the file, 0 are not in it" in same.stdout
    lines = answers.read_text().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if line.startswith("MMA_U8S8 2 "))
    lines[at] = lines[at][:-2] + ("0" if lines[at][-2] != "0" else "1") + "\n"
    answers.write_text("".join(lines))
    other = subprocess.run([probe, "--compare", answers], capture_output=True, text=True)
    assert other.returncode == 1 and "MMA_U8S8: 768 words, 0 differ from plain C; 1 cases differ from the file" in other.stdout
    bad = subprocess.run([probe, "--compare", tmp_path / "none"], capture_output=True, text=True)
    assert bad.returncode == 2 and "cannot open" in bad.stderr


def test_without_a_gpu_it_says_so(tmp_path):
    environment = {**os.environ, "SLUICE_GPU": "cuda", "SLUICE_LIBCUDA": "libnone.so.1"}
    done = subprocess.run([BUILD / "gpu-probe"], capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and "a GPU needs NVIDIA's driver" in done.stderr


def changing_build(folder, name):
    """A build whose program `name` does what a file says: it may be good in the second run, and is the same program."""
    says = folder / "says"
    return fake_build(folder, **{name: f". {says}\n"}), says


def test_a_program_that_hangs_costs_its_own_time_and_comes_last_in_the_next_run(tmp_path):
    (build, says), out = changing_build(tmp_path / "build", "norm"), tmp_path / "out"
    says.write_text("sleep 1000 & echo begun; sleep 1000\n")
    done, phases = run(out, "--twin", "--phases", "3-4", "--patience", str(0.1 * FACTOR), build=build)
    steps = phases["3"]["steps"]
    assert done.returncode == 1 and phases["3"]["state"] == "failed" and phases["4"]["state"] == "skipped"
    assert [name for name, step in steps.items() if step["state"] == "failed"] == ["norm"]
    assert "all that a step may take, are over" in steps["norm"]["why"] and steps["norm"]["said"] == "begun\n"
    says.write_text(GOOD)
    script(build / "tests/kernels_gpu_test_gemm8", "exit 1\n")
    other, _ = run(out, "--twin", "--phases", "3", build=build)
    assert other.returncode == 2 and "move it away, or say --again" in other.stderr  # these are other programs
    fake_build(build, norm=f". {says}\n")
    done, phases = run(out, "--twin", "--phases", "3", build=build)
    assert done.returncode == 0 and phases["3"]["state"] == "passed" and "3 norm: passed" in done.stdout
    assert sorted(phases["3"]["steps"]) == sorted(KERNELS) and "3 elements" not in done.stdout  # what has passed is not done again


def test_what_failed_is_done_behind_what_was_never_reached(tmp_path):
    (build, says), out = changing_build(tmp_path / "build", "elements"), tmp_path / "out"
    says.write_text("exit 1\n")
    run(out, "--twin", "--phases", "3", build=build)
    results = json.loads((out / "gpu.json").read_text())
    del results["phases"]["3"]["steps"]["route"]
    (out / "gpu.json").write_text(json.dumps(results))
    says.write_text(GOOD)
    done, _ = run(out, "--twin", "--phases", "3", build=build)
    assert re.findall(r"^  3 (\w+)", done.stdout, re.M) == ["route", "elements"]


def test_a_phase_without_time_says_so_and_is_left(tmp_path):
    build = fake_build(tmp_path / "build")
    done, phases = run(tmp_path / "out", "--twin", "--phases", "3-4", "--patience", "0.0000001", build=build)
    assert done.returncode == 1 and "s are over; what was done before is kept" in phases["3"]["steps"]["time"]["why"]
    assert "left are 1, 2, 3, 5, 6, 7, 8, 9" in done.stdout and phases["4"]["state"] == "skipped"


@pytest.mark.parametrize("how, work", [
    (signal.SIGKILL, "echo $$ >{0}.part; mv {0}.part {0}; exec sleep 1000\n"),
    (signal.SIGTERM, "sleep 1000 & echo $! >{0}.part; mv {0}.part {0}; wait\n"),  # what it started has nobody else
])
def test_of_a_run_that_is_killed_nothing_goes_on_and_what_was_done_is_kept(tmp_path, how, work):
    (build, says), out, begun = changing_build(tmp_path / "build", "norm"), tmp_path / "out", tmp_path / "begun"
    says.write_text(work.format(begun))
    process = subprocess.Popen(words_of(out, "--twin", "--phases", "3", build=build), env=environment_of(), stdout=subprocess.DEVNULL)
    until(begun.exists)
    child = Path("/proc") / begun.read_text().strip()
    assert child.exists() and os.getsid(int(child.name)) == os.getsid(0)  # with the session ends what a machine that is lent has left
    process.send_signal(how)
    assert process.wait() == (-how if how == signal.SIGKILL else 128 + how)
    until(lambda: not child.exists())
    phase = json.loads((out / "gpu.json").read_text())["phases"]["3"]
    assert phase["state"] == "begun" and list(phase["steps"]) == ["fill", "elements", "lanes"]
    says.write_text(GOOD)
    done, phases = run(out, "--twin", "--phases", "3", build=build)
    assert done.returncode == 0 and sorted(phases["3"]["steps"]) == sorted(KERNELS) and "3 elements" not in done.stdout


def until(condition):
    over = time.monotonic() + 60 * FACTOR
    while not condition():
        assert time.monotonic() < over
        time.sleep(0.01)


def test_a_machine_that_is_lent_gets_few_files_to_give_back(tmp_path):
    build, back = fake_build(tmp_path / "build"), tmp_path / "back"
    script(tmp_path / "bin/nvidia-smi", "echo all of it\n")
    done, _ = run(tmp_path / "out", "--twin", "--phases", "1-3", build=build, path=tmp_path / "bin", OUT=str(back))
    assert done.returncode == 0, done.stdout
    assert sorted(path.name for path in back.iterdir()) == ["gpu.json", "rest.tar.gz"]  # a probe that is a script has no answers
    assert (back / "gpu.json").read_text() == (tmp_path / "out/gpu.json").read_text()
    with tarfile.open(back / "rest.tar.gz") as archive:
        assert archive.getnames() == ["nvidia-smi.txt"] and archive.extractfile("nvidia-smi.txt").read() == b"all of it\n"
    # A command has ten minutes there, and these are for one.
    done, _ = run(tmp_path / "again", "--phases", "1-4,6", build=build)
    times = [int(seconds) for seconds in re.findall(r"^\d\. .*, at most (\d+) s$", done.stdout, re.M)]
    assert len(times) == 5 and sum(times) <= 570


NOTHING = 'echo "0 passed, 0 failed, 3 skipped"; echo "by the driver: 0 launches of 0 kernels on a fake (9.0)"\n'


@pytest.mark.parametrize("text", ['echo "3 passed, 0 failed, 0 skipped"\n', NOTHING, "exit 139\n", GOOD + "exit 1\n"])
def test_what_launched_nothing_or_ended_badly_has_not_passed(tmp_path, text):
    build = fake_build(tmp_path / "build", route=text)
    done, phases = run(tmp_path / "out", "--twin", "--phases", "3", build=build)
    assert done.returncode == 1 and phases["3"]["steps"]["route"]["state"] == "failed"
    assert [name for name, step in phases["3"]["steps"].items() if step["state"] == "failed"] == ["route"]


def test_results_of_something_else_are_not_mixed(tmp_path):
    build = fake_build(tmp_path / "build")
    run(tmp_path / "out", "--twin", "--phases", "3", build=build)
    done, _ = run(tmp_path / "out", "--phases", "3", build=build)
    assert done.returncode == 2 and "move it away, or say --again" in done.stderr
    for phases in ("0", "4-2", "1-", "10", "a"):
        done, _ = run(tmp_path / "out", "--phases", phases, build=build)
        assert done.returncode == 2 and "numbers from 1 to 9 are wanted" in done.stderr


SANITIZER = """tool=$2
while [ "${1#--}" != "$1" ]; do shift 2; done
case "$tool $1" in "racecheck "*_route) echo "ERROR: a race"; exit 9 ;; esac
exec "$@"
"""


def test_tools_of_the_machine_are_asked_where_they_are(tmp_path):
    build = fake_build(tmp_path / "build")
    script(tmp_path / "bin/compute-sanitizer", SANITIZER)
    fields = "Some GPU, GPU-1, 580.1, 9.0, 1 MiB, 1 MHz, 1 MHz, 2 MHz, 700 W, 30, Enabled, Disabled, Default"
    script(tmp_path / "bin/nvidia-smi", f'[ "$1" = -q ] && echo all of it || echo "{fields}"\n')
    done, phases = run(tmp_path / "out", "--phases", "1,4", build=build, path=tmp_path / "bin")
    assert phases["1"]["steps"]["nvidia-smi"]["gpu"]["name"] == "Some GPU" and (tmp_path / "out/nvidia-smi.txt").read_text() == "all of it\n"
    assert phases["1"]["steps"]["nvidia-smi"]["gpu"]["compute_mode"] == "Default"
    steps = phases["4"]["steps"]
    assert done.returncode == 1 and len(steps) == 4 * len(KERNELS)
    assert [name for name, step in steps.items() if step["state"] != "passed"] == ["racecheck route"]
    assert "a race" in steps["racecheck route"]["said"]


# A sluice that has a device, and whose answers on it are these.
DEVICE = """case "$*" in
*--help) echo "  --device cpu|twin|cuda:N  Where." ;;
pack*) ;;
*"--device twin"*) %s ;;
*) echo '{"output_ids": [1, 2], "digest": {"logits": "a", "kv": "b"}, "ttft_ms": 9.5}' ;;
esac
"""


SAID = """echo '{"output_ids": [1, %d], "digest": {"logits": "a", "kv": "%s"}, "ttft_ms": 1.5}'"""


@pytest.mark.parametrize("answer, state, why", [
    (SAID % (2, "b"), "passed", ""),
    (SAID % (2, "c"), "failed", "ids or digests are others"),
    (SAID % (3, "b"), "failed", "ids or digests are others"),
    ('echo "the GPU is gone" >&2; exit 69', "failed", "the GPU is gone"),
])
def test_a_prefill_on_the_device_has_the_digests_of_the_cpu(tmp_path, answer, state, why):
    build = fake_build(tmp_path / "build")
    script(build / "sluice", DEVICE % answer)
    done, phases = run(tmp_path / "out", "--twin", "--phases", "6", build=build)
    steps = phases["6"]["steps"]
    assert steps["pack"]["state"] == "passed" and steps["33 tokens"]["state"] == state, steps
    assert why in steps["33 tokens"]["why"]
    assert done.returncode == (state == "failed") and phases["6"]["state"] == state


# A sluice whose pipelines do, one after the other, what plan.json says.
PIPELINES = f"#!{sys.executable}\n" + '''
import http.server, json, os, pathlib, subprocess, sys, threading, time, urllib.request
words, here = sys.argv[1:], pathlib.Path(__file__).parent
ANSWER = {"output_ids": [1, 2], "logprobs": [-0.5, -0.25], "ttft_ms": 1.5}

def value(name):
    return words[words.index(name) + 1]

def plan(name):
    plans = json.loads((here / "plan.json").read_text())
    first = plans[name].pop(0)
    (here / "plan.json").write_text(json.dumps(plans))
    return first

def serve(how):
    if how == "absent":
        sys.exit("the GPU is not there")
    stage = subprocess.Popen([sys.executable, __file__, "stage", "--stage", "1"])
    asked = []
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/answer":
                asked.append(1)
                if how in ("survives", "hangs"):
                    stage.wait()
                if how == "hangs":
                    time.sleep(1000)
            self.send_response(200)
            self.end_headers()
            other = {**ANSWER, "logprobs": [-0.5, -0.75]} if how == "other" else ANSWER
            self.wfile.write(json.dumps(other).encode() if self.path == "/answer" else f"sluice_requests_running {len(asked)}\\n".encode())
        def log_message(self, *_):
            pass
    for address in ("--listen", "--ops"):
        host, port = value(address).split(":")
        threading.Thread(target=http.server.ThreadingHTTPServer((host, int(port)), Handler).serve_forever, daemon=True).start()
    while stage.poll() is None:
        if os.path.exists(os.environ.get("WILD_WHEN", "/nowhere")):
            print(json.dumps({"level": "error", "message": "the device is lost"}, separators=(",", ":")), flush=True)
            os._exit(69)
        time.sleep(0.01)
    time.sleep(0.5 if how == "survives" else 0)  # the answer goes out
    os._exit(0 if how == "survives" else 137)

if "--help" in words:
    print("  --device cpu|cuda:N  Where.")
elif words[0] == "version":
    print("cuda: nvcc")
elif words[0] == "pack":
    pathlib.Path(words[2]).mkdir()
    (pathlib.Path(words[2]) / "pack.json").touch()
elif words[0] == "stage":
    time.sleep(1000)
elif words[0] == "serve":
    serve(plan("serve"))
elif words[:2] == ["bench", "serve"]:
    pathlib.Path(value("--save")).write_text(json.dumps({"completed": 7, "failed": plan("failed"), "label": "x"}))
elif words[:2] == ["bench", "kernels"]:
    print(json.dumps({"rows": [{"kernel": "gemm8", "equal": equal} for equal in plan("equal")]}))
elif "--model" in words:
    print(json.dumps(ANSWER))
else:
    try:
        print(urllib.request.urlopen(f"http://{value('--endpoint')}/answer").read().decode())
    except OSError:
        sys.exit("the pipeline is gone")
'''


OTHER = "the CPU's ids or log-probabilities are others"


@pytest.mark.parametrize("phase, plan, failed", [
    ("5", {"equal": [[True, True]]}, {}),
    ("5", {"equal": [[True, False]]}, {"rows": "1 of 2 rows have other bits than kernels/ref"}),
    ("5", {"equal": [[]]}, {"rows": ""}),
    ("7", {"serve": ["well", "well"]}, {}),
    ("7", {"serve": ["absent", "other"]}, {"one stage": "the GPU is not there", "two stages": OTHER}),
    ("8", {"serve": ["hangs", "hangs", "well"]}, {}),
    ("8", {"serve": ["survives", "hangs", "other"]}, {"a stage killed": "the request was answered", "started again": OTHER}),
    ("9", {"serve": ["well"], "failed": [0]}, {}),
    ("9", {"serve": ["other"], "failed": [1]}, {"load": "1 requests failed", "the same answer": OTHER}),
])
def test_a_pipeline_on_the_device_is_held_to_the_cpu_and_to_its_end(tmp_path, phase, plan, failed):
    build = fake_build(tmp_path / "build")
    script(build / "sluice", "")
    (build / "sluice").write_text(PIPELINES)
    (build / "plan.json").write_text(json.dumps(plan))
    script(tmp_path / "bin/nvidia-smi", 'echo "1980, 3201, 700.10, 61, 99"; exec sleep 100\n')
    done, phases = run(tmp_path / "out", "--twin", "--phases", phase, "--patience", "10", build=build, path=tmp_path / "bin")
    steps = phases[phase]["steps"]
    assert [name for name, step in steps.items() if step["state"] != "passed"] == list(failed), steps
    assert done.returncode == bool(failed) and all(why in steps[name]["why"] for name, why in failed.items()), steps
    if phase == "8" and not failed:
        assert (steps["a stage killed"]["status"], steps["a kernel astray"]["status"]) == (137, 69)
        assert "the device is lost" in steps["a kernel astray"]["said"]
        assert steps["a stage killed"]["ended_s"] >= 0 and steps["a stage killed"]["request"] == "the pipeline is gone\n"
    if phase == "9":
        assert steps["load"]["clocks"]["clocks.sm"] == {"least": 1980, "most": 1980} and "label" not in steps["load"]["result"]


@pytest.mark.slow
def test_the_twin_goes_through_two_stages_faults_and_load(tmp_path):
    said = subprocess.run([BUILD / "sluice", "version"], capture_output=True, text=True).stdout
    if "cuda: no kernels" in said:
        pytest.skip(said[said.index("cuda: no kernels"):].splitlines()[0])
    done, phases = run(tmp_path, "--twin", "--phases", "7-9", "--patience", "10")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [phases[number]["state"] for number in "789"] == ["passed"] * 3
    assert "<svg" in (tmp_path / "two-stages.svg").read_text()
    assert phases["8"]["steps"]["a stage killed"]["status"] == 137 and phases["8"]["steps"]["a kernel astray"]["status"] == 69
    assert "illegal memory access" in phases["8"]["steps"]["a kernel astray"]["said"]


def test_a_program_that_says_what_nobody_expects_does_not_end_the_run(tmp_path):
    build = fake_build(tmp_path / "build")
    script(build / "sluice", DEVICE % "echo nonsense")
    done, phases = run(tmp_path / "out", "--twin", "--phases", "6,7", build=build)
    assert done.returncode == 1 and phases["6"]["state"] == "failed" and phases["6"]["steps"]["end"]["why"].startswith("JSONDecodeError")
    assert phases["7"]["state"] == "failed" and done.stderr == ""


@pytest.mark.slow
def test_a_bundle_has_all_that_a_bare_machine_lacks(tmp_path):
    bundle = tmp_path / "bundle.tar.xz"
    made = subprocess.run([sys.executable, ROOT / "tests/gpu/bundle", "--build", BUILD, "--to", bundle], capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    assert bundle.stat().st_size < 64 << 20
    done, phases = run(tmp_path / "out", "--twin", "--phases", "2-3", build=bundle)
    assert done.returncode == 0 and phases["3"]["state"] == "passed", done.stdout
    assert (tmp_path / "bundle/lib/libcrypto.so.3").exists()
