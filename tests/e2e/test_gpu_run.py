"""tests/gpu/run, which says on a machine with a GPU what is true there, from end to end with the twin; and what it makes of programs
that hang, that launch nothing, and of a machine without a GPU. And the bundle that it needs on a bare machine."""
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SLUICE

BUILD, ROOT = SLUICE.parent, Path(__file__).resolve().parents[2]
KERNELS = ["fill", "elements", "lanes", "norm", "quantise", "gemm", "route", "attend", "attend8", "gemm8"]


def run(out, *options, build=BUILD, path=None):
    words = [sys.executable, ROOT / "tests/gpu/run", "--out", out, "--build", build, *options]
    environment = {name: value for name, value in os.environ.items() if name not in ("OUT", "SLUICE_GPU", "SLUICE_LIBCUDA")}
    if path:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
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


def test_all_phases_run_with_the_twin_and_say_what_they_found(tmp_path):
    done, phases = run(tmp_path, "--twin", "--patience", os.environ.get("SLUICE_SLOW_FACTOR", "1"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert phases["2"]["state"] == "passed" and phases["2"]["steps"]["probe"]["wrong"] == []
    steps = phases["3"]["steps"]
    assert list(steps) == KERNELS
    for name, step in steps.items():
        assert step["state"] == "passed" and step["launches"] > 0 and step["on"] == "a twin of a GPU (9.0)", (name, step)
    assert sum(step["kernels"] for step in steps.values()) >= 55
    lines = (tmp_path / "probe.txt").read_text().splitlines()
    assert len(lines) > 100 and any(line.startswith("WGMMA_3 0 hash:") for line in lines)
    for number in "5789":  # aloud
        assert phases[number]["state"] == "skipped" and f"{number} device: skipped: not there" in done.stdout
    assert phases["6"]["state"] == "passed" and phases["6"]["steps"]["33 tokens"]["device"]["digest"]["kv"]
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


def test_a_program_that_hangs_ends_with_its_phase_and_the_next_one_goes_on(tmp_path):
    build, out = fake_build(tmp_path / "build", norm="exit 1\n"), tmp_path / "out"
    done, phases = run(out, "--twin", "--phases", "3", build=build)
    assert done.returncode == 1 and phases["3"]["steps"]["elements"]["state"] == "passed"
    fake_build(build, norm="sleep 1000 & echo begun; sleep 1000\n")
    done, phases = run(out, "--twin", "--phases", "3-4", "--patience", "0.01", build=build)
    assert done.returncode == 1 and "3 elements" not in done.stdout  # what has passed is not done again
    assert phases["3"]["state"] == "failed" and "s are over" in phases["3"]["steps"]["time"]["why"]
    assert phases["3"]["steps"]["elements"]["state"] == "passed" and phases["4"]["state"] == "skipped"
    fake_build(build)
    done, phases = run(out, "--twin", "--phases", "3", build=build)
    assert done.returncode == 0 and phases["3"]["state"] == "passed" and "3 norm: passed" in done.stdout
    assert sorted(phases["3"]["steps"]) == sorted(KERNELS) and "3 elements" not in done.stdout


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


def test_a_program_that_says_what_nobody_expects_does_not_end_the_run(tmp_path):
    build = fake_build(tmp_path / "build")
    script(build / "sluice", DEVICE % "echo nonsense")
    done, phases = run(tmp_path / "out", "--twin", "--phases", "6,7", build=build)
    assert done.returncode == 1 and phases["6"]["state"] == "failed" and phases["6"]["steps"]["end"]["why"].startswith("JSONDecodeError")
    assert phases["7"]["state"] == "skipped" and done.stderr == ""


@pytest.mark.slow
def test_a_bundle_has_all_that_a_bare_machine_lacks(tmp_path):
    bundle = tmp_path / "bundle.tar.xz"
    made = subprocess.run([sys.executable, ROOT / "tests/gpu/bundle", "--build", BUILD, "--to", bundle], capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    assert bundle.stat().st_size < 64 << 20
    done, phases = run(tmp_path / "out", "--twin", "--phases", "2-3", build=bundle)
    assert done.returncode == 0 and phases["3"]["state"] == "passed", done.stdout
    assert (tmp_path / "bundle/lib/libcrypto.so.3").exists()
