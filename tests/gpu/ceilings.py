"""What others' kernels reach on this GPU, through torch where that is: a line of JSON a measure.

Copies within its memory, FFMA (products of floats without tensor cores), bf16 and int8 products of 8192 cubed and of the shapes that a
chunk of 4096 rows of Qwen3-30B-A3B has. Operands are random: on zeros a GPU draws less power and is faster than it is. Times are by
events, the median of rounds after a warm-up. Ends with 3, and a sentence, where there is nothing to measure with."""
import json
import sys

try:
    import torch
except ImportError:
    sys.exit(print("torch is not there, so there are no ceilings of others to stand beside ours") or 3)
if not torch.cuda.is_available():
    sys.exit(print("torch sees no GPU") or 3)

ROUNDS, CHUNK = 20, 4096
SHAPES = [  # rows, inputs, outputs
    ("8192 cubed", 8192, 8192, 8192),
    ("q|k|v", CHUNK, 2048, 5120),
    ("o", CHUNK, 4096, 2048),
    ("an expert's gate and up, 256 rows", 256, 2048, 1536),
    ("an expert's down, 256 rows", 256, 768, 2048),
]


def median_ms(work):
    for _ in range(3):
        work()
    times = []
    for _ in range(ROUNDS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times)[ROUNDS // 2]


def tell(what, ms, **rate):
    print(json.dumps({"what": what, "ms": round(ms, 4), **{name: round(value, 1) for name, value in rate.items()}}), flush=True)


def measure(what, work, operations):
    """One row; what torch can't do here is a row, too."""
    try:
        ms = median_ms(work)
    except RuntimeError as error:
        print(json.dumps({"what": what, "error": str(error).splitlines()[0][:200]}), flush=True)
        return
    tell(what, ms, tera=operations / ms / 1e9)


def main():
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device("cuda")
    print(json.dumps({"what": "torch", "version": torch.__version__, "gpu": torch.cuda.get_device_name(device)}), flush=True)
    source = torch.randint(-128, 127, (1 << 30,), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    ms = median_ms(lambda: target.copy_(source))
    tell("copy of 1 GiB within the GPU, read and written", ms, gb_s=2 * source.numel() / ms / 1e6)
    del source, target
    for name, m, k, n in SHAPES:
        x, w = torch.randn(m, k, device=device), torch.randn(k, n, device=device)
        if name == "8192 cubed":
            measure("f32 " + name, lambda: torch.mm(x, w), 2 * m * n * k)
        b, c = x.to(torch.bfloat16), w.to(torch.bfloat16)
        measure("bf16 " + name, lambda: torch.mm(b, c), 2 * m * n * k)
        q = torch.randint(-127, 127, (m, k), dtype=torch.int8, device=device)
        v = torch.randint(-127, 127, (n, k), dtype=torch.int8, device=device).t()
        measure("int8 " + name, lambda: torch._int_mm(q, v), 2 * m * n * k)


if __name__ == "__main__":
    main()
