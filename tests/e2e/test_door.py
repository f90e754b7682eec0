"""What strangers and attackers do at the door: more connections than descriptors, floods of streams, resets and watches, messages
that never end, silence, addresses of every kind. Each is done over real sockets; meanwhile and afterwards others are served, and
the coordinator's memory and descriptors stay within their bounds."""
import pathlib
import re
import resource
import socket
import ssl
import subprocess
import threading
import time
import urllib.request

import grpc
import pytest
from certs import Authority
from conftest import PATIENCE, SLUICE, Server, after, free_port, value_of, wait_until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hostile import (ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, RESET, SECURE, SETTINGS, WINDOW,
                     Connection, Resources, descriptors, fields, frame, message)
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

GENERATE = "/vllm.grpc.engine.VllmEngine/Generate"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
GROWTH = 300  # MB that a flood may cost
LARGE = 33_000_000


@pytest.fixture(scope="module", params=["plain", "tls"])
def node(request, tmp_path_factory):
    """A node for the floods: nothing of one may be left for the next. All bounds hold behind TLS, too."""
    folder = tmp_path_factory.mktemp("door")
    it = Server(folder, *(secured(folder) if request.param == "tls" else [])).wait_ready()
    it.own = it.metric("sluice_grpc_connections")  # one a node; on a busy machine also one whose first call was given up meanwhile
    if request.param == "tls":
        SECURE[it.endpoint] = client_context(folder)
    yield it
    SECURE.pop(it.endpoint, None)
    code = it.stop()
    it.kill()
    assert code == 0, it.log()


@pytest.fixture
def watched(node):
    it = Resources(node.children()["coordinator"])
    yield it
    it.end()


def secured(folder):
    """The options of a server that wants certificates; those of a client are beside them."""
    ca = Authority(folder)
    for role, name in (("gateway", "client"), ("node", "node")):
        ca.of_role(role, name=name)
    return [*ca.sign("server", "DNS:localhost,IP:127.0.0.1").options(), "--tls-ca", ca.cert, "--tls-require-client"]


def client_context(folder, name="client"):
    context = ssl.create_default_context(cafile=folder / "ca.crt")
    context.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
    context.set_alpn_protocols(["h2"])
    context.check_hostname = False
    context.folder = folder
    return context


def request(max_tokens=4, text="The old gentleman"):
    return pb.GenerateRequest(text=text, sampling_params=pb.SamplingParams(temperature=0, max_tokens=max_tokens))


def channel(server):
    """One with a connection of its own."""
    if server.endpoint in SECURE:
        folder = SECURE[server.endpoint].folder
        ca, key, cert = ((folder / name).read_bytes() for name in ("ca.crt", "client.key", "client.crt"))
        return grpc.secure_channel(server.endpoint, grpc.ssl_channel_credentials(ca, key, cert),
                                   options=[("grpc.use_local_subchannel_pool", 1)])
    return grpc.insecure_channel(server.endpoint, options=[("grpc.use_local_subchannel_pool", 1)])


def is_served(server, **more):
    """A newcomer's request, whole."""
    with channel(server) as it:
        reply, = pb_grpc.VllmEngineStub(it).Generate(request(**more), timeout=PATIENCE)
        return len(reply.complete.output_ids) == more.get("max_tokens", 4)


def channel_is_served(server):
    """Like is_served, of a newcomer who may be turned away."""
    try:
        return is_served(server)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        return False


def is_healthy(server):
    with channel(server) as it:
        reply = health_pb2_grpc.HealthStub(it).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        return reply.status == health_pb2.HealthCheckResponse.SERVING


def grew_less(watched, megabytes):
    """A sanitizer's build keeps what is freed for a while: its memory says nothing."""
    return watched.growth() < megabytes or b"libjemalloc" not in SLUICE.read_bytes()


def shut(server, reason):
    return server.metric(f'sluice_grpc_connections_shut_total{{reason="{reason}"}}')


def refused(server, lack):
    return server.metric(f'sluice_grpc_connections_refused_total{{lack="{lack}"}}')


def is_alone(server):
    """Only our own nodes are connected, and nothing is on its way in."""
    return (server.metric("sluice_grpc_connections") <= server.own and server.metric("sluice_grpc_messages_unfinished") == 0
            and all(server.metric(f'sluice_grpc_message_room_bytes{{pool="{pool}"}}') == 0 for pool in ("prompts", "large")))


# ---- more connections than descriptors ----

@pytest.mark.parametrize("files", [300, pytest.param(1024, marks=pytest.mark.slow)])
def test_more_connections_than_descriptors(start_server, files):
    server = start_server(files=files)
    coordinator = server.children()["coordinator"]
    before = descriptors(coordinator)
    limit = int(server.metric("sluice_grpc_connections_limit"))
    assert 40 < limit < files
    with channel(server) as early:
        engine = pb_grpc.VllmEngineStub(early)
        assert len(next(engine.Generate(request(), timeout=PATIENCE)).complete.output_ids) == 4
        crowd = [Connection(server.endpoint) for _ in range(files + 100)]
        for c in crowd:  # a call each that waits for its message: who has none makes room, and WATCH has fewer places
            c.open(GENERATE)
        wait_until(lambda: refused(server, "places") + shut(server, "no_place") > 0, "a refusal")
        wait_until(lambda: server.get("/readyz") == (503, "all places for gRPC connections are taken\n"), "unreadiness")
        assert server.get("/livez")[0] == 200
        assert descriptors(coordinator) < files
        wait_until(lambda: sum(c.wait_closed(timeout=0.001) for c in crowd) >= len(crowd) - limit, "the end of all that have no place")
        for _ in range(3):  # who was there before is served
            assert len(next(engine.Generate(request(), timeout=PATIENCE)).complete.output_ids) == 4
            assert not engine.HealthCheck(pb.HealthCheckRequest(), timeout=PATIENCE).healthy
        for c in crowd:
            c.close()
    wait_until(lambda: server.get("/readyz")[0] == 200, "readiness after the crowd has gone")
    assert is_served(server) and is_healthy(server)
    wait_until(lambda: descriptors(coordinator) <= before + 3, "descriptors back")
    assert server.stop() == 0, server.log()


def test_an_idle_crowd_takes_no_place_from_a_newcomer(start_server):
    server = start_server(files=300)
    limit = int(server.metric("sluice_grpc_connections_limit"))
    crowd = [Connection(server.endpoint) for _ in range(limit + 50)]
    for _ in range(5):
        wait_until(lambda: channel_is_served(server), "a place for a newcomer")
    assert refused(server, "places") + shut(server, "displaced") > 0
    wait_until(lambda: server.get("/readyz")[0] == 200, "readiness beside the crowd")
    for c in crowd:
        c.close()
    assert server.stop() == 0, server.log()


def test_a_shortage_of_descriptors_ends_when_it_ends(start_server):
    server = start_server()
    coordinator = server.children()["coordinator"]
    soft, hard = resource.prlimit(coordinator, resource.RLIMIT_NOFILE)
    resource.prlimit(coordinator, resource.RLIMIT_NOFILE, (descriptors(coordinator), hard))
    crowd = [Connection(server.endpoint, hello=None) for _ in range(20)]
    assert all(c.wait_closed() for c in crowd)  # at once: not left in the queue of the kernel
    resource.prlimit(coordinator, resource.RLIMIT_NOFILE, (soft, hard))
    wait_until(lambda: server.get("/readyz")[0] == 200, "readiness")
    assert refused(server, "descriptors") >= 1
    assert is_served(server) and is_healthy(server)


def test_too_few_descriptors_are_refused_at_the_start(tmp_path):
    server = Server(tmp_path, files=100)
    assert server.wait() == 78, server.log()
    assert "raise the hard limit (ulimit -Hn" in server.log()
    server.kill()


def test_the_door_counts_what_is_open_already(pack):
    """The check at the start knows the limit; how many descriptors are taken, by whoever started the process as well, only the
    door sees."""
    taken = [open("/dev/null", "rb") for _ in range(120)]
    done = subprocess.run([*after("ulimit -n 250"), SLUICE, "coordinator", pack, "--stages", "2",
                           "--listen", f"127.0.0.1:{free_port()}", "--ops", f"127.0.0.1:{free_port()}"],
                          capture_output=True, text=True, timeout=PATIENCE, pass_fds=[file.fileno() for file in taken])
    for file in taken:
        file.close()
    assert done.returncode == 69, done.stderr
    assert re.search(r"sluice coordinator: cannot listen on 127\.0\.0\.1:\d+: of 250 descriptors 1\d\d are taken, and what is left "
                     r"is too few for connections; raise the limit \(ulimit -n 1024\)", done.stderr), done.stderr


@pytest.mark.slow
def test_ten_thousand_idle_connections_cost_little(node, watched):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < 10500 or node.metric("sluice_grpc_connections_limit") < 10000:
        pytest.skip(f"the limit on descriptors, {hard}, is below 10,500")
    crowd = [Connection(node.endpoint) for _ in range(9990)]
    wait_until(lambda: node.metric("sluice_grpc_connections") >= 9990, "ten thousand connections")
    for c in crowd[::97]:  # each has had its SETTINGS
        assert c.settings or (c.take(PATIENCE) and c.settings)
    assert watched.growth() * 1000 / len(crowd) <= (40 if node.endpoint in SECURE else 20)  # KB
    assert is_served(node) and is_healthy(node)
    assert node.get("/readyz")[0] == 200
    for c in crowd:
        c.close()
    wait_until(lambda: is_alone(node), "the connections gone")
    assert is_served(node)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
def test_silence_keeps_no_place(node):
    before = shut(node, "silent")
    silent = [Connection(node.endpoint, hello=None) for _ in range(50)]
    silent += [Connection(node.endpoint, hello=PREFACE[:n % 24 + 1]) for n in range(50)]
    silent += [Connection(node.endpoint, hello=PREFACE + frame(SETTINGS, 0, 0, b"\0\4\0\0\1\0")[:9 + n]) for n in range(5)]
    assert is_served(node)
    assert all(c.wait_closed() for c in silent)
    assert shut(node, "silent") == before + len(silent)


@pytest.mark.slow
def test_a_storm_of_connections(node, watched):
    """1,000 a second for 10 s: half say nothing, half say hello. Others are served as before."""
    over = threading.Event()
    made = [0]

    def storm():
        begin = time.monotonic()
        while not over.is_set():
            for _ in range(20):
                try:
                    c = Connection(node.endpoint, hello=None if made[0] % 2 else PREFACE + frame(SETTINGS, 0, 0), timeout=5)
                    c.close()
                except OSError:
                    pass
                made[0] += 1
            over.wait(max(0, begin + made[0] / 1000 - time.monotonic()))

    def times(n):
        taken = []
        for _ in range(n):
            begin = time.monotonic()
            assert is_served(node, max_tokens=1)
            taken.append(time.monotonic() - begin)
        return sorted(taken)
    quiet = times(100)
    thread = threading.Thread(target=storm)
    thread.start()
    loud = times(100)
    while made[0] < 10_000:
        loud = sorted(loud + times(10))
    over.set()
    thread.join()
    print(f"first token of a newcomer: median {quiet[50] * 1e3:.1f} ms, p99 {quiet[98] * 1e3:.1f} ms; in the storm "
          f"{loud[len(loud) // 2] * 1e3:.1f} and {loud[len(loud) * 98 // 100] * 1e3:.1f} ms")
    assert grew_less(watched, 50)
    wait_until(lambda: is_alone(node), "the storm gone")


# ---- floods on one connection ----

def test_streams_without_end_are_bounded_by_us(node, watched):
    """60,000 HEADERS and no acknowledgement of SETTINGS: the core's own limit would bind only who acknowledged it."""
    before = shut(node, "streams")
    c = Connection(node.endpoint)
    for _ in range(60_000):
        c.open(GENERATE)
        if c.closed:
            break
    assert c.wait_closed()
    wait_until(lambda: shut(node, "streams") == before + 1, "the connection shut")
    assert is_served(node) and is_healthy(node)
    assert grew_less(watched, GROWTH)


def test_a_client_is_told_why(node):
    c = Connection(node.endpoint)
    for _ in range(513):
        c.open(GENERATE)
    assert c.wait_closed()
    assert c.goaway == "too many streams are open on this connection"


def test_floods_from_ever_new_connections(node, watched):
    """Each throws in all it has at once, an acknowledgement too, and comes again."""
    heads = b"".join(frame(HEADERS, END_HEADERS, i, fields(GENERATE)) for i in range(1, 20_000, 2))
    body = message(request().SerializeToString())
    resets = b"".join(frame(HEADERS, END_HEADERS, i, fields(GENERATE)) + frame(DATA, END_STREAM, i, body)
                      + frame(RESET, 0, i, b"\0\0\0\x08") for i in range(1, 10_000, 2))
    for blob in (heads, resets) * 20:
        c = Connection(node.endpoint, hello=PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0) + blob)
        assert is_served(node)
        c.close()
    assert grew_less(watched, 100)


def test_rapid_resets_take_nothing_from_others(node, watched):
    body = message(request().SerializeToString())
    before = shut(node, "resets")
    with channel(node) as other:
        engine = pb_grpc.VllmEngineStub(other)
        for _ in range(5):
            c = Connection(node.endpoint)
            for _ in range(20_000):
                stream = c.next_stream
                c.next_stream += 2
                c.send(frame(HEADERS, END_HEADERS, stream, fields(GENERATE)) + frame(DATA, END_STREAM, stream, body)
                       + frame(RESET, 0, stream, b"\0\0\0\x08"))
                if c.closed:
                    break
            assert c.wait_closed()
            assert len(next(engine.Generate(request(), timeout=PATIENCE)).complete.output_ids) == 4
            assert is_healthy(node)
    assert shut(node, "resets") >= before + 5
    assert grew_less(watched, GROWTH)
    wait_until(lambda: node.metric("sluice_requests_running") == node.metric("sluice_requests_waiting") == 0, "no request left")


def test_watches_are_bounded_and_leave_room(node, watched):
    full = Connection(node.endpoint)
    for _ in range(4200):
        stream = full.open(WATCH)
        full.send(frame(DATA, END_STREAM, stream, message(b"")))
        if full.closed:
            break
    assert full.wait_closed()
    wait_until(lambda: node.metric('sluice_grpc_calls{kind="watch"}') == 0, "its places back")
    crowd = [Connection(node.endpoint) for _ in range(8)]  # as many as are allowed, on eight
    for c in crowd:
        c.take(PATIENCE)
        for _ in range(256):
            stream = c.open(WATCH)
            c.send(frame(DATA, END_STREAM, stream, message(b"")))

    def ended():
        for c in crowd:
            while c.take(0.001):
                pass
        return [text for c in crowd for text in c.ended.values()]
    wait_until(lambda: len(ended()) == 1024, "half of them refused")
    assert all(b"1024 such calls are open already" in text for text in ended())
    wait_until(lambda: node.metric('sluice_grpc_calls{kind="watch"}') == 1024, "the places of those that were refused")
    assert is_served(node) and is_healthy(node)
    assert grew_less(watched, GROWTH)
    for c in crowd:
        c.close()
    wait_until(lambda: node.metric('sluice_grpc_calls{kind="watch"}') == 0, "the watches gone")


@pytest.mark.parametrize("reason, flood", [
    ("control_frames", lambda i: frame(PING, 0, 0, b"abcdefgh")),
    ("control_frames", lambda i: frame(SETTINGS, 0, 0, b"\0\4\0\1\0\0")),
    ("headers", lambda i: frame(CONTINUATION if i else HEADERS, 0, 1, b"")),
    ("small_frames", lambda i: frame(DATA, 0, 1, message(b"", 60_000) if i == 1 else b"x") if i else
     frame(HEADERS, END_HEADERS, 1, fields(GENERATE))),
    # before the answer that there is no such method has ended the stream they are small, behind it they are for nobody
    ("control_frames small_frames", lambda i: frame(DATA, 0, 1, b"x") if i else frame(HEADERS, END_HEADERS, 1, fields("/nobody"))),
    ("garbage", lambda i: frame(SETTINGS, ACK, 0) if i < 2 else frame(HEADERS, END_HEADERS, 2, fields(GENERATE))),
])
def test_frames_without_a_purpose(node, watched, reason, flood):
    def times():
        return sum(shut(node, word) for word in reason.split())
    before = times()
    c = Connection(node.endpoint)
    for i in range(50_000):
        if not c.send(flood(i)):
            break
    assert c.wait_closed()
    wait_until(lambda: times() == before + 1, "the connection shut")
    assert is_served(node)
    assert grew_less(watched, 50)


class Measuring(Connection):
    """As grpc-go: a PING for what it receives, as soon as the last one is answered, to learn how fast the line is."""
    pings, open_pings, resets = 0, 0, 0

    def on_frame(self, kind, flags, stream, payload):
        if kind == PING and flags & ACK:
            self.open_pings = 0
        self.resets += kind == RESET
        if kind == DATA and not self.open_pings:
            self.open_pings = 1
            self.pings += 1
            self.send(frame(PING, 0, 0, b"measured"))
        super().on_frame(kind, flags, stream, payload)


def test_pings_for_what_is_received_are_no_flood(node):
    before = shut(node, "control_frames")
    c = Measuring(node.endpoint)
    wanted = request(max_tokens=200)
    wanted.stream, wanted.sampling_params.ignore_eos = True, True
    while c.pings < 12:  # three in five seconds are too many for who gets nothing
        stream = c.open(GENERATE)
        c.send(frame(DATA, END_STREAM, stream, message(wanted.SerializeToString())) + frame(WINDOW, 0, 0, b"\0\1\0\0"))
        wait_until(lambda stream=stream: c.take(0.1) and stream in c.ended or c.closed, "the end of the answer")
        assert c.goaway is None and not c.closed and not c.resets
        assert b"grpc-message" not in c.ended[stream]  # a status that is not OK comes with a sentence
    assert shut(node, "control_frames") == before
    c.close()


# ---- messages that never end ----

def unfinished(server, n_connections, n_streams, stop):
    """Connections that send all but the last bytes of so many large messages, as far as they are let."""
    crowd = [Connection(server.endpoint) for _ in range(n_connections)]

    def send(c):
        wanted = {}
        c.take(PATIENCE)  # acknowledges SETTINGS: it may open as many streams as they say
        for _ in range(n_streams):
            stream = c.open(GENERATE)
            c.send(frame(DATA, 0, stream, message(b"", LARGE)))
            c.windows[stream] -= 5
            c.window -= 5
            wanted[stream] = LARGE - 10
        c.pour(wanted, stop)
    threads = [threading.Thread(target=send, args=(c,)) for c in crowd]
    for thread in threads:
        thread.start()
    return crowd, threads


def drip(server, pieces, pause):
    """An honest request over a slow line; its output."""
    c = Connection(server.endpoint)
    body = message(request(text="word " * 400).SerializeToString())
    stream = c.open(GENERATE)
    for i in range(pieces):
        assert c.send(frame(DATA, END_STREAM if i == pieces - 1 else 0, stream,
                            body[len(body) * i // pieces:len(body) * (i + 1) // pieces]))
        pause.wait(0.05)
    while stream not in c.ended and c.take(PATIENCE):
        pass
    c.close()
    return c.ended[stream]


def flood_of_messages(node, watched, n_connections, n_streams):
    stop = threading.Event()
    crowd, threads = unfinished(node, n_connections, n_streams, stop)
    try:
        wait_until(lambda: node.metric('sluice_grpc_message_room_bytes{pool="large"}') > 100e6, "the room taken")
        for _ in range(5):
            assert is_served(node) and is_healthy(node)
        assert b"grpc-status\x010" in drip(node, 40, stop)
        with channel(node) as it, pytest.raises(grpc.RpcError) as told:  # a large one of an honest client gets its turn
            list(pb_grpc.VllmEngineStub(it).Generate(request(text="word " * 400_000), timeout=PATIENCE))
        assert told.value.code() == grpc.StatusCode.INVALID_ARGUMENT and "text has 2000000 bytes" in told.value.details()
        assert grew_less(watched, GROWTH)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for c in crowd:
            c.close()
    wait_until(lambda: is_alone(node), "all room back")
    wait_until(lambda: watched.rss() < watched.rss_before + 60, "memory back")
    assert is_served(node)


def test_messages_that_never_end(node, watched):
    flood_of_messages(node, watched, 8, 16)


@pytest.mark.slow
def test_very_many_messages_that_never_end(node, watched):
    flood_of_messages(node, watched, 100, 256)
    assert shut(node, "unfinished") > 0


def status_of(c, stream):
    while stream not in c.ended and c.take(PATIENCE):
        pass
    return c.ended.get(stream, b"")


@pytest.mark.parametrize("length", [(32 << 20) + 1, 0x7fffffff, 0xffffffff])
def test_a_message_that_is_too_long_is_refused_at_its_first_bytes(node, watched, length):
    c = Connection(node.endpoint)
    stream = c.open(GENERATE)
    c.send(frame(DATA, 0, stream, message(b"", length)))
    assert b"the message has %d bytes" % length in status_of(c, stream) and not c.closed
    assert grew_less(watched, 20)
    c.close()


@pytest.mark.slow
def test_a_message_that_stops_coming_is_ended(node):
    c = Connection(node.endpoint)
    silent, small, large = c.open(GENERATE), c.open(GENERATE), c.open(GENERATE)
    c.send(frame(DATA, 0, small, message(b"", 100)))
    c.send(frame(DATA, 0, large, message(b"x" * 1000, LARGE)))
    for stream in (silent, small, large):
        assert b"stopped coming" in status_of(c, stream)
    assert not c.closed
    c.close()
    wait_until(lambda: is_alone(node), "all room back")


@pytest.mark.slow
def test_neither_half_a_header_block_nor_a_client_that_does_not_read_stays(node, watched):
    stuck = shut(node, "stuck")
    half = Connection(node.endpoint)
    half.send(frame(HEADERS, 0, 1, fields(GENERATE)))
    deaf = Connection(node.endpoint)
    deaf.send(frame(WINDOW, 0, 0, (1 << 30).to_bytes(4, "big")))
    body = message(b"")
    deaf.take(PATIENCE)
    for _ in range(200):  # each is half a megabyte and more of answer
        stream = deaf.open("/vllm.grpc.engine.VllmEngine/GetTokenizer")
        deaf.send(frame(WINDOW, 0, stream, (1 << 24).to_bytes(4, "big")) + frame(DATA, END_STREAM, stream, body))
    assert is_served(node)
    assert half.wait_closed(PATIENCE)  # it cannot answer a ping within its block
    wait_until(lambda: shut(node, "stuck") == stuck + 1, "the one that does not read shut")
    assert grew_less(watched, GROWTH)
    deaf.close()
    half.close()


NO_WINDOW = PREFACE + frame(SETTINGS, 0, 0, b"\0\4\0\0\0\0")
HELLO = "/sluice.v1.Control/Hello"


class Unread:
    """Calls whose answers nobody reads: four connections, as many streams as all places of a kind."""

    def __init__(self, endpoint, path, body):
        self.path, self.body = path, message(body)
        self.crowd = [Connection(endpoint, hello=NO_WINDOW) for _ in range(4)]
        for c in self.crowd:
            c.take(PATIENCE)

    def call(self):
        """As many as may be open."""
        for c in self.crowd:
            while (c.next_stream - 1) // 2 - len(c.ended) < 256:
                c.send(frame(DATA, END_STREAM, c.open(self.path), self.body))

    def ended(self):
        for c in self.crowd:
            while c.take(0.001):
                pass
        return [text for c in self.crowd for text in c.ended.values()]

    def close(self):
        for c in self.crowd:
            c.close()


@pytest.mark.parametrize("path, body, kind", [
    (HELLO, b"\x0a\x10" + bytes(16), "control"), (CHECK, b"", "admin"),
    pytest.param(WATCH, b"", "watch", marks=pytest.mark.slow)], ids=["control", "admin", "watch"])
def test_answers_that_nobody_reads_keep_no_place(node, watched, path, body, kind):
    """Streams without a window: the core would wait for one as long as the connection is there."""
    before = node.metric('sluice_grpc_calls_ended_total{reason="unread"}')
    held = node.metric(f'sluice_grpc_calls{{kind="{kind}"}}')
    usual = SECURE.get(node.endpoint)
    if usual and kind == "control":  # a node's to call
        SECURE[node.endpoint] = client_context(usual.folder, "node")
    unread = Unread(node.endpoint, path, body)
    if usual:
        SECURE[node.endpoint] = usual
    unread.call()
    wait_until(lambda: len(unread.ended()) == 1024, "an end of every call")
    assert sum(b"the client took nothing of the answer for too long" in text for text in unread.ended()) >= 1000
    assert node.metric('sluice_grpc_calls_ended_total{reason="unread"}') >= before + 1000
    wait_until(lambda: node.metric(f'sluice_grpc_calls{{kind="{kind}"}}') <= held, "the places back")
    assert not any(c.closed for c in unread.crowd)  # it may do better
    unread.close()
    assert is_served(node) and is_healthy(node)
    assert grew_less(watched, GROWTH)


def test_a_node_joins_when_others_have_let_go_of_the_places(pack, spawn):
    endpoint, ops = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    coordinator = spawn("coordinator", "coordinator", pack, "--stages", 2, "--listen", endpoint, "--ops", ops)
    wait_until(lambda: "gRPC on" in coordinator.log(), "the coordinator's listener")
    accepted = "sluice_grpc_connections_accepted_total"
    unread = Unread(endpoint, HELLO, b"\x0a\x10" + bytes(16))
    unread.call()
    wait_until(lambda: value_of(ops, 'sluice_grpc_calls{kind="control"}') == 1024, "all places taken")
    before = value_of(ops, accepted)
    stage = spawn("stage-0", "stage", pack, "--coordinator", endpoint, "--stage", 0, "--threads", 1)

    def has_tried_again():
        unread.ended()
        unread.call()  # for the places that came back
        assert stage.alive(), stage.log()
        return "stage 0 joined" in coordinator.log() or value_of(ops, accepted) >= before + 2
    wait_until(has_tried_again, "a second attempt")
    unread.close()
    wait_until(lambda: "stage 0 joined" in coordinator.log(), "the join")
    assert stage.alive(), stage.log()


# ---- the ops port ----

def test_probes_are_answered_in_any_crowd(node, watched):
    host, port = node.ops.split(":")
    over = threading.Event()

    def connect(say):
        s = socket.create_connection((host, int(port)), timeout=PATIENCE)
        s.sendall(say)
        return s
    crowd = [connect(b"") for _ in range(64)] + [connect(b"GET /livez HTT") for _ in range(64)]
    slow = [connect(b"") for _ in range(64)]

    def trickle():
        text = b"GET /readyz HTTP/1.1\r\nHost: " + b"x" * 10_000
        for i in range(len(text)):
            for s in slow:
                try:
                    s.sendall(text[i:i + 1])
                except OSError:
                    pass
            if over.wait(0.1):
                return
    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        for _ in range(39):
            for path in ("/livez", "/readyz"):
                with urllib.request.urlopen(f"http://{node.ops}{path}", timeout=PATIENCE) as reply:
                    assert reply.status == 200
            crowd.append(connect(b""))
        assert grew_less(watched, 20)
    finally:
        over.set()
        thread.join()
        for s in crowd + slow:
            s.close()


@pytest.mark.slow
def test_a_slow_request_to_the_ops_port_is_ended(node):
    host, port = node.ops.split(":")
    s = socket.create_connection((host, int(port)), timeout=PATIENCE)
    s.settimeout(0.5)
    ended = False
    for byte in b"GET /livez HTTP/1.1\r\nHost: " + b"x" * 1000:
        try:
            s.sendall(bytes([byte]))
            ended = s.recv(1) == b""
        except socket.timeout:
            continue
        except OSError:
            ended = True
        if ended:
            break
    assert ended


# ---- addresses ----

def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
        return True
    except OSError:
        return False


def link_local():
    """This machine's own address on its first link, with its zone; None without IPv6."""
    try:
        lines = pathlib.Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return None
    for digits, _, _, scope, _, link in map(str.split, lines):
        if scope == "20":
            return f"[{socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))}%{link}]"


@pytest.mark.slow
def test_an_address_with_a_zone(start_server):
    if not (host := link_local()):
        pytest.skip("this machine has no link-local address")
    server = start_server(host=host)
    asked = subprocess.run([SLUICE, "health", "--endpoint", server.endpoint], capture_output=True, text=True, timeout=PATIENCE)
    assert asked.returncode == 0 and server.endpoint in asked.stdout, asked.stderr
    assert server.stop() == 0, server.log()


def test_what_a_client_cannot_ask_is_said_at_once():
    asked = subprocess.run([SLUICE, "health", "--endpoint", "*:50051"], capture_output=True, text=True, timeout=PATIENCE)
    assert asked.returncode == 69 and "is where a server listens; name the host to ask" in asked.stderr


@pytest.mark.parametrize("host", ["*", *(pytest.param(host, marks=pytest.mark.slow)
                                        for host in ("0.0.0.0", "[::]", "[::1]", "localhost"))])
def test_every_way_to_write_an_address(start_server, host):
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    server = start_server(host=host)
    assert is_served(server)
    if host in ("*", "[::]") and has_ipv6():
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            for endpoint in (server.endpoint, server.ops):
                with socket.socket(family) as s:
                    s.connect((address, int(endpoint.rsplit(":", 1)[1])))
    assert server.stop() == 0, server.log()
