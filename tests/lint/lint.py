#!/usr/bin/env python3
"""The rules of the tree that a compiler does not know, checked: `./dev lint`, and part of `./dev test`.

1. Includes point one way: a room includes only itself and the rooms that it may know (KNOWS below).
2. Every header compiles alone, with the flags of the build.
3. Each foreign library is included only in its place (FOREIGN below).
4. Every source file opens with a comment that says what it is and why.
5. No function is longer than 90 lines, no file longer than 1200.
6. Every C file is as clang-format writes it.
7. No tag (struct, union, enum) is defined twice: one word means one thing.
8. No text cites a file that is not in the tree.
9. What decides is pure: pipeline/record and pipeline/decide call nothing but PURE below. The rule is tried on a planted
   malloc, clock and lock each time.
10. Sentences of errors and of the log speak with one voice: no capital at the start, no full stop at the end.
11. What is waited for or measured is so on the monotonic clock: nothing reads the wall's or waits on it but what WALL_MAY lists.
   The rule is tried on planted lines each time.
12. The faults of base/mutate.h are in sluice-mutants, where the rule is tried each time, and nothing of them is in sluice.
13. No GPU kernel spills registers or has a stack frame (ptxas.py).

Each rule counts once per thing it looked at being wrong; a rule without a finding is one pass.
usage: lint.py [BUILD_DIR]   (where generated headers lie; without it, headers that need them are skipped)
"""
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import ptxas

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build")
if not BUILD.is_absolute():
    BUILD = ROOT / BUILD
MAX_FUNCTION, MAX_FILE, MIN_HEAD = 90, 1200, 40

# The rooms, and what each may include beside itself, and what those may include in their turn.
# A folder that is no room of its own belongs to the room above it.
KNOWS = {
    "base": [],
    "base/http": ["base"],
    "kernels": ["base"],
    "kernels/cuda": ["base"],
    "kernels/gpu": ["kernels", "kernels/cuda"],
    "model": ["base", "kernels"],
    "model/family": ["model"],
    "model/source": ["model"],
    "model/quantise": ["model"],
    "model/tokenizer": ["model"],
    "model/pack": ["model/family", "model/source", "model/quantise", "model/tokenizer"],
    "attention": ["kernels"],
    "router": ["kernels"],
    "experts": ["router"],
    "pipeline/record": ["base"],
    "pipeline/decide": ["pipeline/record"],
    "pipeline/stage": ["pipeline/decide", "model/pack", "attention", "experts", "kernels/gpu"],
    "pipeline/link": ["pipeline/record"],
    "pipeline/sim": ["pipeline/decide"],
    "node/rpc": ["base"],
    "node/coordinator": ["node/rpc", "pipeline/decide", "pipeline/link", "model/tokenizer"],
    "node/edge": ["node/coordinator", "base/http"],
    "node/role": ["node/edge", "pipeline/stage"],
    "node/local": ["node/role"],
    "node/client": ["node/local"],
    "node/eval": ["node/client"],
    "node/command": ["node/eval"],
    "bench/serve": ["node/command"],
    "bench/serve/selftest": ["node/command"],
    "bench/simulate": ["bench/serve", "pipeline/sim"],
    "bench/plan": ["bench/serve"],
    "bench": ["bench/serve", "bench/serve/selftest", "bench/simulate", "bench/plan"],
}

# A foreign header (pattern) -> the files that may include it (patterns). Tests may include what they test with.
FOREIGN = {
    r"grpc/(?!.*\.pb-c\.h)": [r"node/rpc/rpc_\w+\.[ch]"],
    r"(ucp|ucs|uct)/": [r"pipeline/link/transport_ucx\w*\.[ch]"],
    r"nccl\.h": [r"pipeline/link/transport_nccl\w*\.[ch]"],
    r"(cuda|cublas)\w*\.h": [r"kernels/cuda/.*"],
    r"(\w+/)*\w+\.pb-c\.h": [r"node/(coordinator/members(_away)?\.c|client/client_remote\.c|role/(member|worker)\.c|edge/\w+\.[ch])", r"bench/serve/target_grpc\.c", r"bench/serve/selftest/scripted_grpc\.c"],
    r"curl/": [r"base/http/curl\.h"],
    r"protobuf-c/": [r"node/rpc/\w+\.[ch]"],
    r"jansson\.h": [r"model/(\w+/)?\w+\.[ch]", r"node/client/(client_remote|queue_view)\.c", r"node/edge/(engine|service)_\w+\.[ch]", r"bench/serve/\w+\.[ch]", r"bench/serve/selftest/openai\.c"],
    r"yaml\.h": [r"node/command/yaml\.c"],
    r"microhttpd\.h": [r"node/edge/admin_http\w*\.[ch]", r"bench/serve/selftest/scripted_http\.c"],
    r"utf8proc\.h": [r"model/tokenizer/\w+\.[ch]"],
    r"jemalloc/": [r"node/edge/\w*metrics\w*\.c", r"bench/simulate/memory\.c"],
    r"xxhash\.h": [r"base/digest(_avx2)?\.c"],
    r"openssl/": [r"base/digest\.c", r"node/rpc/tls(_\w+)?\.[ch]"],
    r"(imm|x86|avx)\w*intrin\.h|cpuid\.h": [r"kernels/cpu/.*", r"base/cpu\.c"],
}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)


def sources(*suffixes):
    found = []
    for path in sorted(ROOT.rglob("*")):
        name = path.relative_to(ROOT).as_posix()
        if path.suffix in suffixes and path.is_file() and not re.match(r"(build[^/]*|\.git|shared)/", name):
            found.append(name)
    return found


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def includes(name):
    return [(mark, header) for mark, header in INCLUDE.findall(text_of(name))]


def room_of(name):
    """The room that a path lies in: the longest that is a folder above it; None: a path of no room."""
    folder = name.rpartition("/")[0]
    while folder and folder not in KNOWS:
        folder = folder.rpartition("/")[0]
    return folder or None


def below(room):
    """The room itself and all that it may include."""
    seen, todo = set(), [room]
    while todo:
        at = todo.pop()
        if at not in seen:
            seen.add(at)
            todo += KNOWS[at]
    return seen


def check_directions(files):
    tops = {room.split("/")[0] for room in KNOWS} | {"tests"}
    for name in files:
        room = room_of(name)
        if not room:
            if name.split("/")[0] in tops - {"tests"}:
                yield f"{name} lies in no room: KNOWS in this file lists them"
            continue
        allowed = below(room)
        for mark, header in includes(name):
            if mark == '"' and header.split("/")[0] in tops and room_of(header) not in allowed:
                yield f"{name} includes {header}: {room}/ may see only {', '.join(sorted(allowed - {room}))}"
            if mark == '"' and "/" not in header and not header.endswith(".pb-c.h"):
                yield f'{name} includes "{header}": write it from the root, "{room}/..."'


def check_foreign(files):
    for name in files:
        if name.startswith("tests/"):
            continue
        for _, header in includes(name):
            for pattern, places in FOREIGN.items():
                if re.match(pattern, header) and not any(re.fullmatch(place, name) for place in places):
                    yield f"{name} includes {header}: only {', '.join(places)} may"


def check_heads(files):
    for name in files:
        text = text_of(name).lstrip()
        if text.startswith("#!"):
            text = text.partition("\n")[2].lstrip()
        if name.endswith(".py"):
            head = re.match(r'(?:#[^\n]*\n\s*)*(?:"""(.*?)""")', text, re.S) or re.match(r"((?:#[^\n]*\n)+)", text)
        elif name.endswith(".proto"):
            head = re.match(r"((?://[^\n]*\n)+)", text)
        else:
            head = re.match(r"/\*(.*?)\*/", text, re.S)
        if not head or len(head.group(1).strip()) < MIN_HEAD:
            yield f"{name} does not open with a comment that says what it is and why"


def check_format(files):
    if not shutil.which("clang-format-14"):
        yield "clang-format-14 is missing: `./dev deps` installs it"
        return
    command = ["clang-format-14", "--dry-run", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    for name in sorted(set(re.findall(r"^(\S+?):\d+:\d+: warning", done.stderr, re.M))):
        yield f"{name} is not as clang-format writes it: `./dev fmt`"


# What each transport keeps behind the two tags of transport_impl.h.
TAGS_OF_EACH = {"sl_line", "sl_transport"}
TAG = re.compile(r"\b(?:struct|union|enum)\s+(\w+)\s*\{")


def check_tags(files):
    places = {}
    for name in files:
        for tag in TAG.findall(blank(text_of(name))):
            places.setdefault(tag, []).append(name)
    for tag, names in sorted(places.items()):
        if len(names) > 1 and tag not in TAGS_OF_EACH:
            yield f"tag {tag} is defined in {', '.join(names)}: one word, one thing"


# A path as comments and texts write it: rooms, files, and the folder beside the checkout.
CITED = re.compile(r"(?<![\w/.~$-])((?:[a-z_0-9]+/)+[a-z_0-9]+\.(?:[ch]|inc|py|md|proto|cu))\b")
ELSEWHERE = ("proto/", "grpc/", "shared/")  # generated, Debian's, and what the developers' machines have beside the tree


def check_citations(files):
    tops = {path.name for path in ROOT.iterdir() if path.is_dir()}
    papers = re.compile(r"\bdesign(?:\.md)? §?\d|\bresearch/\w+|\bhouse(?:\.md)? §|\bshared/(?:interfaces|spikes|research)\b")
    for name in files:
        text = text_of(name)
        for found in papers.findall(text) if name != "tests/lint/lint.py" else []:
            yield f'{name} cites "{found}", which is not in the tree: say it in HACKING.md'
        for path in CITED.findall(text):
            if path.split("/")[0] in tops and not path.startswith(ELSEWHERE) and not (ROOT / path).exists():
                yield f"{name} cites {path}, which is not in the tree"


# What the objects of the pure rooms may leave for others to define: memory and strings, formatting, assert, arithmetic (libm's, too), and of
# base what neither allocates nor looks at the world.
PURE_LIBRARIES = ["libsl_pipeline_record.a", "libsl_pipeline_decide.a"]
PURE = re.compile(
    r"mem(cpy|set|cmp|move|mem)|str(cmp|ncmp|len|chr|nlen)|v?snprintf|__assert_fail|__stack_chk_fail|__(mem|str|v?sn)\w+_chk"
    r"|(exp|expm1|log|log1p|sqrt|pow|ceil|floor|fabs|fmin|fmax|round|ldexp)"
    r"|_GLOBAL_OFFSET_TABLE_"  # of a function whose address is taken
    r"|sl_(fail|err_prefix|xxh3|lanes_(of|add|end)|crc32c|sha256_chain|arena_take)"
)


def impure(objects):
    """Symbols that these objects use, that none of them defines, and that PURE does not name."""
    done = subprocess.run(["nm", "-A", *map(str, objects)], capture_output=True, text=True)
    used, defined = set(), set()
    for kind, name in re.findall(r"\b([A-Za-z]) (\S+)$", done.stdout, re.M):
        (used if kind == "U" else defined).add(name)
    return sorted(name for name in used - defined if not PURE.fullmatch(name))


def planted(code):
    """What the rule says of this code; None: it could not be compiled."""
    with tempfile.TemporaryDirectory() as folder:
        source, made = pathlib.Path(folder) / "planted.c", pathlib.Path(folder) / "planted.o"
        source.write_text(code, encoding="utf-8")
        done = subprocess.run(["gcc", "-O2", "-c", "-o", str(made), str(source)], capture_output=True)
        return impure([made]) if done.returncode == 0 else None


PLANTS = {
    "malloc": "#include <stdlib.h>\nvoid *f(void *p) { free(p); return malloc(3); }",
    "clock_gettime": "#include <time.h>\nint f(struct timespec *t) { return clock_gettime(CLOCK_MONOTONIC, t); }",
    "pthread_mutex_lock": "#include <pthread.h>\nint f(pthread_mutex_t *m) { return pthread_mutex_lock(m); }",
}


def check_purity(skipped):
    for name, code in PLANTS.items():
        found = planted(code)
        if not found or name not in found:
            yield f"the rule does not see a planted {name}: it found {found}"
    objects = [BUILD / name for name in PURE_LIBRARIES]
    if not all(path.exists() for path in objects):
        skipped.append("purity of record and decide: they are made by ./dev build")
        return
    for name in impure(objects):
        yield f"pipeline/record or decide calls {name}: time is an argument, actions are the result; see PURE in this file"


MUTATION = re.compile(r'^\s*X\((\w+), "([\w-]+)"', re.M)


def mutations_in(program):
    """Names of faults that a program has, as strings, and the word for the one that is chosen, as a symbol."""
    with tempfile.TemporaryDirectory() as folder:
        bare = pathlib.Path(folder) / "bare"
        subprocess.run(["strip", "-o", str(bare), str(program)], check=True)
        text = bare.read_bytes()
    symbols = subprocess.run(["nm", str(program)], capture_output=True, text=True, check=True).stdout
    words = {word for _, word in MUTATION.findall(text_of("base/mutate.h")) if b"\0" + word.encode() + b"\0" in text}
    return words | set(re.findall(r" (sl_mutat\w+)$", symbols, re.M))


def check_mutations(skipped):
    product, mutants = BUILD / "sluice", BUILD / "sluice-mutants"
    if not (product.exists() and mutants.exists()):
        skipped.append("no fault by name in the product: sluice and sluice-mutants are made by ./dev test")
        return
    missing = {word for _, word in MUTATION.findall(text_of("base/mutate.h"))} | {"sl_mutation"}
    for name in sorted(missing - mutations_in(mutants)):
        yield f"the rule does not see {name} in sluice-mutants"
    for name in sorted(mutations_in(product)):
        yield f"sluice has {name}, which is for sluice-mutants only: see base/mutate.h"


# Ways to read the wall clock, or to wait on it (POSIX's own conditions do). base/clock.h has what to use instead.
WALL = re.compile(
    r"\b(CLOCK_REALTIME\w*|GPR_CLOCK_REALTIME|GPR_CLOCK_PRECISE|sl_clock_wall_us|TIME_UTC|PTHREAD_COND_INITIALIZER)\b"
    r"|\b(gettimeofday|ftime|time|pthread_cond_init|sem_timedwait|mq_timed(?:send|receive)|pthread_mutex_timedlock"
    r"|pthread_rwlock_timed(?:rd|wr)lock)\s*\("
)
# file -> {what it may use: why}
WALL_MAY = {
    "base/clock.h": {"CLOCK_REALTIME": "the one place that reads it", "sl_clock_wall_us": "its name",
                     "pthread_cond_init": "the one place that makes a condition, on the monotonic clock"},
    "base/log.c": {"sl_clock_wall_us": "the time of a line, printed"},
    "node/coordinator/coordinator.c": {"sl_clock_wall_us": "the names of requests, and when the last one came, both told to clients"},
    "node/edge/engine_generate.c": {"sl_clock_wall_us": "what a collector of traces wants times to be in"},
    "node/edge/service_engine.c": {"sl_clock_wall_us": "the timestamp of GetLoads"},
    "node/command/cmd_report.c": {"sl_clock_wall_us": "the time of the files of a report"},
    "bench/serve/serve.c": {"sl_clock_wall_us": "the date of a result, printed"},
}
WALL_PLANTS = {
    "clock_gettime(CLOCK_REALTIME, &t);": "CLOCK_REALTIME", "gpr_now(GPR_CLOCK_REALTIME);": "GPR_CLOCK_REALTIME",
    "time_t t = time(NULL);": "time", "gettimeofday(&t, 0);": "gettimeofday", "pthread_cond_init(&c, NULL);": "pthread_cond_init",
    "sem_timedwait(&s, &t);": "sem_timedwait", "uint64_t now_us = sl_clock_wall_us();": "sl_clock_wall_us",
    "pthread_cond_t c = PTHREAD_COND_INITIALIZER;": "PTHREAD_COND_INITIALIZER", "timespec_get(&t, TIME_UTC);": "TIME_UTC",
}


def wall_uses(text):
    """(line, what) of each use."""
    clean = blank(text)
    for match in WALL.finditer(clean):
        yield clean.count("\n", 0, match.start()) + 1, match.group(1) or match.group(2)


def check_clocks(files):
    for plant, what in WALL_PLANTS.items():
        found = [name for _, name in wall_uses(plant)]
        if found != [what]:
            yield f"the rule does not see a planted {what}: it found {found}"
    if list(wall_uses('now = sl_clock_ns(); s = "time()"; /* time(NULL) */ pthread_cond_timedwait(&c, &l, &t); runtime(3);')):
        yield "the rule finds fault with what is right"
    for name in files:
        for line, what in wall_uses(text_of(name)):
            if what not in WALL_MAY.get(name, {}):
                yield f"{name}:{line}: {what} is the wall clock's: durations and waits use base/clock.h, see WALL_MAY in this file"


# Functions that take a sentence -> which argument it is. An error is prefixed and followed by others' words, so it neither
# begins nor ends like a sentence on paper. Names keep their
# capitals: KV, SIGTERM, SLUICE_CPU, SHA-256, ModelInfer.
SENTENCE_AT = {"sl_fail": 2, "sl_err_prefix": 1, "sl_log": 1, "sl_log_error": 0, "sl_log_warn": 0, "sl_log_info": 0,
               "sl_log_debug": 0, "sl_rpc_finish": 2, "sl_engine_refuse": 2, "sl_conn_fail": 2, "sl_conn_refuse": 1}
A_NAME = re.compile(r"[A-Z][A-Z0-9_-]+s?|[A-Z]\w*[a-z]\w*[A-Z]\w*|Hugging|Linux")
SENTENCE_CALL = re.compile(r"\b(" + "|".join(SENTENCE_AT) + r")\s*\(")
C_TOKEN = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|\w+|\s+|.", re.S)


def sentences(text, at):
    """The string literals of one argument of the call whose list begins at `at`; those side by side are one."""
    depth, argument, found, open_ = 0, 0, [], False
    for match in C_TOKEN.finditer(text, at):
        token = match.group(0)
        if token.isspace() or token.startswith(("//", "/*")) or (open_ and token.startswith(("PRI", "SL_"))):
            continue
        literal = token.startswith('"')
        if literal and depth == 0:
            found.append((argument, (found.pop()[1] if open_ else "") + token[1:-1]))
        open_ = literal
        depth += (token in "([{") - (token in ")]}")
        if depth < 0:
            break
        argument += token == "," and depth == 0
    return found


def check_voice(files):
    for name in files:
        text = text_of(name)
        for call in SENTENCE_CALL.finditer(text):
            for argument, sentence in sentences(text, call.end()):
                if argument != SENTENCE_AT[call.group(1)]:
                    continue
                first = re.split(r"[\s,:;=]", sentence, maxsplit=1)[0]
                line = text.count("\n", 0, call.start()) + 1
                if re.match(r"[A-Z]", first) and not A_NAME.fullmatch(first):
                    yield f'{name}:{line}: "{sentence[:50]}" begins with a capital'
                if re.search(r"(?<!\.)[.!]$", sentence):
                    yield f'{name}:{line}: "{sentence[-50:]}" ends like a sentence on paper'


def blank(text):
    """Strings, characters and comments become blanks, so that braces can be counted; lines stay."""
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
    return pattern.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), text)


def functions(name):
    """(name, lines) of each function: from the brace in column 0 to its partner, as the house style writes them."""
    lines = blank(text_of(name)).split("\n")
    begin, title = None, ""
    for number, line in enumerate(lines):
        if line.startswith("{"):
            begin = number
            back = number - 1
            while back > 0 and lines[back].startswith((" ", "\t")):
                back -= 1
            title = lines[back].strip()
        elif line.startswith("}") and begin is not None:
            yield title, number - begin + 1
            begin = None


def check_lengths(files):
    for name in files:
        n = text_of(name).count("\n")
        if n > MAX_FILE:
            yield f"{name} has {n} lines; {MAX_FILE} is the limit"
        for title, length in functions(name):
            if length > MAX_FUNCTION:
                yield f"{name}: {title} has {length} lines; {MAX_FUNCTION} is the limit"


def pkg_config_flags():
    names = ["grpc", "libprotobuf-c", "ucx", "jansson", "yaml-0.1", "libutf8proc", "libmicrohttpd"]
    done = subprocess.run(["pkg-config", "--cflags", *names], capture_output=True, text=True)
    return shlex.split(done.stdout)


def compile_alone(name, flags):
    command = ["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-fsyntax-only", "-Wall", "-Wextra", "-Wshadow", "-Wconversion",
               "-Werror", "-I", str(ROOT), "-isystem", str(BUILD / "proto"), *flags, "-include", name, "-x", "c",
               os.devnull]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        first = [line for line in done.stderr.splitlines() if "error" in line][:1]
        return f"{name} does not compile alone: {first[0] if first else done.stderr.strip()[:200]}"
    return None


def check_headers(headers, skipped):
    flags = pkg_config_flags()
    wanted = []
    for name in headers:
        vector = name.startswith("kernels/cpu/") and any(h.endswith("intrin.h") for _, h in includes(name))
        if name.startswith("kernels/cuda/") and any(re.match(r"(cuda|nccl)", h) for _, h in includes(name)):
            skipped.append(f"{name}: needs the CUDA toolkit's headers")
        elif not (BUILD / "proto").exists() and any(h.endswith(".pb-c.h") for _, h in includes(name)):
            skipped.append(f"{name}: includes generated code, which is made by ./dev build")
        else:
            isa = ["-mavx2", "-mfma", "-mf16c"] if vector and "avx512" not in name else []
            isa += ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"] if vector and "avx512" in name else []
            wanted.append((name, flags + isa))
    with ThreadPoolExecutor(max_workers=2) as pool:
        for finding in pool.map(lambda job: compile_alone(*job), wanted):
            if finding:
                yield finding


def main():
    c_files, headers = sources(".c", ".h"), sources(".h")
    others = sources(".py", ".proto", ".cu")
    skipped = []
    rules = {
        "includes point one way": check_directions(c_files),
        "each foreign library in its one place": check_foreign(c_files),
        "every file has its head comment": check_heads(c_files + others),
        "functions and files are short": check_lengths(c_files),
        "every file is formatted": check_format(sources(".c", ".h", ".inc")),
        "no tag is defined twice": check_tags(sources(".c", ".h", ".inc")),
        "no text cites what is not in the tree": check_citations(c_files + others + sources(".inc", ".md")),
        "what decides is pure": check_purity(skipped),
        "no fault by name in the product": check_mutations(skipped),
        "time is monotonic": check_clocks([f for f in c_files if not f.startswith("tests/")]),
        "sentences of errors have one voice": check_voice([f for f in c_files if not f.startswith("tests/")]),
        "every header compiles alone": check_headers(headers, skipped),
        "GPU kernels keep to their registers": ptxas.check(ROOT, BUILD, skipped),
    }
    passed = failed = 0
    for rule, findings in rules.items():
        findings = list(findings)
        for finding in findings:
            print(f"{rule}: {finding}")
        failed += len(findings)
        passed += not findings
    for reason in skipped:
        print(f"skip {reason}")
    print(f"{passed} passed, {failed} failed, {len(skipped)} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
