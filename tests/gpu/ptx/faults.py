"""Faults planted into PTX, each of which has to be found by the launches of its kernel: what the device's half of the seam
(kernels/gpu/warp_cuda.h) could get wrong. A fault changes the first line that matches, or leaves it out."""

import re
from typing import NamedTuple


class Fault(NamedTuple):
    name: str
    kernel: str
    pattern: str
    new: object  # what the match becomes: text for re.sub, or a function; None: the line is left out
    nth: int = 0
    unknown: bool = False  # it is found by nobody's knowing it

    def plant(self, text):
        """The text with the fault; None: it has no such line."""
        lines = text.split("\n")
        at = [i for i, line in enumerate(lines) if re.search(self.pattern, line)]
        if len(at) <= self.nth:
            return None
        i = at[self.nth]
        lines[i] = "" if self.new is None else re.sub(self.pattern, self.new, lines[i])
        return "\n".join(lines)


SUMS = r"\{%r\d+,%r\d+,%r\d+,%r\d+\}"
FAULTS = [
    # products of a warp
    Fault("two registers of A change places", "gpu_probe", rf"(mma\.\S+ {SUMS},\{{)(%r\d+),(%r\d+)", r"\1\3,\2"),
    Fault("the halves of A change places", "gpu_probe", rf"(mma\.\S+ {SUMS},\{{)(%r\d+,%r\d+),(%r\d+,%r\d+)", r"\1\3,\2"),
    Fault("the registers of B change places", "gpu_probe", r"(mma\..*\},\{)(%r\d+),(%r\d+)(\},\{)", r"\1\3,\2\4"),
    Fault("two sums change places", "gpu_probe", r"(mma\.\S+ \{%r\d+),(%r\d+),(%r\d+)", r"\1,\3,\2"),
    Fault("A has signs and B has none", "gpu_probe", r"u8\.s8\.s32", "s8.u8.s32"),
    Fault("two registers of A change places, in a real product", "gemm8_i8", rf"(mma\.\S+ {SUMS},\{{)(%r\d+),(%r\d+)", r"\1\3,\2"),
    # arithmetic
    Fault("a fused multiply-add is none", "sl_gpu_gemm_f32", r"fma\.rn\.f32 \s*(%f\d+), (%f\d+), (%f\d+), (%f\d+);",
          r"mul.rn.f32 \1, \2, \3; add.rn.f32 \1, \1, \4;"),
    Fault("a product that ptxas may fuse with a sum", "gpu_probe", r"mul\.rn\.f32", "mul.f32", 0, True),
    Fault("the lower half of a product", "gpu_probe", r"mul\.hi\.u32", "mul.lo.s32"),
    Fault("a shift without its sign", "gpu_probe", r"shr\.s32", "shr.u32"),
    Fault("numbers are cut, not rounded", "gpu_probe", r"cvt\.rni\.s32\.f32", "cvt.rzi.s32.f32"),
    # lanes
    Fault("another lane is asked", "sl_gpu_norm", r"(shfl\.sync\.bfly\.b32 \s*%r\d+\|%p\d+, %r\d+), %r\d+,", r"\1, 3,"),
    Fault("a vote of one lane", "sl_gpu_group", r"vote\.sync\.ballot\.b32 \s*(%r\d+),.*", r"mov.u32 \1, 1;"),
    # memory
    Fault("a store without its condition", "gpu_fill", r"@%p3 bra", None),
    Fault("a load without its condition", "sl_gpu_norm", r"@%p\d+ bra .*", None, 2),
    Fault("shared memory is read a lane further", "gpu_probe", r"(ld\.shared\.v4\.u32.*\[%r\d+)", r"\1+16"),
    Fault("shared memory is written beyond its end", "sl_gpu_quantise", r"(st\.shared\.\w+ \s*\[%r\d+)(\+\d+)?\]", r"\1+230000]"),
    Fault("a load of 8 bytes at 4", "gemm8_i8", r"(ld\.shared\.v2\.u32 .*\[%r\d+)(\+\d+)?\]", r"\1+4]"),
    # waiting
    Fault("a barrier is missing behind the load", "sl_gpu_norm", r"bar\.sync", None),
    Fault("a barrier is missing behind the rotation", "sl_gpu_quantise", r"bar\.sync", None, 1),
    Fault("a barrier is missing before others are read", "sl_gpu_group", r"bar\.sync", None),
    Fault("a barrier is missing among stages", "gemm8_i8", r"bar\.sync", None),
    Fault("lanes are not waited for", "sl_gpu_choose", r"bar\.warp\.sync", None, 1),
    Fault("queries are not waited for", "sl_gpu_attend_f32_128", r"bar\.warp\.sync", None, 1),
    Fault("what others still read is overwritten", "sl_gpu_place", r"bar\.warp\.sync", None, 1),
    Fault("copies are not waited for", "gpu_probe", r"cp\.async\.wait_group", None),
    Fault("copies are no group", "gpu_probe", r"cp\.async\.commit_group", None),
    Fault("a group too few is waited for", "gemm8_i8", r"(cp\.async\.wait_group) (\d)", lambda m: f"{m.group(1)} {int(m.group(2)) + 1}"),
    Fault("copies bring what they should not", "gpu_probe", r"(cp\.async\.cg.*, 16), %r\d+;", r"\1, 16;"),
    # sm_90a
    Fault("operands without a swizzle", "gpu_probe_wg", r"4611686\d+", lambda m: str(int(m.group(0)) & ~(3 << 62)), 0, True),
    Fault("operands in the swizzle of 64 bytes", "gpu_probe_wg", r"4611686\d+", lambda m: str(int(m.group(0)) ^ (3 << 62)), 0, True),
    Fault("eights of rows lie half as far apart", "gpu_probe_wg", r"4611686\d+", lambda m: str(int(m.group(0)) ^ (96 << 32))),
    Fault("the wrong quarter of the rows", "gemm8_wg_i8", r"4611686\d+", lambda m: str(int(m.group(0)) ^ 2)),
    Fault("no fence between copies and tensor cores", "gemm8_wg_i8", r"fence\.proxy\.async", None),
    Fault("the last stage but one is told of too early", "gemm8_wg_i8", r"cp\.async\.wait_group 1", None),
    Fault("no fence before products", "gemm8_wg_i8", r"wgmma\.fence", None, 1),
    Fault("products are not waited for", "gemm8_wg_i8", r"wgmma\.wait_group", None, 3),
    Fault("nobody tells that a stage has landed", "gemm8_wg_i8", r"mbarrier\.arrive", None),
    Fault("a slot is not waited for", "gemm8_wg_i8", r"\{ \.reg .*try_wait\S+ p, \[%r\d+\], %r\d+; selp\.u32 (%r\d+).*", r"mov.u32 \1, 1;"),
    Fault("another slot is not waited for", "gemm8_wg_i8", r"\{ \.reg .*try_wait\S+ p, \[%r\d+\], %r\d+; selp\.u32 (%r\d+).*",
          r"mov.u32 \1, 1;", 1),
    Fault("lanes arrive for others that are not done", "gemm8_wg_i8", r"bar\.warp\.sync", None, 2),
    Fault("registers that nobody gives are taken", "gemm8_wg_i8", r"setmaxnreg\.dec\.sync\.aligned\.u32 88", "setmaxnreg.dec.sync.aligned.u32 96"),
]
