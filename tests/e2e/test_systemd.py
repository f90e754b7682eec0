"""What a supervisor is told, as systemd would hear it: ready, stopping, and a sign of life that stops when the loop of the role
does, although everything else in the process goes on. And the units: each starts a command that there is, and is locked up."""
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess

import pytest

from conftest import PATIENCE, ROOT, SLUICE, free_port, get, run
from frozen import Frozen

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
WATCHDOG = {"WATCHDOG_USEC": "200000"}


class Supervisor:
    """The socket of $NOTIFY_SOCKET, and what came over it."""

    def __init__(self, name):
        self.name = f"@sluice-e2e-{os.getpid()}-{name}"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + self.name[1:])
        self.socket.settimeout(PATIENCE)
        self.env = {"NOTIFY_SOCKET": self.name}
        self.heard = []

    def next(self):
        self.heard.append(self.socket.recv(4096).decode())
        return self.heard[-1]

    def until(self, wanted):
        while not (message := self.next()).startswith(wanted):
            pass
        return message

    def rest(self):
        """What has come and was not looked at."""
        self.socket.setblocking(False)
        got = []
        try:
            while True:
                got.append(self.socket.recv(4096).decode())
        except BlockingIOError:
            self.socket.settimeout(PATIENCE)
        self.heard += got
        return got


@pytest.fixture
def supervisor():
    made = []

    def make(name):
        made.append(Supervisor(name))
        return made[-1]
    yield make
    for it in made:
        it.socket.close()


def pipeline(spawn, pack, supervisor):
    """{role: (process, supervisor, ops)} of one coordinator, stage and decode worker, each with a watchdog."""
    grpc, roles = f"127.0.0.1:{free_port()}", {}
    for role, args in [("coordinator", ["--stages", 1, "--listen", grpc]), ("stage", ["--coordinator", grpc, "--threads", 1]),
                       ("decode", ["--coordinator", grpc, "--threads", 1])]:
        to, ops = supervisor(role), f"127.0.0.1:{free_port()}"
        roles[role] = spawn(role, role, pack, "--ops", ops, *args, env={**to.env, **WATCHDOG}), to, ops
    return roles


def test_each_role_says_once_that_it_is_ready_and_that_it_stops(spawn, pack, supervisor):
    roles = pipeline(spawn, pack, supervisor)
    said = {role: to.until("READY=1") for role, (_, to, _) in roles.items()}
    assert re.search(r"STATUS=serving \S+ on 127.0.0.1:\d+, 1 stages", said["coordinator"])
    assert "STATUS=stage 0 of a pipeline of 1 stages" in said["stage"]
    roles["coordinator"][0].signal(signal.SIGTERM)
    for role, (process, to, _) in roles.items():
        assert process.wait() == 0, process.log()
        to.rest()
        assert len([message for message in to.heard if message.startswith("READY=1")]) == 1, role
        assert any(message.startswith("STOPPING=1") for message in to.heard), (role, to.heard)


def loop_of(role, pid):
    """The thread that runs the role's loop: of a worker its first, of a coordinator the one that decides."""
    if role != "coordinator":
        return pid
    for tid in os.listdir(f"/proc/{pid}/task"):
        if pathlib.Path(f"/proc/{pid}/task/{tid}/comm").read_text().strip() == "sl-decide":
            return int(tid)
    raise AssertionError("no thread is called sl-decide")


@pytest.mark.parametrize("role", ["coordinator", "stage", "decode"])
def test_a_loop_that_hangs_gives_no_sign_of_life_although_its_process_lives(spawn, pack, supervisor, role):
    roles = pipeline(spawn, pack, supervisor)
    for _, to, _ in roles.values():
        to.until("READY=1")
        to.until("WATCHDOG=1")
    process, to, ops = roles[role]
    clock = roles["decode" if role == "stage" else "stage"][1]  # its signs of life say that time goes on
    frozen = Frozen(loop_of(role, process.process.pid))
    clock.rest()
    for _ in range(2):  # what was on its way
        clock.until("WATCHDOG=1")
    to.rest()
    for _ in range(6):
        clock.until("WATCHDOG=1")
    silent = to.rest()
    assert get(ops, "/livez")[0] == 200  # everything else goes on, so only the loop can have been missed
    frozen.thaw()
    assert silent == []
    to.until("WATCHDOG=1")


def test_serve_is_ready_when_its_coordinator_is(tmp_path, pack, supervisor):
    to = supervisor("serve")
    log = open(tmp_path / "log", "wb")
    process = subprocess.Popen([SLUICE, "serve", pack, "--stages", "2", "--threads", "1", "--listen", f"127.0.0.1:{free_port()}",
                                "--ops", f"127.0.0.1:{free_port()}"], stdout=log, stderr=log, env={**os.environ, **to.env})
    try:
        assert "STATUS=serving" in to.until("READY=1") and len(to.heard) == 1, to.heard
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert any(message.startswith("STOPPING=1") for message in to.rest())
    finally:
        process.kill()
        log.close()


def test_why_a_node_can_not_start_is_its_status(supervisor):
    to = supervisor("failed")
    done = run("stage", "/nowhere", env={**os.environ, **to.env})
    assert done.returncode != 0
    assert to.next() == "STATUS=" + done.stderr.removeprefix("sluice stage: ").strip()


# ---- The units. ----

def words_of(unit):
    return re.search(r"^ExecStart=/usr/bin/sluice (.*)$", unit.read_text(), re.M).group(1).split()


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_what_a_unit_starts_is_a_command_with_options_that_it_has(unit, tmp_path):
    words = words_of(unit)
    help_text = run(words[0], "--help").stdout
    for word in words[1:]:
        if word.startswith("--") and word != "--config":
            assert f"  {word} " in help_text, word
    config = tmp_path / "empty.yaml"
    config.write_text("")
    filled = [str(config) if word.startswith("/etc/") else "0" if word == "%i" else "/nowhere" if word.startswith("/var") else word
              for word in words if "join" not in word]
    done = run(*filled)
    assert done.returncode == 65 and "/nowhere" in done.stderr, done.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze: the units are not verified")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_takes_the_unit_and_finds_it_locked_up(unit, tmp_path):
    text = unit.read_text().replace("/usr/bin/sluice", str(SLUICE))  # verify looks whether it is there
    name = unit.name.replace("@.", "@0.")
    (tmp_path / name).write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", tmp_path / name], capture_output=True, text=True,
                          timeout=PATIENCE, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"})
    ours = [line for line in (done.stdout + done.stderr).splitlines() if name in line]
    assert not ours, ours
    planted = tmp_path / "planted.service"
    planted.write_text(text.replace("ProtectSystem=strict", "ProtectSystem=stricter"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", planted], capture_output=True, text=True, timeout=PATIENCE)
    assert "stricter" in done.stderr
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", tmp_path / name], capture_output=True,
                          text=True, timeout=PATIENCE)
    exposure = float(re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout).group(1))
    assert exposure < 2.5, done.stdout


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze: the units are not verified")
@pytest.mark.parametrize("unit", [unit for unit in UNITS if "coordinator" not in unit.name], ids=lambda unit: unit.name)
def test_a_unit_with_the_drop_in_for_gpus_may_use_them_and_its_lock_is_the_machines(unit, tmp_path):
    """By itself it sees no device, and what it locks lies in a /tmp of its own, where no other unit finds it."""
    text, drop_in = unit.read_text(), (ROOT / "deploy/systemd/gpu.conf").read_text()
    assert "PrivateDevices=yes" in text and "PrivateTmp=yes" in text and "ProtectSystem=strict" in text
    assert "MemoryDenyWriteExecute" not in text  # a driver that translates kernels runs what it has written
    set_to = dict(line.split("=", 1) for line in drop_in.splitlines() if "=" in line and line[0] not in "#[")
    assert set_to == {"Wants": "nvidia-persistenced.service", "After": "nvidia-persistenced.service", "PrivateDevices": "no",
                      "DevicePolicy": "closed", "DeviceAllow": "char-nvidia* rw", "LimitMEMLOCK": "infinity", "ReadWritePaths": "/run/lock"}
    name = unit.name.replace("@.", "@0.")
    (tmp_path / name).write_text(text.replace("/usr/bin/sluice", str(SLUICE)))
    (tmp_path / f"{name}.d").mkdir()

    def verify(dropped):
        (tmp_path / f"{name}.d" / "gpu.conf").write_text(dropped)
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", tmp_path / name], capture_output=True, text=True,
                              timeout=PATIENCE, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"})
        return [line for line in (done.stdout + done.stderr).splitlines() if "gpu.conf" in line or name in line]
    assert not verify(drop_in)
    assert verify(drop_in.replace("DevicePolicy=closed", "DevicePolicy=shut"))  # it is read
