"""Servers for serve.py: ours, llama-server and ik_llama.cpp's, each started with settings, asked whether it is as the
comparison needs it (takes ids as they are, keeps no prompt, ends at the wanted length), and ended.

A setting that may be tuned has a list of values; the first of each is where tuning begins. What is not tuned is fixed here:
flash attention, all weights in memory, no prompt cache of any kind, no page about slots, no shifting of contexts.
"""
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

PATIENCE_S = 180


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_until(condition, what, seconds=PATIENCE_S):
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise SystemExit(f"{what}: still not after {seconds} s")
        time.sleep(0.05)


def cpu_seconds(session):
    """Of all processes of a session that live."""
    total = 0
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended
        if int(fields[3]) == session:
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


class Running:
    """A server's processes: a session of their own, output in a file."""

    def __init__(self, name, command, log, env=None):
        self.name, self.log = name, pathlib.Path(log)
        self.port = None
        with open(log, "wb") as out:
            self.process = subprocess.Popen([str(c) for c in command], stdout=out, stderr=out, start_new_session=True,
                                            env={**os.environ, **(env or {})})

    def lives(self):
        if self.process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])
            raise SystemExit(f"{self.name} ended with {self.process.returncode}; the end of {self.log}:\n{tail}")
        return True

    def rest(self):
        """Waits until it does nothing any more: what was cut off in the run before costs the next one nothing."""
        def idle():
            self.lives()
            before = cpu_seconds(self.process.pid)
            time.sleep(0.3)
            return cpu_seconds(self.process.pid) - before <= 0.02
        wait_until(idle, f"{self.name} at rest")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def ask(port, path, body=None, timeout=PATIENCE_S):
    """The JSON of an answer, of a stream all its events as one object; None: there was none, or it was no success."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode() if body else None,
                                     {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            if not (body or {}).get("stream"):
                return json.loads(answer.read())
            events = [line[6:] for line in answer.read().splitlines() if line.startswith(b"data: {")]
            return {key: value for event in events for key, value in json.loads(event).items()}
    except (urllib.error.URLError, ConnectionError, http.client.HTTPException, ValueError, TimeoutError):
        return None


class Sluice:
    name = "sluice"
    choices = {"stages": [1, 2], "max-running": [16, 32]}

    def __init__(self, binary, model, threads, context):
        self.binary, self.model, self.threads, self.context = binary, model, threads, context

    def start(self, settings, log):
        port, stages = free_port(), settings["stages"]
        running = Running(self.name, [
            self.binary, "serve", self.model, "--listen", f"127.0.0.1:{port}", "--ops", f"127.0.0.1:{free_port()}",
            "--name", "m", "--stages", stages, "--threads", max(1, self.threads // stages), "--decode-threads",
            self.threads, "--max-running", settings["max-running"], "--context", self.context], log)
        running.port = port
        health = [self.binary, "health", "--endpoint", f"127.0.0.1:{port}"]

        def serving():
            running.lives()
            return subprocess.run(health, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
        wait_until(serving, f"{self.name} serving")
        return running

    def target(self, running, vocabulary):
        return ["--grpc", f"127.0.0.1:{running.port}", "--vocabulary", vocabulary]

    def check(self, running, vocabulary):
        """It has no prompt cache (FlushCache says so), and over gRPC prompts are ids."""


class Llama:
    """llama-server; what differs in the fork is in Ik."""
    name = "llama.cpp"
    fixed = ["-fa", "on", "-cb", "--cache-ram", "0", "--no-slots", "--no-context-shift", "--ctx-checkpoints", "0",
             "--threads-http", "64", "--no-cache-prompt", "--no-cache-idle-slots", "--fit", "off", "--no-ui"]
    choices = {"spin": ["passive", "default"], "threads": None, "parallel": [8, 16, 4], "ubatch": [512, 2048, 128],
               "kv": ["split", "unified"]}

    def __init__(self, binary, models, threads, context):
        self.binary, self.models, self.threads, self.context = binary, models, threads, context
        self.choices = {"model": [os.path.basename(m) for m in models], **self.choices, "threads": [threads]}
        if threads > 1:
            self.choices["threads"].append(threads - 1)  # one processor is left to what else a server does

    def command(self, settings, port):
        parallel = settings["parallel"]
        model = next(m for m in self.models if os.path.basename(m) == settings["model"])
        return [self.binary, "-m", model, "--host", "127.0.0.1", "--port", port, "-np", parallel, "-c",
                parallel * self.context, "-b", max(2048, settings["ubatch"]), "-ub", settings["ubatch"],
                "-t", settings["threads"], "-tb", self.threads, *self.fixed, *self.more(settings)]

    def more(self, settings):
        return ["--kv-unified" if settings["kv"] == "unified" else "--no-kv-unified"]

    def start(self, settings, log):
        port = free_port()
        # its threads wait for each other by spinning; on processors that others use too, sleeping may be faster
        env = {"OMP_WAIT_POLICY": "PASSIVE"} if settings["spin"] == "passive" else {}
        running = Running(self.name, self.command(settings, port), log, env)
        running.port = port
        wait_until(lambda: running.lives() and (ask(port, "/health") or {}).get("status") == "ok", f"{self.name} loaded")
        return running

    def target(self, running, vocabulary):
        # top_k 1 is what temperature 0 means; told so, it need not sort its vocabulary
        return ["--openai", f"http://127.0.0.1:{running.port}/v1", "--vocabulary", vocabulary,
                "--extra-body", json.dumps({"cache_prompt": False, "top_k": 1})]

    def check(self, running, vocabulary):
        ids = [vocabulary // 64 + 7 * i for i in range(97)]
        for turn in range(2):
            answer = ask(running.port, "/v1/completions", {"prompt": ids, "max_tokens": 9, "ignore_eos": True, "top_k": 1,
                                                           "temperature": 0, "cache_prompt": False, "stream": True,
                                                           "stream_options": {"include_usage": True}})
            usage, timings = (answer or {}).get("usage", {}), (answer or {}).get("timings", {})
            if usage.get("prompt_tokens") != len(ids) or usage.get("completion_tokens") != 9:
                raise SystemExit(f"{self.name}: {len(ids)} ids in and 9 tokens out were asked for, and it counts {usage}")
            if timings.get("prompt_n", len(ids)) != len(ids):
                raise SystemExit(f"{self.name}: of a prompt seen {turn} times before it computed {timings['prompt_n']} of "
                                 f"{len(ids)} tokens: its cache is on")


class Ik(Llama):
    """Weights are interleaved at load, which is its best; its caches have other names. Its flash attention (of the package
    0.1.5) now and then ends in an assertion (iqk_fa_templates.h, S > 0) when several prompts are in a batch, so it is off."""
    name = "ik_llama.cpp"
    fixed = ["-fa", "off", "-cb", "-rtr", "--no-mmap", "-cram", "0", "--no-slots", "--no-context-shift",
             "--ctx-checkpoints", "0", "--threads-http", "64"]
    choices = {"spin": ["passive", "default"], "threads": None, "parallel": [8, 16, 4], "ubatch": [512, 2048, 128]}

    def more(self, settings):
        return []


class Smg:
    """The gateway in front of a sluice that runs."""
    name = "smg"

    def __init__(self, program):
        self.program = program

    def start(self, worker, log):
        port = free_port()
        running = Running(self.name, [
            self.program, "launch", "--host", "127.0.0.1", "--port", port, "--prometheus-host", "127.0.0.1",
            "--prometheus-port", free_port(), "--worker-urls", f"grpc://127.0.0.1:{worker.port}"], log)
        running.port = port

        def answers():
            """Listed is not ready: it fetches the tokenizer behind the list, and refuses until it has it."""
            running.lives()
            listed = (ask(port, "/v1/models") or {}).get("data") or [{}]
            return ask(port, "/v1/completions", {"model": listed[0].get("id", ""), "prompt": "A", "max_tokens": 1})
        wait_until(answers, "an answer through smg")
        return running

    def target(self, running):
        return ["--openai", f"http://127.0.0.1:{running.port}/v1"]
