"""Where gRPC 1.51, as Debian has it, is known to be weak: each weakness is tried on a running node, which goes on serving others,
with the memory that it had."""
import gzip

import grpc
import pytest
from conftest import PATIENCE, SLUICE, Server, wait_until
from hostile import CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, Connection, Resources, fields, frame, literal, message
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc as pb_grpc

GENERATE, LOADS = "/vllm.grpc.engine.VllmEngine/Generate", "/vllm.grpc.engine.VllmEngine/GetLoads"
GROWTH = 64  # MB: less than one of the bombs is long


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    it = Server(tmp_path_factory.mktemp("weak")).wait_ready()
    yield it
    code = it.stop()
    it.kill()
    assert code == 0, it.log()


@pytest.fixture
def watched(node):
    it = Resources(node.children()["coordinator"])
    yield it
    it.end()
    # A sanitizer's build keeps what is freed for a while: its memory says nothing.
    assert it.growth() < GROWTH or b"libjemalloc" not in SLUICE.read_bytes()


@pytest.fixture
def other(node):
    """A stream that is open all the while, on a connection of its own: it goes on."""
    with grpc.insecure_channel(node.endpoint, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        sampling = pb.SamplingParams(temperature=0, max_tokens=3000, ignore_eos=True)
        call = pb_grpc.VllmEngineStub(channel).Generate(pb.GenerateRequest(text="Once", stream=True, sampling_params=sampling),
                                                        timeout=PATIENCE)
        next(call)
        yield call
        for _ in range(3):
            next(call)
        call.cancel()


def is_served(node):
    with grpc.insecure_channel(node.endpoint, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        sampling = pb.SamplingParams(temperature=0, max_tokens=2)
        reply, = pb_grpc.VllmEngineStub(channel).Generate(pb.GenerateRequest(text="Once", sampling_params=sampling), timeout=PATIENCE)
        return len(reply.complete.output_ids) == 2


def ended(c, stream):
    while stream not in c.ended and not c.closed and c.take(PATIENCE):
        pass
    return c.ended.get(stream)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity", "br"])
def test_a_compressed_message_is_refused_before_it_is_inflated(node, watched, other, encoding):
    """256 MiB of zeros in 256 KiB. Said with the flag of the message, and with and without the header that it takes."""
    bomb = gzip.compress(bytes(256 << 20), 9)
    for header in (True, False):
        c = Connection(node.endpoint)
        more = [(b"grpc-encoding", encoding.encode())] if header else []
        stream = c.open(GENERATE, more=more)
        c.send(frame(DATA, 0, stream, b"\x01" + len(bomb).to_bytes(4, "big")))
        sent = 0
        while sent < len(bomb) and stream not in c.ended and not c.closed:
            n = min(16384, len(bomb) - sent, c.window, c.windows[stream])
            if n > 0:
                c.send(frame(DATA, 0, stream, bomb[sent:sent + n]))
                sent, c.window = sent + n, c.window - n
                c.windows[stream] -= n
            c.take(0.01 if n > 0 else 0.5)
        c.send(frame(DATA, END_STREAM, stream))
        assert ended(c, stream) is not None or c.closed
        c.close()
    assert is_served(node)


def test_the_core_is_told_to_inflate_nothing(node):
    """What a client of grpc says of itself: every algorithm but identity is UNIMPLEMENTED."""
    for algorithm in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        with grpc.insecure_channel(node.endpoint) as channel:
            with pytest.raises(grpc.RpcError) as error:
                list(pb_grpc.VllmEngineStub(channel).Generate(pb.GenerateRequest(text="a" * 5000), compression=algorithm, timeout=PATIENCE))
            assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_too_much_metadata_refuses_its_call_and_no_other(node, watched, other):
    """On one connection with others' streams, as through a gateway."""
    c = Connection(node.endpoint)
    waits = c.open(GENERATE)  # its message does not come yet
    for size in (9_000, 30_000, 60_000):
        stream, c.next_stream = c.next_stream, c.next_stream + 2
        block = fields(LOADS) + b"".join(literal(b"x-%d" % i, b"y" * 120) for i in range(size // 125))
        pieces = [block[i:i + 16000] for i in range(0, len(block), 16000)]
        c.windows[stream] = 65535
        c.send(frame(HEADERS, END_HEADERS if len(pieces) == 1 else 0, stream, pieces[0]))
        for piece in pieces[1:]:
            c.send(frame(CONTINUATION, END_HEADERS if piece is pieces[-1] else 0, stream, piece))
        c.send(frame(DATA, END_STREAM, stream, message(b"")))
        assert b"metadata" in ended(c, stream), size
    assert not c.closed and waits not in c.ended
    c.send(frame(DATA, END_STREAM, waits, message(b"")))  # a bad request, which is answered
    assert ended(c, waits) is not None and not c.closed
    c.close()
    assert is_served(node)


def test_headers_that_once_ended_a_server_end_none(node, other):
    """The vectors of CVE-2023-1428 and -32732 and their like: base64 that is none, te and content-type that are others', names and
    values that no header has, empty and doubled ones of HTTP/2's own."""
    odd = [(b"x-bin", b"!!!not base64!!!"), (b"x-bin", b"A"), (b"grpc-trace-bin", b"\xff\xfe"), (b"grpc-tags-bin", b"==="),
           (b"grpc-timeout", b"99999999999999999999H"), (b"grpc-timeout", b"-1S"), (b"grpc-timeout", b""), (b"te", b"x" * 100),
           (b"content-type", b"text/html"), (b"grpc-encoding", b"\0"), (b"grpc-accept-encoding", b"," * 120), (b"", b"x"), (b"X-Upper", b"x"),
           (b"x\0y", b"z"), (b"x", b"\r\nx: y"), (b":path", b"/other"), (b":bogus", b"x"), (b"host", b""), (b"connection", b"close"),
           (b"grpc-previous-rpc-attempts", b"x"), (b"grpc-retry-pushback-ms", b"x"), (b"lb-token", b"x" * 100), (b"lb-cost-bin", b"x"),
           (b"user-agent", b"\x80" * 100), (b"grpc-status", b"0"), (b"content-length", b"18446744073709551616")]
    for name, value in odd:
        c = Connection(node.endpoint)
        for flags in (END_HEADERS, END_HEADERS | END_STREAM):
            stream = c.open(LOADS, flags=flags, more=[(name, value)])
            if not flags & END_STREAM:
                c.send(frame(DATA, END_STREAM, stream, message(b"")))
            c.take(0.05)
        c.close()
    assert is_served(node) and node.get("/livez")[0] == 200


def test_header_tables_cost_a_bounded_amount(node, watched, other):
    """HPACK: thousands of fields that are added to the table and thrown out of it, sizes of it that change, indices that are not
    there, lengths that never end."""
    blocks = [b"".join(b"\x40\x08x-%06d\x01y" % i for i in range(4000)),  # indexed literals
              b"\x3f\xe1\x1f" * 5000, b"\x20\x3f\xe1\xff\xff\xff\x0f" * 1000, b"\xff" * 20000, b"\x40\x7f" + b"\xff" * 20000, b"\xbf" * 20000]
    for block in blocks:
        for _ in range(20):
            c = Connection(node.endpoint)
            stream = c.next_stream
            pieces = [block[i:i + 16000] for i in range(0, len(block), 16000)]
            c.send(frame(HEADERS, END_HEADERS if len(pieces) == 1 else 0, stream, pieces[0]))
            for piece in pieces[1:]:
                c.send(frame(CONTINUATION, END_HEADERS if piece is pieces[-1] else 0, stream, piece))
            c.take(0.02)
            c.close()
    assert is_served(node)


def test_pings_without_end_are_the_end_of_a_connection(node, watched, other):
    """Of a connection that never called, and of one that did: the door's bound or the core's, whichever is first."""
    for calls in (False, True):
        c = Connection(node.endpoint)
        if calls:
            stream = c.open(LOADS)
            c.send(frame(DATA, END_STREAM, stream, message(b"")))
            assert ended(c, stream) is not None
        for _ in range(400):
            if not c.send(frame(PING, 0, 0, bytes(8)) * 50):
                break
        assert c.wait_closed()
        c.close()
    assert is_served(node)


def test_windows_that_overflow_end_their_connection_alone(node, other):
    for update in (0x7fffffff, 0):
        c = Connection(node.endpoint)
        stream = c.open(GENERATE)
        for where in (0, stream):
            c.send(frame(8, 0, where, update.to_bytes(4, "big")) * 2)
        c.take(0.1)
        c.close()
    wait_until(lambda: is_served(node), "a newcomer")
