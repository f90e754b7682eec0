"""Reads the PTX that nvcc makes of our kernels: kernels, their registers, their instructions, cut where control may come or go.

Only what our kernels have is understood. Anything else is an error that names its line."""

import re
from typing import NamedTuple


class PtxError(Exception):
    """What a kernel does that it must not."""


class UnknownError(PtxError):
    """What nobody here knows."""


class Reg(NamedTuple):
    number: int
    kind: str  # pred, b16, b32, b64, f32


class Imm(NamedTuple):
    value: object  # an int, or a float as the bits of an f32


class Name(NamedTuple):
    name: str  # of memory, or of a register of the machine (%tid.x)


class Place(NamedTuple):
    base: object  # Reg, Name or Imm
    offset: int


class Instruction(NamedTuple):
    line: int
    guard: object  # None, or (Reg, whether it must be false)
    op: str
    args: tuple  # a vector is a list


class Kernel:
    def __init__(self, name):
        self.name = name
        self.params = {}  # name: (offset, bytes)
        self.threads, self.per_sm = 0, 1
        self.kinds = []  # of registers, by number
        self.registers = {}
        self.blocks = []  # lists of Instruction
        self.labels = {}  # name: number of a block

    def register(self, name, kind):
        if name not in self.registers:
            self.registers[name] = Reg(len(self.kinds), kind)
            self.kinds.append(kind)
        return self.registers[name]


SPECIAL = {"%tid.x", "%ntid.x", "%ctaid.x", "%nctaid.x", "%laneid"}
# After these another warp may go on.
ENDS = ("bra", "ret", "bar.sync", "setmaxnreg")


class Reader:
    def __init__(self, text):
        self.lines = text.split("\n")
        self.at = 0
        self.kernels = {}
        self.shared = {}  # name: alignment of memory whose size the launch says
        self.target = ""

    def fail(self, what):
        raise UnknownError(f"line {self.at}: {what}")

    def next(self):
        """The next line that says something; None: there is none."""
        while self.at < len(self.lines):
            line = self.lines[self.at].split("//")[0].strip()
            self.at += 1
            if line and not line.startswith(".pragma"):
                return line
        return None

    def read(self):
        while (line := self.next()) is not None:
            if line.startswith(".visible .entry"):
                self.read_kernel(re.match(r"\.visible \.entry (\w+)\(", line).group(1))
            elif m := re.match(r"\.extern \.shared \.align (\d+) \.b8 (\w+)\[\];", line):
                self.shared[m.group(2)] = int(m.group(1))
            elif line.startswith(".target"):
                self.target = line.split()[1]
            elif not line.startswith((".version", ".address_size")):
                self.fail(f"what is \"{line}\"?")
        return self

    def read_kernel(self, name):
        k = Kernel(name)
        offset = 0
        while (line := self.next()) != "{":
            if m := re.match(r"\.param \.align (\d+) \.b8 (\w+)\[(\d+)\]", line):
                align, size = int(m.group(1)), int(m.group(3))
                offset = -(-offset // align) * align
                k.params[m.group(2)] = (offset, size)
                offset += size
            elif m := re.match(r"\.maxntid (\d+), 1, 1", line):
                k.threads = int(m.group(1))
            elif m := re.match(r"\.minnctapersm (\d+)", line):
                k.per_sm = int(m.group(1))
            elif line != ")":
                self.fail(f"what is \"{line}\" of a kernel?")
        self.read_body(k)
        self.kernels[name] = k

    def read_body(self, k):
        self.ranges = {}
        k.blocks.append([])
        while (line := self.next()) != "}":
            if line is None:
                self.fail("the kernel does not end")
            if m := re.match(r"\.reg \.(\w+)\s+(%\w+)<(\d+)>;", line):
                self.ranges[m.group(2)] = m.group(1)
            elif m := re.match(r"(\$\w+):$", line):
                if k.blocks[-1]:
                    k.blocks.append([])
                k.labels[m.group(1)] = len(k.blocks) - 1
            elif line.startswith("{ .reg"):  # of inline asm: its registers are its own
                own = f"<{self.at}>"
                body = line.strip("{} ")
                m = re.match(r"\.reg \.pred (\w+);(.*)", body)
                if not m:
                    self.fail(f"what is \"{line}\"?")
                k.register(m.group(1) + own, "pred")
                for one in m.group(2).split(";"):
                    if one.strip():
                        one = re.sub(rf"\b{m.group(1)}\b", m.group(1) + own, one)
                        self.add(k, one.strip())
            else:
                while not line.endswith(";"):
                    line += " " + self.next()
                for one in line.split(";"):
                    if one.strip():
                        self.add(k, one.strip())

    def add(self, k, text):
        guard = None
        if m := re.match(r"@(!?)(%\w+)\s+(.*)", text):
            guard = (self.operand(k, m.group(2)), m.group(1) == "!")
            text = m.group(3)
        op, rest = (text.split(maxsplit=1) + [""])[:2]
        args = tuple(self.operand(k, a) for a in self.split(rest))
        if ".sync" in op and k.blocks[-1] and not any(".sync" in i.op for i in k.blocks[-1]):
            k.blocks.append([])  # lanes may have to wait here for others
        k.blocks[-1].append(Instruction(self.at, guard, op, args))
        if op.startswith(ENDS):
            k.blocks.append([])

    def split(self, text):
        """At the commas that are in no braces."""
        parts, depth = [""], 0
        for c in text:
            depth += (c == "{") - (c == "}")
            if c == "," and depth == 0:
                parts.append("")
            else:
                parts[-1] += c
        return [p.strip() for p in parts if p.strip()]

    def operand(self, k, text):
        if text.startswith("{"):
            return [self.operand(k, t) for t in self.split(text[1:-1])]
        if text.startswith("["):
            base, _, offset = text[1:-1].partition("+")
            return Place(self.operand(k, base), int(offset or 0))
        if "|" in text:  # of a shuffle: whether there was such a lane
            return tuple(self.operand(k, t) for t in text.split("|"))
        if re.match(r"0[fF][0-9A-Fa-f]{8}$", text):
            return Imm(("f32", int(text[2:], 16)))
        if re.match(r"-?\d+$", text):
            return Imm(int(text))
        if re.match(r"0x[0-9A-Fa-f]+$", text):
            return Imm(int(text, 16))
        if text in SPECIAL:
            return Name(text)
        if m := re.match(r"(%[a-z]+)\d+$", text):
            if m.group(1) not in self.ranges:
                self.fail(f"nobody declared {text}")
            return k.register(text, self.ranges[m.group(1)])
        if text in k.registers:
            return k.registers[text]
        if re.match(r"[\w$]+$", text):
            return Name(text)
        self.fail(f"what is the operand \"{text}\"?")


ENTRY = re.compile(r"^\.visible \.entry (\w+)\(.*?^\}\n", re.M | re.S)


def texts(path):
    """Of each kernel in that file: its PTX, as a module of its own."""
    with open(path) as f:
        text = f.read()
    found = list(ENTRY.finditer(text))
    head = text[: found[0].start()]
    return {m.group(1): head + m.group(0) for m in found}
