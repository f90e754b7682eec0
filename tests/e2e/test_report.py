"""`sluice report`: one file with what somebody who helps must know, and without what users said: prompts and outputs that went
through, in every way in which they can end, are in no part of it."""
import os
import subprocess
import tarfile

import pytest

from conftest import SLUICE, free_port, run, wait_until

MARKER = "the marker Xyzzy42 of a secret prompt"


def members(path):
    with tarfile.open(path) as bundle:
        return {member.name: bundle.extractfile(member).read().decode(errors="replace") for member in bundle}


@pytest.fixture
def reported(start_server, tmp_path):
    """A server that has seen the marker in requests of all fates, and its report."""
    server = start_server("--context", 128, "--max-running", 2)
    ask = ["generate", "--endpoint", server.endpoint, "--prompt"]
    output = run(*ask, MARKER, "--max-tokens", 24)
    assert output.returncode == 0, output.stderr
    assert run(*ask, MARKER * 100, "--max-tokens", 8).returncode != 0  # longer than the context
    gone = subprocess.Popen([SLUICE, *ask, MARKER, "--max-tokens", "100"], stdout=subprocess.PIPE)
    gone.stdout.read(1)  # it has begun
    gone.kill()
    gone.communicate()
    wait_until(lambda: server.metric("sluice_requests_running") == 0, "that the client is missed")
    options = tmp_path / "node.yaml"
    options.write_text("stages: 2\njoin-key-file: /etc/sluice/join.key\napi-secret: hunter2\nkey: hunter3\n")
    bundle = tmp_path / "bundle.tar"
    env = {**os.environ, "SLUICE_THREADS": "3", "UCX_SALT": "hunter4", "HOME_SECRET": "hunter5"}
    done = run("report", server.ops, nobody := f"127.0.0.1:{free_port()}", "--to", bundle, "--log", server.log_path, "--options",
               options, env=env)
    assert done.returncode == 0, done.stderr
    return server, members(bundle), output.stdout.strip(), nobody


def test_it_has_what_helps_and_no_prompt_no_output_and_no_secret(reported):
    server, parts, output, nobody = reported
    assert set(parts) == {"report.txt", "machine.txt", "environment.txt", "options-0.txt", "log-0.txt", *(
        f"node-0/{name}" for name in ("version.json", "metrics.txt", "readyz.txt", "startupz.txt", "livez.txt", "schedule.json", "records.jsonl"))}
    assert "sluice_requests_total" in parts["node-0/metrics.txt"] and '"queue"' in parts["node-0/schedule.json"]
    assert "MemTotal" in parts["machine.txt"] and "model name" in parts["machine.txt"]
    assert "SLUICE_THREADS=3" in parts["environment.txt"] and "HOME" not in parts["environment.txt"]
    assert "stages: 2\njoin-key-file: /etc/sluice/join.key\n" in parts["options-0.txt"]
    assert '"role":"coordinator"' in parts["log-0.txt"]
    assert f"node 0 is {server.ops}\n" in parts["report.txt"] and f"nobody answers at the ops port {nobody}" in parts["report.txt"]
    everything = "\n".join(parts.values())
    for secret in ["Xyzzy42", "secret prompt", "hunter2", "hunter3", "hunter4", "hunter5"]:
        assert secret not in everything, secret
    assert output and output[-40:] not in everything and output[:40] not in everything


def test_a_marker_that_is_in_a_log_would_be_seen(tmp_path, server):
    """The look above is one that can fail."""
    log = tmp_path / "planted.log"
    log.write_text(MARKER)
    assert run("report", server.ops, "--to", tmp_path / "r.tar", "--log", log).returncode == 0
    assert "Xyzzy42" in members(tmp_path / "r.tar")["log-0.txt"]


def test_the_report_is_its_owners_and_writes_over_nothing(tmp_path, server):
    bundle = tmp_path / "r.tar"
    assert run("report", server.ops, "--to", bundle).returncode == 0
    assert bundle.stat().st_mode & 0o777 == 0o600
    before = bundle.read_bytes()
    done = run("report", server.ops, "--to", bundle)
    assert done.returncode != 0 and "is there already; move it away" in done.stderr and bundle.read_bytes() == before


def test_a_log_that_is_not_there_ends_it_and_leaves_nothing(tmp_path, server):
    done = run("report", server.ops, "--to", tmp_path / "r.tar", "--log", tmp_path / "nowhere.log")
    assert done.returncode == 74 and "nowhere.log: No such file or directory; give a file that there is" in done.stderr
    assert not (tmp_path / "r.tar").exists()


def test_only_the_end_of_a_long_log_is_in_it(tmp_path, server):
    log = tmp_path / "long.log"
    log.write_text("begin\n" + "x" * (2 << 20) + "\nend\n")
    assert run("report", server.ops, "--to", tmp_path / "r.tar", "--log", log).returncode == 0
    kept = members(tmp_path / "r.tar")["log-0.txt"]
    assert kept.endswith("\nend\n") and len(kept) == 1 << 20
