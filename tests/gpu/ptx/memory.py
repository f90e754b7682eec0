"""Memory of a launch: the device's, a block's shared, parameters. An access outside, or not aligned, is an error with its line."""

import numpy as np

from read import PtxError

U1, U2, U4, U8 = np.uint8, np.uint16, np.uint32, np.uint64
WORD = {1: U1, 2: U2, 4: U4, 8: U8}
SHIFT = {1: 0, 2: 1, 4: 2, 8: 3, 16: 4}
ALL = np.ones(32, bool)
SEVERAL = 1 << 10  # in the place of a thread of a block: more than one of the same warp


class Bytes:
    """A range of addresses with its bytes, and views of them by words and vectors."""

    def __init__(self, what, base, size):
        self.what, self.base = what, base
        self.room = -(-size // 16) * 16
        self.bytes = np.zeros(self.room, U1)
        self.last = None  # which last byte of an access may be touched; None: [0, size)
        self.size = size
        self.views = {}
        for width, of in WORD.items():
            for n in (1, 2, 4):
                if width * n <= 16:
                    v = self.bytes.view(of)
                    self.views[width, n] = v if n == 1 else v.reshape(-1, n)

    def fail(self, line, lane, address, text):
        raise PtxError(f"line {line}: lane {lane} at 0x{int(address):x} of {self.what}: {text}")

    def index(self, address, offset, bytes_, line, mask):
        """In units of the access, of the lanes of `mask`; all of them: None."""
        if mask is not None:
            address = address[mask]
        at = address + address.dtype.type((offset - self.base) % (1 << 8 * address.itemsize))
        if at.size == 0:
            return at.astype(np.int64)
        shift = SHIFT[bytes_]
        if bytes_ > 1 and int(np.bitwise_or.reduce(at)) & (bytes_ - 1):
            lane = int(np.argmax(at & at.dtype.type(bytes_ - 1) != 0))
            self.fail(line, lane, int(at[lane]) + self.base, "not aligned")
        good = at < self.size  # aligned: none lies across the end, but of what is shorter than itself
        if good.all():
            at = at.astype(np.int64)
            good = self.last.take(at + (bytes_ - 1)) if self.last is not None else at + bytes_ <= self.size
        if not good.all():
            lane = int(np.argmin(good))
            self.fail(line, lane, int(at[lane]) + self.base, f"{bytes_} bytes that nobody gave it")
        return at >> shift if shift else at

    def load(self, address, offset, width, n, line, mask=None):
        """n arrays of 32 words of that width; lanes that are not in the mask have 0."""
        i = self.index(address, offset, width * n, line, mask)
        v = self.views[width, n].take(i, axis=0)
        if mask is not None:
            full = np.zeros((32,) if n == 1 else (32, n), WORD[width])
            full[mask] = v
            v = full
        return (v,) if n == 1 else tuple(np.ascontiguousarray(v.T))

    def store(self, address, offset, width, values, line, mask=None):
        n = len(values)
        i = self.index(address, offset, width * n, line, mask)
        v = values[0] if n == 1 else np.stack(values, axis=1)
        self.views[width, n][i] = v if mask is None else v[mask]
        return i


class Global(Bytes):
    """What the launch's memories are, each where it was: [(address, bytes)]."""

    def __init__(self, memories):
        low = min(at for at, _ in memories) // 16 * 16
        high = max(at + len(data) for at, data in memories)
        if high - low > 1 << 34:
            raise PtxError("memories that are too far from each other")
        super().__init__("global memory", low, high - low)
        self.last = np.zeros(self.room, bool)
        for at, data in memories:
            self.bytes[at - low : at - low + len(data)] = np.frombuffer(data, U1)
            self.last[at - low : at - low + len(data)] = True

    def taken(self, at, size):
        return self.bytes[at - self.base : at - self.base + size]


class Shared(Bytes):
    """A block's. What the generic proxy wrote is seen by the async one (wgmma) when its writer has fenced; copies under way have
    0xC5 where they will land. It knows who wrote and read last, and finds what lanes of one warp do to each other without a sync."""

    BASE = 1024  # the system has what lies below it

    def __init__(self, size, proxies):
        super().__init__("shared memory", self.BASE, size)
        self.bytes[:] = 0xA5
        self.seen = np.full(self.room, 0x5A, U1) if proxies else None
        self.writer = np.full(self.room, -1, np.int32)  # thread of the block
        self.written = np.zeros(self.room, np.int64)  # its warp's count of syncs, then
        self.reader, self.was_read = np.full(self.room // 4 + 1, -1, np.int32), np.zeros(self.room // 4 + 1, np.int64)  # the last, of words

    def note(self, i, bytes_, warp, line, mask):
        """After a store: who did it. What another lane of the warp has read or written and no sync came between may come later."""
        at = i * bytes_
        who = warp.threads if mask is None else warp.threads[mask]
        for b in range(0, bytes_, 4):
            word = (at + b) >> 2
            for other, when, did in ((self.reader[word], self.was_read[word], "read"),
                                     (self.writer[at + b], self.written[at + b], "written")):
                bad = (other != who) & (other >= 0) & (other >> 5 & 31 == warp.number) & (when == warp.syncs)
                if bad.any():
                    lane = int(np.argmax(bad))
                    self.fail(line, lane, int(at[lane]) + self.base, f"another lane has {did} it and no bar.warp.sync came between")
        for b in range(bytes_):
            self.writer[at + b] = who
            self.written[at + b] = warp.syncs
        if self.seen is not None:
            warp.unfenced.append((at, bytes_))

    def look(self, address, offset, bytes_, warp, line, mask):
        """Before a load: whether another lane of the warp wrote it and nothing came between."""
        at = (address if mask is None else address[mask]).astype(np.int64) + (offset - self.base)
        own = warp.threads if mask is None else warp.threads[mask]
        for b in range(0, bytes_, 4):
            writer = self.writer.take(at + b, mode="clip")
            bad = (writer != own) & (writer >> 5 == warp.number) & (self.written.take(at + b, mode="clip") == warp.syncs)
            if bad.any():
                lane = int(np.argmax(bad))
                self.fail(line, lane, int(at[lane]) + self.base, "another lane wrote it and no bar.warp.sync came between")
            word = np.clip((at + b) >> 2, 0, len(self.reader) - 1)
            before = self.reader[word]
            several = (before != own) & (before >> 5 & 31 == warp.number) & (self.was_read[word] == warp.syncs)
            self.reader[word] = own
            self.was_read[word] = warp.syncs
            several |= self.reader[word] != own
            if several.any():
                self.reader[word[several]] = SEVERAL + 32 * warp.number

    def fence(self, warp):
        for at, bytes_ in warp.unfenced:
            for b in range(bytes_):
                self.seen[at + b] = self.bytes[at + b]
        warp.unfenced.clear()
