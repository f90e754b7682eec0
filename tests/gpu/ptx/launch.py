"""A launch that the twin's machine has done and written down (tests/gpu/written.h), done once more by the PTX."""

import struct

import numpy as np

import machine

HEAD = struct.Struct("<8s64sIIQQQ")


class Launch:
    def __init__(self, path):
        with open(path, "rb") as f:
            data = memoryview(f.read())
        magic, name, self.blocks, self.threads, self.shared_bytes, n_params, n = HEAD.unpack_from(data)
        if magic != b"LAUNCH1\0":
            raise ValueError(f"{path} is no launch: made by another version?")
        self.path, self.kernel = path, name.rstrip(b"\0").decode()
        at = HEAD.size
        self.params = bytes(data[at : at + n_params])
        at += n_params
        self.memories = [[], []]  # before, after: (address, bytes)
        for memories in self.memories:
            for _ in range(n):
                address, size = struct.unpack_from("<QQ", data, at)
                memories.append((address, data[at + 16 : at + 16 + size]))
                at += 16 + size

    def changes(self):
        """How many bytes it wrote others into."""
        return sum(int((np.frombuffer(a, np.uint8) != np.frombuffer(b, np.uint8)).sum()) for (_, a), (_, b) in zip(*self.memories))

    def run(self, program, seed=1):
        """Words that differ in the end, each in a sentence; how many are NaN in both, with other bits; instructions of warps."""
        world = machine.World(program, self.blocks, self.threads, self.shared_bytes, self.params, self.memories[0], seed)
        world.run()
        wrong, nans = [], 0
        for m, (address, want) in enumerate(self.memories[1]):
            want = np.frombuffer(want, np.uint8)
            got = world.memory.taken(address, len(want))
            if (want == got).all():
                continue
            words = len(want) // 4 * 4
            w, g = want[:words].view(np.uint32), got[:words].view(np.uint32)
            both = np.isnan(w.view(np.float32)) & np.isnan(g.view(np.float32)) & (w != g)
            nans += int(both.sum())
            for i in np.flatnonzero((w != g) & ~both):
                wrong.append(f"memory {m}, word {i}: 0x{g[i]:08x} instead of 0x{w[i]:08x}")
            for i in np.flatnonzero(want[words:] != got[words:]):
                wrong.append(f"memory {m}, byte {words + i}: 0x{got[words + i]:02x} instead of 0x{want[words + i]:02x}")
        return wrong, nans, world.instructions
