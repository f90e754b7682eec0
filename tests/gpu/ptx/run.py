#!/usr/bin/env python3
"""The device's half of our kernels, executed: what nvcc makes of kernels/gpu/*.cu, by an interpreter of its PTX. Part of `./dev full`.

Each launch is one that a test of kernels/gpu had on the twin's machine, with the memory that it began with (tests/gpu/written.h); the
PTX has to leave the same bytes there, but for the bits of a NaN. Then faults are planted into the PTX, and each has to be found.
Every kernel that there is has a launch here, or it counts as a failure. What this cannot show: HACKING.md.

usage: run.py [BUILD_DIR [KERNEL...]]   (default: build, all)
"""

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

try:
    import numpy  # noqa: F401
except ImportError:
    sys.exit("run.py needs numpy, which is in the environment of tests/requirements.txt: ./dev full has it")

import faults
import launch
import read
import translate

# Programs, a part of the name of tests in them, and how many launches of each kernel at most.
PROGRAMS = [
    ("gpu-probe", "", 99),
    ("tests/kernels_gpu_test_fill", "", 8),
    ("tests/kernels_gpu_test_lanes", "", 8),
    ("tests/kernels_gpu_test_elements", "", 4),
    ("tests/kernels_gpu_test_norm", "", 4),
    ("tests/kernels_gpu_test_quantise", "", 12),
    ("tests/kernels_gpu_test_route", "", 6),
    ("tests/kernels_gpu_test_peak", "", 1),
    ("tests/kernels_gpu_test_gemm", "", 2),
    ("tests/kernels_gpu_test_gemm8", "every_format", 1),
    ("tests/kernels_gpu_test_gemm8", "round_the_stages", 1),
    ("tests/kernels_gpu_test_attend", "every_size", 1),
    ("tests/kernels_gpu_test_attend8", "other_sizes", 2),
    ("tests/kernels_gpu_test_attend8", "groups_of_three", 1),
    ("tests/kernels_gpu_test_attend8", "heads_of_128", 1),
]
SEEDS = 6  # orders of warps in which a fault is looked for


def write_launches(build, folder):
    """Kernel: its launches, as paths."""
    found = {}
    for n, (program, test, most) in enumerate(PROGRAMS):
        into = folder / str(n)
        into.mkdir()
        command = [str(build / program)] + ([test] if test else [])
        done = subprocess.run(command, env=dict(os.environ, SLUICE_GPU=f"written:{into}"), capture_output=True, text=True)
        of_kernel = {}
        for path in sorted(into.glob("*.launch")):
            of_kernel.setdefault(path.name.split("-", 1)[1].removesuffix(".launch"), []).append(path)
        if done.returncode != 0 or not of_kernel:
            sys.exit(f"{' '.join(command)} has launched nothing, or ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
        for kernel, paths in of_kernel.items():
            found.setdefault(kernel, []).extend(paths[:most])
    return found


def program_of(text, kernel):
    return translate.Program(read.Reader(text).read(), kernel)


def try_kernel(kernel, text, paths):
    """What is wrong with it in a sentence; and what was done."""
    program, instructions, nans = program_of(text, kernel), 0, 0
    for path in paths:
        try:
            wrong, n, done = launch.Launch(path).run(program)
        except read.PtxError as e:
            return f"{e} ({path.name})", 0, 0
        if wrong:
            return f"{kernel} ({path.name}): {len(wrong)} words: {wrong[0]}", 0, 0
        instructions, nans = instructions + done, nans + n
    return None, instructions, nans


def try_fault(kernel, text, unknown, paths):
    """How it was found; None: it was not, or nobody knew what it was."""
    try:
        program = program_of(text, kernel)
        launches = [launch.Launch(path) for path in paths]
        for seed in range(1, SEEDS + 1):
            for one in launches:
                wrong, _, _ = one.run(program, seed)
                if wrong:
                    return wrong[0]
    except read.UnknownError as e:
        return str(e) if unknown else None
    except read.PtxError as e:
        return None if unknown else str(e)
    return None


def main():
    build = Path(sys.argv[1] if len(sys.argv) > 1 else "build").resolve()
    wanted = sys.argv[2:]
    if not (build / "cuda" / "nvcc-version").exists():
        print("skip PTX: this build was made without nvcc")
        print("0 passed, 0 failed, 1 skipped")
        return 0
    ptx = sorted((build / "cuda").glob("*.ptx"))
    texts = {kernel: text for path in ptx for kernel, text in read.texts(path).items()}
    if not texts:
        sys.exit(f"there is no PTX in {build}/cuda: ninja -C {build} ptx makes it")
    passed, failed, instructions, nans, begin = 0, 0, 0, 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(int(os.environ.get("SLUICE_JOBS", os.cpu_count()))) as pool:
        launches = write_launches(build, Path(folder))
        kernels = [k for k in sorted(texts) if k in wanted or not wanted]
        tried = [(k, pool.submit(try_kernel, k, texts[k], launches.get(k, []))) for k in kernels]
        planted = [(f, text := f.plant(texts[f.kernel]), text and pool.submit(try_fault, f.kernel, text, f.unknown, launches[f.kernel]))
                   for f in faults.FAULTS if f.kernel in kernels and f.kernel in launches]
        for kernel, result in tried:
            wrong, n, m = result.result()
            if kernel not in launches:
                wrong = f"{kernel}: no launch of PROGRAMS has it"
            instructions, nans = instructions + n, nans + m
            passed, failed = passed + (wrong is None), failed + (wrong is not None)
            print(f"FAIL {wrong}" if wrong else f"ok   {kernel}: {len(launches[kernel])} launches, {n} instructions of warps", flush=True)
        for fault, text, result in planted:
            how = result.result() if text else None
            passed, failed = passed + (how is not None), failed + (how is None)
            wrong = "is not found" if text else f"has no place: nothing is like {fault.pattern}"
            print(f"ok   {fault.name}: {how}" if how else f"FAIL a planted fault {wrong}: {fault.name} ({fault.kernel})", flush=True)
    print(f"figure: {len(tried)} kernels of PTX, {instructions} instructions of warps, {len(planted)} planted faults, {nans} words that are NaN "
          f"with other bits than the twin's, {time.monotonic() - begin:.0f} s")
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
