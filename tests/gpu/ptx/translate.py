"""A straight run of instructions becomes a Python function over a warp's registers, arrays of 32: once for a warp whose lanes all
run, once for some of them (`m`). What an instruction does is a row of OPS; one that is not there is an error."""

import re

import numpy as np

import machine
from read import Imm, Name, Reg, UnknownError

STORED = {"pred": "bool", "b16": "u2", "b32": "u4", "b64": "u8", "f32": "f4"}
TYPE = {"u8": "u1", "u16": "u2", "b16": "u2", "u32": "u4", "b32": "u4", "s32": "i4", "f32": "f4", "u64": "u8", "b64": "u8", "s64": "i8",
        "pred": "bool"}
DTYPE = {"bool": np.bool_, "u1": np.uint8, "u2": np.uint16, "u4": np.uint32, "i4": np.int32, "f4": np.float32, "u8": np.uint64,
         "i8": np.int64}
SIZE = {"u8": 1, "u16": 2, "b16": 2, "u32": 4, "b32": 4, "s32": 4, "f32": 4, "u64": 8, "b64": 8, "s64": 8}
COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
OPPOSITE = {"neu": "==", "ltu": ">=", "leu": ">", "gtu": "<=", "geu": "<"}


class Block:
    """The source of one block, in one of its two forms."""

    def __init__(self, program, number, masked):
        self.program, self.masked = program, masked
        self.kernel, self.number = program.kernel, number
        self.lines = []
        self.mask = "m" if masked else "None"

    def fail(self, i, what="nobody knows this instruction"):
        raise UnknownError(f"{self.kernel.name}, line {i.line}: {what}: {i.op}")

    def say(self, text):
        self.lines.append(text)

    # ---- operands ----

    def source(self, arg, type_):
        """An expression of 32 lanes of that type: u4, i4, f4, ..."""
        if isinstance(arg, Reg):
            stored = STORED[arg.kind]
            if stored == type_:
                return f"R[{arg.number}]"
            if "bool" in (stored, type_) or np.dtype(DTYPE[stored]).itemsize != np.dtype(DTYPE[type_]).itemsize:
                raise UnknownError(f"{self.kernel.name}: register {arg.number} of .{arg.kind} as {type_}")
            return f"R[{arg.number}].view({type_})"
        if isinstance(arg, Imm):
            return self.program.constant(arg.value, type_)
        if isinstance(arg, Name):
            if arg.name.startswith("%"):
                return f"W.special[{arg.name!r}]"
            return self.program.constant(self.program.address(arg.name), type_)
        raise UnknownError(f"{self.kernel.name}: an operand that nobody knows: {arg}")

    def put(self, reg, type_, expression):
        stored = STORED[reg.kind]
        if stored != type_:
            if np.dtype(DTYPE[stored]).itemsize != np.dtype(DTYPE[type_]).itemsize:
                raise UnknownError(f"{self.kernel.name}: a result of {type_} for a register of .{reg.kind}")
            expression = f"({expression}).view({stored})"
        if self.masked:
            expression = f"where(m, {expression}, R[{reg.number}])"
        self.say(f"R[{reg.number}] = {expression}")

    def place(self, arg):
        """Address and offset of [base + offset]."""
        if isinstance(arg.base, Reg):
            return self.source(arg.base, STORED[arg.base.kind]), arg.offset
        return self.program.constant(self.program.address(arg.base.name), "u4"), arg.offset

    # ---- control ----

    def end(self, i):
        """How the block goes on: a number, or (condition, taken, not taken); -1: the lanes are done."""
        after = self.number + 1
        if i is not None and i.op in ("bra", "bra.uni"):
            to = self.kernel.labels[i.args[0].name]
            if i.guard is None:
                self.say(f"return {to}")
            else:
                reg, negated = i.guard
                pair = (after, to) if negated else (to, after)
                self.say(f"return (R[{reg.number}], {pair[0]}, {pair[1]})")
        elif i is not None and i.op == "ret":
            if i.guard:
                self.fail(i, "a guard here")
            self.say("return -1")
        else:
            self.say(f"return {after}")

    def write(self, instructions):
        last = None
        for i in instructions:
            if i.op in ("bra", "bra.uni", "ret"):
                last = i
                continue
            if i.guard is not None:
                self.fail(i, "a guard on what is no branch")
            for pattern, how in OPS:
                if m := pattern.fullmatch(i.op):
                    how(self, i, *m.groups())
                    break
            else:
                self.fail(i)
        self.end(last)
        return f"def block(R, W, m):\n " + "\n ".join(self.lines)


OPS = []


def op(pattern):
    def add(how):
        OPS.append((re.compile(pattern), how))
        return how

    return add


def binary(b, i, type_, expression):
    d, x, y = i.args
    b.put(d, type_, expression.format(b.source(x, type_), b.source(y, type_)))


# ---- integers: all wrap ----


@op(r"(add|sub|mul\.lo)\.([su])(32|64)")
def _(b, i, what, _sign, bits):
    binary(b, i, "u4" if bits == "32" else "u8", {"add": "{} + {}", "sub": "{} - {}", "mul.lo": "{} * {}"}[what])


@op(r"mad\.lo\.[su](32|64)")
def _(b, i, bits):
    t = "u4" if bits == "32" else "u8"
    d, x, y, z = i.args
    b.put(d, t, f"{b.source(x, t)} * {b.source(y, t)} + {b.source(z, t)}")


@op(r"mul\.wide\.([su])32")
def _(b, i, sign):
    d, x, y = i.args
    t, wide = ("u4", "u8") if sign == "u" else ("i4", "i8")
    b.put(d, wide, f"{b.source(x, t)}.astype({wide}) * {b.source(y, t)}.astype({wide})")


@op(r"mul\.hi\.u32")
def _(b, i):
    binary(b, i, "u4", "(({}.astype(u8) * {}.astype(u8)) >> u8(32)).astype(u4)")


@op(r"(div|rem)\.u32")
def _(b, i, what):
    binary(b, i, "u4", {"div": "{} // {}", "rem": "{} % {}"}[what])


@op(r"(min|max)\.([su])32")
def _(b, i, what, sign):
    binary(b, i, sign.replace("s", "i") + "4", f"np.{what}imum({{}}, {{}})")


@op(r"neg\.s32")
def _(b, i):
    b.put(i.args[0], "u4", f"zero - {b.source(i.args[1], 'u4')}")


@op(r"(and|or|xor)\.(pred|b16|b32|b64)")
def _(b, i, what, type_):
    binary(b, i, TYPE[type_], {"and": "{} & {}", "or": "{} | {}", "xor": "{} ^ {}"}[what])


@op(r"not\.(pred|b16|b32|b64)")
def _(b, i, type_):
    b.put(i.args[0], TYPE[type_], f"~{b.source(i.args[1], TYPE[type_])}")


# Amounts of the width and more shift everything out, as numpy's do.
@op(r"(shl\.b|shr\.u|shr\.s)(32|64)")
def _(b, i, what, bits):
    t = ("i" if what == "shr.s" else "u") + ("4" if bits == "32" else "8")
    d, x, y = i.args
    amount = b.source(y, "u4") + ("" if bits == "32" else f".astype({t})") + (".view(i4)" if t == "i4" else "")
    b.put(d, t, f"{b.source(x, t)} {'<<' if what == 'shl.b' else '>>'} {amount}")


@op(r"bfi\.b32")
def _(b, i):
    d, x, y, at, n = i.args
    b.put(d, "u4", f"machine.insert({', '.join(b.source(a, 'u4') for a in (x, y, at, n))})")


@op(r"prmt\.b32")
def _(b, i):
    d, x, y, how = i.args
    b.put(d, "u4", f"machine.permute({', '.join(b.source(a, 'u4') for a in (x, y, how))})")


@op(r"popc\.b32")
def _(b, i):
    b.put(i.args[0], "u4", f"np.bitwise_count({b.source(i.args[1], 'u4')}).astype(u4)")


# ---- floats; without .rn ptxas may contract them ----


@op(r"(add|sub|mul|div)\.rn\.f32")
def _(b, i, what):
    binary(b, i, "f4", "number({} " + {"add": "+", "sub": "-", "mul": "*", "div": "/"}[what] + " {})")


@op(r"sqrt\.rn\.f32")
def _(b, i):
    b.put(i.args[0], "f4", f"number(np.sqrt({b.source(i.args[1], 'f4')}))")


@op(r"fma\.rn\.f32")
def _(b, i):
    d, x, y, z = (a if n == 0 else b.source(a, "f4") for n, a in enumerate(i.args))
    b.put(d, "f4", f"number(machine.fma({x}, {y}, {z}))")


@op(r"neg\.f32")
def _(b, i):
    b.put(i.args[0], "f4", f"-{b.source(i.args[1], 'f4')}")


@op(r"(min|max)\.f32")
def _(b, i, what):
    binary(b, i, "f4", f"machine.{what}f({{}}, {{}})")


@op(r"cvt\.rn\.f32\.([su])32")
def _(b, i, sign):
    b.put(i.args[0], "f4", b.source(i.args[1], sign.replace("s", "i") + "4") + ".astype(f4)")


@op(r"cvt\.r([nz])i\.s32\.f32")
def _(b, i, how):
    b.put(i.args[0], "i4", f"machine.to_integer({b.source(i.args[1], 'f4')}, np.{'rint' if how == 'n' else 'trunc'})")


# ---- compared, chosen, moved ----


@op(r"setp\.(\w+)\.(b32|u32|s32|u64|s64|b64|f32|u16|b16)")
def _(b, i, how, type_):
    d, x, y = i.args
    t = TYPE[type_]
    x, y = b.source(x, t), b.source(y, t)
    if type_ != "f32" and how in COMPARE or type_ == "f32" and how in COMPARE and how != "ne":
        b.put(d, "bool", f"{x} {COMPARE[how]} {y}")
    elif type_ == "f32" and how in OPPOSITE:
        b.put(d, "bool", f"~({x} {OPPOSITE[how]} {y})")
    elif type_ == "f32" and how in ("nan", "num"):
        b.put(d, "bool", f"{'~' if how == 'num' else ''}(({x} != {x}) | ({y} != {y}))")
    else:
        b.fail(i)


@op(r"selp\.(b32|u32|s32|f32|b64|u64|b16|u16)")
def _(b, i, type_):
    d, x, y, p = i.args
    t = TYPE[type_]
    b.put(d, t, f"where({b.source(p, 'bool')}, {b.source(x, t)}, {b.source(y, t)})")


@op(r"mov\.(pred|b16|u16|b32|u32|s32|f32|b64|u64)")
def _(b, i, type_):
    d, x = i.args
    if isinstance(d, list) or isinstance(x, list):
        b.fail(i, "a vector that is moved")
    t = STORED[x.kind] if isinstance(x, Reg) else TYPE[type_]
    b.put(d, t, b.source(x, t))


@op(r"cvt\.(u64|u32|u16)\.(u64|u32|u16|u8)")
def _(b, i, to, of):
    x = i.args[1]
    stored = STORED[x.kind]
    narrow = f".astype({TYPE[of]})" if stored != TYPE[of] else ""
    wide = STORED[i.args[0].kind]
    between = f".astype({TYPE[to]})" if TYPE[to] != wide else ""
    b.put(i.args[0], wide, f"{b.source(x, stored)}{narrow}{between}.astype({wide})")


@op(r"cvta\.to\.global\.u64")
def _(b, i):
    b.put(i.args[0], "u8", b.source(i.args[1], "u8"))


# ---- memory ----


@op(r"ld\.(param|global|shared)(?:\.v([24]))?\.(u8|u16|u32|b32|f32|u64|b64)")
def _(b, i, space, n, type_):
    address, offset = b.place(i.args[1])
    width = SIZE[type_]
    outs = i.args[0] if n else [i.args[0]]
    b.say(f"v = W.load_{space}({address}, {offset}, {width}, {len(outs)}, {i.line}, {b.mask})")
    for k, out in enumerate(outs):
        stored = STORED[out.kind]
        size = np.dtype(DTYPE[stored]).itemsize
        if size < width:
            b.fail(i, "a register too narrow")
        b.put(out, stored, f"v[{k}].view({stored})" if size == width else f"v[{k}].astype({stored})")


@op(r"st\.(global|shared)(?:\.v([24]))?\.(u8|u16|u32|b32|f32|u64|b64)")
def _(b, i, space, n, type_):
    address, offset = b.place(i.args[0])
    width = SIZE[type_]
    values = i.args[1] if n else [i.args[1]]
    words = []
    for v in values:
        t = STORED[v.kind] if isinstance(v, Reg) else TYPE[type_]
        whole = np.dtype(DTYPE[t]).itemsize == width
        words.append(b.source(v, t) + (f".view(u{width})" if whole else f".astype(u{width})"))
    b.say(f"W.store_{space}({address}, {offset}, {width}, ({', '.join(words)},), {i.line}, {b.mask})")


@op(r"cp\.async\.cg\.shared\.global")
def _(b, i):
    to, of, size, n = i.args
    to, of = b.place(to), b.place(of)
    if size != Imm(16):
        b.fail(i, "a copy of other than 16 bytes")
    b.say(f"W.copy({to[0]}, {to[1]}, {of[0]}, {of[1]}, {b.source(n, 'u4')}, {i.line}, {b.mask})")


@op(r"cp\.async\.commit_group")
def _(b, i):
    b.say(f"W.commit_copies({i.line}, {b.mask})")


@op(r"cp\.async\.wait_group")
def _(b, i):
    b.say(f"W.wait_copies({i.args[0].value}, {i.line}, {b.mask})")


# ---- of a warp and of a block ----


@op(r"shfl\.sync\.(bfly|idx|up|down)\.b32")
def _(b, i, how):
    d, x, y, z, who = i.args
    d, valid = d if isinstance(d, tuple) else (d, None)
    b.say(f"W.together({b.source(who, 'u4')}, {i.line}, {b.mask})")
    b.say(f"v = machine.shuffle({how!r}, {b.source(x, 'u4')}, {b.source(y, 'u4')}, {b.source(z, 'u4')})")
    b.put(d, "u4", "v[0]")
    if valid is not None:
        b.put(valid, "bool", "v[1]")


@op(r"vote\.sync\.ballot\.b32")
def _(b, i):
    d, p, who = i.args
    b.say(f"W.together({b.source(who, 'u4')}, {i.line}, {b.mask})")
    b.put(d, "u4", f"machine.ballot({b.source(p, 'bool')})")


@op(r"bar\.warp\.sync")
def _(b, i):
    b.say(f"W.together({b.source(i.args[0], 'u4')}, {i.line}, {b.mask})")
    b.say("W.sync()")


@op(r"bar\.sync")
def _(b, i):
    if i.args != (Imm(0),):
        b.fail(i, "a barrier other than 0")
    b.say(f"W.barrier({i.line}, {b.mask})")


@op(r"mma\.sync\.aligned\.m16n8k32\.row\.col\.s32\.([su]8)\.([su]8)\.s32")
def _(b, i, a_kind, b_kind):
    d, x, y, z = i.args
    lists = ["(" + ", ".join(b.source(r, "u4") for r in v) + ",)" for v in (x, y, z)]
    b.say(f"W.together(everybody, {i.line}, {b.mask})")
    b.say(f"v = mma.m16n8k32({', '.join(lists)}, {a_kind!r}, {b_kind!r})")
    for k, out in enumerate(d):
        b.put(out, "u4", f"v[{k}]")


# ---- of sm_90a ----


@op(r"mbarrier\.init\.shared::cta\.b64")
def _(b, i):
    at, offset = b.place(i.args[0])
    b.say(f"W.mbarrier_init({at}, {offset}, {b.source(i.args[1], 'u4')}, {i.line}, {b.mask})")


@op(r"mbarrier\.arrive\.shared::cta\.b64")
def _(b, i):
    at, offset = b.place(i.args[1])
    b.say(f"W.mbarrier_arrive({at}, {offset}, {i.line}, {b.mask})")


@op(r"mbarrier\.try_wait\.parity\.shared::cta\.b64")
def _(b, i):
    at, offset = b.place(i.args[1])
    b.put(i.args[0], "bool", f"W.mbarrier_try({at}, {offset}, {b.source(i.args[2], 'u4')}, {i.line}, {b.mask})")


@op(r"fence\.proxy\.async\.shared::cta")
def _(b, i):
    b.say(f"W.fence_proxies({i.line}, {b.mask})")


@op(r"setmaxnreg\.(inc|dec)\.sync\.aligned\.u32")
def _(b, i, how):
    n = i.args[0].value
    if n % 8 or not 24 <= n <= 256:
        b.fail(i, f"{n} registers: a multiple of 8 from 24 to 256")
    b.say(f"W.set_registers({n}, {how == 'inc'}, {i.line}, {b.mask})")


@op(r"wgmma\.fence\.sync\.aligned")
def _(b, i):
    b.say(f"W.products_fence(R, {i.line}, {b.mask})")


@op(r"wgmma\.commit_group\.sync\.aligned")
def _(b, i):
    b.say(f"W.commit_products({i.line}, {b.mask})")


@op(r"wgmma\.wait_group\.sync\.aligned")
def _(b, i):
    b.say(f"W.wait_products(R, {i.args[0].value}, {i.line}, {b.mask})")


@op(r"wgmma\.mma_async\.sync\.aligned\.m64n128k32\.s32\.([su]8)\.([su]8)")
def _(b, i, a_kind, b_kind):
    d, x, descriptor, scale = i.args
    if scale != Imm(1) or not isinstance(x, list) or len(d) != 64:
        b.fail(i, "a product of a form that nobody knows")
    registers = [tuple(r.number for r in v) for v in (d, x)]
    b.say(f"W.product(R, {registers[0]}, {registers[1]}, {b.source(descriptor, 'u8')}, {a_kind!r}, {b_kind!r}, {i.line}, {b.mask})")


class Program:
    """A kernel whose blocks become functions when they are first run."""

    def __init__(self, reader, name):
        self.kernel = reader.kernels[name]
        self.shared = reader.shared
        self.constants, self.values = {}, []
        self.made = {}
        self.uses_proxies = any(i.op.startswith("wgmma") for block in self.kernel.blocks for i in block)
        self.names = {"np": np, "where": np.where, "machine": machine, "mma": machine.mma, "number": machine.number,
                      "zero": np.zeros(32, np.uint32), "everybody": np.full(32, 0xFFFFFFFF, np.uint32), "K": self.values, **DTYPE}

    def address(self, name):
        if name in self.kernel.params:
            return machine.PARAMS_AT + self.kernel.params[name][0]
        if name in self.shared:
            return machine.memory.Shared.BASE
        raise UnknownError(f"{self.kernel.name}: nobody knows where {name} is")

    def constant(self, value, type_):
        """32 lanes of it."""
        if (value, type_) not in self.constants:
            dtype = DTYPE[type_]
            if isinstance(value, tuple):
                if type_ not in ("f4", "u4"):
                    raise UnknownError(f"a float as {type_}")
                v = np.full(32, value[1], np.uint32).view(dtype)
            elif type_ == "f4":
                raise UnknownError("an integer as a float")
            elif type_ == "bool":
                v = np.full(32, bool(value))
            else:
                v = np.full(32, value % (1 << 8 * np.dtype(dtype).itemsize), np.uint64).astype(dtype)
            self.constants[value, type_] = len(self.values)
            self.values.append(v)
        return f"K[{self.constants[value, type_]}]"

    def function(self, number, masked):
        key = number, masked
        if key not in self.made:
            source = Block(self, number, masked).write(self.kernel.blocks[number])
            space = dict(self.names)
            exec(compile(source, f"{self.kernel.name}:{number}", "exec"), space)
            self.made[key] = space["block"]
        return self.made[key]
