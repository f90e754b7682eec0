"""The benches' reports and what a node says of its own use of the machine: that they are whole and consistent.

What is measured is the machine's business, and no figure is asserted: only that parts add up to the whole, that every
result has the reference's bits, and that the ratios are ratios.
"""
import json
import subprocess
import urllib.request

import grpc
import pytest
from conftest import PATIENCE, SLUICE, Process, free_port, wait_until
from smg_grpc_proto.generated import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import vllm_engine_pb2_grpc as pb_grpc

PARTS = {"projection", "attention", "router", "experts", "quantise", "norms", "head", "steps", "wait"}


def bench(*args):
    done = subprocess.run([SLUICE, "bench", *map(str, args)], capture_output=True, text=True, timeout=PATIENCE)
    return done


def check_stage_report(report):
    parts = report["parts"]
    assert set(parts) == PARTS
    # Parts of a team are measured by its members, the whole by the caller: they meet within a few clock reads.
    assert sum(part["share"] for part in parts.values()) == pytest.approx(1, abs=0.01)
    assert sum(part["ms"] for part in parts.values()) == pytest.approx(report["ms"], rel=0.01)
    assert parts["attention"]["share"] > 0 and parts["experts"]["share"] > 0
    assert 0 <= report["mfu"] <= report["roofline"] + 1e-3


def test_prefill_report(pack):
    done = bench("prefill", "--model", pack, "--prompt-tokens", "70,33", "--context", 130, "--chunk", 32, "--rounds", 1,
                 "--threads", 2, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [r["prompt_tokens"] for r in report["results"]] == [70, 33]
    for result in report["results"]:
        assert result["pp_tok_s"] == pytest.approx(result["prompt_tokens"] / result["ms"] * 1000, rel=1e-3)
        check_stage_report(result)
    if report["isa"] != "ref":
        assert all(result["mfu"] > 0 for result in report["results"])


@pytest.mark.parametrize("kv", ["bf16", "i8"])
def test_decode_report(pack, kv):
    done = bench("decode", "--model", pack, "--batch", "1,3", "--context", 65, "--steps", 2, "--rounds", 1, "--kv", kv,
                 "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [r["batch"] for r in report["results"]] == [1, 3]
    for result in report["results"]:
        assert result["tg_tok_s"] == pytest.approx(2 * result["batch"] / result["ms"] * 1000, rel=1e-3)
        check_stage_report(result)


@pytest.mark.parametrize("command, args", [("prefill", ["--prompt-tokens", 5, "--chunk", 8]), ("decode", ["--batch", 2, "--steps", 1])])
def test_a_twin_has_parts_and_no_figures(pack, command, args):
    """Times by events of the twin's driver, whose clock counts: they add up, and nothing is made of them that could be taken for a speed."""
    bench_of = [command, "--model", pack, "--device", "twin", "--rounds", 1, "--threads", 1, *args]
    done = bench(*bench_of, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["simulated"], report["isa"], set(report["peak_gops"].values())) == (True, "twin sm_90", {0.0})
    for result in report["results"]:
        check_stage_report(result)
        assert result["ms"] > 0 and result["parts"]["wait"]["ms"] == 0
        assert {result[key] for key in ("mfu", "mfu_mma", "roofline", "gb_per_s")} == {0}
        assert all(part.get("gops", 0) == 0 for part in result["parts"].values())
    assert report["results"][0]["pp_tok_s" if command == "prefill" else "tg_tok_s"] == 0
    if command == "prefill":
        said = bench(*bench_of).stdout
        assert said.count("SIMULATED") == 2 and "tokens/s" not in said and "no MFU" in said


def test_cost_report(pack):
    done = bench("cost", "--model", pack, "--chunks", 12, "--json")
    assert done.returncode == 0, done.stderr
    clocks = json.loads(done.stdout)["clocks"]
    assert set(clocks) == {"wall", "processor"}
    for clock in clocks.values():
        assert clock["sigma"] > 0
        for prior in ("measured", "thrice", "third"):
            assert 0 <= clock[prior]["median"] <= clock[prior]["p90"]


def test_pipeline_report(pack):
    done = bench("pipeline", "--model", pack, "--prompt-tokens", 128, "--chunk", 64, "--rounds", 1, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["stages"], report["chunks"], report["transport"]) == (2, 2, "local")
    for what in ("pipeline", "one_stage", "side_by_side"):
        assert report[what] == [report[f"{what}_tok_s"]] and report[what][0] > 0
    assert 0 < report["fill_drain"] < 1
    assert done.stderr == ""  # no line of a request, and there is nothing to warn of


def test_tables_are_for_people(pack):
    done = bench("prefill", "--model", pack, "--prompt-tokens", 16, "--rounds", 1)
    assert done.returncode == 0, done.stderr
    for part in PARTS - {"steps"}:  # a GPU's
        assert f"\n  {part} " in done.stdout
    assert "MFU" in done.stdout and "\x1b" not in done.stdout  # no colour into a pipe


@pytest.mark.parametrize("args, code, sentence", [
    (["prefill"], 64, "--model PATH"),
    (["prefill", "--model", "PACK", "--prompt-tokens", "0"], 64, "--prompt-tokens takes"),
    (["decode", "--model", "PACK", "--batch", "1,,2"], 64, "--batch takes"),
    (["decode", "--model", "PACK", "--device", "gpu"], 64, 'device "gpu" is unknown; use cpu, cuda, cuda:N'),
    (["prefill", "--model", "PACK", "--device", "twin", "--numerics", "bf16dot"], 78, "a GPU has the numerics f32 only"),
    (["kernels", "--device", "twin", "--filter", "no such kernel"], 64, "no kernel of this device matches 'no such kernel'"),
    (["kernels", "--device", "cpu:0"], 64, 'device "cpu:0" is unknown'),
    (["kernels", "--filter", "no such kernel"], 64, "no kernel of this device matches 'no such kernel'"),
])
def test_usage(pack, args, code, sentence):
    done = bench(*[pack if a == "PACK" else a for a in args])
    assert done.returncode == code and sentence in done.stderr


def test_kernels_have_the_bits_of_ref():
    done = bench("kernels", "--filter", "2048x768 i4 rows 4", "--rounds", 1, "--threads", 2, "--json")
    if done.returncode == 64:
        pytest.skip("this machine, or SLUICE_CPU, has only the reference kernels: nothing to compare")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["results"] and all(r["same_bits"] for r in report["results"])
    assert report["read_gb_per_s"] > 0 and all(p["gops"] > 0 for p in report["peaks"])


def test_kernels_of_a_gpu_have_the_bits_of_ref_and_on_a_twin_no_times():
    done = bench("kernels", "--device", "twin", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["simulated"] is True and report["copy_gbs"] is None
    names = {row["kernel"] for row in report["rows"]}
    # Each format by all bodies, attention, and what is done to rows.
    assert {f"gemm8_{body}{d}{what}" for body in ("few_", "", "wg_") for d in ("i8", "i4", "i4g16", "i3", "i2") for what in ("", "_swiglu")} <= names
    assert {"sl_gpu_attend8_64", "sl_gpu_norm", "sl_gpu_quantise", "sl_gpu_combine", "sl_gpu_gemm_f32"} <= names
    for row in report["rows"]:
        assert row["equal"] is True and {row[key] for key in ("us", "tops", "of_imma", "of_igmma", "gbs", "of_copy")} == {None}
    said = bench("kernels", "--device", "twin", "--filter", "router")
    assert said.stdout.startswith("SIMULATED") and said.stdout.count(" yes\n") == len([r for r in report["rows"] if "router" in r["shape"]])


def test_a_stage_says_where_its_time_goes(pack, tmp_path):
    endpoint, ops = f"127.0.0.1:{free_port()}", [f"127.0.0.1:{free_port()}" for _ in range(2)]
    nodes = [Process(tmp_path, "coordinator", "coordinator", pack, "--stages", 1, "--listen", endpoint, "--ops",
                     f"127.0.0.1:{free_port()}"),
             Process(tmp_path, "stage", "stage", pack, "--coordinator", endpoint, "--stage", 0, "--threads", 2, "--ops",
                     ops[0]),
             Process(tmp_path, "decode", "decode", pack, "--coordinator", endpoint, "--threads", 1, "--ops", ops[1])]

    def scrape(at):
        with urllib.request.urlopen(f"http://{at}/metrics", timeout=PATIENCE) as reply:
            lines = reply.read().decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}
    try:
        def is_ready():
            assert all(node.alive() for node in nodes), [node.log() for node in nodes]
            return "ready:" in nodes[0].log()
        wait_until(is_ready, "the coordinator's readiness")
        with grpc.insecure_channel(endpoint) as channel:
            request = pb.GenerateRequest(tokenized=pb.TokenizedInput(input_ids=list(range(300, 600))), stream=False,
                                         sampling_params=pb.SamplingParams(temperature=0, max_tokens=20, ignore_eos=True))
            for _ in pb_grpc.VllmEngineStub(channel).Generate(request, timeout=PATIENCE):
                pass
        for at in ops:
            values = scrape(at)
            role = next(key.split('"')[1] for key in values if key.startswith("sluice_stage_mfu_ratio"))
            seconds = {part: values[f'sluice_stage_seconds_total{{role="{role}",part="{part}"}}'] for part in PARTS}
            assert seconds["attention"] > 0 and seconds["experts"] > 0 and seconds["wait"] >= 0
            mfu = values[f'sluice_stage_mfu_ratio{{role="{role}"}}']
            limits = [values[f'sluice_stage_roofline_ratio{{role="{role}",limit="{limit}"}}'] for limit in
                      ("compute", "memory")]
            assert 0 <= mfu <= sum(limits) + 1e-5
    finally:
        for node in nodes:
            node.kill()


@pytest.mark.parametrize("prompt, chunk, records", [(64, 64, 1), (100, 40, 3), (1, 256, 1)])
def test_decide_counts_every_record_and_token(prompt, chunk, records):
    # One request at a time: as many RUN records as chunks, and one that frees it; 8 lives in a round.
    done = bench("decide", "--requests", 1, "--prompt-tokens", prompt, "--chunk", chunk, "--output-tokens", 5, "--rounds", 2,
                 "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["records"] == 8 * (records + 1)
    assert report["tokens"] == 8 * 5
    assert report["records_per_s"] > 0


def test_loading_is_measured_beside_plain_reading(pack):
    got = json.loads(bench("load", "--model", pack, "--rounds", 2, "--threads", 2, "--scrub", 1, "--json").stdout)
    assert got["bytes"] == sum(f.stat().st_size for f in pack.glob("*.safetensors")) and got["threads"] == 2
    assert all(got[f"{way}_gb_per_s"] > 0 for way in ["read", "touch", "verify", "copy"])
    assert got["verify_ratio"] > 0 and 0 < got["scrub_share"] < 1 and got["scrub_gb_per_s"] > 0
    assert "say --model" in bench("load").stderr
