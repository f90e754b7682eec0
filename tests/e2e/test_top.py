"""`sluice top`: a frame of a running node, for scripts and on a terminal, and one sentence where there is no node."""
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import fcntl

from conftest import PATIENCE, SLUICE, free_port, run, wait_until


def top(*args, **more):
    done = run("top", *args, "--once", "--every", 0.1, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_frame_shows_stages_pages_and_decode_workers_within_80_columns(server):
    assert run("generate", "--endpoint", server.endpoint, "--prompt", "Once upon a time", "--max-tokens", 4).returncode == 0
    frame = top(server.ops)
    assert re.search(rf"^sluice \S+  {server.ops}  ready$", frame, re.M)
    for row in [r"prefill +\d+ tokens/s", r"decode +\d+ tokens/s   running \d+   waiting \d+", r"chunks \d+ of \d+ in flight",
                r"stage 0    \S{24} +\d+ %", r"stage 1    \S{24} +\d+ %", r"stages     \S{24} +\d+ %", r"0 +0 +\d+\.\d\d"]:
        assert re.search(row, frame), frame
    assert max(map(len, frame.splitlines())) <= 80
    assert "\x1b" not in frame


def test_a_stage_has_a_frame_and_adds_to_that_of_its_coordinator(spawn, pack):
    grpc, ops, stage_ops = (f"127.0.0.1:{free_port()}" for _ in range(3))
    spawn("coordinator", "coordinator", pack, "--stages", 1, "--listen", grpc, "--ops", ops)
    spawn("decode", "decode", pack, "--coordinator", grpc, "--threads", 1)
    spawn("stage", "stage", pack, "--coordinator", grpc, "--threads", 1, "--ops", stage_ops)
    wait_until(lambda: run("health", "--endpoint", grpc).returncode == 0, "health")
    assert run("generate", "--endpoint", grpc, "--prompt", "Once upon a time " * 40, "--max-tokens", 2).returncode == 0
    alone = top(stage_ops)
    assert "a node that takes no requests" in alone and re.search(r"stage 0 .*[0-9.]+ %", alone), alone
    both = top(ops, stage_ops)
    assert re.search(r"^stage 0 +\S{24} +\d+ % +\d+ +\d+\.\d %", both, re.M), both
    assert len(re.findall(r"^stage 0 ", both, re.M)) == 1


def test_who_is_no_node_gets_one_sentence(server):
    nobody = f"127.0.0.1:{free_port()}"
    done = run("top", nobody)
    assert done.returncode == 69 and f"nobody answers at the ops port {nobody}" in done.stderr
    done = run("top", server.endpoint)
    assert done.returncode == 69 and "is it the port of --ops?" in done.stderr
    done = run("top", "here")
    assert done.returncode in (64, 78) and done.stderr.count("\n") == 1
    frame = top(server.ops, nobody)
    assert f"nobody answers at the ops port {nobody}" in frame and "stage 1" in frame


def test_on_a_terminal_frames_are_drawn_over_one_another_and_the_screen_is_given_back(server):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 72, 0, 0))
    process = subprocess.Popen([SLUICE, "top", server.ops, "--every", "0.1"], stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    seen = b""
    while seen.count(b"\x1b[H") < 3:
        seen += os.read(master, 65536)
    process.send_signal(signal.SIGTERM)
    try:
        while more := os.read(master, 65536):
            seen += more
    except OSError:  # the other end has closed
        pass
    assert process.wait(PATIENCE) == 0
    text = seen.decode()
    assert text.startswith("\x1b[?1049h\x1b[?25l") and text.endswith("\x1b[?25h\x1b[?1049l")
    for drawn in text.split("\x1b[H")[1:]:
        lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn).splitlines()
        assert len(lines) <= 11 and max(map(len, lines)) <= 72, drawn
