"""Load on pods, and what its clients saw: every outcome is kept, none is retried here."""
import http.client
import json
import os
import threading
import time

import grpc
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc

PATIENCE = 120 * float(os.environ.get("SLUICE_SLOW_FACTOR", 1))  # seconds


class Load:
    """n clients that ask without a pause; each outcome is None, or what was wrong with it."""

    def __init__(self, n, ask):
        self.ask, self.over, self.outcomes, self.lock = ask, threading.Event(), [], threading.Lock()
        self.threads = [threading.Thread(target=self.go, args=(i,), daemon=True) for i in range(n)]
        for thread in self.threads:
            thread.start()

    def go(self, i):
        while not self.over.is_set():
            outcome = self.ask(i)
            with self.lock:
                self.outcomes.append((time.monotonic(), outcome))

    def good(self):
        with self.lock:
            return sum(outcome is None for _, outcome in self.outcomes)

    def bad(self):
        with self.lock:
            return [outcome for _, outcome in self.outcomes if outcome is not None]

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a request never ended"
        return self


def through_gateway(ip, port=30000, tokens=24, prompt="It was the best of times, it was"):
    """Asks smg for a streamed completion; good is one that has all of its tokens and an end."""
    def ask(i):
        connection = http.client.HTTPConnection(ip, port, timeout=PATIENCE)
        try:
            connection.request("POST", "/v1/completions", json.dumps({
                "model": "pack", "prompt": f"{prompt} {i}", "max_tokens": tokens, "temperature": 0, "stream": True,
                "ignore_eos": True}), {"content-type": "application/json"})
            reply = connection.getresponse()
            body = reply.read().decode()
            if reply.status != 200:
                return f"status {reply.status}: {body[:300]}"
            events = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]
            reasons = [c.get("finish_reason") for e in events for c in e.get("choices", [])]
            if "data: [DONE]" not in body or reasons[-1:] != ["length"]:
                return f"it ended as {reasons[-3:]}: {body[-300:]}"
            return None
        except (OSError, http.client.HTTPException, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            connection.close()
    return ask


def request(n_ids=40, max_tokens=24, seed=0):
    return pb.GenerateRequest(tokenized=pb.TokenizedInput(input_ids=[(i * 31 + seed) % 4000 for i in range(n_ids)]), stream=True,
                              sampling_params=pb.SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True))


class Stream(threading.Thread):
    """One request straight to a leader: begun when its first tokens are here."""

    def __init__(self, target, metadata=(), **how):
        super().__init__(daemon=True)
        self.target, self.metadata, self.how, self.begun, self.ids, self.error = target, metadata, how, threading.Event(), [], None
        self.start()

    def run(self):
        try:
            with grpc.insecure_channel(self.target) as channel:
                for reply in pb_grpc.VllmEngineStub(channel).Generate(request(**self.how), timeout=PATIENCE, metadata=self.metadata):
                    if reply.HasField("chunk"):
                        self.ids += reply.chunk.token_ids
                        self.begun.set()
        except grpc.RpcError as error:
            self.error, self.ended = error, time.monotonic()
        self.begun.set()

    def wait_begun(self):
        assert self.begun.wait(PATIENCE) and self.error is None, self.error
        return self

    def end(self):
        self.join(PATIENCE)
        assert not self.is_alive(), "a stream never ended"
        return self
