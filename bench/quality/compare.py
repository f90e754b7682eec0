#!/usr/bin/env python3
"""sluice's weight formats against llama.cpp's: KL divergence from f32 at the bits that are really stored.

    bench/quality/compare.py --text FILE [--out DIR] [--calibrate FILE] [--torch PYTHON] ...

The checkpoint (default: demo/) is exported to GGUF in f32; llama.cpp's own quantiser makes its formats from that file, and
`sluice pack` makes ours from the checkpoint. All read the same windows of a text that the model was not trained on, and all
are compared with logits in f32 over the whole vocabulary. Two engines give those logits, llama.cpp for its own formats and
sluice for ours; the perplexities of both must agree, and with --torch `transformers` is a third witness. KV caches are in
f32 on both sides and the embedding in bf16, so that the matrices are what differs; norms and router are exact in both.
Bits are bytes in the file over weights: a K-quant needs rows of 256, so for narrower ones llama.cpp takes another type.

Writes DIR/quality.json and DIR/quality.svg and prints the table. By hand, not part of the tests: it needs llama-cpp-python
(compiled from PyPI's source: `compare.py --install` makes a virtual environment in ~/.cache/sluice/venv-quality, about
10 minutes) and runs some minutes. One thread for llama.cpp by default: its threads wait for each other by spinning, which
on a machine with other work costs more than a second core gives.
"""
import argparse
import datetime
import importlib.util
import json
import lzma
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
VENV = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "sluice" / "venv-quality"
NEEDS = {"numpy": "numpy", "gguf": "gguf", "tokenizers": "tokenizers", "llama_cpp": "llama-cpp-python"}
LLAMA = ["Q8_0", "Q6_K", "Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M", "Q2_K"]
# Name -> options of `sluice pack`: the experts alone, then everything, so that the frontier shows at every size.
SLUICE = {
    "i8": "--experts i8 --dense i8",
    "i8, 2 layers i4": "--experts i8 --dense i8 --activations 16 --keep 1=i4 --keep 4=i4",  # of six; the least sensitive
    "i4g16": "--experts i4g16 --dense i8",
    "i4g16 all": "--experts i4g16 --dense i4g16",
    "i4": "--experts i4 --dense i8",
    "i4 all": "--experts i4 --dense i4g16",
    "i3": "--experts i3 --dense i8",
    "i3 all": "--experts i3 --dense i4g16",
    "i8/i4g16": "--experts i4g16 --gate-up i8 --dense i8",
    "i2": "--experts i2 --down i3 --dense i8",
    "i2 all": "--experts i2 --down i3 --dense i4g16",
}
# What two implementations of f32 may differ by: orders of summation, and now and then a router's near tie.
SAME_PERPLEXITY, SAME_KLD = 1e-4, 1e-5


def install():
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    environment = {**os.environ, "CMAKE_ARGS": "-DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF -DGGML_OPENMP=OFF",
                   "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1)}
    subprocess.run([VENV / "bin/pip", "install", "-q", *NEEDS.values()], check=True, env=environment)


def use_environment():
    """Goes on in the virtual environment when this Python lacks something."""
    missing = [package for module, package in NEEDS.items() if not importlib.util.find_spec(module)]
    if not missing:
        return
    python = VENV / "bin/python"
    if not python.exists() or pathlib.Path(sys.prefix) == VENV:
        raise SystemExit(f"this Python has no {', '.join(missing)}; `{sys.argv[0]} --install` makes an environment that has")
    os.execv(python, [python, *sys.argv])


def read_text(path):
    raw = path.read_bytes()
    return (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode()


class Progress:
    """A line on stderr: share done and time left."""

    def __init__(self, what, total):
        self.what, self.total, self.began, self.done = what, total, time.monotonic(), 0

    def step(self):
        self.done += 1
        left = (time.monotonic() - self.began) / self.done * (self.total - self.done)
        end = "\n" if self.done == self.total else ""
        if sys.stderr.isatty():
            print(f"\r{self.what}: {self.done} of {self.total}, {left:.0f} s left\x1b[K", end=end, file=sys.stderr,
                  flush=True)
        elif self.done * 10 // self.total != (self.done - 1) * 10 // self.total:
            print(f"{self.what}: {self.done} of {self.total}, {left:.0f} s left", file=sys.stderr, flush=True)


# ---- llama.cpp ----

def run_llama(args, windows, work):
    """[row] of llama.cpp's formats; every model reads a window beside the reference, so no logits are kept."""
    import figures
    import llama
    reference = llama.Model(work / "f32.gguf", args.context, args.llama_threads)
    models, found = {}, {name: [] for name in args.llama}
    for name in args.llama:
        path = work / f"{name}.gguf"
        llama.quantise(work / "f32.gguf", path, name, args.threads, not args.stock_embedding)
        models[name] = llama.Model(path, args.context, args.llama_threads)
    first, progress = args.context // 2, Progress("llama.cpp, windows", len(windows))
    for ids in windows:
        expected = reference.logits(ids, first)
        for name, model in models.items():
            found[name].append(figures.compare(expected, model.logits(ids, first), ids[first + 1:]))
        progress.step()
    rows = []
    for name, of in found.items():
        experts, bits, types = llama.stored(work / f"{name}.gguf")
        rows.append({"engine": "llama.cpp", "name": name, "bits": bits, "expert_bits": experts, "types": types,
                     "figures": figures.report(of)})
        models[name].close()
    reference.close()
    return rows


def check_with_torch(args, windows, work):
    """Mean KL divergence of llama.cpp's f32 logits from those of transformers, over a few windows."""
    import numpy as np

    import figures
    import llama
    first, some = args.context // 2, windows[:4]
    (work / "ids.json").write_text(json.dumps(some))
    subprocess.run([args.torch, pathlib.Path(__file__).with_name("torch_logits.py"), args.checkpoint, work / "ids.json",
                    str(first), work / "torch.npy"], check=True)
    model = llama.Model(work / "f32.gguf", args.context, args.llama_threads)
    expected = np.load(work / "torch.npy")
    kld = np.mean([figures.compare(rows, model.logits(ids, first), ids[first + 1:])["kld"].mean()
                   for rows, ids in zip(expected, some, strict=True)])
    model.close()
    if kld > SAME_KLD:
        raise SystemExit(f"llama.cpp in f32 and transformers differ by {kld:.2g} nats; the export must be wrong")
    return float(kld)


# ---- sluice ----

def sluice(args, *words):
    done = subprocess.run([args.sluice, *map(str, words)], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"`{shlex.join(map(str, [args.sluice, *words]))}` failed")
    return done.stdout


def evaluate(args, work, pack, kv):
    return json.loads(sluice(args, "eval", "--model", pack, "--reference", work / "exact.pack", "--token-ids",
                             work / "all-ids.json", "--context", args.context, "--threads", args.threads, "--kv", kv,
                             "--json"))


def sluice_row(name, options, told):
    return {"engine": "sluice", "name": name, "options": options, "bits": told["model"]["bits_per_weight"],
            "expert_bits": told["model"]["expert_bits_per_weight"], "types": told["model"]["classes"],
            "figures": told["figures"]}


def recipes(args):
    wanted = {} if args.only_recipes else dict(SLUICE)
    wanted.update(recipe.split("=", 1) for recipe in args.recipe)
    if args.calibrate:
        wanted.update({f"{name} cal": f"{options} --calibrate {shlex.quote(str(args.calibrate))} "
                                       f"--calibrate-tokens {args.calibrate_tokens} --feedback"
                       for name, options in list(wanted.items())})
    if wanted and "--experts" not in sluice(args, "pack", "--help"):
        print("this sluice packs exactly only; its integer formats are left out", file=sys.stderr)
        return {}
    return wanted


def run_sluice(args, windows, work):
    (work / "all-ids.json").write_text(json.dumps([i for ids in windows for i in ids]))
    sluice(args, "pack", args.checkpoint, work / "exact.pack")
    rows = [sluice_row(f"exact, KV {kv}", "", evaluate(args, work, work / "exact.pack", kv)) for kv in args.kv]
    for name, options in recipes(args).items():
        pack = work / f"{len(rows)}.pack"
        print(f"sluice pack {options}", file=sys.stderr)
        sluice(args, "pack", args.checkpoint, pack, *shlex.split(options))
        rows.append(sluice_row(name, options, evaluate(args, work, pack, "f32")))
    return rows


# ---- what is told ----

def amount(estimate, scale=1.0, digits=6):
    error = "" if estimate["error"] is None else f" ± {scale * estimate['error']:.{digits}f}"
    return f"{scale * estimate['value']:.{digits}f}{error}"


def print_table(rows):
    print(f"{'':24} {'bits':>6} {'experts':>7}  {'KL divergence, mean':>24} {'median':>9} {'99 %':>9}  "
          f"{'same top, %':>16}  {'perplexity / f32':>19}")
    for row in sorted(rows, key=lambda r: -r["bits"]):
        of = row["figures"]
        print(f"{row['engine'] + ' ' + row['name']:24} {row['bits']:6.3f} {row['expert_bits']:7.3f}  "
              f"{amount(of['kld_mean']):>24} {of['kld_median']['value']:9.6f} {of['kld_p99']['value']:9.5f}  "
              f"{amount(of['same_top'], 100, 2):>16}  {amount(of['perplexity_ratio'], 1, 5):>19}")


def verdicts(rows):
    """For each of llama.cpp's formats our best at equal or fewer bits, counted over all matrices: the dense parts of a recipe
    are not those of the other, so bits of the experts alone would compare unlike things."""
    ours = [row for row in rows if row["engine"] == "sluice"]
    found = []
    for theirs in (row for row in rows if row["engine"] == "llama.cpp"):
        verdict = {"llama.cpp": theirs["name"], "bits": theirs["bits"], "sluice": None}
        fitting = [row for row in ours if row["bits"] <= theirs["bits"]]
        if fitting:
            best = min(fitting, key=lambda r: r["figures"]["kld_mean"]["value"])
            a, b = theirs["figures"]["kld_mean"], best["figures"]["kld_mean"]
            error = ((a["error"] or 0) ** 2 + (b["error"] or 0) ** 2) ** 0.5
            verdict.update({"sluice": best["name"], "sluice_bits": best["bits"], "kld_ratio": b["value"] / a["value"],
                            "standard_errors": (a["value"] - b["value"]) / error if error else None})
        found.append(verdict)
    return found


def print_verdicts(found):
    print("\nAt equal or fewer bits:")
    for v in found:
        if v["sluice"] is None:
            print(f"  {v['llama.cpp']:8} {v['bits']:6.3f}  nothing of ours is as small")
            continue
        sure = "" if v["standard_errors"] is None else f" ({abs(v['standard_errors']):.1f} standard errors)"
        print(f"  {v['llama.cpp']:8} {v['bits']:6.3f}  {v['sluice']:16} {v['sluice_bits']:6.3f}  {v['kld_ratio']:.3f} of its KL "
              f"divergence: {'lower' if v['kld_ratio'] < 1 else 'HIGHER'}{sure}")


def check_references(rows):
    """Both engines in f32 on the same windows: the export, the tokens, the windows and the definitions are the same."""
    values = {row["engine"]: row["figures"]["perplexity_reference"]["value"] for row in rows}
    if len(values) == 2:
        off = abs(values["sluice"] / values["llama.cpp"] - 1)
        if off > SAME_PERPLEXITY:
            raise SystemExit(f"perplexity in f32 is {values['sluice']} in sluice and {values['llama.cpp']} in llama.cpp")
        return off
    return None


# ---- the command ----

def parse():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--install", action="store_true", help="make the virtual environment and stop")
    a.add_argument("--text", type=pathlib.Path, help="held-out text, UTF-8 or .xz")
    a.add_argument("--checkpoint", type=pathlib.Path, default=ROOT / "demo")
    a.add_argument("--sluice", type=pathlib.Path, default=ROOT / os.environ.get("SLUICE_BUILD", "build") / "sluice")
    a.add_argument("--out", type=pathlib.Path, default=pathlib.Path("quality"), help="folder for JSON and SVG")
    a.add_argument("--context", type=int, default=512)
    a.add_argument("--max-tokens", type=int, default=65536)
    a.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of sluice and of llama.cpp's quantiser")
    a.add_argument("--llama-threads", type=int, default=1)
    a.add_argument("--llama", nargs="*", default=LLAMA, metavar="FORMAT")
    a.add_argument("--stock-embedding", action="store_true", help="let llama.cpp quantise the embedding as it likes")
    a.add_argument("--kv", nargs="*", default=["bf16"], metavar="FORMAT", help="KV formats to try on exact weights")
    a.add_argument("--recipe", action="append", default=[], metavar="NAME=OPTIONS", help="another `sluice pack` to try")
    a.add_argument("--only-recipes", action="store_true", help="try no pack but those of --recipe")
    a.add_argument("--calibrate", type=pathlib.Path,
                   help="also pack each recipe with this text (not the one read here) and error feedback")
    a.add_argument("--calibrate-tokens", default="64k", help="of that text; more lowers the error a little")
    a.add_argument("--torch", help="a Python with torch and transformers, to check the reference")
    return a.parse_args()


def main():
    args = parse()
    if args.install:
        return install()
    if not args.text:
        raise SystemExit("say --text FILE: a text that the model was not trained on")
    use_environment()
    from tokenizers import Tokenizer

    import checkpoint
    tokenizer = Tokenizer.from_file(str(args.checkpoint / "tokenizer.json"))
    ids = tokenizer.encode(read_text(args.text), add_special_tokens=False).ids[:args.max_tokens]
    windows = [ids[i:i + args.context] for i in range(0, len(ids) - args.context + 1, args.context)]
    if not windows:
        raise SystemExit(f"{args.text} has {len(ids)} tokens, fewer than a window of {args.context}")
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out) as folder:
        work = pathlib.Path(folder)
        checkpoint.export(args.checkpoint, work / "f32.gguf")
        told = {"date": datetime.date.today().isoformat(), "text": str(args.text), "context": args.context,
                "windows": len(windows), "positions": len(windows) * (args.context - 1 - args.context // 2),
                "embedding": "stock" if args.stock_embedding else "bf16"}
        if args.torch:
            told["kld_llama_f32_from_transformers"] = check_with_torch(args, windows, work)
        told["rows"] = run_sluice(args, windows, work) + (run_llama(args, windows, work) if args.llama else [])
    told["perplexity_between_references"] = check_references(told["rows"])
    told["verdicts"] = verdicts(told["rows"])
    (args.out / "quality.json").write_text(json.dumps(told, indent=1) + "\n")
    import plot
    means = [(row, row["figures"]["kld_mean"]) for row in told["rows"]]
    points = [(row["engine"], row["name"], row["bits"], kld["value"], kld["error"] or 0) for row, kld in means
              if kld["value"] > 0 and row["bits"] < 16]
    if points:
        title = f"{args.checkpoint.name}: {len(windows)} windows of {args.context} tokens"
        (args.out / "quality.svg").write_text(plot.scatter(points, title))
    print_table(told["rows"])
    if told["verdicts"]:
        print_verdicts(told["verdicts"])
    print(f"\n{told['positions']} positions; {args.out}/quality.json, quality.svg\n"
          f"references: perplexity of the engines differs by {told['perplexity_between_references']}, KL of llama.cpp's f32 from transformers is "
          f"{told.get('kld_llama_f32_from_transformers', 'not checked')}")


if __name__ == "__main__":
    main()
