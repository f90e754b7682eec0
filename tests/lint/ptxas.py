"""What the assembler of GPU kernels said of each when it was built (build/cuda/X.ptxas), read for what makes a kernel slow without
a word: registers spilled to memory, a stack frame, and products that it had to serialise (C75xx). Part of `./dev lint`.

For the nvcc that the kernels were tuned with, a finding is a failure. Another allots registers in another way, and whoever
builds with it is warned. That the rule sees a spill is tried each time: on planted text, and, where there is nvcc, on a kernel
that has more values alive than registers.
"""
import re
import subprocess
import tempfile
from pathlib import Path

TUNED_WITH = "13.0"
ENTRY = re.compile(r"Compiling entry function '([^']+)' for '(sm_\w+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
SERIALISED = re.compile(r"\((C75\d\d)\)\s*(.*)")


def findings(text):
    """Sentences about the kernels of one log."""
    kernel = "a kernel"
    for line in text.splitlines():
        if entry := ENTRY.search(line):
            kernel = f"{entry.group(1)} for {entry.group(2)}"
        elif frame := FRAME.search(line):
            stack, stores, loads = map(int, frame.groups())
            if stores or loads:
                yield f"{kernel} spills registers: {stores} bytes of stores, {loads} of loads"
            elif stack:
                yield f"{kernel} has a stack frame of {stack} bytes"
        elif serialised := SERIALISED.search(line):
            yield f"{kernel}: {serialised.group(1)}, {serialised.group(2)}"


HEAD = "ptxas info    : Compiling entry function 'gemm8' for 'sm_90a'\nptxas info    : Function properties for gemm8\n"
PLANTS = {
    "    0 bytes stack frame, 16 bytes spill stores, 20 bytes spill loads\n": "gemm8 for sm_90a spills",
    "    128 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n": "stack frame of 128",
    "ptxas info    : (C7515) Potential Performance Loss: wgmma.mma_async instructions are serialized\n": "C7515, Potential",
    "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized\n": "C7510, Potential",
}
RIGHT = HEAD + "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\nptxas info    : Used 168 registers\n"
SPILL = """
extern "C" __global__ void planted(const float *from, float *to)
{
    float v[96];
    for (int i = 0; i < 96; i++)
        v[i] = from[i * 256 + threadIdx.x];
    __syncthreads();
    for (int i = 0; i < 96; i++)
        to[i * 256 + threadIdx.x] = v[95 - i] * v[i];
}
"""


def spill_of(nvcc):
    """What the rule says of a kernel that is compiled now and has 32 registers for 96 values."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "planted.cu"
        source.write_text(SPILL, encoding="utf-8")
        command = [nvcc, "-cubin", "-maxrregcount=32", "-Xptxas=-v", "-gencode=arch=compute_80,code=sm_80", "-o",
                   f"{folder}/planted.cubin", str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        return list(findings(done.stdout + done.stderr)) if done.returncode == 0 else [done.stderr.strip()[:200]]


def check(root, build, skipped):
    for line, expected in PLANTS.items():
        if not any(expected in said for said in findings(HEAD + line)):
            yield f"the rule does not see a planted `{line.strip()}`"
    if list(findings(RIGHT)):
        yield "the rule finds fault with what is right"
    said_version = build / "cuda" / "nvcc-version"
    if not said_version.exists():
        skipped.append("registers of GPU kernels: this build was made without nvcc")
        return
    nvcc = re.search(r"^SLUICE_NVCC:\w+=(.+)$", (build / "CMakeCache.txt").read_text(encoding="utf-8"), re.M)
    said = spill_of(nvcc.group(1)) if nvcc else ["the build folder names no nvcc"]
    if not any("planted for sm_80 spills" in sentence for sentence in said):
        yield f"the rule does not see a planted spill: {said}"
    version = said_version.read_text(encoding="utf-8")
    for source in sorted((root / "kernels" / "gpu").glob("*.cu")):
        log = build / "cuda" / f"{source.stem}.ptxas"
        if not log.exists():
            skipped.append(f"registers of {source.name}: it is made by ./dev build")
            continue
        for finding in findings(log.read_text(encoding="utf-8")):
            if version.startswith(TUNED_WITH + "."):
                yield f"kernels/gpu/{source.name}: {finding}"
            else:
                skipped.append(f"kernels/gpu/{source.name}: {finding} (by nvcc {version}; kernels are tuned with {TUNED_WITH})")
