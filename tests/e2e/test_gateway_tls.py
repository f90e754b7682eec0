"""The gateway smg before nodes that want certificates: smg 1.13 says nothing of TLS to gRPC workers, whatever it is given, so a sidecar
that has the gateway's certificate stands between, as deploy/README.md has it."""
import asyncio
import os
import socket
import subprocess
import sys
import threading

import pytest
from conftest import Server, free_port, wait_until
from gateway import Gateway
from test_tls import World, tenant_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("certs"))


class Sidecar:
    """Takes connections in the clear on loopback and brings each on by TLS: what envoy, haproxy or stunnel do in a pod."""

    def __init__(self, target, context):
        self.target, self.context, self.loop = target.rsplit(":", 1), context, asyncio.new_event_loop()
        self.endpoint = f"127.0.0.1:{free_port()}"
        self.server = self.loop.run_until_complete(asyncio.start_server(self.take, *self.endpoint.split(":")))
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    async def take(self, reader, writer):
        far_reader, far_writer = await asyncio.open_connection(*self.target, ssl=self.context, server_hostname="localhost")
        await asyncio.gather(self.bring(reader, far_writer), self.bring(far_reader, writer), return_exceptions=True)

    async def bring(self, source, sink):
        try:
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
        finally:
            sink.close()

    def stop(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


def test_smg_itself_says_no_tls(world, tmp_path):
    """When this fails, smg has learnt it: then the sidecar of deploy/README.md goes, and the overlays smg and mtls can be joined."""
    first, taken = [], []
    listener = socket.create_server(("127.0.0.1", free_port()))

    def listen():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            taken.append(connection)
            first.append(connection.recv(3))
            connection.close()
    thread = threading.Thread(target=listen)
    thread.start()
    party = world.parties["gateway"]
    with open(tmp_path / "smg.log", "wb") as log:
        smg = subprocess.Popen([os.path.join(os.path.dirname(sys.executable), "smg"), "launch", "--host", "127.0.0.1", "--port", str(free_port()),
                                "--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port()), "--client-cert-path", party.cert,
                                "--client-key-path", party.key, "--ca-cert-paths", world.ca.cert, "--worker-urls",
                                f"grpcs://localhost:{listener.getsockname()[1]}"], stdout=log, stderr=log)
    try:
        wait_until(lambda: len(first) >= 2, "attempts of smg")
    finally:
        smg.kill()
        smg.wait()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
    assert not [data for data in first if data.startswith(b"\x16\x03")]  # a handshake's first record


def test_smg_comes_in_by_a_sidecar_with_the_gateways_certificate(world, tmp_path):
    context = world.context()
    context.load_cert_chain(world.parties["gateway"].cert, world.parties["gateway"].key)
    node = Server(tmp_path, *world.options()).wait_ready()
    sidecar = Sidecar(node.endpoint, context)
    gateway = Gateway(tmp_path, [sidecar.endpoint])
    try:
        made = gateway.client.completions.create(model=gateway.client.model, prompt="It was the best of times, it was the", max_tokens=12,
                                                 temperature=0)
        assert made.choices[0].text.startswith(" first time that the old man")
        assert tenant_of(node, "cmpl-[^\"\\\\]*") == "test/acme"  # the gateway's name
    finally:
        gateway.stop()
        sidecar.stop()
    assert node.stop() == 0, node.log()
    node.kill()
