"""The damage suite: a byte of a pack is wrong before it is loaded, or becomes wrong while it is served. Never a wrong token:
what was loaded was compared with its digests, and a mismatch names the file, with exit code 65.

Environment: SLUICE_BUILD names the build directory (default: build).
"""
import hashlib
import json
import mmap
import os
import shutil
import subprocess
import threading

import grpc
import pytest
from conftest import PATIENCE, ROOT, SLUICE, Process, free_port, wait_until
from smg_grpc_proto.generated import common_pb2
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc

MIB = 1 << 20
PROMPT = ["--prompt", "Once upon a time", "--max-tokens", 4]


def run(*args, code=0):
    done = subprocess.run([SLUICE, *map(str, args)], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A pack in which a file has several blocks."""
    path = tmp_path_factory.mktemp("whole") / "pack"
    run("pack", ROOT / "demo", path)
    assert (path / "embed.safetensors").stat().st_size > MIB
    return path


@pytest.fixture
def pack(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "pack")


def flip(path, at):
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 1]))


def manifest(pack):
    return json.loads((pack / "pack.json").read_text())


def write_manifest(pack, it):
    it.pop("digest", None)
    text = json.dumps(it, indent=1, sort_keys=True)
    it["digest"] = hashlib.sha256(text.encode()).hexdigest()
    (pack / "pack.json").write_text(json.dumps(it, indent=1, sort_keys=True))


def names(pack):
    return ["pack.json"] + [f["name"] for f in manifest(pack)["files"]]


def age(pack):
    """Makes it a pack of a version that had no digests of blocks."""
    it = manifest(pack)
    it["files"] = [f for f in it["files"] if f["name"] != "blocks.xxh3"]
    write_manifest(pack, it)
    (pack / "blocks.xxh3").unlink()


def test_a_wrong_byte_in_any_file_is_found_at_load_and_by_check(pack):
    for name in names(pack):
        size = (pack / name).stat().st_size
        for at in {size // 2, size - 1}:
            flip(pack / name, at)
            for command in [["generate", "--model", pack, *PROMPT], ["check", pack]]:
                assert name in run(*command, code=65)
            flip(pack / name, at)
    run("generate", "--model", pack, *PROMPT)
    run("check", pack)


def test_the_tensor_is_named_and_other_stages_do_not_care(pack):
    flip(pack / "layer-0002.safetensors", 2 * MIB + 17)
    for more in [[], ["--verify", "full"], ["--weights", "copy"]]:
        error = run("score", "--model", pack, "--prompt", "a b c", *more, code=65)
        assert "layer-0002.safetensors" in error and "in MiB 2 (tensor" in error and "pack the checkpoint again" in error
    run("score", "--model", pack, "--prompt", "a b c", "--verify", "off")


def test_a_node_with_a_damaged_pack_ends_with_65(pack, tmp_path):
    flip(pack / "layer-0004.safetensors", 4096)
    serve = Process(tmp_path, "serve", "serve", pack, "--stages", 2, "--threads", 1, "--listen",
                    f"127.0.0.1:{free_port()}", "--ops", f"127.0.0.1:{free_port()}")
    try:
        assert serve.wait() == 65, serve.log()
        assert "layer-0004.safetensors has other bytes than when it was packed" in serve.log()
    finally:
        serve.kill()


def test_an_older_pack_is_verified_by_sha256_and_can_be_given_digests(pack, whole):
    before = manifest(whole)["digest"]
    age(pack)
    old = manifest(pack)["digest"]
    assert old != before and old in run("check", pack)
    run("generate", "--model", pack, *PROMPT)
    flip(pack / "head.safetensors", 5000)
    assert "head.safetensors" in run("generate", "--model", pack, *PROMPT, code=65)
    assert "head.safetensors" in run("check", pack, "--add", code=65)
    flip(pack / "head.safetensors", 5000)
    assert before in run("check", pack, "--add")
    assert (pack / "blocks.xxh3").read_bytes() == (whole / "blocks.xxh3").read_bytes()
    assert before in run("check", pack, "--add")  # a second time changes nothing
    run("generate", "--model", pack, *PROMPT)


def test_the_same_tokens_however_the_weights_are_loaded(pack):
    ask = ["generate", "--model", pack, "--output", "ids", *PROMPT]
    assert len({run(*ask, *more) for more in ([], ["--weights", "copy"], ["--verify", "full"], ["--verify", "off"])}) == 1


# ---- what serve would refuse, pack and check refuse, before the first weight ----

def strange_tokenizer(folder):
    it = json.loads((folder / "tokenizer.json").read_text())
    it["model"]["type"] = "Unigram"
    (folder / "tokenizer.json").write_text(json.dumps(it))


def edit(name, **values):
    def change(folder):
        it = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(it | values))
    return change


REFUSED = [(strange_tokenizer, "tokenizer.json"), (edit("generation_config.json", eos_token_id=4096), "eos_token_id 4096 is outside"),
           (edit("generation_config.json", eos_token_id=[1, 9999]), "eos_token_id 9999 is outside"),
           (edit("generation_config.json", temperature=-1), "temperature must be"),
           (edit("generation_config.json", top_p=1.5), "top_p must be"),
           (edit("generation_config.json", top_k=-5), "top_k must be")]


@pytest.mark.parametrize("change, sentence", REFUSED)
def test_what_serve_refuses_is_refused_by_pack_and_check(pack, tmp_path, change, sentence):
    source = shutil.copytree(ROOT / "demo", tmp_path / "source")
    change(source)
    assert sentence in run("pack", source, tmp_path / "made", code=65)
    assert not (tmp_path / "made").exists()
    change(pack)  # as an older sluice packed it: whole, and not to be served
    it = manifest(pack)
    for f in it["files"]:
        if not f["name"].endswith(".safetensors"):
            data = (pack / f["name"]).read_bytes()
            f["bytes"], f["sha256"] = len(data), hashlib.sha256(data).hexdigest()
    write_manifest(pack, it)
    for command in [["check", pack], ["check", pack, "--add"], ["serve", pack, "--listen", f"127.0.0.1:{free_port()}", "--ops",
                                                               f"127.0.0.1:{free_port()}"]]:
        assert sentence in run(*command, code=65)


# ---- while it is served ----

WEIGHTS = ["embed.safetensors", "head.safetensors"] + [f"layer-{i:04}.safetensors" for i in range(6)]


class Stream(threading.Thread):
    """One long request; how it ends is in `error`, None when it was answered whole."""

    def __init__(self, endpoint, tokens=15000):
        super().__init__()
        self.endpoint, self.tokens, self.begun, self.error, self.ids = endpoint, tokens, threading.Event(), None, []
        self.start()

    def run(self):
        ask = pb.GenerateRequest(tokenized=pb.TokenizedInput(input_ids=[5, 6, 7, 8]), stream=True, request_id="the-stream",
                                 sampling_params=pb.SamplingParams(temperature=0, max_tokens=self.tokens, ignore_eos=True))
        try:
            with grpc.insecure_channel(self.endpoint) as channel:
                for reply in pb_grpc.VllmEngineStub(channel).Generate(ask, timeout=PATIENCE):
                    self.ids += reply.chunk.token_ids if reply.HasField("chunk") else []
                    self.begun.set()
        except grpc.RpcError as error:
            self.error = error
        self.begun.set()


def ends_with_data_loss(server, stream, sentence):
    stream.join(PATIENCE)
    assert stream.error is not None and stream.error.code() == grpc.StatusCode.DATA_LOSS, stream.error
    assert "send the request again" in stream.error.details()
    assert server.wait() == 65, server.log()
    assert sentence in server.log()
    assert "Bus error" not in server.log()


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_file_that_is_overwritten_in_place_ends_what_it_may_have_touched(pack, start_server, name):
    server = start_server(model=pack)
    stream = Stream(server.endpoint)
    assert stream.begun.wait(PATIENCE)
    flip(pack / name, (pack / name).stat().st_size // 2)
    ends_with_data_loss(server, stream, f"{name} has other bytes than when it was packed")


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_file_that_is_truncated_ends_in_a_sentence(pack, start_server, name):
    server = start_server(model=pack)
    stream = Stream(server.endpoint)
    assert stream.begun.wait(PATIENCE)
    os.truncate(pack / name, 5000)
    ends_with_data_loss(server, stream, f"{name} changed its size while it was in use")


def test_truncation_is_seen_even_when_nothing_is_compared(pack, start_server):
    server = start_server("--verify", "off", model=pack)
    stream = Stream(server.endpoint)
    assert stream.begun.wait(PATIENCE)
    flip(pack / "layer-0002.safetensors", 9000)  # as was asked for: no word
    os.truncate(pack / "layer-0005.safetensors", 5000)
    ends_with_data_loss(server, stream, "layer-0005.safetensors changed its size while it was in use")


def test_files_that_were_read_once_are_not_believed_a_second_time(pack, start_server):
    """Tokenizer and configuration were verified and copied; what is handed to gateways is read again, and verified again."""
    server = start_server(model=pack)
    alone = Stream(server.endpoint, tokens=20)
    alone.join(PATIENCE)
    for name in names(pack):
        if not name.endswith(".safetensors"):
            flip(pack / name, 40)
    again = Stream(server.endpoint, tokens=20)
    again.join(PATIENCE)
    assert again.error is None and again.ids == alone.ids and len(again.ids) == 20
    with grpc.insecure_channel(server.endpoint) as channel, pytest.raises(grpc.RpcError) as refused:
        list(pb_grpc.VllmEngineStub(channel).GetTokenizer(common_pb2.GetTokenizerRequest()))
    assert refused.value.code() == grpc.StatusCode.DATA_LOSS and "tokenizer.json has other bytes" in refused.value.details()
    assert server.stop() == 0


def test_an_idle_node_sees_it_too(pack, start_server):
    server = start_server(model=pack)
    flip(pack / "layer-0000.safetensors", 9000)
    assert server.wait() == 65, server.log()
    assert "layer-0000.safetensors has other bytes than when it was packed" in server.log()


def test_damage_that_leaves_no_trace_in_the_file_system_is_found_by_the_scrubber(pack, start_server):
    """A store into a mapping changes the file's times when it makes its page writable, and never again until that is written out."""
    server = start_server(model=pack)
    with open(pack / "head.safetensors", "r+b") as f, mmap.mmap(f.fileno(), 0) as memory:
        memory[70000] = memory[70000]
        wait_until(lambda: server.log().count("head.safetensors was touched, and holds what it did") >= 2, "the look")
        memory[70000] ^= 1
        assert server.wait() == 65, server.log()
    assert "head.safetensors has other bytes than when it was packed" in server.log()


def test_what_does_not_change_a_byte_changes_nothing(pack, start_server):
    server = start_server(model=pack)
    alone = Stream(server.endpoint, tokens=40)
    alone.join(PATIENCE)
    path = pack / "layer-0003.safetensors"
    os.utime(path)
    shutil.copy(pack / "layer-0001.safetensors", pack / "other")
    os.replace(pack / "other", pack / "layer-0001.safetensors")
    wait_until(lambda: "layer-0003.safetensors was touched, and holds what it did" in server.log()
               and "layer-0001.safetensors was replaced or removed" in server.log(), "the look")
    again = Stream(server.endpoint, tokens=40)
    again.join(PATIENCE)
    assert again.error is None and again.ids == alone.ids and len(again.ids) == 40
    assert server.stop() == 0


def test_private_copies_do_not_depend_on_the_files(pack, start_server):
    server = start_server("--weights", "copy", model=pack)
    alone = Stream(server.endpoint, tokens=20)
    alone.join(PATIENCE)
    for name in WEIGHTS:
        os.truncate(pack / name, 100)
    again = Stream(server.endpoint, tokens=20)
    again.join(PATIENCE)
    assert again.error is None and again.ids == alone.ids and len(again.ids) == 20
    assert server.stop() == 0
