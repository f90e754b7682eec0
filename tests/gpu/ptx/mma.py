"""Products as the PTX ISA document says them (version 9, "Matrix Fragments for mma.m16n8k32", "wgmma.mma_async.m64nNk32", "Matrix
Descriptor Format", "Swizzling Modes"): element i of a lane's registers, low bytes first, is which row and column."""

import numpy as np

from read import PtxError, UnknownError

LANE = np.arange(32)
GROUP, IN_GROUP = LANE >> 2, LANE % 4


def gather(n, per, row, column, rows, columns):
    """Where in registers' bytes or words, [register][lane][element], a matrix has its elements. A lane has n of them, `per` a register;
    row(i) and column(i) are those of element i, of 32 lanes."""
    of = np.full((rows, columns), -1)
    for i in range(n):
        of[row(i), column(i)] = (i // per * 32 + LANE) * per + i % per
    assert (of >= 0).all()
    return of


# A, m16k32 of bytes: a0..a15
A_OF = gather(16, 4, lambda i: GROUP if i < 4 or 8 <= i < 12 else GROUP + 8,
              lambda i: IN_GROUP * 4 + (i & 3) + (0 if i < 8 else 16), 16, 32)
# B, k32n8 of bytes: b0..b7
B_OF = gather(8, 4, lambda i: IN_GROUP * 4 + (i & 3) + (0 if i < 4 else 16), lambda i: GROUP, 32, 8)
# C and D, m16n8 of s32: c0..c3; of a warp's sixteen rows of m64nN: d0..d(N/2-1), eight columns after the other
C_ROW = [GROUP if i % 4 < 2 else GROUP + 8 for i in range(64)]
C_COLUMN = [IN_GROUP * 2 + (i & 1) + i // 4 * 8 for i in range(64)]
C_OF = np.array([C_ROW[i] * 8 + C_COLUMN[i] for i in range(4)])
D_OF = np.array([C_ROW[i] * 128 + C_COLUMN[i] for i in range(64)])


def numbers(registers, of, kind):
    v = np.array(registers).view(np.uint8).ravel()[of]
    return (v.view(np.int8) if kind == "s8" else v).astype(np.float32)  # sums stay below 2^24: exact


def m16n8k32(a, b, c, a_kind, b_kind):
    d = numbers(a, A_OF, a_kind) @ numbers(b, B_OF, b_kind)
    return d.astype(np.int32).ravel()[C_OF].view(np.uint32) + np.array(c)


# Row n and byte k of B, K-major: atoms of eight rows of 128 bytes, one stride apart, 16 bytes exchanged by the row: bits 4 to 6 of an
# address with bits 7 to 9.
ROWS, INPUTS = np.meshgrid(np.arange(128), np.arange(32), indexing="ij")


def operand_places(descriptor, line):
    """Of m64n128k32's B: shared addresses, [128][32]."""
    start, stride = (descriptor & 0x3FFF) << 4, (descriptor >> 32 & 0x3FFF) << 4
    base, mode = descriptor >> 49 & 7, descriptor >> 62
    if mode != 1:
        raise UnknownError(f"line {line}: swizzling mode {mode} of a descriptor: only 1, of 128 bytes, is known")
    if base != 0 or descriptor & ~(0x3FFF | 0x3FFF << 16 | 0x3FFF << 32 | 3 << 62):
        raise UnknownError(f"line {line}: bits of a descriptor that nobody knows: 0x{descriptor:x}")
    if start & 0x380:
        raise PtxError(f"line {line}: an operand at 0x{start:x} with base offset 0: the pattern begins at multiples of 1024")
    at = start + ROWS // 8 * stride + ROWS % 8 * 128 + INPUTS
    return at ^ (at >> 7 & 7) << 4


def rows_of_four(a, b, a_kind, b_kind):
    """A warp's rows of a product of four warps: its A in registers, B as bytes [128][32]. 64 words a lane."""
    right = (b.view(np.int8) if b_kind == "s8" else b).astype(np.float32)
    d = numbers(a, A_OF, a_kind) @ right.T
    return d.astype(np.int32).ravel()[D_OF].view(np.uint32)
