"""One thread of another process that stands still while all others go on, which no signal can do: ptrace stops it."""
import ctypes
import os
import pathlib

import pytest

SEIZE, INTERRUPT, DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000


class Frozen:
    """Made and ended on the same thread of ours."""

    def __init__(self, tid):
        self.tid, self.ptrace = tid, ctypes.CDLL(None, use_errno=True).ptrace
        self.ptrace.argtypes, self.ptrace.restype = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p], ctypes.c_long
        if self.ptrace(SEIZE, tid, None, None) != 0:
            pytest.skip(f"threads can't be stopped here: {os.strerror(ctypes.get_errno())}")
        assert self.ptrace(INTERRUPT, tid, None, None) == 0
        assert os.waitpid(tid, WALL)[0] == tid

    def thaw(self):
        assert self.ptrace(DETACH, self.tid, None, None) == 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.thaw()


def busiest_thread(pid):
    def used(tid):
        fields = pathlib.Path(f"/proc/{pid}/task/{tid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])
    return max(map(int, os.listdir(f"/proc/{pid}/task")), key=used)
