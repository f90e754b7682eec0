"""Who may be a member of a pipeline: whoever knows its join key, and nobody else; a stranger speaks sluice.v1 here by hand."""
import hashlib
import hmac
import json
import os
import pathlib
import re
import signal

import grpc
import pytest
from conftest import PATIENCE, ROOT, Server, free_port, run, wait_until

WIRE = int(re.search(r"SL_WIRE_VERSION = (\d+)", (ROOT / "pipeline/record/wire.h").read_text())[1])


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "join.key"
    path.write_text("a secret of thirty-two characters\n")
    return path


# ---- sluice.v1, as much as a stranger needs: fields in protobuf's encoding, proofs as node/coordinator/join_key.h has them ----

def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields(message):
    """{number: bytes} of length-delimited fields."""
    found, at = {}, 0

    def number():
        nonlocal at
        n = shift = 0
        while True:
            byte = message[at]
            at += 1
            n |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return n
    while at < len(message):
        tag = number()
        if tag & 7 == 2:
            n = number()
            found[tag >> 3] = message[at:at + n]
            at += n
        else:
            number()
    return found


def mac(key, label, *parts):
    return hmac.new(key, label.ljust(16, b"\0") + b"".join(parts), hashlib.sha256).digest()


class Stranger:
    """One who reaches the coordinator's port. text: of the key that he believes in; None: as without a key."""

    def __init__(self, endpoint, text):
        self.channel = grpc.insecure_channel(endpoint)
        self.member = os.urandom(16)
        self.key = hmac.new(bytes(32), text.encode(), hashlib.sha256).digest() if text else bytes(32)

    def call(self, method, message):
        return self.channel.unary_unary(f"/sluice.v1.Control/{method}")(message, timeout=PATIENCE, wait_for_ready=True)

    def hello(self):
        self.nonce = os.urandom(16)
        reply = fields(self.call("Hello", field(1, self.nonce)))
        self.ticket = reply[1]
        self.session = mac(self.key, b"member", self.nonce, self.ticket)
        return reply[2] == mac(self.key, b"coordinator", self.nonce, self.ticket)

    def proof(self, kind, message):
        return mac(self.session, kind, hmac.new(self.session, message, hashlib.sha256).digest())

    def node(self, pack, stage=0, epoch=0):
        """What a stage of this version says of itself: all of it can be found out, but for the member that it is."""
        config = json.loads((pathlib.Path(pack) / "config.json").read_text())
        version = json.loads(run("version", "--json").stdout)["version"]
        digest = json.loads((pathlib.Path(pack) / "pack.json").read_text())["digest"]
        return (field(1, "stage") + field(2, stage) + field(3, digest) + field(4, version) + field(7, "127.0.0.1") +
                field(8, 13000) + field(9, WIRE) + field(11, "stranger") + field(14, config["num_hidden_layers"]) +
                field(15, "f32") + field(16, b"somewhere") + field(17, self.member) + (field(18, epoch) if epoch else b""))

    def join(self, node, proof=None):
        """The stream; its first event or its error come when it is read."""
        request = field(1, node) + field(2, self.nonce) + field(3, self.ticket)
        request += field(4, self.proof(b"join", node) if proof is None else proof)
        return self.channel.unary_stream("/sluice.v1.Control/Join")(request, timeout=PATIENCE)


def refused(stream):
    with pytest.raises(grpc.RpcError) as error:
        next(stream)
    return error.value.code(), error.value.details()


@pytest.fixture
def coordinator(spawn, pack, key_file):
    endpoint = f"127.0.0.1:{free_port()}"
    process = spawn("coordinator", "coordinator", pack, "--stages", 1, "--listen", endpoint, "--ops",
                    f"127.0.0.1:{free_port()}", "--join-key-file", key_file)
    process.endpoint = endpoint
    return process


def test_who_does_not_know_the_key_takes_no_place_and_ends_nothing(coordinator, spawn, pack, key_file):
    stranger = Stranger(coordinator.endpoint, None)
    assert not stranger.hello()  # what the coordinator proves is another key
    node = stranger.node(pack)
    wrong = Stranger(coordinator.endpoint, "another secret of many characters")
    wrong.hello()
    attempts = [stranger.join(node), stranger.join(node, b""), stranger.join(node, bytes(32)), wrong.join(node)]
    for stream in attempts:
        code, sentence = refused(stream)
        assert code == grpc.StatusCode.PERMISSION_DENIED and "the join key differs" in sentence, (code, sentence)
    for method in ("Ready", "Leave"):  # with the number and the proof where those are
        message = field(1, "stage") + field(3, 1) + field(4, 1) + field(5, bytes(32))
        with pytest.raises(grpc.RpcError) as error:
            stranger.call(method, message)
        assert error.value.code() == grpc.StatusCode.PERMISSION_DENIED
    for role in (("stage", pack, "--stage", 0), ("decode", pack)):
        spawn(role[0], *role, "--threads", 1, "--coordinator", coordinator.endpoint, "--join-key-file", key_file)
    wait_until(lambda: "ready: 1 stages" in coordinator.log(), "readiness, with the true members")
    assert run("generate", "--endpoint", coordinator.endpoint, "--prompt", "a", "--max-tokens", 3).returncode == 0
    coordinator.signal(signal.SIGTERM)
    assert coordinator.wait() == 0
    assert coordinator.log().count("a node was refused") < 7  # seven refusals in a moment are not seven lines


def test_a_join_that_was_overheard_is_of_no_use_again(coordinator, pack, key_file):
    member = Stranger(coordinator.endpoint, key_file.read_text().rstrip())
    assert member.hello()
    node = member.node(pack)
    first = member.join(node)
    wait_until(lambda: "stage 0 joined" in coordinator.log(), "the first to join")
    code, sentence = refused(member.join(node))
    assert code == grpc.StatusCode.PERMISSION_DENIED and "the ticket was used before" in sentence
    other = member.node(pack).replace(b"stranger", b"impostor")  # and its proof holds for its own words alone
    member.hello()
    code, sentence = refused(member.join(other, member.proof(b"join", node)))
    assert code == grpc.StatusCode.PERMISSION_DENIED and "the join key differs" in sentence
    second = Stranger(coordinator.endpoint, key_file.read_text().rstrip())
    second.hello()
    code, sentence = refused(second.join(second.node(pack)))
    assert code == grpc.StatusCode.ALREADY_EXISTS, sentence  # with a proof, but the place is taken
    member.hello()
    again = member.join(node)  # the same one, whose stream broke without the coordinator's knowing
    next(again)
    with pytest.raises(grpc.RpcError) as error:
        list(first)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE and "another Join stream" in error.value.details()
    again.cancel()
    wait_until(lambda: "stage 0 left" in coordinator.log(), "it to leave")


def test_a_node_with_another_key_says_so_and_ends(coordinator, pack, tmp_path):
    other = tmp_path / "other.key"
    other.write_text("another secret of many characters")
    for words in (("--join-key-file", other), ()):
        node = run("stage", pack, "--stage", 0, "--threads", 1, "--coordinator", coordinator.endpoint, *words)
        assert node.returncode == 77, node.stderr
        assert "the join key differs; give both the same --join-key-file" in node.stderr
    assert coordinator.alive()


@pytest.mark.parametrize("words", [
    ("coordinator", "--listen", "0.0.0.0:0"), ("coordinator", "--listen", "127.0.0.1:0", "--data-address", "10.0.0.1"),
    ("stage", "--data-address", "10.0.0.1"), ("decode", "--data-address", "::")])
def test_who_listens_to_a_network_without_a_key_is_refused(pack, words):
    node = run(words[0], pack, *words[1:])
    assert node.returncode == 64 and "--join-key-file" in node.stderr and "--insecure-network" in node.stderr


def test_a_key_that_is_none_is_refused(pack, tmp_path):
    short = tmp_path / "short.key"
    short.write_text("short\n")
    for path, says in ((short, "16 to 4096 bytes"), (tmp_path / "none", "cannot be read"), (tmp_path, "cannot be read")):
        node = run("coordinator", pack, "--listen", "127.0.0.1:0", "--join-key-file", path)
        assert node.returncode == 78 and says in node.stderr, node.stderr


def test_serve_keeps_its_secret_among_its_children(tmp_path, pack):
    server = Server(tmp_path, model=pack)
    try:
        server.wait_ready()
        paths = set()
        for pid in server.children().values():
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            paths.add(words[words.index(b"--join-key-file") + 1])
            environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes().lower().split(b"\0")
            assert not any(b"join" in word.split(b"=")[0] or b"/dev/fd/" in word for word in environment)
            held = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            assert not any("join-key" in where for where in held)  # read once, then closed
        assert len(paths) == 1 and paths.pop().startswith(b"/dev/fd/")
        stranger = Stranger(server.endpoint, None)
        assert not stranger.hello()
        code, _ = refused(stranger.join(stranger.node(pack)))
        assert code == grpc.StatusCode.PERMISSION_DENIED
        assert server.stop() == 0
    finally:
        server.kill()
