"""Many requests for a while, of all lengths, some cancelled, some with bad fields: afterwards every page is back, the answers
of the same request have all been the same, and memory is where it was. Slow tier."""
import pathlib
import random
import re
import threading

import grpc
import pytest
from conftest import PATIENCE, wait_until
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc

KINDS, CLIENTS, ROUNDS = 24, 8, 60


def resident(pid):
    return int(re.search(r"VmRSS:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text())[1])


def request(kind):
    rng = random.Random(kind)
    ids = [rng.randrange(4000) for _ in range(rng.choice([1, 17, 64, 300, 1500]))]
    return pb.GenerateRequest(tokenized=pb.TokenizedInput(input_ids=ids), stream=True, sampling_params=pb.SamplingParams(
        temperature=rng.choice([0, 0.8]), top_p=0.9, seed=kind, max_tokens=rng.choice([1, 5, 40, 120]), ignore_eos=True))


def client(server, number, answers, errors):
    rng = random.Random(1000 + number)
    with grpc.insecure_channel(server.endpoint) as channel:
        stub = pb_grpc.VllmEngineStub(channel)
        for _ in range(ROUNDS):
            kind, what = rng.randrange(KINDS), rng.random()
            try:
                if what < 0.1:  # refused: an id outside the vocabulary
                    bad = request(kind)
                    bad.tokenized.input_ids[0] = 1 << 20
                    next(stub.Generate(bad, timeout=PATIENCE))
                    errors.append("a bad id was taken")
                stream = stub.Generate(request(kind), timeout=PATIENCE)
                ids = []
                for reply in stream:
                    ids += reply.chunk.token_ids
                    if what > 0.85 and len(ids) >= 1 + rng.randrange(8):  # the client hangs up
                        stream.cancel()
                        ids = None
                        break
                if ids is not None:
                    answers.setdefault(kind, set()).add(tuple(ids))
            except grpc.RpcError as error:
                if not (what < 0.1 and error.code() == grpc.StatusCode.INVALID_ARGUMENT):
                    errors.append(f"{error.code()}: {error.details()}")


@pytest.mark.slow
def test_soak(start_server):
    server = start_server("--context", 2048)
    memory = []
    for _ in range(3):
        answers, errors = {}, []
        threads = [threading.Thread(target=client, args=(server, n, answers, errors)) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert len(answers) == KINDS and all(len(texts) == 1 for texts in answers.values())
        wait_until(lambda: server.metric("sluice_requests_running") == 0 and
                   server.metric("sluice_kv_cache_usage_ratio") == 0 and
                   server.metric("sluice_decode_kv_cache_usage_ratio") == 0, "the return of every page")
        memory.append({role: resident(pid) for role, pid in server.children().items()})
    for role in memory[0]:  # the pools are touched in the first round; after it nothing grows by more than 16 MiB
        assert memory[2][role] - memory[0][role] < 16 << 10, memory
    assert server.stop() == 0
