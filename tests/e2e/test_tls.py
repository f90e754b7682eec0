"""A door that locks: TLS on the gRPC port, with certificates that openssl(1) made. Who has none, a stolen one, one of another role
comes as far as that, and no further; certificates are replaced under load and nobody sees it; floods of handshakes cost what
floods may cost. The bounds of the door behind TLS are tried in test_door.py."""
import itertools
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time

import grpc
import pytest
from certs import Authority, replace
from conftest import PATIENCE, ROOT, Server, free_port, get, run, wait_until
from hostile import SECURE, Connection, Resources
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

ROLES = ("client", "gateway", "node", "admin")
DENIED = grpc.StatusCode.PERMISSION_DENIED
GROWTH = 300  # MB that a flood may cost, as in test_door.py


class World:
    """A CA, another, a server's certificate and one of each role."""

    def __init__(self, folder):
        self.folder, self.ca, self.other = folder, Authority(folder), Authority(folder, "other")
        self.server = self.ca.sign("server", "DNS:localhost,IP:127.0.0.1")
        self.parties = {role: self.ca.of_role(role) for role in ROLES}

    def options(self):
        return [*self.server.options(), "--tls-ca", self.ca.cert, "--tls-require-client"]

    def channel(self, endpoint, party, ca=None):
        key, cert = (party.key.read_bytes(), party.cert.read_bytes()) if party else (None, None)
        credentials = grpc.ssl_channel_credentials((ca or self.ca).cert.read_bytes(), key, cert)
        return grpc.secure_channel(endpoint, credentials, options=[("grpc.use_local_subchannel_pool", 1)])

    def context(self):
        """Of a client that speaks HTTP/2 by hand."""
        context = ssl.create_default_context(cafile=self.ca.cert)
        context.load_cert_chain(self.parties["client"].cert, self.parties["client"].key)
        context.set_alpn_protocols(["h2"])
        context.check_hostname = False
        return context

    def engine(self, endpoint, party, **more):
        return pb_grpc.VllmEngineStub(self.channel(endpoint, party, **more))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("certs"))


@pytest.fixture(scope="module")
def node(world, tmp_path_factory):
    it = Server(tmp_path_factory.mktemp("tls"), *world.options()).wait_ready()
    yield it
    code = it.stop()
    it.kill()
    assert code == 0, it.log()


def request(max_tokens=4, text="The old gentleman", **more):
    return pb.GenerateRequest(text=text, sampling_params=pb.SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True), **more)


def answer(engine, metadata=(), **more):
    reply, = engine.Generate(request(**more), timeout=PATIENCE, metadata=metadata)
    return list(reply.complete.output_ids)


def is_served(world, node, role="client"):
    with world.channel(node.endpoint, world.parties[role]) as channel:
        return len(answer(pb_grpc.VllmEngineStub(channel))) == 4


def tenant_of(node, request_id):
    found = []

    def logged():
        found[:] = re.findall(rf'request \\"{request_id}\\": tenant=\\"(.*?)\\"', node.log())
        return found
    wait_until(logged, f"the line of {request_id}")
    return found[0]


# ---- who may call what ----

ENGINE, CONTROL, OIP = "/vllm.grpc.engine.VllmEngine/", "/sluice.v1.Control/", "/inference.GRPCInferenceService/"
TABLE = {
    **{ENGINE + name: {"client", "gateway", "admin"} for name in (
        "Generate", "Embed", "HealthCheck", "Abort", "GetModelInfo", "GetServerInfo", "GetLoads", "GetTokenizer")},
    ENGINE + "SubscribeKvEvents": {"gateway", "admin"},
    **{ENGINE + name: {"admin"} for name in ("FlushCache", "StartProfile", "StopProfile")},
    **{OIP + name: {"client", "gateway", "admin"} for name in (
        "ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer")},
    **{"/grpc.health.v1.Health/" + name: set(ROLES) for name in ("Check", "Watch")},
    **{f"/grpc.reflection.{v}.ServerReflection/ServerReflectionInfo": set(ROLES) for v in ("v1", "v1alpha")},
    **{CONTROL + name: {"node"} for name in ("Hello", "Join", "Ready", "Leave", "Silence")},
    CONTROL + "Status": {"node", "admin"},
}


def test_the_table_has_every_method_of_every_service():
    """Those of the sources: the services' tables name each path once."""
    text = "".join(path.read_text() for folder in ("node/edge", "node/coordinator") for path in (ROOT / folder).glob("*.c"))
    paths = set(re.findall(r'"(/[a-z0-9.]+(?:\.[A-Z]\w+)/[A-Z]\w+)"', text)) | {ENGINE + m for m in re.findall(r'PATH\("(\w+)"\)', text)}
    assert paths == set(TABLE)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_calls_what_the_table_says_and_nothing_else(world, node, role):
    """What may be called fails, if it does, for what it says (an empty message is a bad one to most), and never for who asks."""
    with world.channel(node.endpoint, world.parties[role]) as channel:
        for path, roles in TABLE.items():
            if path.endswith("ServerReflectionInfo"):
                call = channel.stream_stream(path)(iter([b""]), timeout=PATIENCE)
            else:
                call = channel.unary_stream(path)(b"", timeout=PATIENCE)
            code, details = grpc.StatusCode.OK, ""
            try:
                next(call, None)  # of a stream that goes on: its first message
                call.cancel()
            except grpc.RpcError as error:
                code, details = error.code(), error.details()
            refused = code == DENIED and f"whose role is {role}, may not call {path}" in details
            # A node's proof of membership is looked at behind this door, and an empty one is refused by another sentence.
            assert refused == (role not in roles), (path, role, code, details)
    denied = sum(role not in roles for roles in TABLE.values())
    assert node.metric(f'sluice_grpc_calls_denied_total{{role="{role}"}}') >= denied
    assert node.alive()


def test_nobody_comes_in_by_a_certificate_that_is_none_of_ours(world, node):
    stolen = world.other.of_role("admin", name="stolen")
    expired = world.ca.of_role("client", name="expired", days=(-2, -1))
    young = world.ca.of_role("client", name="young", days=(1, 2))
    for party, said in ((None, "it has no certificate, and one is required"), (stolen, "its certificate is not taken: unable to get"),
                        (expired, "its certificate is not taken: certificate has expired"),
                        (young, "its certificate is not taken: certificate is not yet valid")):
        before = node.metric('sluice_grpc_connections_shut_total{reason="handshake"}')
        with world.channel(node.endpoint, party) as channel:
            with pytest.raises(grpc.RpcError) as error:
                answer(pb_grpc.VllmEngineStub(channel))
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        wait_until(lambda: node.metric('sluice_grpc_connections_shut_total{reason="handshake"}') > before, "the count")

        def is_said():  # one such line a second: another try is logged when it is over
            with world.channel(node.endpoint, party) as channel:
                with pytest.raises(grpc.RpcError):
                    answer(pb_grpc.VllmEngineStub(channel))
            return said in node.log()
        wait_until(is_said, said)
    assert is_served(world, node)


def test_a_certificate_without_a_role_is_told_so(world, node):
    """It is of our CA: for something else."""
    for name, names in (("nobody", "DNS:web.example"), ("two", "URI:spiffe://test/a/role/client,URI:spiffe://test/a/role/admin"),
                        ("root", "URI:spiffe://test/a/role/root"), ("twice", "URI:spiffe://test/role/admin/role/client")):
        party = world.ca.sign(name, names)
        with world.channel(node.endpoint, party) as channel:
            with pytest.raises(grpc.RpcError) as error:
                pb_grpc.VllmEngineStub(channel).GetLoads(pb.GetLoadsRequest(), timeout=PATIENCE)
            assert error.value.code() == DENIED and "your certificate has no role here" in error.value.details()


def test_plain_text_and_old_versions_get_nothing(world, node):
    with grpc.insecure_channel(node.endpoint) as channel:
        with pytest.raises(grpc.RpcError) as error:
            answer(pb_grpc.VllmEngineStub(channel))
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    host, port = node.endpoint.split(":")
    context = ssl.create_default_context(cafile=world.ca.cert)
    context.load_cert_chain(world.parties["client"].cert, world.parties["client"].key)
    for protocols in ([], ["http/1.1"]):
        if protocols:
            context.set_alpn_protocols(protocols)
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as plain:
            with pytest.raises(OSError):
                it = context.wrap_socket(plain, server_hostname="localhost")
                if not it.recv(1):
                    raise OSError("closed")
    assert is_served(world, node)


# ---- whose a request is ----

def test_headers_are_a_gateways_and_a_client_is_who_its_certificate_says(world, node):
    says = (("x-tenant-id", "another"), ("x-priority", "2"))
    for role, tenant in (("gateway", "another"), ("client", "test/acme"), ("admin", "test/acme")):
        answer(world.engine(node.endpoint, world.parties[role]), metadata=says, request_id=f"of-{role}")
        assert tenant_of(node, f"of-{role}") == tenant
    answer(world.engine(node.endpoint, world.parties["gateway"]), request_id="of-itself")
    assert tenant_of(node, "of-itself") == "test/acme"


def test_prefixes_are_shared_by_a_gateways_salt_and_never_between_clients(world, node):
    prompt = "In a village of La Mancha, the name of which I have no desire to call to mind, there lived not long since one of those "
    other = world.ca.of_role("client", who="other")

    def cached(party, metadata=()):
        reply, = world.engine(node.endpoint, party).Generate(request(text=prompt * 4), timeout=PATIENCE, metadata=metadata)
        return reply.complete.cached_tokens
    assert cached(world.parties["client"]) == 0
    assert cached(world.parties["client"]) > 0
    assert cached(other) == 0 and cached(other) > 0
    salt = (("x-cache-salt", "test/acme"),)
    assert cached(world.parties["gateway"], salt) == 0  # a client's name is no salt
    assert cached(world.parties["gateway"], salt) > 0
    assert cached(world.parties["client"], salt) == 0  # and a gateway's salt no name


def test_abort_ends_ones_own_requests_and_an_admin_ends_any(world, node):
    other = world.ca.of_role("client", who="mallory")

    def begin(name):
        call = world.engine(node.endpoint, world.parties["client"]).Generate(request(max_tokens=3000, request_id=name, stream=True),
                                                                            timeout=PATIENCE)
        next(call)
        return call

    def abort(party, *names):
        world.engine(node.endpoint, party).Abort(pb.AbortRequest(request_ids=names), timeout=PATIENCE)

    def ending(call):
        reason = ""
        for piece in call:
            reason = piece.complete.finish_reason or reason
        return reason
    call = begin("mine-1")
    abort(other, "mine-1", "nobody's")
    for _ in range(3):  # it goes on
        assert next(call).chunk.token_ids
    abort(world.parties["client"], "mine-1")
    assert ending(call) == "abort"
    call = begin("mine-2")
    abort(world.parties["admin"], "mine-2")
    assert ending(call) == "abort"


def test_an_admin_flushes_the_prefix_cache(world, node):
    party = world.parties["gateway"]
    text = "It is a truth universally acknowledged, that a single man in possession of a good fortune must be in want of a wife. " * 4

    def cached():
        reply, = world.engine(node.endpoint, party).Generate(request(text=text), timeout=PATIENCE)
        return reply.complete.cached_tokens
    cached()
    assert cached() > 0
    channel = world.channel(node.endpoint, world.parties["admin"])
    reply = channel.unary_unary(ENGINE + "FlushCache")(b"", timeout=PATIENCE)
    assert reply.startswith(b"\x08\x01")  # success
    assert cached() == 0


# ---- rotation ----

def test_certificates_are_replaced_under_load_and_no_request_fails(tmp_path):
    world = World(tmp_path)
    live = world.ca.sign("live", "DNS:localhost,IP:127.0.0.1")
    node = Server(tmp_path, *live.options(), "--tls-ca", world.ca.cert, "--tls-require-client").wait_ready()
    failed, done, stop = [], itertools.count(), threading.Event()
    SECURE[node.endpoint] = world.context()
    idle = Connection(node.endpoint)
    del SECURE[node.endpoint]
    lived = world.engine(node.endpoint, world.parties["client"])  # one connection for all of it, as a gateway has
    long = lived.Generate(request(max_tokens=3500, stream=True), timeout=PATIENCE)
    next(long)

    def ask_anew():
        with world.channel(node.endpoint, world.parties["gateway"]) as channel:  # nothing of it is left to be shut as aged
            return answer(pb_grpc.VllmEngineStub(channel))

    def ask(asked):
        while not stop.is_set():
            try:
                assert len(asked()) == 4
            except Exception as error:  # noqa: BLE001
                failed.append(error)
            next(done)
    threads = [threading.Thread(target=ask, args=(asked,)) for asked in (lambda: answer(lived), lambda: answer(lived), ask_anew)]
    for thread in threads:
        thread.start()
    taken = 'sluice_tls_replacements_total{result="taken"}'
    for round in range(4):
        before, enough = node.metric(taken), next(done) + 30
        replace(live, world.ca.sign(f"next-{round}", "DNS:localhost,IP:127.0.0.1"))
        wait_until(lambda: node.metric(taken) > before, "the replacement")
        wait_until(lambda: next(done) > enough + 4, "requests after it")
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed, failed[:3]
    assert next(done) > 100
    tokens = sum(len(piece.chunk.token_ids) for piece in long)  # what ran through all of it, too
    assert tokens > 3000
    assert idle.wait_closed(PATIENCE)  # who has no calls and does not go by itself is shut
    assert node.metric('sluice_grpc_connections_shut_total{reason="aged"}') == 1
    assert node.stop() == 0, node.log()
    node.kill()


def test_half_a_replacement_changes_nothing_and_is_said_once(tmp_path):
    world = World(tmp_path)
    live = world.ca.sign("live", "DNS:localhost,IP:127.0.0.1")
    node = Server(tmp_path, *live.options(), "--tls-ca", world.ca.cert, "--tls-require-client").wait_ready()
    refused, taken = ('sluice_tls_replacements_total{result="%s"}' % r for r in ("refused", "taken"))
    whole = live.cert.read_bytes()
    for count, (damage, said) in enumerate([(lambda: live.cert.write_bytes(whole[:len(whole) // 2]), "is cut off or damaged; write it whole"),
                                            (lambda: live.cert.write_bytes(world.parties["client"].cert.read_bytes()), "is not the key of"),
                                            (lambda: os.unlink(live.cert), "cannot be read"),
                                            (lambda: replace(live, world.ca.sign("old", "DNS:localhost", days=(-2, -1))), "expired on"),
                                            (lambda: replace(live, world.ca.sign("young", "DNS:localhost", days=(1, 2))), "is not valid before")]):
        damage()
        wait_until(lambda: said in node.log(), said)
        assert is_served(world, node) and is_served(world, node)
    time_of = node.metric(refused)
    begin = time.monotonic()
    wait_until(lambda: time.monotonic() > begin + 2.5, "some looks at the same files")
    assert node.metric(refused) == time_of and node.metric(taken) == 0
    replace(live, world.ca.sign("good", "DNS:localhost,IP:127.0.0.1"))
    wait_until(lambda: node.metric(taken) == 1, "the replacement")
    assert is_served(world, node)
    assert node.stop() == 0, node.log()
    node.kill()


def test_a_connection_ends_with_the_certificate_that_it_was_proved_by(world, node):
    aged = 'sluice_grpc_connections_shut_total{reason="aged"}'
    before, context = node.metric(aged), world.context()

    def one():
        """One that was there before its client's certificate expired: on a busy machine, not the first."""
        party = world.ca.of_role("client", name="brief", days=(-1, 4 / 86400))
        context.load_cert_chain(party.cert, party.key)
        SECURE[node.endpoint] = context
        try:
            it = Connection(node.endpoint)
            return it if it.take(PATIENCE) else None
        except OSError:
            return None
        finally:
            del SECURE[node.endpoint]
    idle = wait_until(one, "a connection")
    assert idle.wait_closed(PATIENCE)
    assert node.metric(aged) == before + 1


@pytest.mark.slow
def test_nodes_go_on_with_their_newest_certificates_when_the_first_expire(tmp_path, pack, spawn):
    world = World(tmp_path)
    port, ops = free_port(), f"127.0.0.1:{free_port()}"
    coordinator = spawn("coordinator", "coordinator", pack, "--stages", 1, "--listen", f"127.0.0.1:{port}", "--ops", ops, *world.options())
    live = world.ca.of_role("node", name="live", days=(-1, 60 / 86400))
    to = ["--threads", 1, "--coordinator", f"localhost:{port}", "--tls-ca", world.ca.cert, *live.options()]
    workers = [spawn(role, role, pack, *to) for role in ("stage", "decode")]
    wait_until(lambda: get(ops, "/readyz")[0] == 200, "readiness")
    replace(live, world.ca.of_role("node", name="later"))
    wait_until(lambda: coordinator.log().count("Join stream") >= 2, "the end of what the first certificates proved")
    wait_until(lambda: get(ops, "/readyz")[0] == 200, "readiness again")
    assert len(answer(world.engine(f"localhost:{port}", world.parties["client"]))) == 4
    assert all(process.alive() for process in (coordinator, *workers))


# ---- floods ----

def test_a_flood_of_handshakes_leaves_who_has_called_served_and_ends_with_it(world, node):
    """Halves of hellos, garbage and silence, from as many connections as this process may have; one that is there goes on all the
    while, and a newcomer comes in when it is over."""
    watched = Resources(node.children()["coordinator"])
    hello = client_hello()
    kept = world.channel(node.endpoint, world.parties["client"])
    engine = pb_grpc.VllmEngineStub(kept)
    assert len(answer(engine)) == 4
    stop, made = threading.Event(), itertools.count()

    def flood():
        while not stop.is_set():
            crowd = []
            for i in range(150):
                try:
                    it = socket.create_connection(node.endpoint.split(":"), timeout=5)
                    it.sendall((hello, hello[:len(hello) // 2], b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", b"")[i % 5])
                    crowd.append(it)
                    next(made)
                except OSError:
                    pass
            for it in crowd:
                it.close()
    threads = [threading.Thread(target=flood) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: next(made) > 100, "the flood")
    for _ in range(10):
        assert len(answer(engine)) == 4
    wait_until(lambda: next(made) > 1000, "more of it")
    for _ in range(10):
        assert len(answer(engine)) == 4
    stop.set()
    for thread in threads:
        thread.join()
    wait_until(lambda: newcomer_is_served(world, node), "a newcomer after it")
    wait_until(lambda: node.metric("sluice_tls_handshakes") == 0, "the end of all handshakes")
    assert watched.growth() < GROWTH
    watched.end()
    kept.close()


def newcomer_is_served(world, node):
    try:
        return is_served(world, node)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        return False


def client_hello():
    """The first words of a client of TLS, whole."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    it = context.wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        it.do_handshake()
    return outgoing.read()


# ---- our own commands, and sentences ----

def test_our_commands_speak_tls_and_say_what_is_wrong_in_one_sentence(world, node):
    client, ca = world.parties["client"], ["--tls-ca", world.ca.cert]
    to = ["--endpoint", node.endpoint]
    done = run("generate", *to, *ca, *client.options(), "--prompt", "The old", "--max-tokens", 4)
    assert done.returncode == 0 and done.stdout, done.stderr
    assert run("health", *to, *ca, *client.options()).returncode == 0
    expired = world.ca.of_role("client", name="expired-too", days=(-2, -1))
    cases = [
        (["health", *to, *ca], 69, "wants a certificate of its clients (ours: none); give one with --tls-cert and --tls-key"),
        (["health", *to, "--tls-ca", world.other.cert, *client.options()], 69, "give the CA that signed it with --tls-ca"),
        (["health", *to, *ca, *client.options(), "--tls-name", "elsewhere.example"], 69, "is for localhost and not for elsewhere.example"),
        (["generate", *to, *ca, *expired.options(), "--prompt", "x"], 78, "expired on"),
        (["generate", *to, *ca, "--tls-cert", client.cert, "--tls-key", world.parties["node"].key, "--prompt", "x"], 78, "is not the key of"),
        (["generate", *to, *ca, "--tls-cert", client.cert, "--prompt", "x"], 64, "--tls-cert and --tls-key go together"),
        (["generate", *to, *ca, *world.parties["node"].options(), "--prompt", "x"], 77, "whose role is node, may not call"),
    ]
    for words, code, said in cases:
        done = run(*words)
        assert said in done.stderr, (words, done.stderr)
        assert done.returncode == code or words[0] == "health", (words, done)
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_what_a_server_cannot_use_is_said_before_anything_starts(world, pack):
    client, server = world.parties["client"], world.server
    for words, code, said in (
            (["--tls-cert", server.cert], 64, "--tls-cert and --tls-key go together"),
            (["--tls-ca", world.ca.cert], 64, "want --tls-cert, or there is no TLS"),
            (["--tls-require-client", *server.options()], 64, "want --tls-ca, by which clients are known"),
            ([*world.options(), "--trust-headers"], 64, "--trust-headers does not go with --tls-require-client"),
            ([*world.options(), "--tls-role", "x=root"], 64, "is no rule: write PATTERN=ROLE"),
            (["--tls-cert", server.cert, "--tls-key", client.key], 78, "is not the key of the certificate file"),
            (["--tls-cert", world.folder / "none", "--tls-key", client.key], 78, "cannot be read: No such file or directory")):
        for command in ("serve", "coordinator"):
            done = run(command, pack, "--listen", f"127.0.0.1:{free_port()}", "--ops", f"127.0.0.1:{free_port()}", *words)
            assert (done.returncode, said in done.stderr) == (code, True), (command, words, done.stderr)


def test_a_pipeline_of_separate_nodes_joins_by_certificates_alone(world, pack, spawn):
    """No join key anywhere: each node's certificate says that it is one, and a client's does not."""
    port, ops = free_port(), f"127.0.0.1:{free_port()}"
    coordinator = spawn("coordinator", "coordinator", pack, "--stages", 1, "--listen", f"0.0.0.0:{port}", "--ops", ops, *world.options())
    node = world.parties["node"]
    to = ["--coordinator", f"localhost:{port}", "--tls-ca", world.ca.cert]
    refused = spawn("refused", "stage", pack, "--threads", 1, *to, *world.parties["client"].options())
    assert refused.wait() == 77, refused.log()
    assert "whose role is client, may not call /sluice.v1.Control/Hello" in refused.log()
    for name, words, said in (("stolen", world.other.of_role("node", name="stolen-node").options(), "does not take our certificate"),
                              ("misnamed", [*node.options(), "--tls-name", "elsewhere.example"], "is for localhost and not for elsewhere"),
                              ("bare", [], "wants a certificate of its clients")):
        lost = spawn(name, "stage", pack, "--threads", 1, *to, *words, "--join-timeout", 1)
        assert lost.wait() == 69 and re.search(rf"sluice stage: stage 0 could not join within 1 s: .*{said}", lost.log()), lost.log()
    workers = [spawn("stage", "stage", pack, "--threads", 1, *to, *node.options()),
               spawn("decode", "decode", pack, "--threads", 1, *to, *node.options())]

    def ready():
        assert all(worker.alive() for worker in (coordinator, *workers)), workers[0].log() + coordinator.log()
        return get(ops, "/readyz")[0] == 200
    wait_until(ready, "readiness")
    assert len(answer(world.engine(f"localhost:{port}", world.parties["client"]))) == 4
    assert "gRPC on 0.0.0.0" in coordinator.log() and "a certificate is required and says what its holder may call" in coordinator.log()
    coordinator.signal(15)
    assert coordinator.wait() == 0 and all(worker.wait() == 0 for worker in workers)


def test_the_socket_of_nodes_hears_its_own_user_alone(world, node):
    """Children of serve come in by it, in the clear, as nodes: another user is shut out before he is heard, and who comes in may do what
    a node may."""
    name = re.search(r"gRPC on the socket (\S+):", node.log())[1]
    with grpc.insecure_channel(f"unix-abstract:{name}") as channel:
        with pytest.raises(grpc.RpcError) as error:
            answer(pb_grpc.VllmEngineStub(channel))
        assert error.value.code() == DENIED and "whose role is node" in error.value.details()
        with pytest.raises(grpc.RpcError) as error:  # a member is who knows the key of this life
            channel.unary_stream(CONTROL + "Join")(b"", timeout=PATIENCE).next()
        assert "may not call" not in error.value.details()
    if os.getuid() != 0:
        pytest.skip("only root can be another user")
    script = ("import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect('\\0' + sys.argv[1]);"
              "s.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]));"
              "sys.exit(len(s.recv(100)))")
    mine = subprocess.run([sys.executable, "-c", script, name], timeout=PATIENCE)
    other = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/python3", "-c", script, name], timeout=PATIENCE,
                           capture_output=True, text=True)
    assert mine.returncode > 0  # SETTINGS
    assert other.returncode == 0 or "reset" in other.stderr or "Broken pipe" in other.stderr, other


# ---- without TLS ----

def test_headers_without_tls_are_believed_on_loopback_and_refused_beyond_it(start_server, server):
    says = (("x-tenant-id", "a"),)

    def ask(it, **more):
        with grpc.insecure_channel(it.endpoint) as channel:
            return answer(pb_grpc.VllmEngineStub(channel), **more)
    assert len(ask(server, metadata=says)) == 4
    wide = start_server(host="0.0.0.0")
    assert "refused; --trust-headers believes them" in wide.log()
    assert len(ask(wide)) == 4
    for name, value in (*says, ("x-priority", "1"), ("x-cache-salt", "s")):
        with pytest.raises(grpc.RpcError) as error:
            ask(wide, metadata=((name, value),))
        assert error.value.code() == DENIED and f"{name} is believed of gateways only" in error.value.details()
    assert len(ask(wide, metadata=(("x-slo-ttft-ms", "600000"),))) == 4
    trusting = start_server("--trust-headers", host="0.0.0.0")
    assert len(ask(trusting, metadata=says)) == 4


def test_beyond_this_machine_nobody_listens_without_a_key_certificates_or_a_word(pack, world):
    listen = ["--listen", f"0.0.0.0:{free_port()}", "--ops", f"127.0.0.1:{free_port()}"]
    for more in ([], world.server.options()):  # TLS that asks nobody who he is keeps no stranger from joining
        done = run("coordinator", pack, *listen, *more)
        assert done.returncode == 64 and "could take a stage's place" in done.stderr and "--insecure-network" in done.stderr
    done = run("stage", pack, "--data-address", "0.0.0.0")
    assert done.returncode == 64 and "--data-address 0.0.0.0 is reachable from the network" in done.stderr
