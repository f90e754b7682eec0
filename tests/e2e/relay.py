"""A TCP relay in the middle of a connection, which can be cut, stalled, and restarted as a proxy is."""
import socket
import struct
import threading

from conftest import free_port


class Relay:
    """Passes bytes between whoever connects to `endpoint` and `target`, both HOST:PORT."""

    def __init__(self, target):
        self.target = target.rsplit(":", 1)
        self.port = free_port()
        self.endpoint = f"127.0.0.1:{self.port}"
        self.lock = threading.Lock()
        self.pairs, self.n_taken = [], 0
        self.flows = threading.Event()
        self.flows.set()
        self.listener = None
        self.listen()

    def listen(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self.take_in, args=(self.listener,), daemon=True).start()

    def take_in(self, listener):
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection((self.target[0], int(self.target[1])))
            except OSError:
                near.close()
                continue
            with self.lock:
                self.pairs.append((near, far))
                self.n_taken += 1
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self.pass_on, args=(*ends, (near, far)), daemon=True).start()

    def pass_on(self, source, sink, pair):
        try:
            while data := source.recv(1 << 16):
                self.flows.wait()
                sink.sendall(data)
            with self.lock:
                if pair in self.pairs:  # else it was cut, which the other end may not be told
                    sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def cut(self, near=True, far=True):
        """Every connection that there is ends with a reset; near and far: at which of its ends that is seen."""
        with self.lock:
            pairs, self.pairs = self.pairs, []
        for ends in pairs:
            for end, wanted in zip(ends, (near, far)):
                if not wanted:
                    continue
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                try:
                    end.shutdown(socket.SHUT_RD)  # a thread that waits in recv() holds the socket open
                except OSError:
                    pass
                end.close()
        return pairs  # to be held by who wants one end to stay open

    def stall(self):
        """What comes is held back, on connections that are there and on new ones."""
        self.flows.clear()

    def go_on(self):
        self.flows.set()

    def down(self):
        """As a proxy that is stopped: nobody listens, and its connections end."""
        if self.listener:
            self.listener.shutdown(socket.SHUT_RDWR)  # a thread that waits in accept() holds it open
            self.listener.close()
            self.listener = None
        self.cut()

    def up(self):
        self.listen()

    def close(self):
        self.down()
        self.go_on()
