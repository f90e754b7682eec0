"""The scripted server (`sluice bench scripted`) and its clients, for the tests that play against it."""
import http.client
import json
import signal
import socket

import grpc
import openai
from conftest import PATIENCE, free_port, wait_until
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc


MS_NS = 1_000_000


class Scripted:
    """One that listens for both, and its clients."""

    def __init__(self, spawn, folder, *args):
        self.grpc_port, self.http_port = free_port(), free_port()
        self.truth_path = folder / "truth.jsonl"
        self.process = spawn("scripted", "bench", "scripted", "--grpc-listen", f"127.0.0.1:{self.grpc_port}", "--http-listen",
                             f"127.0.0.1:{self.http_port}", "--truth", self.truth_path, *args)

        def listens():
            assert self.process.alive(), self.process.log()
            try:
                socket.create_connection(("127.0.0.1", self.http_port)).close()  # it is opened last
                return True
            except OSError:
                return False
        wait_until(listens, "the scripted server")
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}")
        self.stub = pb_grpc.VllmEngineStub(self.channel)
        self.openai = openai.OpenAI(base_url=f"http://127.0.0.1:{self.http_port}/v1", api_key="none", max_retries=0,
                                    timeout=PATIENCE)

    def call(self, n=5, stream=True, request_id="", stub=None, **more):
        ask = pb.GenerateRequest(request_id=request_id, tokenized=pb.TokenizedInput(input_ids=[5, 6, 7]), stream=stream,
                                 sampling_params=pb.SamplingParams(max_tokens=n), **more)
        return (stub or self.stub).Generate(ask, timeout=PATIENCE)

    def events(self, n=5, chat=False, **more):
        """What a stream brings: the payload of each event."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=PATIENCE)
        prompt = {"messages": [{"role": "user", "content": "one two"}]} if chat else {"prompt": "one two three"}
        connection.request("POST", "/v1/chat/completions" if chat else "/v1/completions",
                           json.dumps({**prompt, "max_tokens": n, "stream": True, **more}))
        body = connection.getresponse().read()
        connection.close()
        assert body.endswith(b"\n\n") or not body, body
        return [event.removeprefix(b"data: ") for event in body.split(b"\n\n")[:-1]]

    def truth(self, n):
        """The lines of n requests, by number."""
        def lines():
            whole = self.truth_path.read_text()
            made = [json.loads(line) for line in whole[:whole.rfind("\n") + 1].splitlines()]
            return made if len(made) >= n else None
        made = wait_until(lines, f"the truth of {n} requests")
        assert len(made) == n
        return sorted(made, key=lambda line: line["number"])

    def running(self):
        return self.stub.GetLoads(pb.GetLoadsRequest(), timeout=PATIENCE).loads[0].num_total_reqs

    def stop(self):
        self.process.signal(signal.SIGTERM)
        assert self.process.wait() == 0, self.process.log()
