"""What the end-to-end tests share: real `sluice` processes on free ports, started, waited for and stopped.

`start_server` starts one with any options and stops it after the test; `server` is one for the whole session (2 stages).

A machine may be busy, and several sessions may share it. So nothing here measures time: whoever needs a counterpart asks it for
the very thing until it can (`wait_until`), and every deadline is PATIENCE, which only bounds what hangs.
Environment: SLUICE_BUILD names the build directory (default: build); SLUICE_SLOW_FACTOR makes every deadline so many times longer;
SLUICE_SHARE is an empty folder that several runs of the same tests have in common: each test is run by one of them.
"""
import fcntl
import itertools
import os
import pathlib
import random
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SLUICE = ROOT / os.environ.get("SLUICE_BUILD", "build") / "sluice"


PATIENCE = 300 * float(os.environ.get("SLUICE_SLOW_FACTOR", 1))  # seconds
SHARE = os.environ.pop("SLUICE_SHARE", None)  # sluice warns of a variable that it does not know
locks = []


def free_port():
    """A port that stays free until it is listened on: locked against other sessions of these tests until this one ends, and
    below those that the kernel gives to outgoing connections (32768 and up). Above the data ports (13000 to 13063)."""
    folder = pathlib.Path(tempfile.gettempdir()) / f"sluice-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for port in random.SystemRandom().sample(range(14000, 32000), 1000):
        lock = open(folder / str(port), "wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as s:
                s.bind(("127.0.0.1", port))
        except OSError:
            lock.close()
            continue
        locks.append(lock)
        return port
    raise AssertionError("none of 1000 ports is free")


def wait_until(condition, what):
    """Polls, because what is waited for is another process; fails with its name."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not come true within {PATIENCE:.0f} s"
        time.sleep(0.02)
    return value


def run(*args, **more):
    """A sluice command, to its end."""
    return subprocess.run([SLUICE, *map(str, args)], capture_output=True, text=True, timeout=PATIENCE, **more)


# Who is started by nohup ignores SIGHUP, and so would every server that is to drain on it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def after(*commands):
    """The words before a command that is to run after these of a shell. Not preexec_fn: it runs in a fork of this process, where
    gRPC's own handlers have been seen to hang."""
    return ["sh", "-c", "; ".join([*commands, 'exec "$@"']), "sh"] if commands else []


def get(ops, path):
    """(status, body) of a request to an ops port; (0, "") when nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{ops}{path}", timeout=PATIENCE) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def value_of(ops, line):
    """Of one line of /metrics, named with its labels."""
    for text in get(ops, "/metrics")[1].splitlines():
        if text.startswith(line + " "):
            return float(text.split()[-1])
    raise AssertionError(f"/metrics has no {line}")


class Process:
    """A sluice process whose stderr goes to a file. files: its hard limit on descriptors."""

    def __init__(self, folder, name, *args, env=None, files=None, ignores=()):
        self.log_path = folder / f"{name}.log"
        self.log_file = open(self.log_path, "wb")
        before = [f"ulimit -n {files}"] if files else []
        before += [f"trap '' {int(number)}" for number in ignores]
        self.process = subprocess.Popen([*after(*before), SLUICE, *map(str, args)], stdout=self.log_file,
                                        stderr=self.log_file, env={**os.environ, **(env or {})})

    def log(self):
        return self.log_path.read_text(errors="replace")

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self):
        return self.process.wait(PATIENCE)

    def alive(self):
        return self.process.poll() is None

    def kill(self):
        if self.alive():
            self.process.kill()
        self.process.wait()
        self.log_file.close()


class Server(Process):
    """`sluice serve`, with the addresses it listens on."""

    def __init__(self, folder, *args, model=ROOT / "demo", stages=2, name="serve", host="127.0.0.1", **more):
        ports = free_port(), free_port()
        reached = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
        self.endpoint, self.ops = (f"{reached}:{port}" for port in ports)
        super().__init__(folder, name, "serve", model, "--stages", stages, "--threads", 1, "--listen", f"{host}:{ports[0]}",
                         "--ops", f"{host}:{ports[1]}", *args, **more)

    def get(self, path):
        return get(self.ops, path)

    def metric(self, line):
        """The value of one line of /metrics, named with its labels."""
        return value_of(self.ops, line)

    def wait_ready(self):
        def ready():
            assert self.alive(), self.log()
            return self.get("/readyz")[0] == 200
        wait_until(ready, "readiness")
        return self

    def children(self):
        """{role with stage: pid} of its processes"""
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
                if int(stat.rsplit(")", 1)[1].split()[1]) != self.process.pid:
                    continue
                words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if len(words) < 3:  # it has just been forked, or it has ended
                continue
            role = words[1].decode()
            if role == "stage":
                role += " " + words[words.index(b"--stage") + 1].decode()
            found[role] = int(pid)
        return found

    def stop(self):
        """SIGTERM; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()


def taken(items, folder):
    """Those of the items that this run takes, file by file: whoever makes a file's mark has all of its tests, and what they share. A
    file is taken when the last test before it is about to run, not earlier."""
    for path, tests in itertools.groupby(items, lambda item: item.path):
        try:
            (folder / path.stem).touch(exist_ok=False)
        except FileExistsError:
            continue
        yield from tests


def pytest_runtestloop(session):
    """Runs side by side share the tests; who runs alone has pytest's own loop."""
    if not SHARE or session.config.option.collectonly or session.testsfailed:
        return None
    tests = taken(session.items, pathlib.Path(SHARE))
    test = next(tests, None)
    while test:
        following = next(tests, None)  # pytest wants to know it: what both share is kept
        test.config.hook.pytest_runtest_protocol(item=test, nextitem=following)
        if session.shouldfail or session.shouldstop:
            raise session.Interrupted(session.shouldfail or session.shouldstop)
        test = following
    return True


@pytest.fixture(scope="session")
def pack(tmp_path_factory):
    """demo/ as a pack. Whoever changes a byte of it does that to a copy."""
    path = tmp_path_factory.mktemp("pack") / "demo.pack"
    done = run("pack", ROOT / "demo", path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """The demo in integers, which are quick on a twin: floats go through as many steps as there are inputs."""
    path = tmp_path_factory.mktemp("small") / "demo8.pack"
    done = run("pack", ROOT / "demo", path, "--experts", "i4", "--dense", "i8")
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def spawn(tmp_path):
    started = []

    def start(name, *args, env=None):
        started.append(Process(tmp_path, name, *args, env=env))
        return started[-1]
    yield start
    for process in started:
        process.kill()


@pytest.fixture
def start_server(tmp_path):
    started = []

    def start(*args, **more):
        started.append(Server(tmp_path, *args, name=f"serve-{len(started)}", **more))
        return started[-1].wait_ready()
    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    it = Server(tmp_path_factory.mktemp("server")).wait_ready()
    yield it
    code = it.stop() if it.alive() else it.process.returncode
    it.kill()
    assert code == 0, it.log()


@pytest.fixture
def scripted(spawn, tmp_path):
    from scripted_server import Scripted  # which needs what is above
    made = []

    def start(*args):
        made.append(Scripted(spawn, tmp_path, *args))
        return made[-1]
    yield start
    for it in made:
        it.channel.close()
        it.openai.close()
