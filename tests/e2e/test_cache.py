"""Packs that are made on first use: whose they are, when they are made anew, what is left of killed packers, and by what name the
model goes.

Environment: SLUICE_BUILD names the build directory (default: build).
"""
import json
import os
import shutil
import signal
import subprocess
import time

import grpc
import pytest
from conftest import PATIENCE, ROOT, SLUICE, wait_until
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc

PROMPT = ["--prompt", "a", "--max-tokens", 1]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "sluice"


@pytest.fixture
def checkpoint(tmp_path):
    return shutil.copytree(ROOT / "demo", tmp_path / "My-Model")


@pytest.fixture
def run(cache):
    def run(*args, code=0):
        done = subprocess.run([SLUICE, *map(str, args)], capture_output=True, text=True, timeout=PATIENCE,
                              env={**os.environ, "XDG_CACHE_HOME": str(cache.parent)})
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout
    return run


def packs(cache):
    return sorted(p.name for p in cache.glob("*.pack"))


def test_the_pack_depends_on_what_is_packed_and_replaces_the_one_before(checkpoint, cache, run):
    run("generate", "--model", checkpoint, *PROMPT)
    [first] = packs(cache)
    assert first.startswith("My-Model-")
    (checkpoint / "README.md").write_text("another word")
    (checkpoint / "notes").write_text("and a file")
    run("generate", "--model", f"{checkpoint}/", *PROMPT)
    assert packs(cache) == [first]
    for name in ["config.json", "tokenizer.json", "model.safetensors"]:
        os.utime(checkpoint / name, (time.time() + 100, time.time() + 100))
        run("generate", "--model", checkpoint, *PROMPT)
        [second] = packs(cache)
        assert second != first
        first = second
    other = shutil.copytree(ROOT / "demo", checkpoint.parent / "elsewhere" / "My-Model")
    run("generate", "--model", other, *PROMPT)
    assert len(packs(cache)) == 2 and first in packs(cache)  # of the same name, and not of the same checkpoint


def test_the_cache_is_listed_and_cleared(checkpoint, cache, run):
    assert "in 0 packs" in run("cache")
    run("generate", "--model", checkpoint, *PROMPT)
    (cache / "tune-keep").write_text("not a pack")
    (cache / "cost-0123.txt").write_text("of a stage")
    (cache / "venv").mkdir()
    listed = json.loads(run("cache", "list", "--json"))
    [it] = listed["packs"]
    assert it["from"] == str(checkpoint) and it["whole"] and it["bytes"] == listed["bytes"] > 20 << 20
    assert str(checkpoint) in run("cache")
    shutil.rmtree(checkpoint)
    assert "(which is gone)" in run("cache", "list")
    assert "1 packs removed" in run("cache", "clear")
    assert packs(cache) == [] and (cache / "tune-keep").exists() and (cache / "venv").exists()
    assert not list(cache.glob("*.from")) and not list(cache.glob("cost-*"))
    assert "say list or clear" in run("cache", "clean", code=64)


def test_what_a_killed_packer_has_left_goes_and_what_a_living_one_builds_stays(tmp_path, cache, run):
    """Killed and stopped in the middle, with SIGSTOP in place of being slow."""
    left = []
    for number in [signal.SIGKILL, signal.SIGSTOP]:
        packer = subprocess.Popen([SLUICE, "pack", "--random", "qwen3-30b-a3b", tmp_path / "big.pack", "--layers", "1"],
                                  stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        place = tmp_path / f"big.pack.tmp-{packer.pid}"
        wait_until(lambda: (place / "embed.safetensors").exists(), "packing")
        packer.send_signal(number)
        left.append((packer, place))
    killed, living = left
    killed[0].wait(PATIENCE)
    if killed[1].exists():  # unless the second packer has swept it by now, as it must
        run("pack", ROOT / "demo", tmp_path / "big.pack")
    assert not killed[1].exists() and living[1].exists()
    strange = tmp_path / "big.pack.tmp-123"
    strange.mkdir()
    (strange / "letter.txt").write_text("mine")
    run("pack", ROOT / "demo", tmp_path / "big.pack", "--force")
    assert living[1].exists() and (strange / "letter.txt").exists()
    living[0].kill()
    living[0].wait(PATIENCE)
    run("pack", ROOT / "demo", tmp_path / "big.pack", "--force")
    assert not living[1].exists()


def test_killed_packers_of_the_cache_are_swept_at_the_next_pack(checkpoint, cache, run):
    dead = cache / "Other-0123456789ab-0123456789abcdef.pack.tmp-4711"
    dead.mkdir(parents=True)
    (dead / "layer-0000.safetensors").write_bytes(b"half")
    assert "left by a packer" in run("cache")
    run("generate", "--model", checkpoint, *PROMPT)
    assert not dead.exists() and len(packs(cache)) == 1


def served_name(server):
    with grpc.insecure_channel(server.endpoint) as channel:
        return pb_grpc.VllmEngineStub(channel).GetModelInfo(pb.GetModelInfoRequest()).served_model_name


def test_the_model_goes_by_the_name_of_the_directory_as_given(checkpoint, cache, start_server):
    link = checkpoint.parent / "Nickname"
    link.symlink_to(checkpoint)
    env = {"XDG_CACHE_HOME": str(cache.parent)}
    for path, more, name in [(checkpoint, [], "My-Model"), (f"{link}/", [], "Nickname"), (checkpoint, ["--name", "told"], "told")]:
        server = start_server(*more, model=path, env=env)
        assert served_name(server) == name
        assert server.stop() == 0
