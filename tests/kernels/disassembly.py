#!/usr/bin/env python3
"""No micro-kernel touches the stack in its inner loop: part of `./dev test`.

A micro-kernel keeps all its sums in vector registers from the first input to the last. When a compiler runs out of them it
says nothing and puts some on the stack: the result is right and the kernel two or three times slower, which no other
test notices. This one reads the object files with objdump. A loop is what lies between a backward jump and its target;
the inner loop of a kernel is the smallest with a vector multiply-add in it; an instruction there that
has both a vector register and an address relative to %rsp or %rbp is a spill.

usage: disassembly.py [BUILD_DIR]   (default: build; a build with sanitizers has spills by design, don't check one)
"""
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
MULTIPLY = re.compile(r"(?:\{vex\} )?(?:vfmadd\d+ps|vpdpbusd|vdpbf16ps|vpmaddubsw|vpmaddwd)")
SPILL = re.compile(r"\(%r[sb]p[,)]")
VECTOR = re.compile(r"%[xyz]mm\d")
# Object -> the names of its micro-kernels. Each pattern must match something: a kernel that is renamed is not forgotten.
KERNELS = {
    "ops_avx2": [r"tile_f32_\d", r"tile_bf16_\d"],
    "ops_avx512": [r"tile_f32_\d", r"tile_bf16_\d"],
    "bf16_dot": [r"tile_bf16_\d"],
    "attend8_avx2": [r"a8_keys_\d", r"a8_values_\d", r"a8_words_keys_\d", r"a8_words_values_\d"],
    "attend8_avxvnni": [r"a8_keys_\d", r"a8_values_\d"],
    "attend8_avx512vnni": [r"a8_keys_\d", r"a8_values_\d"],
    "int_avx2": [r"streams_SL_\w+_\d", r"direct_SL_\w+_\d", r"plane_\d", r"word_bytes_\d", r"word_kept_\d", r"word_panel_\d"],
    "int_avx512vnni": [r"int_panel_\d", r"int_tile_I8_\d", r"int_tile_I4_\d", r"int_tile_I4G16_\d", r"int_tile_I3_\d", r"int_tile_I2_\d",
                       r"int_head_\w+_\d"],
    "int_avxvnni": [r"int_panel_\d", r"int_tile_I4_\d", r"int_tile_I4G16_\d", r"int_tile_I3_\d", r"int_tile_I2_\d",
                    r"int_head_\w+_\d"],
}


def functions_of(path):
    """Name -> list of (address, instruction)."""
    text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True).stdout
    functions, current = {}, None
    for line in text.splitlines():
        head = re.match(r"[0-9a-f]+ <(.+)>:$", line)
        if head:
            current = functions.setdefault(head.group(1), [])
            continue
        found = re.match(r"\s+([0-9a-f]+):\s+(.*)", line)
        if found and current is not None:
            current.append((int(found.group(1), 16), found.group(2)))
    return functions


def inner_loop(code):
    """The instructions of the smallest loop that multiplies, or None."""
    place = {address: i for i, (address, _) in enumerate(code)}
    loops = []
    for i, (address, text) in enumerate(code):
        jump = re.match(r"j\w+\s+([0-9a-f]+)\b", text)
        target = int(jump.group(1), 16) if jump else None
        if target in place and target <= address:
            body = [t for _, t in code[place[target]:i + 1]]
            if any(MULTIPLY.match(t) for t in body):
                loops.append(body)
    return min(loops, key=len) if loops else None


def check_object(path, patterns, findings):
    """How many micro-kernels were looked at."""
    functions, looked_at = functions_of(path), 0
    for pattern in patterns:
        names = [name for name in functions if re.match(pattern, name)]
        if not names:
            findings.append(f"{path.name}: no function is called {pattern}")
        for name in names:
            body = inner_loop(functions[name])
            looked_at += 1
            if body is None:
                findings.append(f"{path.name}: {name} has no loop that multiplies")
                continue
            spills = [t for t in body if VECTOR.search(t) and SPILL.search(t)]
            if spills:
                findings.append(f"{path.name}: the inner loop of {name} touches the stack {len(spills)} times, "
                                f"first: {spills[0].strip()}")
    return looked_at


def main():
    build = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build")
    build = build if build.is_absolute() else ROOT / build
    if not shutil.which("objdump"):
        print("skip disassembly: objdump is not installed (binutils)")
        print("0 passed, 0 failed, 1 skipped")
        return 0
    findings, looked_at = [], 0
    for name, patterns in KERNELS.items():
        path = build / "CMakeFiles/sl_kernels.dir/kernels/cpu" / f"{name}.c.o"
        if not path.exists():
            findings.append(f"{path} is not there; run ./dev build")
            continue
        looked_at += check_object(path, patterns, findings)
    for finding in findings:
        print(finding)
    print(f"{max(looked_at - len(findings), 0)} passed, {len(findings)} failed, 0 skipped")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
