"""`sluice bench layout` as a user meets it: rows, bits, what is left out and why, the drawing, and what it refuses."""
import json
import subprocess
import xml.etree.ElementTree

import pytest
from conftest import SLUICE


def layout(*args):
    return subprocess.run([SLUICE, "bench", "layout", *map(str, args)], capture_output=True, text=True)


@pytest.mark.parametrize("clock, transport", [("virtual", "local"), ("real", "local"), ("virtual", "ucx"), ("real", "ucx")])
def test_experts_and_layers_on_any_number_of_nodes_have_the_bits_of_one(pack, tmp_path, clock, transport):
    """Both clocks: N threads at once on as many processors as there are, too slow to compare but with the same answers."""
    drawing = tmp_path / "layout.svg"
    done = layout("--model", pack, "--nodes", "1,2,3,8", "--delay-us", "0,100", "--gbit", 10, "--prompt-tokens", 300, "--chunk", 64,
                  "--rounds", 1, "--clock", clock, "--transport", transport, "--json", "--svg", drawing)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    rows = report["rows"]
    # one node, then three rows of each of 2 and 3 nodes and two delays, then those of a prompt of one chunk
    assert [(r["layout"], r["nodes"], r["delay_us"], r["prompt_tokens"]) for r in rows] == [("layers", 1, 0, 300)] + [
        (name, nodes, delay, tokens) for nodes, tokens in [(2, 300), (3, 300), (2, 64)] for delay in (0, 100)
        for name in ("layers", "experts_node", "experts_exact")]
    for row in rows:
        assert row["same_bits"] == (row["layout"] != "experts_node"), row
        assert row["clock"] == clock and row["latency_ms"] > 0 and row["algebra_ms"] > 0
        assert (row["bytes"] > 0) == (row["nodes"] > 1)
        assert row["bytes"] == pytest.approx(row["algebra_bytes"], rel=0.25), row
    assert len(report["left_out"]) == 1 and "8 nodes: the model has 6 layers" in report["left_out"][0]
    texts = "".join(xml.etree.ElementTree.parse(drawing).getroot().itertext())
    assert "experts sharded" in texts and "100 µs on each link" in texts


def test_a_real_clock_has_the_delay_that_was_asked_for(pack):
    done = layout("--model", pack, "--nodes", "2", "--delay-us", 10000, "--prompt-tokens", 128, "--chunk", 64, "--rounds", 1, "--clock", "real", "--json")
    assert done.returncode == 0, done.stderr
    rows = [r["latency_ms"] for r in json.loads(done.stdout)["rows"] if r["layout"] != "layers" and r["prompt_tokens"] == 128]
    assert len(rows) == 2 and min(rows) > 3 * 6 * 10


def test_the_virtual_clock_has_the_delay_and_the_rate(pack):
    """A delay of 100 ms is waited for three times a layer by experts, and once a stage by layers, whatever the machine does."""
    done = layout("--model", pack, "--nodes", "2", "--delay-us", "0,100000", "--prompt-tokens", 128, "--chunk", 64, "--rounds", 1,
                  "--clock", "virtual", "--json")
    assert done.returncode == 0, done.stderr
    at = {(r["layout"], r["delay_us"]): r["latency_ms"] for r in json.loads(done.stdout)["rows"] if r["prompt_tokens"] == 128}
    assert at["layers", 100000] - at["layers", 0] == pytest.approx(100, abs=1)
    for name in ("experts_node", "experts_exact"):
        assert 3 * 6 * 100 - 60 < at[name, 100000] - at[name, 0] < 3 * 6 * 100 + 1


def test_a_table_says_who_wins_and_how_it_was_measured(pack):
    done = layout("--model", pack, "--nodes", "2", "--delay-us", "0,50000", "--prompt-tokens", 256, "--chunk", 128, "--rounds", 1, "--clock", "virtual")
    assert done.returncode == 0, done.stderr
    for words in ("experts, exact", "virtual", "layers win", "experts win", "by the algebra", "1 chunk\n"):
        assert words in done.stdout


def test_a_dense_model_is_told_that_a_pipeline_changes_nothing(tmp_path):
    shape = {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 64, "num_hidden_layers": 4,
             "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 128, "num_experts": 4,
             "num_experts_per_tok": 2, "moe_intermediate_size": 32, "intermediate_size": 128, "max_position_embeddings": 512,
             "mlp_only_layers": [0, 1, 2, 3], "norm_topk_prob": True}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    made = subprocess.run([SLUICE, "pack", "--random", tmp_path / "config.json", tmp_path / "dense.pack"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    args = ["--model", tmp_path / "dense.pack", "--nodes", "2,4", "--delay-us", 0, "--prompt-tokens", 512, "--chunk", 64, "--rounds", 1,
            "--clock", "virtual"]
    done = layout(*args)
    assert done.returncode == 0, done.stderr
    assert "a dense model gains nothing" in done.stdout and "experts, node" not in done.stdout
    assert "left out: experts on any number of nodes: no layer of this model has routed ones" in done.stdout
    rows = json.loads(layout(*args, "--json").stdout)["rows"]
    assert [(r["layout"], r["nodes"]) for r in rows] == [("layers", 2), ("layers", 4)]


@pytest.mark.parametrize("args, code, sentence", [
    (["--nodes", "0"], 64, "--nodes takes up to 16 numbers of 1 to 32"),
    (["--nodes", "2,x"], 64, "not '2,x'"),
    (["--nodes", "33"], 64, "1 to 32"),
    (["--delay-us", "nan"], 64, "--delay-us takes up to 16 numbers of 0 to 100000"),
    (["--delay-us", "-1"], 64, "--delay-us"),
    (["--delay-us", "1e9"], 64, "--delay-us"),
    (["--gbit", "0"], 64, "--gbit"),
    (["--gbit", "nan"], 64, "--gbit"),
    (["--chunk", "100"], 64, "use a multiple of 64"),
    (["--chunk", "0"], 64, "--chunk"),
    (["--prompt-tokens", "0"], 64, "--prompt-tokens"),
    (["--prompt-tokens", "1000000"], 64, "use a larger --chunk"),
    (["--prompt-tokens", "20000", "--chunk", "2048"], 64, "the model takes 16384 tokens"),
    (["--nodes", "7,16"], 78, "nothing is left to measure: 16 nodes: the model has 6 layers"),
    (["--clock", "sun"], 64, "--clock"),
    (["--svg", "/nonexistent/x.svg", "--nodes", "1", "--prompt-tokens", "64", "--rounds", "1"], 74, "/nonexistent/x.svg"),
])
def test_what_cannot_be_measured_is_refused_with_what_would_help(pack, args, code, sentence):
    done = layout("--model", pack, *args)
    assert done.returncode == code and sentence in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_model_it_says_which_option_is_missing():
    done = layout()
    assert done.returncode == 64 and "say --model PATH" in done.stderr
