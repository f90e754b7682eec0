#!/usr/bin/env python3
"""sluice beside llama.cpp and ik_llama.cpp: prefill and decode of one shape, on one machine, in the same minutes.

  peers.py install DIR                     both engines from PyPI into a virtual environment, compiled for this machine
  peers.py model OUT.gguf [--type iq4_xs]  the shape of Qwen3-30B-A3B with a few layers and random weights, for them
                                           (by DIR/bin/python, which has numpy)
  peers.py compare DIR --sluice BINARY --model PACK [--llama GGUF]... [--ik GGUF]...

PACK is made by `sluice pack --random qwen3-30b-a3b --layers 8 PACK --experts i4 --dense i8`. Every engine stays in a
process of its own, and rounds are interleaved: ours, theirs, ours, theirs. What is printed is each one's median and the
median of the ratios ours / theirs within a round. Speed does not depend on the weights, so they are random: a GGUF is
written block by block in the quantised format itself, at disk speed. At a context, each engine keeps that many tokens
in its cache and only what is measured is taken back afterwards; ours says how it fills them (bench/stage_bench.h).
"""
import argparse
import ctypes
import glob
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import time

# ---- install ----

PACKAGES = {"llama": "llama-cpp-python", "ik": "ik-llama-cpp-python"}


def install(args):
    """Compiled here, not taken as wheels: those are for older processors, and a peer must get all of the machine."""
    subprocess.check_call([sys.executable, "-m", "venv", args.dir])
    for build in install_llama, install_ik:
        began = time.time()
        build(args)
        print(f"{build.__name__}: {time.time() - began:.0f} s", flush=True)


def pip(args, *words, env=None):
    subprocess.check_call(["nice", "-n", "19", f"{args.dir}/bin/pip", *words], env=env)


def only(pattern):
    found = glob.glob(pattern, recursive=True)
    if len(found) != 1:
        sys.exit(f"{pattern}: one file is expected there, and there are {len(found)}: this version of the package is laid"
                 " out otherwise than 0.1.5, which is known to work; see install_ik in bench/peers/peers.py")
    return found[0]


def install_llama(args):
    environment = dict(os.environ, CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF",
                       CMAKE_BUILD_PARALLEL_LEVEL=str(args.jobs))
    pip(args, "install", "-q", "--no-binary", PACKAGES["llama"], PACKAGES["llama"], env=environment)


def install_ik(args):
    """Its source on PyPI lacks files of targets that we don't need, so the whole can't be built: the library alone is,
    and takes the place of that in the wheel of the same version."""
    package, source, build = PACKAGES["ik"], f"{args.dir}/src", f"{args.dir}/build"
    pip(args, "install", "-q", package)
    ask = f"import importlib.metadata; print(importlib.metadata.version('{package}'))"
    version = subprocess.check_output([f"{args.dir}/bin/python", "-c", ask], text=True).strip()
    for made in source, build:
        shutil.rmtree(made, ignore_errors=True)
    pip(args, "download", "-q", "--no-deps", "--no-binary", package, "-d", source, f"{package}=={version}")
    subprocess.check_call(["tar", "-xzf", only(f"{source}/*.tar.gz"), "-C", source])
    tree = only(f"{source}/*/vendor/ik_llama.cpp")
    subprocess.check_call(["cmake", "-S", tree, "-B", build, "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
                           "-DBUILD_SHARED_LIBS=ON", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_TESTS=OFF",
                           "-DLLAMA_BUILD_SERVER=OFF", "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
                           "-DCMAKE_INSTALL_RPATH=$ORIGIN"], stdout=subprocess.DEVNULL)
    subprocess.check_call(["nice", "-n", "19", "cmake", "--build", build, "--target", "llama",
                           "-j", str(args.jobs)], stdout=subprocess.DEVNULL)
    place = only(f"{args.dir}/lib/python*/site-packages/ik_llama_cpp/lib")
    for name in "libllama.so", "libggml.so":
        shutil.copy(only(f"{build}/**/{name}"), place)


# ---- a GGUF with random weights ----

SHAPE = dict(d_model=2048, heads=32, kv_heads=4, d_head=128, experts=128, top_k=8, d_expert=768, vocab=151936)
F32 = (0, 1, 4)  # number in the file format, weights a block, bytes a block
# The same, and where half-precision scales lie in a block: (offset, value). The rest of a block may be any bytes.
FORMATS = {
    "q4_0": ((2, 32, 18), [(0, 0.008)]),
    "q4_k": ((12, 256, 144), [(0, 0.0005), (2, 0.0005)]),
    "q8_0": ((8, 32, 34), [(0, 0.0005)]),
    "iq4_xs": ((23, 256, 136), [(0, 0.00002)]),
    "q6_k": ((14, 256, 210), [(208, 0.00002)]),
}
FILE_TYPE = {"q4_0": 2, "q4_k": 15, "q8_0": 7, "iq4_xs": 30, "q6_k": 18}


def align(n):
    return (n + 31) // 32 * 32


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key, value):
    """A key of the header: whole numbers, floats, texts, or lists of texts or whole numbers."""
    def typed(v):
        if isinstance(v, int):
            return 5 if isinstance(value, list) else 4, struct.pack("<I", v)  # lists are of signed ones
        if isinstance(v, float):
            return 6, struct.pack("<f", v)
        return 8, text(v)
    if isinstance(value, list):
        return text(key) + struct.pack("<IIQ", 9, typed(value[0])[0], len(value)) + b"".join(typed(v)[1] for v in value)
    return text(key) + struct.pack("<I", typed(value)[0]) + typed(value)[1]


def header(layers, file_type):
    s = SHAPE
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    tokens = [chr(b) if b in printable else chr(256 + others.index(b)) for b in range(256)]
    # Bytes last: random weights have equal rows, of which the first is taken, and an answer of bytes would be no UTF-8.
    tokens = [f"<{i}>" for i in range(s["vocab"] - 257)] + tokens + ["he"]
    a = "qwen3moe"
    values = {
        "general.architecture": a, "general.file_type": file_type, "general.quantization_version": 2,
        f"{a}.block_count": layers, f"{a}.context_length": 40960, f"{a}.embedding_length": s["d_model"],
        f"{a}.feed_forward_length": s["d_expert"], f"{a}.expert_feed_forward_length": s["d_expert"],
        f"{a}.attention.head_count": s["heads"], f"{a}.attention.head_count_kv": s["kv_heads"],
        f"{a}.attention.key_length": s["d_head"], f"{a}.attention.value_length": s["d_head"],
        f"{a}.attention.layer_norm_rms_epsilon": 1e-6, f"{a}.rope.freq_base": 1e6,
        f"{a}.expert_count": s["experts"], f"{a}.expert_used_count": s["top_k"],
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * s["vocab"], "tokenizer.ggml.merges": ["h e"], "tokenizer.ggml.eos_token_id": 257,
    }
    return len(values), b"".join(entry(k, v) for k, v in values.items())


def tensors(layers, fmt):
    """Name, dimensions (inputs first), format."""
    s, q8 = SHAPE, FORMATS["q8_0"][0]
    d, q, kv, e, f = s["d_model"], s["heads"] * s["d_head"], s["kv_heads"] * s["d_head"], s["experts"], s["d_expert"]
    yield "token_embd.weight", (d, s["vocab"]), q8
    for i in range(layers):
        for name, dims, kind in [
            ("attn_norm", (d,), F32), ("attn_q", (d, q), fmt), ("attn_k", (d, kv), fmt), ("attn_v", (d, kv), fmt),
            ("attn_q_norm", (s["d_head"],), F32), ("attn_k_norm", (s["d_head"],), F32), ("attn_output", (q, d), fmt),
            ("ffn_norm", (d,), F32), ("ffn_gate_inp", (d, e), F32), ("ffn_gate_exps", (d, f, e), fmt),
            ("ffn_up_exps", (d, f, e), fmt), ("ffn_down_exps", (f, d, e), fmt),
        ]:
            yield f"blk.{i}.{name}.weight", dims, kind
    yield "output_norm.weight", (d,), F32
    yield "output.weight", (d, s["vocab"]), q8


def random_data(dims, kind, rng):
    """A pool of blocks, repeated: what is in them does not matter, that each lies elsewhere in memory does."""
    import numpy as np
    count = int(np.prod(dims)) // kind[1]
    if kind == F32:
        one_d = len(dims) == 1
        return (np.ones(count, "<f4") if one_d else 0.02 * rng.standard_normal(count, dtype=np.float32)).tobytes()
    pool = rng.integers(0, 256, (min(count, 1 << 14), kind[2]), dtype=np.uint8)
    for offset, value in next(scales for k, scales in FORMATS.values() if k == kind):
        pool[:, offset:offset + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)
    repeats, rest = divmod(count, len(pool))
    return pool.tobytes() * repeats + pool[:rest].tobytes()


def model(args):
    try:
        import numpy as np
    except ImportError:
        sys.exit("numpy is missing here: run this with the python of `peers.py install DIR`, DIR/bin/python, which has it")
    rng = np.random.default_rng(1)
    listed = list(tensors(args.layers, FORMATS[args.type][0]))
    n_values, values = header(args.layers, FILE_TYPE[args.type])
    infos, offset = b"", 0
    for name, dims, kind in listed:
        infos += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind[0], offset)
        offset += align(int(np.prod(dims)) // kind[1] * kind[2])
    head = b"GGUF" + struct.pack("<IQQ", 3, len(listed), n_values) + values + infos
    with open(args.out, "wb") as out:
        out.write(head.ljust(align(len(head)), b"\0"))
        for _, dims, kind in listed:
            data = random_data(dims, kind, rng)
            out.write(data.ljust(align(len(data)), b"\0"))
    print(f"{args.out}: {args.layers} layers, {os.path.getsize(args.out) / 1e9:.2f} GB")


# ---- a peer's process ----

class Peer:
    """One engine with one model, in its process; asked on its stdin, answers seconds."""

    def __init__(self, venv, engine, gguf, threads, n_ctx):
        self.name = f"{engine} {os.path.basename(gguf)}"
        self.process = subprocess.Popen(
            [f"{venv}/bin/python", os.path.abspath(__file__), "serve", engine, gguf, str(threads), str(n_ctx)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            sys.exit(f"{self.name} cannot be loaded; PEERS_VERBOSE=1 shows why")

    def measure(self, what, n, context):
        print(what, n, context, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"{self.name} died; PEERS_VERBOSE=1 shows why")
        return n / float(answer)


class Engine:
    """The C API of both, as far as it is the same; where it is not, the newer name comes first."""

    def __init__(self, engine, gguf, threads, n_ctx):
        if engine == "llama":
            import llama_cpp as api
        else:
            import ik_llama_cpp._ctypes_api as api
        self.api, self.filled = api, 0
        api.llama_backend_init()
        parameters = api.llama_model_default_params()
        parameters.n_gpu_layers = 0
        context = api.llama_context_default_params()
        context.n_ctx, context.n_batch, context.n_threads, context.n_threads_batch = n_ctx, 2048, threads, threads
        context.n_ubatch = 512
        if engine == "ik":  # its best: weights interleaved at load, gate and up in one, its own attention
            parameters.use_mmap, parameters.repack_tensors = False, True
            context.flash_attn = context.fused_moe_up_gate = True
            context.n_ubatch = 2048
        else:
            context.flash_attn_type = 1
        loaded = self.call("llama_model_load_from_file", "llama_load_model_from_file")(gguf.encode(), parameters)
        if not loaded:
            raise SystemExit("the model cannot be loaded")
        self.context = self.call("llama_init_from_model", "llama_new_context_with_model")(loaded, context)

    def call(self, *names):
        return next(getattr(self.api, name) for name in names if hasattr(self.api, name))

    def forget(self, first):
        """Positions from `first` on."""
        if hasattr(self.api, "llama_memory_seq_rm"):
            self.api.llama_memory_seq_rm(self.api.llama_get_memory(self.context), 0, first, -1)
        else: # ik's binding lists fewer functions than its library has
            remove = self.api._lib.llama_kv_cache_seq_rm
            remove.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32]
            remove(self.context, 0, first, -1)
        self.filled = first

    def feed(self, n, step):
        for begin in range(0, n, step):
            size = min(step, n - begin)
            batch = self.api.llama_batch_init(size, 0, 1)
            batch.n_tokens = size
            for i in range(size):
                batch.token[i] = 300 + 7919 * (self.filled + i) % 20000
                batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = self.filled + i, 1, 0
                batch.logits[i] = i == size - 1
            if self.api.llama_decode(self.context, batch) != 0:
                raise SystemExit("llama_decode failed")
            self.api.llama_batch_free(batch)
            self.filled += size

    def measure(self, what, n, context):
        if self.filled != context:
            self.forget(0)
            self.feed(context, 2048)
        began = time.perf_counter()
        self.feed(n, 2048 if what == "pp" else 1)
        elapsed = time.perf_counter() - began
        self.forget(context)
        return elapsed


def serve(args):
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the engine says is not an answer
    if not os.environ.get("PEERS_VERBOSE"):
        os.dup2(1, 2)
    engine = Engine(args.engine, args.gguf, args.threads, args.n_ctx)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        what, n, context = line.split()
        print(engine.measure(what, int(n), int(context)), file=answers, flush=True)


# ---- the comparison ----

def ours(args, what, n, context):
    common = [args.sluice, "bench", "prefill" if what == "pp" else "decode", "--json", "--rounds=1", f"--model={args.model}",
              f"--context={context}", f"--threads={args.threads}", f"--kv={args.kv}"]
    rest = [f"--prompt-tokens={n}", f"--chunk={args.chunk}"] if what == "pp" else ["--batch=1", f"--steps={n}"]
    result = json.loads(subprocess.check_output(common + rest))["results"][0]
    return result[f"{what}_tok_s"]


def compare(args):
    cases = [("pp", int(n), int(c)) for c in args.context.split(",") for n in args.prompt_tokens.split(",")]
    cases += [("tg", args.decode, int(c)) for c in args.context.split(",")] if args.decode else []
    room = max(n + c for _, n, c in cases) + 64
    peers = [Peer(args.dir, engine, gguf, args.threads, room)
             for engine in PACKAGES for gguf in getattr(args, engine)]
    for what, n, context in cases:
        rates = {"sluice": []} | {peer.name: [] for peer in peers}
        for peer in peers:
            peer.measure(what, n, context)  # maps, fills the context
        for _ in range(args.rounds):
            rates["sluice"].append(ours(args, what, n, context))
            for peer in peers:
                rates[peer.name].append(peer.measure(what, n, context))
        print(f"{'prefill' if what == 'pp' else 'decode'} of {n} tokens behind {context}, {args.rounds} rounds", flush=True)
        for name, rate in rates.items():
            ratio = statistics.median(mine / other for mine, other in zip(rates["sluice"], rate))
            print(f"  {name:32} {statistics.median(rate):9.1f} tokens/s  ({min(rate):.1f} to {max(rate):.1f})"
                  + (f"   sluice / it = {ratio:.2f}" if name != "sluice" else ""), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    c = commands.add_parser("install")
    c.add_argument("dir")
    c.add_argument("--jobs", type=int, default=os.cpu_count())
    c.set_defaults(run=install)
    c = commands.add_parser("model")
    c.add_argument("out")
    c.add_argument("--type", choices=FORMATS, default="iq4_xs")
    c.add_argument("--layers", type=int, default=8)
    c.set_defaults(run=model)
    c = commands.add_parser("serve", help="a peer's process; compare starts it")
    c.add_argument("engine", choices=PACKAGES)
    c.add_argument("gguf")
    c.add_argument("threads", type=int)
    c.add_argument("n_ctx", type=int)
    c.set_defaults(run=serve)
    c = commands.add_parser("compare")
    c.add_argument("dir", help="of install")
    c.add_argument("--sluice", default="build/sluice")
    c.add_argument("--model", required=True, help="a pack")
    c.add_argument("--llama", action="append", default=[], help="a GGUF for llama.cpp")
    c.add_argument("--ik", action="append", default=[], help="a GGUF for ik_llama.cpp")
    c.add_argument("--prompt-tokens", default="512,2048")
    c.add_argument("--context", default="0")
    c.add_argument("--decode", type=int, default=32, help="tokens; 0: none")
    c.add_argument("--chunk", type=int, default=512)
    c.add_argument("--kv", default="auto", help="of sluice; the peers keep f16")
    c.add_argument("--threads", type=int, default=os.cpu_count())
    c.add_argument("--rounds", type=int, default=5)
    c.set_defaults(run=compare)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
