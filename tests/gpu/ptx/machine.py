"""What a kernel runs on: blocks one after the other in drawn order, warps of a block that take turns in drawn order and for drawn
lengths, lanes in lock step as long as they go the same way; where they part, those that are behind go first.

As late as they may: a copy lands when it is waited for, and until then its target has 0xC5; a product of four warps reads shared
memory, and gives its registers, when it is waited for. Wrong, and said with the line, is beside what memory.py says: a barrier or an
instruction for a whole warp that some lanes do not come to, warps that wait for what never comes, copies and products that nobody
waited for, a product whose registers others touched while it was under way or without a wgmma.fence behind them, four warps that do
not ask for the same product.

Floats are those of IEEE 754, as .rn says; a NaN that comes out of arithmetic is 0x7fffffff, as on a GPU."""

import random

import numpy as np

import memory
import mma
from read import PtxError

PARAMS_AT = 4096
U4 = np.uint32
LANES = np.arange(32, dtype=U4)
FULL = np.full(32, 0xFFFFFFFF, U4)
BITS = np.left_shift(U4(1), LANES)
NAN = np.full(32, 0x7FFFFFFF, U4).view(np.float32)
np.seterr(all="ignore")

# ---- arithmetic ----


def number(v):
    """Floats that came out of arithmetic."""
    d = v.dot(v)  # NaN when one of them is
    return v if d == d else np.where(v == v, v, NAN)


def fma(a, b, c):
    p = a.astype(np.float64) * b  # exact
    s = p + c
    low = s.view(np.uint64) & np.uint64(0x1FFFFFFF)
    # Rounded twice is rounded wrong at most where the first rounding came to the middle between two floats, or below the normal ones.
    size = np.abs(s)
    if not ((low == np.uint64(0x10000000)) | ((size < 1.2e-38) & (size > 0))).any():
        return s.astype(np.float32)
    other = s - p
    lost = (p - (s - other)) + (c - other)
    bits = s.view(np.int64)
    odd = bits + np.where((lost > 0) == (s > 0), 1, -1)
    fix = np.isfinite(s) & (lost != 0) & np.isfinite(lost) & (bits & 1 == 0)
    return np.where(fix, odd, bits).view(np.float64).astype(np.float32)


def maxf(a, b):
    """NaN only when both are; +0 is more than -0."""
    zeros = (a == 0) & (b == 0)
    return number(np.where(zeros, (a.view(U4) & b.view(U4)).view(np.float32), np.fmax(a, b)))


def minf(a, b):
    return -maxf(-a, -b)


def to_integer(v, rounded):
    """Beyond its range the end of it; NaN is 0."""
    r = np.clip(rounded(v.astype(np.float64)), -(2.0**31), 2.0**31 - 1)
    return np.where(v == v, r, 0).astype(np.int64).astype(np.int32)


def insert(a, b, at, n):
    at, n = at & U4(255), n & U4(255)
    mask = ((np.uint64(1) << n.astype(np.uint64)) - np.uint64(1)) << at.astype(np.uint64)
    mask = mask.astype(U4)
    return (b & ~mask) | ((a << at) & mask)


def permute(a, b, how):
    both = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
    out = np.zeros(32, U4)
    for i in range(4):
        pick = (how >> U4(4 * i)) & U4(15)
        byte = (both >> ((pick & U4(7)).astype(np.uint64) * np.uint64(8))).astype(U4) & U4(255)
        byte = np.where(pick & U4(8), np.where(byte & U4(128), U4(255), U4(0)), byte)
        out |= byte << U4(8 * i)
    return out


def shuffle(how, a, b, c):
    b, segment, clamp = b & U4(31), (c >> U4(8)) & U4(31), c & U4(31)
    most, least = (LANES & segment) | (clamp & ~segment), LANES & segment
    if how == "idx":
        of = least | (b & ~segment)
        valid = of <= most
    elif how == "bfly":
        of = LANES ^ b
        valid = of <= most
    elif how == "down":
        of = LANES + b
        valid = of <= most
    else:
        of = LANES - b
        valid = of.view(np.int32) >= most.view(np.int32)
    of = np.where(valid, of, LANES)
    return a[of], valid


def ballot(p):
    return np.full(32, np.bitwise_or.reduce(np.where(p, BITS, U4(0))), U4)


# ---- a warp ----


class Product:
    """Of four warps, a warp's part. Its sums are those of the product whose marks they are, once that is finished."""

    def __init__(self, d, a, descriptor, kinds, registers, group, line):
        self.d, self.a, self.descriptor, self.kinds, self.group, self.line = d, a, descriptor, kinds, group, line
        self.sums, self.operands = [registers[r] for r in d], [registers[r] for r in a]
        self.marks = [np.full(32, 0xC5C5C5C5, U4) for _ in d]  # what the registers have until it is finished


class Warp:
    def __init__(self, block, number):
        self.block, self.number = block, number
        self.shared, self.world = block.shared, block.world
        self.threads = np.arange(32, dtype=np.int32) + 32 * number
        self.registers = [self.world.undefined[kind] for kind in self.world.kernel.kinds]
        full = lambda v: np.full(32, v, U4)
        self.special = {"%tid.x": self.threads.astype(U4), "%ntid.x": full(self.world.threads), "%ctaid.x": full(block.number),
                        "%nctaid.x": full(self.world.n_blocks), "%laneid": LANES.copy()}
        self.at, self.groups, self.alive = 0, None, None
        self.done = False
        self.waits = None  # the line of the barrier
        self.rests = False  # its turn is over
        self.waits_on = None  # (barrier in shared memory, parity, line)
        self.has, self.wants = self.world.registers, None  # registers a lane; (how many, line)
        self.syncs = 0
        self.touched = False  # whether shared memory was, since the last sync of its lanes
        self.copies, self.copy_groups = [], []
        self.unfenced = []
        self.fenced = None  # the registers, then
        self.products, self.product_group, self.n_products = [], 0, 0
        self.load_param = self.world.params.load
        self.load_global = self.world.memory.load
        self.store_global = self.world.memory.store

    def fail(self, line, what):
        raise PtxError(f"line {line}: {what}")

    # ---- control ----

    def step(self):
        """Runs a block of instructions."""
        if self.groups is None:
            self.world.instructions += len(self.world.kernel.blocks[self.at])
            to = self.world.program.function(self.at, self.alive is not None)(self.registers, self, self.alive)
            if type(to) is tuple:
                taken = to[0] if self.alive is None else to[0][self.alive]
                if taken.all():
                    self.at = to[1]
                elif not taken.any():
                    self.at = to[2]
                else:
                    alive = memory.ALL if self.alive is None else self.alive
                    self.groups = {}
                    self.part(to, alive)
            elif to == -1:
                self.done = True
            else:
                self.at = to
            return
        blocks = self.world.kernel.blocks
        at = min((g for g in self.groups if not ".sync" in blocks[g][0].op), default=min(self.groups))
        lanes = self.groups.pop(at)
        self.world.instructions += len(self.world.kernel.blocks[at])
        to = self.world.program.function(at, True)(self.registers, self, lanes)
        self.part(to if type(to) is tuple else (lanes, to, to), lanes)

    def part(self, to, lanes):
        for where, who in ((to[1], lanes & to[0]), (to[2], lanes & ~to[0])):
            if not who.any():
                continue
            if where == -1:
                self.alive = (memory.ALL if self.alive is None else self.alive) & ~who
            else:
                self.groups[where] = self.groups[where] | who if where in self.groups else who
        if len(self.groups) == 1:
            (self.at,), self.groups = self.groups.keys(), None
        elif not self.groups:
            self.done = True

    def together(self, who, line, mask):
        if mask is not None and (BITS[~mask] & who[int(np.argmax(mask))]).any():
            self.fail(line, "a lane that this is for has not come here with the others")

    def sync(self):
        self.syncs += 1
        self.touched = False

    def barrier(self, line, mask):
        if mask is not None:
            self.fail(line, "some lanes of the warp do not come to the barrier")
        self.sync()
        self.waits = line

    # ---- shared memory and copies ----

    def load_shared(self, address, offset, width, n, line, mask):
        self.touched = True
        self.shared.look(address, offset, width * n, self, line, mask)
        return self.shared.load(address, offset, width, n, line, mask)

    def store_shared(self, address, offset, width, values, line, mask):
        self.touched = True
        i = self.shared.store(address, offset, width, values, line, mask)
        self.shared.note(i, width * len(values), self, line, mask)

    def copy(self, to, to_offset, of, of_offset, size, line, mask):
        """16 bytes a lane, of which `size` come from global memory and the others are 0."""
        on = size == 16 if mask is None else mask & (size == 16)
        if (on != ((size != 0) if mask is None else mask & (size != 0))).any():
            self.fail(line, "a copy of a part of its bytes: nobody knows it here")
        words = self.world.memory.load(of, of_offset, 4, 4, line, on) if on.any() else (np.zeros(32, U4),) * 4
        poison = (np.full(32, 0xC5C5C5C5, U4),) * 4
        i = self.shared.store(to, to_offset, 4, poison, line, mask)
        self.shared.note(i, 16, self, line, mask)
        self.copies.append((to, to_offset, words, line, mask))

    def commit_copies(self, line, mask):
        self.together(FULL, line, mask)
        self.copy_groups.append(self.copies)
        self.copies = []

    def wait_copies(self, n, line, mask):
        self.together(FULL, line, mask)
        while len(self.copy_groups) > n:
            for to, offset, words, at, who in self.copy_groups.pop(0):
                i = self.shared.store(to, offset, 4, words, at, who)
                self.shared.note(i, 16, self, at, who)
                self.touched = True

    # ---- barriers in shared memory ----

    def mbarrier_at(self, at, offset, line, lane):
        place = int(at[lane]) + offset
        if place % 8 or not 0 <= place - self.shared.base <= self.shared.size - 8:
            self.fail(line, f"a barrier at 0x{place:x}")
        return place

    def mbarrier(self, at, offset, line, lane):
        place = self.mbarrier_at(at, offset, line, lane)
        if place not in self.block.mbarriers:
            self.fail(line, f"nobody made the barrier at 0x{place:x}")
        return self.block.mbarriers[place]

    def mbarrier_init(self, at, offset, count, line, mask):
        for lane in np.flatnonzero(memory.ALL if mask is None else mask):
            place = self.mbarrier_at(at, offset, line, lane)
            self.block.mbarriers[place] = [int(count[lane]), int(count[lane]), 0]  # count, pending, phase

    def mbarrier_arrive(self, at, offset, line, mask):
        if mask is not None and self.touched:
            self.fail(line, "some lanes arrive for others, and no bar.warp.sync came after what those did")
        for lane in np.flatnonzero(memory.ALL if mask is None else mask):
            b = self.mbarrier(at, offset, line, lane)
            b[1] -= 1
            if b[1] == 0:
                b[1], b[2] = b[0], b[2] + 1
                self.rests = self.world.draw.random() < 0.5  # whoever waited may be quick

    def mbarrier_try(self, at, offset, parity, line, mask):
        """Whether the phase of that parity is over; if not, others go on until it is, or for a while."""
        over = np.zeros(32, bool)
        for lane in np.flatnonzero(memory.ALL if mask is None else mask):
            b = self.mbarrier(at, offset, line, lane)
            over[lane] = (b[2] & 1) != (int(parity[lane]) & 1)
            if not over[lane]:
                self.waits_on = (b, int(parity[lane]) & 1, line)
        return over

    # ---- products of four warps, and their registers ----

    def set_registers(self, n, more, line, mask):
        self.together(FULL, line, mask)
        if (n < self.has) if more else (n > self.has):
            self.fail(line, f"{n} registers, of {self.has} that the warp has")
        if more:
            self.wants = n, line
        else:
            self.block.pool += self.has - n
            self.has = n

    def fence_proxies(self, line, mask):
        self.together(FULL, line, mask)
        self.shared.fence(self)
        self.touched = True

    def products_fence(self, registers, line, mask):
        self.together(FULL, line, mask)
        self.fenced = list(registers)

    def product(self, registers, d, a, descriptor, a_kind, b_kind, line, mask):
        self.together(FULL, line, mask)
        if (descriptor != descriptor[0]).any():
            self.fail(line, "lanes have different descriptors")
        if self.fenced is None:
            self.fail(line, "a product without a wgmma.fence before it")
        under_way = {id(mark) for p in self.products for mark in p.marks}
        for r in d + a:
            if registers[r] is not self.fenced[r] and id(registers[r]) not in under_way:
                self.fail(line, f"register {r} was written and no wgmma.fence came between")
        self.block.same_product(self, line, int(descriptor[0]))
        p = Product(d, a, int(descriptor[0]), (a_kind, b_kind), registers, self.product_group, line)
        for r, mark in zip(d, p.marks):
            registers[r] = mark
        self.products.append(p)

    def commit_products(self, line, mask):
        self.together(FULL, line, mask)
        self.product_group += 1

    def wait_products(self, registers, n, line, mask):
        self.together(FULL, line, mask)
        while self.products and self.products[0].group < self.product_group - n:
            self.finish_product(registers, self.products.pop(0), line)
            self.touched = True

    def finish_product(self, registers, p, line):
        if any(registers[r] is not v for r, v in zip(p.a, p.operands)):
            self.fail(line, f"an operand of the product of line {p.line} was written before it was waited for")
        at = mma.operand_places(p.descriptor, p.line) - self.shared.base
        if at.min() < 0 or at.max() >= self.shared.size:
            self.fail(p.line, f"an operand beyond shared memory, at 0x{int(at.max()) + self.shared.base:x}")
        made = mma.rows_of_four(p.operands, self.shared.seen[at], *p.kinds)
        follower = next((q for q in self.products if q.sums[0] is p.marks[0]), None)
        for k, r in enumerate(p.d):
            if follower is not None:
                follower.sums[k] = p.sums[k] + made[k]
            elif registers[r] is p.marks[k]:
                registers[r] = p.sums[k] + made[k]
            else:
                self.fail(line, f"a sum of the product of line {p.line} was written before it was waited for")

    def end(self):
        if any(self.copy_groups) or self.copies or self.products:
            raise PtxError("it ends with copies or products that nobody waited for")


# ---- blocks ----


class Block:
    def __init__(self, world, number):
        self.world, self.number = world, number
        self.shared = memory.Shared(world.shared_bytes, world.program.uses_proxies)
        self.mbarriers = {}
        self.pool = 0  # registers a lane that warps have given
        self.turns_of = 0
        self.asked = {}  # (group of four, number): the product
        self.warps = [Warp(self, i) for i in range(world.threads // 32)]

    def same_product(self, warp, line, descriptor):
        key = warp.number // 4, warp.n_products
        warp.n_products += 1
        if self.asked.setdefault(key, (line, descriptor)) != (line, descriptor):
            warp.fail(line, "the warps of a group of four ask for different products")

    def ready(self):
        return [w for w in self.warps if not w.done and w.waits is None
                and (w.waits_on is None or (w.waits_on[0][2] & 1) != w.waits_on[1])
                and (w.wants is None or w.wants[0] - w.has <= self.pool)]

    def run(self):
        """Its last words are those of the warp that had the turn."""
        try:
            self.run_warps()
        except PtxError as e:
            raise type(e)(f"{self.world.kernel.name}, block {self.number}, warp {self.turns_of}: {e}") from None

    def run_warps(self):
        draw = self.world.draw
        while True:
            ready = self.ready()
            if not ready:
                left = [w for w in self.warps if not w.done]
                if not left:
                    break
                stuck = next((w for w in left if w.waits is None), None)
                if stuck and stuck.wants:
                    stuck.fail(stuck.wants[1], f"warp {stuck.number} waits for registers that nobody gives: {stuck.wants[0]} are more "
                               f"than its {stuck.has} and the {self.pool} that there are")
                if stuck:
                    stuck.fail(stuck.waits_on[2], f"warp {stuck.number} waits for a phase that never ends")
                if len(left) < len(self.warps):
                    left[0].fail(left[0].waits, "some warps have ended and never come to the barrier")
                if len({w.waits for w in left}) > 1:
                    left[0].fail(left[0].waits, "warps are at different barriers")
                for w in left:
                    w.waits = None
                continue
            w = draw.choice(ready)
            self.turns_of = w.number
            self.turn(w, draw.choice((1, 3, 1000, 1000000)))
        for w in self.warps:
            self.turns_of = w.number
            w.end()

    def turn(self, w, steps):
        w.waits_on, w.rests = None, False
        if w.wants:
            self.pool -= w.wants[0] - w.has
            w.has, w.wants = w.wants[0], None
        for _ in range(steps):
            w.step()
            if w.done or w.rests or w.waits is not None or w.waits_on is not None or w.wants is not None:
                return


class World:
    """A launch: memories are [(address, bytes)]."""

    def __init__(self, program, n_blocks, threads, shared_bytes, params, memories, seed):
        self.program, self.kernel = program, program.kernel
        self.n_blocks, self.threads, self.shared_bytes = n_blocks, threads, shared_bytes
        if threads != self.kernel.threads:
            raise PtxError(f"{self.kernel.name}: launched with {threads} threads, made for {self.kernel.threads}")
        self.registers = min(65536 // 32 // (threads // 32) // self.kernel.per_sm // 8 * 8, 255)  # setmaxnreg begins with so many
        wanted = sum(size for _, size in self.kernel.params.values())
        if wanted != len(params):
            raise PtxError(f"{self.kernel.name}: launched with {len(params)} bytes of parameters, made for {wanted}")
        self.memory = memory.Global(memories)
        self.params = memory.Bytes("parameters", PARAMS_AT, len(params))
        self.params.bytes[: len(params)] = np.frombuffer(params, np.uint8)
        self.undefined = {"pred": np.arange(32) % 2 == 0, "b16": np.full(32, 0xDEAD, np.uint16), "b32": np.full(32, 0xDEADBEEF, U4),
                          "b64": np.full(32, 0xDEADBEEFDEADBEEF, np.uint64), "f32": np.full(32, 0x7FBADBAD, U4).view(np.float32)}
        self.draw = random.Random(seed)
        self.instructions = 0

    def run(self):
        order = list(range(self.n_blocks))
        self.draw.shuffle(order)
        for number in order:
            Block(self, number).run()
