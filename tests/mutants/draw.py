#!/usr/bin/env python3
"""Mutants of what decides and of what links, drawn by a seed: who finds a line that is wrong?

  draw.py [BUILD] [--seed N] [--count N] [--from N] [--jobs N] [--only ROOM] [--wide] [--list] [--show N] [--save FILE.jsonl]

A mutant is the tree with one line changed, in pipeline/decide or pipeline/link (but for the simulated network): a condition negated, a
statement dropped, a number or a comparison off by one. Its file is compiled anew, each test program of the room and the simulator's 200
seeds are linked with that object before the libraries of BUILD, and run until one says that something is wrong; a program that hangs is
found, too, by the time of the processor that it takes. What the compiler makes the same code of is no mutant: another is drawn in its
place, and in that of what does not compile. The same seed draws the same mutants, but for lines that were edited.

--wide runs programs of other rooms over what is left (the decider's figures, coordinator and roles): what they find counts as left, but
says what a survivor is about. --list shows the lines and runs nothing. Survivors are argued in README.md beside this file.
Exit code: 1 when less than --least of a hundred (90) are found.
"""
import argparse
import collections
import concurrent.futures
import difflib
import hashlib
import itertools
import json
import os
import pathlib
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/lint"))
sys.dont_write_bytecode = True
sys.argv, argv = sys.argv[:1], sys.argv[1:]  # the lint reads its own
from lint import blank  # noqa: E402

ROOMS = ("pipeline/decide", "pipeline/link")
NOT_DRAWN = ("pipeline/link/transport_sim.c",)  # a network that does what its seed says: no frame of the product goes over it
CROWDED = ("pipeline_link_test_io", "pipeline_link_test_transport_ucx")  # over real sockets, and by real clocks
SIMULATORS = ("pipeline_sim_test_sim",)
WIDE = ("bench_test_schedule_promises", "bench_test_schedule_figures", "node_coordinator_test_call", "node_role_test_role_stage")
KINDS = ("negated", "dropped", "off by one")
FAILURE = re.compile(r"^(\S+\.[ch]:\d+: .*|.*died of signal \d+)$")
SLOW = int(os.environ.get("SLUICE_SLOW_FACTOR", "1"))

TEXTS = {}  # of sources, as they are when lines are drawn
Site = collections.namedtuple("Site", "path line kind text was")


# ---- lines that may be changed ----

def closing(text, at):
    """Where the parenthesis that opens at `at` closes on this line; -1: elsewhere."""
    depth = 0
    for i in range(at, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    return -1


def negated(line, clean):
    for match in re.finditer(r"\b(?:if|while) (?=\()", clean):
        begin = match.end()
        end = closing(clean, begin)
        if end > 0:
            yield line[:begin] + "(!" + line[begin:end + 1] + ")" + line[end + 1:]
    loop = re.match(r"\s*for \([^;]*; ([^;]+); [^;]*\)", clean)
    if loop:
        begin, end = loop.span(1)
        yield line[:begin] + "!(" + line[begin:end] + ")" + line[end:]
    back = re.match(r"\s*return ([^?]*(?: == | != | < | > | <= | >= | && | \|\| |^!)[^?]*);$", clean)
    if back and back.group(1).count("(") == back.group(1).count(")"):
        begin, end = back.span(1)
        yield line[:begin] + "!(" + line[begin:end] + ")" + line[end:]


DECLARES = re.compile(r"\s*(?:const |static |struct |enum |union |unsigned |int |long |u?int\d+_t |bool |double |float |char |size_t |void |va_list "
                      r"|sl_\w+ \**\w+\b|return\b|break\b|continue\b|goto\b|assert\b|case\b|default\b|\(void\))")
STATEMENT = re.compile(r"\s+[*(+\-\w].*;$")


def dropped(line, clean, before):
    """A whole statement: it begins a line, behind something that ended, and ends there."""
    if not STATEMENT.match(clean) or DECLARES.match(clean) or clean.count("(") != clean.count(")"):
        return
    if before and not re.search(r"(?:[;{}:)]|\belse)$", before):
        return
    if before.endswith(")") and not re.match(r"\s*(?:\} else )?(?:if|for|while|switch)\b", before):
        return  # a line of a condition that is longer; or of a call
    yield line[:len(line) - len(line.lstrip())] + ";"


def off_by_one(line, clean):
    if re.match(r"\s*(?:assert|#|enum)\b", clean) or "{0}" in clean:
        return
    other = {" < ": " <= ", " <= ": " < ", " > ": " >= ", " >= ": " > "}
    for match in re.finditer(r" (?:<=?|>=?) ", clean):
        yield line[:match.start()] + other[match.group(0)] + line[match.end():]
    for match in re.finditer(r"(?<![\w.])(?<!e-)(\d+)(?![\w.])", clean):
        yield line[:match.start()] + str(int(match.group(1)) + 1) + line[match.end():]
    for match in re.finditer(r" [+-] 1(?![\w.])", clean):
        yield line[:match.start()] + line[match.end():]


def sites_of(path):
    text = TEXTS.setdefault(path, (ROOT / path).read_text(encoding="utf-8"))
    inside, before, is_assert = False, "", False
    for number, (line, clean) in enumerate(zip(text.split("\n"), blank(text).split("\n")), 1):
        if clean.startswith("{"):
            inside = True
        elif clean.startswith("}"):
            inside = False
        is_assert = "assert(" in clean or (is_assert and not before.endswith(";"))
        if inside and clean.strip() and not is_assert and "SL_MUTATED" not in clean:
            for kind, changed in (("negated", negated(line, clean)), ("dropped", dropped(line, clean, before)),
                                  ("off by one", off_by_one(line, clean))):
                for new in changed:
                    yield Site(path, number, kind, new, line)
        before = clean.rstrip() if clean.strip() else before


def all_sites(rooms):
    paths = [path.relative_to(ROOT).as_posix() for room in rooms for path in sorted((ROOT / room).glob("*.c"))]
    return [site for path in paths if path not in NOT_DRAWN for site in sites_of(path)]


def drawn(sites, seed):
    """All of them in an order that the seed says, kind after kind in turn. Each has its place by what it changes, whatever else is in the
    tree: so most of the first hundred are the same ones after an edit."""
    seen, keys = collections.Counter(), {}
    for site in sites:
        what = f"{seed} {site.path} {site.kind} {site.was.strip()} {site.text.strip()}"
        seen[what] += 1
        keys[site] = hashlib.sha256(f"{what} {seen[what]}".encode()).digest()
    kinds = [sorted((site for site in sites if site.kind == kind), key=keys.get, reverse=True) for kind in KINDS]
    while any(kinds):
        for of_kind in kinds:
            if of_kind:
                yield of_kind.pop()


# ---- one mutant ----

def line_of(site):
    """What was changed, marked: the part of the line that was, and what it is."""
    was, now = site.was.strip(), site.text.strip()
    if site.kind == "dropped":
        return f"[{was}]"
    out = ""
    for tag, a, b, c, d in difflib.SequenceMatcher(None, was, now, autojunk=False).get_opcodes():
        out += was[a:b] if tag == "equal" else f"[{was[a:b]}→{now[c:d]}]"
    return out


class Bench:
    """A build whose libraries and test objects are there, and a folder for what is made beside it."""

    def __init__(self, build, folder):
        self.build, self.folder = build, folder
        commands = json.loads((build / "compile_commands.json").read_text())
        commands = [e for e in commands if "-DSL_MUTATIONS" not in e["command"]]  # that is sluice-mutants
        self.compile = {pathlib.Path(e["file"]).relative_to(ROOT).as_posix(): e["command"] for e in commands}
        self.links, self.originals, self.baseline, self.lock = {}, {}, {}, threading.Lock()
        (folder / "tests").symlink_to(build / "tests")  # what programs look for beside themselves

    def programs(self, path):
        room = pathlib.Path(path).parent.as_posix().replace("/", "_")
        own = sorted(p.name for p in (self.build / "tests").glob(f"{room}_test_*"))
        own.sort(key=lambda name: self.baseline.get(name, (0, 0))[1])
        simulators = [name for name in SIMULATORS if (self.build / "tests" / name).exists()]
        return own + (simulators if room == "pipeline_decide" else [])

    def link_command(self, program):
        with self.lock:
            if program not in self.links:
                out = subprocess.run(["ninja", "-C", self.build, "-t", "commands", f"tests/{program}"], check=True,
                                     capture_output=True, text=True).stdout
                self.links[program] = out.strip().split("\n")[-1]
        return self.links[program]

    def object_of(self, path, text, made):
        """Compiled as the build does, but for what is said of lines; None: it is no C."""
        source = made.with_suffix(".c")
        source.write_text(text, encoding="utf-8")
        words = shlex.split(self.compile[path].replace("\\\"", "\\\\\""))
        at = words.index("-o")
        words = [w.replace('\\"', '"') for w in words[:at]] + ["-w", "-g0", f"-fmacro-prefix-map={source}={path}", "-o", str(made), "-c", str(source)]
        done = subprocess.run(words, cwd=self.build, capture_output=True, env=dict(os.environ, CCACHE_DISABLE="1"))
        return made.read_bytes() if done.returncode == 0 else None

    def run(self, program, made):
        """(what it said that is wrong, or None; seconds of the processor, seconds); made: an object that comes before the libraries."""
        target = self.folder / f"{made.stem if made else 'without'}-{program}"
        if not made:
            shutil.copy(self.build / "tests" / program, target)  # it is run where those with mutants are
        else:
            command = self.link_command(program).replace(f"-o tests/{program} ", f"{shlex.quote(str(made))} -o {shlex.quote(str(target))} ", 1)
            subprocess.run(command, cwd=self.build, shell=True, check=True, capture_output=True)
        cpu, wall = self.baseline.get(program, (60, 300))
        cpu, wall = int(10 * cpu + 10), SLOW * (20 * wall + 120)
        begin = time.monotonic()
        child = subprocess.Popen([target], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=ROOT,
                                 start_new_session=True, preexec_fn=lambda: limit(cpu))
        late = threading.Event()
        timer = threading.Timer(wall, lambda: (late.set(), stop(child)))
        timer.start()
        said = None
        for line in child.stdout:
            if FAILURE.match(line.strip()):
                said = line.strip()
                stop(child)
                break
        child.stdout.close()
        _, status, usage = os.wait4(child.pid, 0)
        timer.cancel()
        code = child.returncode = os.waitstatus_to_exitcode(status)
        target.unlink()
        if not said and code != 0:
            said = f"hangs ({wall} s)" if late.is_set() else "hangs" if code == -signal.SIGXCPU else f"ends with code {code}"
        return said, usage.ru_utime + usage.ru_stime, time.monotonic() - begin


def limit(cpu_s):
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def stop(child):
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def test_of(said):
    """Which test it is that fails."""
    return (said.split(": ") + [""])[1]


def mutate(bench, number, site, wide):
    """A result; None: it is no mutant."""
    made = bench.folder / f"m{number}.o"
    lines = TEXTS[site.path].split("\n")
    if site.path not in bench.originals:
        bench.originals[site.path] = bench.object_of(site.path, "\n".join(lines), made)
    same = bench.originals[site.path]
    lines[site.line - 1] = site.text
    other = bench.object_of(site.path, "\n".join(lines), made)
    if same is None:
        raise RuntimeError(f"{site.path} cannot be compiled")
    if other is None or other == same:
        return None
    result = {"number": number, "path": site.path, "line": site.line, "kind": site.kind, "change": line_of(site), "found": None}
    for program in bench.programs(site.path) + (list(WIDE) if wide else []):
        if not (bench.build / "tests" / program).exists():
            continue
        said, _, _ = bench.run(program, made)
        if said and program in CROWDED:  # what a crowded machine makes of it is none of the mutant's doing
            again, _, _ = bench.run(program, made)
            said = said if again and test_of(again) == test_of(said) else None
        if said:
            result["wide" if program in WIDE else "found"], result["said"] = program, said[:200]
            break
    made.unlink()
    made.with_suffix(".c").unlink()
    return result


# ---- all of them ----

def print_table(results, done_in_s):
    for r in sorted(results, key=lambda r: r["number"]):
        by = r["found"] or ("left, but for " + r["wide"] if r.get("wide") else "LEFT")
        print(f"{r['number']:4} {r['path']}:{r['line']}: {r['kind']}: {r['change']}\n     {by}: {r.get('said', '')}")
    print()
    for room in ROOMS:
        of = [r for r in results if r["path"].startswith(room + "/")]
        print(f"{room}: {sum(bool(r['found']) for r in of)} of {len(of)} found")
    for kind in KINDS:
        of = [r for r in results if r["kind"] == kind]
        print(f"{kind}: {sum(bool(r['found']) for r in of)} of {len(of)} found")
    by = collections.Counter(r["found"] for r in results if r["found"])
    print("by: " + ", ".join(f"{name} {n}" for name, n in by.most_common()))
    n = sum(bool(r["found"]) for r in results)
    print(f"figure: drawn mutants found: {n} of {len(results)}, in {done_in_s:.0f} s")
    return n


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", nargs="?", default="build", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=ROOMS, action="append")
    parser.add_argument("--least", type=float, default=90)
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--show", type=int, nargs="+", help="only these")
    parser.add_argument("--save", type=pathlib.Path)
    args = parser.parse_args(argv)
    sites = all_sites(args.only or ROOMS)
    if args.list:
        for number, site in itertools.islice(enumerate(drawn(sites, args.seed)), args.first, args.first + args.count):
            print(f"{number:4} {site.path}:{site.line}: {site.kind}: {line_of(site)}")
        return 0
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sluice-mutants-") as folder:
        bench = Bench(args.build.resolve(), pathlib.Path(folder))
        for program in {p for room in ROOMS for p in bench.programs(f"{room}/x.c")}:
            for _ in range(3):  # a crowded machine fails what waits for time to pass
                said, cpu, wall = bench.run(program, None)
                if not said:
                    break
            if said:
                print(f"{program} fails without a mutant: {said}", file=sys.stderr)
                return 2
            print(f"     {program} finds nothing without a mutant ({cpu:.1f} s)", file=sys.stderr, flush=True)
            bench.baseline[program] = (cpu, wall)
        results = run_all(bench, args, sites)
    n = print_table(results, time.monotonic() - begin)
    return 0 if 100 * n >= args.least * len(results) else 1


def run_all(bench, args, sites):
    """As many mutants as are wanted, the first of the order that are any."""
    order = enumerate(drawn(sites, args.seed))
    if args.show is not None:
        order = [pair for pair in itertools.islice(order, 1 + max(args.show)) if pair[0] in args.show]
        args.count = len(order)
    order, results, skip = iter(order), [], args.first
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        pending = set()
        while True:
            while len(pending) < args.jobs and len(pending) + len(results) < args.count:
                pair = next(order, None)
                if pair is None:
                    break
                if pair[0] >= skip:
                    pending.add(pool.submit(mutate, bench, *pair, args.wide))
            if not pending:
                return results
            done, pending = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
            for result in (future.result() for future in done):
                if result:
                    results.append(result)
                    note(args, result)


def note(args, result):
    print(f"{result['number']:4} {result['path']}:{result['line']} {result['kind']}: {result['found'] or 'LEFT ' + result['change']}",
          file=sys.stderr, flush=True)
    if args.save:
        with args.save.open("a", encoding="utf-8") as out:
            out.write(json.dumps(result, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
