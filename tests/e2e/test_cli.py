"""The command line as a user meets it: the JSON it promises, the sentences and exit codes it fails with, Ctrl-C.

Everything here runs in-process (`--model`), on the bundled checkpoint; what goes over an endpoint is in test_endpoint.py.
Environment: SLUICE_BUILD names the build directory (default: build).
"""
import json
import math
import os
import pathlib
import signal
import subprocess

import pytest
from conftest import PATIENCE, run

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("SLUICE_BUILD", "build")
SLUICE = BUILD / "sluice"


def generate(pack, *args):
    done = run("generate", "--model", pack, "--threads", 1, "--output", "json", *args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_json_of_generate(pack):
    got = generate(pack, "--prompt", "It was a dark night and", "--max-tokens", 5, "--stages", 2)
    assert list(got) == ["prompt_tokens", "cached_tokens", "output_ids", "text", "finish_reason", "logprobs", "ttft_ms", "timeline", "foreign"]
    assert len(got["output_ids"]) == len(got["logprobs"]) == 5
    assert got["finish_reason"] == "length"
    assert got["ttft_ms"] > 0
    spans = got["timeline"]
    assert {(s["stage"], s["chunk"]) for s in spans} == {(0, 0), (1, 0)}
    for span in spans:
        assert list(span) == ["stage", "chunk", "pos", "tokens", "recv_us", "begin_us", "end_us", "kv_acked_us",
                              "at_peak_us", "predicted_us"]
        assert span["recv_us"] <= span["begin_us"] <= span["end_us"] <= span["kv_acked_us"]
    assert sum(s["tokens"] for s in spans if s["stage"] == 1) == got["prompt_tokens"]


def test_chunks_of_a_long_prompt_cover_it_on_every_stage(pack):
    got = generate(pack, "--prompt-file", ROOT / "demo" / "prompt.txt", "--max-tokens", 1, "--stages", 2, "--chunk", 512)
    for stage in range(2):
        spans = sorted((s for s in got["timeline"] if s["stage"] == stage), key=lambda s: s["pos"])
        assert [s["pos"] for s in spans] == [512 * i for i in range(len(spans))]
        assert sum(s["tokens"] for s in spans) == got["prompt_tokens"]
    # While stage 1 works on a chunk, stage 0 is at the next one.
    by = {(s["stage"], s["chunk"]): s for s in got["timeline"]}
    assert any(by[0, c + 1]["begin_us"] < by[1, c]["end_us"] for c in range(len(by) // 2 - 1))


def test_forms_of_a_prompt_and_of_an_answer_agree(pack, tmp_path):
    text = "It was a dark night and"
    got = generate(pack, "--prompt", text, "--max-tokens", 8)
    file = tmp_path / "prompt"
    file.write_text(text)
    assert generate(pack, "--prompt-file", file, "--max-tokens", 8)["output_ids"] == got["output_ids"]
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(ROOT / "demo" / "tokenizer.json")).encode(text).ids
    file.write_text(json.dumps(ids))
    again = generate(pack, "--token-ids", file, "--max-tokens", 8)
    assert again["output_ids"] == got["output_ids"] and again["logprobs"] == got["logprobs"]
    common = ["generate", "--model", pack, "--prompt", text, "--max-tokens", 8, "--threads", 1]
    assert run(*common, "--output", "ids").stdout.split() == [str(i) for i in got["output_ids"]]
    assert run(*common).stdout == got["text"] + "\n"
    piped = run("generate", "--model", pack, "--prompt-file", "-", "--max-tokens", 8, "--output", "ids", input=text)
    assert piped.stdout.split() == [str(i) for i in got["output_ids"]]


def test_logprobs_of_the_best(pack):
    got = generate(pack, "--prompt", "Once", "--max-tokens", 3, "--logprobs", 4)
    for chosen, logprob, top in zip(got["output_ids"], got["logprobs"], got["top_logprobs"]):
        assert len(top) == 4
        assert top[0] == {"id": chosen, "logprob": logprob}  # greedy
        assert [t["logprob"] for t in top] == sorted((t["logprob"] for t in top), reverse=True)


def test_seeds(pack):
    ask = ["--prompt", "Once upon a time", "--max-tokens", 16, "--temperature", 1.2, "--ignore-eos"]
    one = generate(pack, *ask, "--seed", 1)["output_ids"]
    assert generate(pack, *ask, "--seed", 1, "--stages", 3)["output_ids"] == one
    assert generate(pack, *ask, "--seed", 2)["output_ids"] != one


def test_score_is_what_generate_said(pack, tmp_path):
    got = generate(pack, "--prompt", "It was a dark night and", "--max-tokens", 6, "--kv", "f32")
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(ROOT / "demo" / "tokenizer.json")).encode("It was a dark night and").ids
    file = tmp_path / "ids"
    file.write_text(json.dumps(ids + got["output_ids"]))
    score = ["score", "--model", pack, "--token-ids", file, "--kv", "f32", "--threads", 1]
    done = run(*score, "--output", "json")
    assert done.returncode == 0, done.stderr
    scored = json.loads(done.stdout)["logprobs"]
    assert scored[0] is None and len(scored) == len(ids) + 6
    assert scored[len(ids):] == pytest.approx(got["logprobs"], abs=1e-5)
    nats = -sum(scored[1:]) / (len(scored) - 1)
    assert f"{len(scored)} tokens, {nats:.4f} nats a token, perplexity {math.exp(nats):.3f}\n" == run(*score).stdout


@pytest.mark.parametrize("args, code, sentence", [
    ([], 64, "Usage: sluice COMMAND"),
    (["serv"], 64, 'there is no command "serv"'),
    (["bench"], 64, "`sluice bench kernels`, `sluice bench load`, `sluice bench prefill`, `sluice bench decode`, `sluice bench pipeline`, `sluice bench layout`, "
     "`sluice bench decide`, `sluice bench schedule`"),
    (["generate"], 64, "either --endpoint HOST:PORT"),
    (["generate", "--model", "PACK"], 64, "--prompt TEXT, --prompt-file FILE, --token-ids FILE"),
    (["generate", "--model", "PACK", "--prompt", "x", "--endpoint", "127.0.0.1:1"], 64, "either"),
    (["generate", "--model", "/nonexistent", "--prompt", "x"], 65, "/nonexistent"),
    (["generate", "--endpoint", "127.0.0.1:1", "--prompt", "x", "--device", "cuda"], 64, "--device goes with --model: the stages of a"),
    (["generate", "--model", "PACK", "--prompt", ""], 64, "the prompt is empty"),
    (["generate", "--model", "PACK", "--prompt", "x", "--temperature", "nan"], 64, "--temperature"),
    (["generate", "--model", "PACK", "--prompt", "x", "--stages", "9"], 78, "9 stages cannot share 6 layers"),
    (["generate", "--model", "PACK", "--prompt", "x", "--max-tokens", "17000"], 65, "context of 16384"),
    (["generate", "--endpoint", "127.0.0.1:1", "--prompt", "x"], 69, "no answer from 127.0.0.1:1"),
    (["generate", "--model", "PACK", "--prompt", "x", "--max-token", "3"], 64, "did you mean --max-tokens?"),
    (["health", "--endpoint", "127.0.0.1:1"], 69, "127.0.0.1:1"),
    (["check", "."], 65, "is not a pack"),
    (["inspect", "/nonexistent"], None, "/nonexistent"),
])
def test_refusals_are_one_sentence_and_an_exit_code(pack, args, code, sentence):
    done = run(*[pack if a == "PACK" else a for a in args])
    assert sentence in done.stderr
    assert done.returncode == code if code is not None else done.returncode not in (0, -signal.SIGABRT, -signal.SIGSEGV)
    if args:
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [
    "serve PATH", "coordinator PATH", "stage PATH", "decode PATH", "worker PATH --index 1", "generate --model PATH --prompt x",
    "score --model PATH --prompt-file TEXT", "eval --model PATH --text TEXT", "eval --model DEMO --reference PATH --text TEXT",
    "inspect PATH", "check PATH", "calibrate PATH", "pack PATH NEW", "bench prefill --model PATH", "bench decode --model PATH",
    "bench pipeline --model PATH"])
@pytest.mark.parametrize("path", ["missing", "a file", "empty"])
def test_a_path_where_no_pack_is_is_bad_data_whoever_is_to_open_it(tmp_path, command, path):
    """65, not 64: the command line is right, what lies there is not (a volume that was not filled, say)."""
    (tmp_path / "a file").write_text("no pack")
    (tmp_path / "empty").mkdir()
    words = {"PATH": tmp_path / path, "TEXT": ROOT / "demo" / "prompt.txt", "DEMO": ROOT / "demo", "NEW": tmp_path / "new"}
    done = run(*[words.get(word, word) for word in command.split()])
    assert done.returncode == 65 and done.stderr.count("\n") == 1 and str(tmp_path / path) in done.stderr, done.stderr
    assert not (tmp_path / "new").exists()


def test_bad_token_ids(pack, tmp_path):
    file = tmp_path / "ids"
    for text, code, sentence in [("[4096]", 65, "outside the vocabulary"), ("[1, x]", 65, "is not a list of token ids"),
                                 ("[]", 64, "the prompt is empty")]:
        file.write_text(text)
        done = run("generate", "--model", pack, "--token-ids", file)
        assert (done.returncode, sentence in done.stderr) == (code, True), done.stderr


def test_ctrl_c_cancels_and_prints_what_has_come(pack):
    process = subprocess.Popen([SLUICE, "generate", "--model", pack, "--prompt", "Once", "--max-tokens", "16000",
                                "--ignore-eos", "--output", "ids"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip().isdigit()  # it is running
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert rest.count("\n") < 15999


def test_check_finds_a_changed_byte(pack, tmp_path):
    assert run("check", pack).returncode == 0
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", pack, copy], check=True)
    file = copy / "layer-0003.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    os.chmod(file, 0o644)
    file.write_bytes(data)
    done = run("check", copy)
    assert done.returncode == 65 and "layer-0003.safetensors" in done.stderr


def test_the_stages_of_a_checkpoint_are_those_of_its_pack(pack, tmp_path):
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    told = [json.loads(run("inspect", path, "--stages", 3, "--json", env=env).stdout) for path in (ROOT / "demo", pack)]
    assert [told[0][key] for key in ("stages", "queue")] == [told[1][key] for key in ("stages", "queue")]
    assert not list(tmp_path.iterdir())  # nothing was packed for it


def test_inspect_and_version(pack):
    for path, kind in [(ROOT / "demo", "checkpoint"), (pack, "pack")]:
        got = json.loads(run("inspect", path, "--json").stdout)
        assert got["kind"] == kind and got["model_type"] == "qwen3_moe" and len(got["layer_bytes"]) == got["layers"] == 6
    planned = json.loads(run("inspect", pack, "--json", "--stages", 2).stdout)
    stages = planned["stages"]
    assert planned["queue"] == {"requests": 1024, "bytes": 64 << 20}
    assert planned["rows"]["way"] == "staged" and planned["rows"]["bytes"] % (64 * 4) == 0 < planned["rows"]["bytes"]
    assert "MiB a chunk, staged (--rows)" in run("inspect", pack, "--stages", 2).stdout
    assert "a queue of 1024 requests at least (--max-waiting) and 64 MiB" in run("inspect", pack, "--stages", 2).stdout
    assert [(s["name"], s["begin"], s["end"]) for s in stages] == [("stage 0", 0, 3), ("stage 1", 3, 6), ("decode", 0, 6)]
    assert all(s["weight_bytes"] > 0 and s["buffer_bytes"] > s["kv_bytes"] > 0 for s in stages)
    version = json.loads(run("version", "--json").stdout)
    assert "version" in version and version["cuda"].startswith(("nvcc 1", "no kernels ("))
    assert run("version").stdout.endswith(f"\ncuda: {version['cuda']}\n")
    for command in ["generate", "score", "serve", "coordinator", "stage", "decode", "pack", "inspect", "check", "health",
                    "version"]:
        done = run(command, "--help")
        assert done.returncode == 0 and done.stdout.startswith(f"Usage: sluice {command}"), done.stderr
