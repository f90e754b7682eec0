"""HTTP/2 by hand, for what no honest client does: frames one by one over a socket of one's own, header fields as literals.
And what a process takes of the machine meanwhile."""
import pathlib
import socket
import ssl
import struct
import threading

SECURE = {}  # endpoint -> the context of a client of TLS: connections to it shake hands before they say anything

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    assert len(name) < 127 and len(value) < 127
    return bytes([0, len(name)]) + name + bytes([len(value)]) + value


def fields(path, *more):
    common = (b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", b"x"), \
        (b"te", b"trailers"), (b"content-type", b"application/grpc")
    return b"".join(literal(n, v) for n, v in (*common, *more))


def message(payload, length=None):
    return b"\0" + struct.pack(">I", len(payload) if length is None else length) + payload


class Connection:
    """A client that says what it is told to. `read` keeps up with what the server says: windows, ends of streams, GOAWAY."""

    def __init__(self, endpoint, hello=PREFACE + frame(SETTINGS, 0, 0), timeout=60):
        host, port = endpoint.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hello and endpoint in SECURE:
            self.socket = SECURE[endpoint].wrap_socket(self.socket)
        self.window, self.windows, self.ended, self.goaway = 65535, {}, {}, None
        self.buffer, self.closed, self.settings = b"", False, 0
        self.next_stream = 1
        if hello:
            self.send(hello)

    def send(self, data):
        """False once the server has shut the connection."""
        try:
            self.socket.sendall(data)
        except OSError:
            self.closed = True
        return not self.closed

    def open(self, path, flags=END_HEADERS, more=()):
        stream, self.next_stream = self.next_stream, self.next_stream + 2
        self.windows[stream] = 65535
        self.send(frame(HEADERS, flags, stream, fields(path, *more)))
        return stream

    def take(self, timeout):
        """Reads once and understands what came; false if nothing did."""
        self.socket.settimeout(timeout)
        try:
            data = self.socket.recv(1 << 16)
        except (socket.timeout, BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            data = b""
        finally:
            self.socket.settimeout(60)
        if not data:
            self.closed = True
            return False
        self.buffer += data
        while len(self.buffer) >= 9:
            length = int.from_bytes(self.buffer[:3], "big")
            if len(self.buffer) < 9 + length:
                break
            kind, flags = self.buffer[3], self.buffer[4]
            stream = int.from_bytes(self.buffer[5:9], "big") & 0x7fffffff
            payload = self.buffer[9:9 + length]
            self.buffer = self.buffer[9 + length:]
            self.on_frame(kind, flags, stream, payload)
        return True

    def on_frame(self, kind, flags, stream, payload):
        if kind == WINDOW:
            more = int.from_bytes(payload, "big")
            if stream == 0:
                self.window += more
            elif stream in self.windows:
                self.windows[stream] += more
        elif kind == PING and not flags & ACK:  # or the core takes it for dead
            self.send(frame(PING, ACK, 0, payload))
        elif kind == SETTINGS and not flags & ACK:
            self.settings += 1
            self.send(frame(SETTINGS, ACK, 0))
        elif kind == GOAWAY and int.from_bytes(payload[4:8], "big"):
            self.goaway = payload[8:].decode()
        elif kind == RESET or (kind in (HEADERS, DATA) and flags & END_STREAM):
            self.ended[stream] = self.ended.get(stream, b"") + payload

    def wait_closed(self, timeout=60):
        while not self.closed and self.take(timeout):
            pass
        return self.closed

    def pour(self, wanted, stop, piece=16384):
        """Sends {stream: bytes left} as far as the windows go, until all is sent or `stop` is set."""
        zeros = bytes(piece)
        while any(wanted.values()) and not self.closed and not stop.is_set():
            moved = False
            for stream, left in wanted.items():
                n = min(left, piece, self.window, self.windows[stream])
                if n <= 0 or stream in self.ended:
                    continue
                if not self.send(frame(DATA, 0, stream, zeros[:n])):
                    return
                wanted[stream] -= n
                self.windows[stream] -= n
                self.window -= n
                moved = True
            self.take(0.001 if moved else 0.2)

    def close(self):
        self.socket.close()


def descriptors(pid):
    return sum(1 for _ in pathlib.Path(f"/proc/{pid}/fd").iterdir())


class Resources:
    """The most that a process had since this began, looked at all the time."""

    def __init__(self, pid):
        self.pid, self.stop = pid, threading.Event()
        self.rss_before = self.rss_most = self.rss()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def rss(self):
        try:
            return int(pathlib.Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * 4096 / 1e6
        except OSError:  # it has ended
            return 0.0

    def watch(self):
        while not self.stop.wait(0.05):
            self.rss_most = max(self.rss_most, self.rss())

    def growth(self):
        """MB at the highest point, above the beginning."""
        self.rss_most = max(self.rss_most, self.rss())
        return self.rss_most - self.rss_before

    def end(self):
        self.stop.set()
        self.thread.join()
