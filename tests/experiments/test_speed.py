"""The latency table and the benchmark on tiny shapes: what is measured, not how long it takes."""

import csv
import json
import os
import sys
from importlib.metadata import version

import pandas as pd
import pytest
import torch
import yaml
from commands import run_python
from tiny import tiny_labelled, tiny_model

from analysis.tables.measured import zeros_time
from experiments.config.composing import CONF
from experiments.config.methods import method_with
from experiments.speed import gpu_check, large, latency_table, zeros
from experiments.speed.bench import __main__ as command
from experiments.speed.bench.child import measured, random_calibration
from experiments.speed.bench.reference import WholeModel
from experiments.speed.shapes import (
    ALLOCATIONS,
    SHAPES,
    flops_ratio,
    kept_counts,
    pruned_to,
    random_model,
    reference_shares,
)
from kprune.budgets import FlopsBudget
from kprune.budgets.latency.timing import random_batch
from kprune.contract import Job, PruningData
from kprune.errors import UserError
from kprune.methods.kprune_plus import first_pass
from kprune.models import view_of
from kprune.models.flops import flops_reduction
from kprune.objectives import objective_of
from kprune.target import Target


def head_flops(s, d, d_h):
    """Four projections of d_h columns, and scores and weighted sum over s positions."""
    return 8 * s * d * d_h + 4 * s**2 * d_h


def neuron_flops(s, d):
    """One column in, one out."""
    return 4 * s * d


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("grain", [1, 16, 32])
def test_an_allocation_uses_up_a_fifth_of_bert_bases_flops(allocation, grain):
    shape = SHAPES["bert_base"]
    heads, neurons = kept_counts(shape, allocation, 128, grain)
    head, neuron = head_flops(128, 768, 64), neuron_flops(128, 768)
    left = 0.2 * 12 * (12 * head + 3072 * neuron) - sum(heads) * head - sum(neurons) * neuron
    assert 0 <= left < grain * neuron
    assert all(n % grain == 0 for n in neurons) and len(heads) == len(neurons) == 12
    if allocation == "even":
        assert max(heads) - min(heads) == 1 and max(neurons) - min(neurons) <= grain
        assert sum(heads) / 144 == pytest.approx(0.2, abs=0.005) and sum(neurons) / 12 / 3072 == pytest.approx(
            0.2, abs=0.01
        )
    else:
        assert heads == [0, 0, 3, 3, 5, 5, 9, 9, 6, 6, 9, 9]


def test_the_reference_s_shares_on_its_own_shape_are_its_counts():
    reference = yaml.safe_load((CONF / "allocation/mrpc_reference.yaml").read_text())
    heads, neurons = reference_shares(SHAPES["minilm"])
    assert [h * 12 for h in heads] == reference["kept_heads"] and [n * 1536 for n in neurons] == reference[
        "kept_neurons"
    ]
    kept = sum(heads) * head_flops(52.95, 384, 32) * 12 + sum(neurons) * neuron_flops(52.95, 384) * 1536
    assert kept / (6 * (12 * head_flops(52.95, 384, 32) + 1536 * neuron_flops(52.95, 384))) == pytest.approx(
        0.2, abs=1e-4
    )


def test_a_model_pruned_to_counts():
    dense = random_model(SHAPES["tiny"])
    pruned = pruned_to(dense, [0, 2], [5, 0])
    assert [s.units for s in view_of(pruned).blocks] == [0, 5, 2, 0]
    assert [s.units for s in view_of(dense).blocks] == [12, 768] * 2
    removed = flops_reduction(view_of(dense), view_of(pruned), 8)
    assert flops_ratio(dense, pruned, 8) == pytest.approx(1 / (1 - removed))


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """The command in this process: its exit code."""

    def run(*more, runtimes="eager,onnx"):
        arguments = ["--output", str(tmp_path / "results" / "latency.csv"), "--shape", "tiny", "--batches", "1,2"]
        arguments += ["--lengths", "4,8", "--runtimes", runtimes, *more]
        monkeypatch.setattr("sys.argv", ["latency_table", *arguments])
        return latency_table.main()

    return run


def test_the_latency_table_goes_on_where_it_was(measure, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(latency_table, "rounds", lambda device: (1, 3))
    monkeypatch.setitem(latency_table.RUNTIMES, "onnx", latency_table.eager)  # without the export, which takes seconds
    file = tmp_path / "results" / "latency.csv"
    assert measure("--minutes", "0") == 0 and capsys.readouterr().err.count("no time left") == 8 and not file.exists()
    assert measure(runtimes="eager") == 0
    first = list(csv.DictReader(file.open()))
    assert measure() == 0
    rows = list(csv.DictReader(file.open()))
    assert rows[:8] == first and len(rows) == 16, "finished cells stay as they were"
    assert {(r["runtime"], r["allocation"]) for r in rows} == {(r, a) for r in ("eager", "onnx") for a in ALLOCATIONS}
    for r in rows:
        assert float(r["speedup"]) == pytest.approx(float(r["dense_ms"]) / float(r["pruned_ms"]), rel=1e-4)
        assert float(r["speedup_low"]) <= float(r["speedup_high"]) and 1 <= int(r["repeats"]) <= 3
        assert r["device"] and r["torch"] == torch.__version__ and int(r["threads"]) >= 1
        assert r["runtime_version"] == (version("onnxruntime") if r["runtime"] == "onnx" else torch.__version__)
    assert measure(runtimes="nonsense") == 2
    file.write_text("a,b\n1,2\n")
    assert measure() == 2 and "other columns" in capsys.readouterr().err


def test_onnx_runtime_runs_the_model(tmp_path):
    model = random_model(SHAPES["tiny"])
    run = latency_table.onnx(model, tmp_path)(2, 8)
    with torch.inference_mode():
        logits = model(**random_batch(model, 2, 8)).logits
    torch.testing.assert_close(torch.from_numpy(run()[0]), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "more, words",
    [
        (["--grain", "0"], "--grain=0 is not a whole number from 1"),
        (["--batches", "1,0"], "--batches=0"),
        (["--lengths", "4000"], "--lengths=4000 is not a whole number from 1 to 512"),
        (["--threads", "-1"], "--threads=-1"),
        (["--minutes", "nan"], "--minutes=nan"),
        (["--device", "cuda:9"], "device=cuda:9 is not to be had here"),
        (["--runtimes", "graph"], "--runtimes graph is not to be had with --device cpu"),
        (
            ["--dtype", "bfloat16", "--runtimes", "onnx"],
            "--runtimes onnx is not to be had with --device cpu --dtype bfloat16",
        ),
        (["--output", "/proc/nope/latency.csv"], "another --output"),
        (["--output", "/tmp"], "another --output"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_measured(measure, monkeypatch, capsys, more, words):
    monkeypatch.setattr(latency_table, "random_model", lambda shape: pytest.fail("a model was made"))
    assert measure(*more) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line


@pytest.mark.parametrize(
    "more, words",
    [
        (["--shapes", "tiny,nonsense"], "nonsense"),
        (["--tokens", "300,0"], "--tokens=0"),
        (["--threads", "0"], "--threads=0"),
        (["--device", "cuda:9"], "device=cuda:9 is not to be had here"),
        (["--methods", "kwon,nonsense"], "nonsense"),
        (["--methods", "random:precision=reduced"], "method random does not run the model"),
        (["--methods", "kwon:precision=half"], "precision='half' is unknown"),
        (["--methods", "kwon:flops_reduction=0.5_x"], "give shares of FLOPs as flops_reduction=0.5_0.6_0.7"),
        (["--methods", "kwon:flops_reduction=1.5"], "flops_reduction=1.5"),
        (["--output", "/proc/nope/bench.csv"], "another --output"),
    ],
)
def test_a_wrong_option_of_the_benchmark_is_told_before_anything_is_measured(
    monkeypatch, tmp_path, capsys, more, words
):
    monkeypatch.setattr(command, "measured", lambda *_: pytest.fail("something was measured"))
    monkeypatch.setattr("sys.argv", ["bench", "--output", str(tmp_path / "bench.csv"), *more])
    assert command.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line


def test_the_goals_are_measured_first():
    order = latency_table.cells(["eager", "onnx"], [1, 8, 32, 128], [32, 128, 384])
    assert order[:4] == [("eager", 1, 128), ("eager", 32, 128), ("onnx", 1, 128), ("onnx", 32, 128)]
    assert len(order) == len(set(order)) == 24 and order[-1] == ("onnx", 128, 384)


def test_the_whole_model_way_meets_the_budget():
    model, calibration = tiny_model(dtype=torch.float32), tiny_labelled(examples=24)
    job = Job(model, objective_of(model), PruningData(calibration), FlopsBudget(0.6, 8.0))
    outcome = WholeModel().prune(job)
    assert 0.6 <= flops_reduction(view_of(model), view_of(outcome.model), 8.0) + 1e-9 < 0.75
    assert set(outcome.seconds_by_stage) == {"teacher", "knowledge", "mask_search", "weight_tuning"}


def test_the_benchmark_on_a_tiny_shape(tmp_path, monkeypatch, capsys):
    file, methods = tmp_path / "bench.csv", "floor,whole_model,kprune,kprune:measure_every=2,kwon"
    arguments = ["--shapes", "tiny", "--tokens", "2500", "--methods", methods, "--output", str(file)]
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    here = lambda shape, tokens, method, threads, device: (  # noqa: E731
        {"shape": shape, "method": method, "threads": 1} | measured(shape, tokens, method, torch.device(device))
    )
    monkeypatch.setattr(command, "measured", here)
    assert command.main() == 0
    rows = {r["method"]: r for r in csv.DictReader(file.open())}
    assert list(rows) == methods.split(",") and set(next(iter(rows.values()))) == set(command.COLUMNS)
    for name, r in rows.items():
        assert int(r["tokens"]) < int(r["padded_tokens_sorted"]) < int(r["padded_tokens_drawn"])
        ratio = float(r["units"]) / float(rows["floor"]["units"])
        assert float(r["of_floor"]) == pytest.approx(ratio, rel=1e-4)
        if name != "floor":
            assert float(r["units"]) == pytest.approx(float(r["seconds"]) / float(r["forward_seconds"]), rel=1e-4)
    assert float(rows["floor"]["units"]) > 4 + 3 and rows["floor"]["seconds"] == ""
    assert "knowledge=" in rows["kprune"]["stages"] and "whole_model" in capsys.readouterr().out
    for tokens, method in ((7, "first"), (9, "other"), (7, "again")):
        command.write(file, [{"shape": "tiny", "tokens": tokens, "method": method}])
    assert [r["method"] for r in csv.DictReader(file.open())] == [*methods.split(","), "other", "again"]
    file.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="other columns"):
        command.write(file, [{"shape": "tiny", "tokens": 7}])


def test_several_reductions_share_what_is_measured_once(monkeypatch):
    passes, measure = [], first_pass.measure_fisher
    monkeypatch.setattr(first_pass, "measure_fisher", lambda *given: passes.append(given) or measure(*given))
    one = measured("tiny", 300, "kprune_plus_fast:ridge=0.02", torch.device("cpu"))
    several = measured("tiny", 300, "kprune_plus_fast:flops_reduction=0.5_0.6_0.99", torch.device("cpu"))
    assert len(passes) == 2 and one["flops_reduction"] == "0.8" and several["flops_reduction"] == "0.5_0.6_0.99"


def test_the_steps_of_the_check_of_a_gpu(tmp_path, monkeypatch):
    """They are told on record, the one that is cut off for time, too, and the next ones are tried."""
    commands = []

    def ended(command, seconds):
        commands.append(command[1:])
        return gpu_check.OUT_OF_TIME if "kprune.csv" in command[-1] else 0

    monkeypatch.setattr(gpu_check, "ended", ended)
    assert gpu_check.run(tmp_path, "cpu", small=True, seconds=600) == 1
    rows = {row["step"]: row["exit_code"] for row in csv.DictReader((tmp_path / "steps.csv").open())}
    assert rows == {name: "0" for name in (*gpu_check.METHODS, "tests", "latency")} | {"kprune": "124"}
    assert commands[-1][:4] == ["-m", "pytest", "-q", "tests/test_gpu.py"]


def test_a_step_that_takes_too_long_is_ended():
    python = [sys.executable, "-c"]
    assert gpu_check.ended([*python, "import signal; signal.pause()"], 0.0) == gpu_check.OUT_OF_TIME
    assert gpu_check.ended([*python, "raise SystemExit(3)"], 60.0) == 3


@pytest.mark.slow
def test_the_check_of_a_gpu_on_a_cpu(tmp_path, monkeypatch):
    """Every step works and leaves its file."""
    monkeypatch.setattr(gpu_check, "METHODS", ("kwon",))
    assert gpu_check.run(tmp_path, "cpu", small=True, seconds=600) == 0
    assert {file.name for file in tmp_path.iterdir()} >= {"steps.csv", "kwon.csv", "tests.xml", "latency.csv"}
    measured = [row["method"] for row in csv.DictReader((tmp_path / "kwon.csv").open())]
    assert measured == ["kwon", "kwon:precision=reduced"][: 1 + gpu_check.gains(torch.device("cpu"))]


def test_the_check_of_a_gpu_where_there_is_none(monkeypatch, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    monkeypatch.setattr("sys.argv", ["gpu_check", "--output", str(tmp_path)])
    assert gpu_check.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: device=cuda is not to be had here")


def test_a_process_of_its_own(monkeypatch):
    run = lambda arguments, **_: run_python(arguments[1:], dict(os.environ))  # noqa: E731
    monkeypatch.setattr(command.subprocess, "run", run)
    report = command.measured("tiny", 300, "kwon", threads=1)
    assert report["threads"] == 1 and report["method"] == "kwon" and report["peak_mb"] > 0
    with pytest.raises(UserError, match="nonsense on tiny with 300 tokens failed: .*method=nonsense is unknown"):
        command.measured("tiny", 300, "nonsense", None)


def test_what_the_benchmark_runs_on():
    calibration = random_calibration(2000, 1000)
    assert calibration.tokens == pytest.approx(2000, rel=0.1)
    assert [e["input_ids"] for e in calibration.examples] == [
        e["input_ids"] for e in random_calibration(2000, 1000).examples
    ]
    method = method_with("kprune:measure_every=4:knowledge.temperature=3.0")
    assert method.measure_every == 4 and method.knowledge.temperature == 3.0
    methods = command.default_methods()
    assert not {"sparsegpt", "wanda"} & set(methods), "no share of FLOPs is theirs to remove"
    assert methods[:2] == ["floor", "whole_model"] and {"kwon", "kcm", "kprune", "kprune_plus", "kprune_fast"} <= set(
        methods
    )
    assert not {"llm_pruner", "magnitude", "cofi"} & set(methods), "classifiers are what it runs on"


@pytest.mark.parametrize("states", ["device", "disk"])
def test_a_large_model_is_pruned_and_its_memory_measured(states, monkeypatch, capsys):
    arguments = ["large", "tiny", "--tokens", "300", "--window", "30", "--states", states]
    monkeypatch.setattr("sys.argv", arguments)
    assert large.main() == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["tokens"] == 300 and result["parameters_left"] < result["parameters"]
    assert result["loaded_mb"] > 0 and result["stages"]["fisher"] >= 0
    monkeypatch.setattr("sys.argv", [*arguments, "--layers-on", "cpu"])
    assert large.main() == 2 and "is where the model is" in capsys.readouterr().err


def test_zeros_are_in_every_row_of_the_layers_and_nowhere_else():
    dense = random_model(SHAPES["tiny"])
    for text, group, gone in (("s0.5", None, 0.5), ("2:4", 4, 2)):
        masked = zeros.zeroed(dense, Target.parse(text))
        weights = [module.weight for block in view_of(masked).blocks for module in block.linears]
        for weight in weights:
            rows = (weight == 0).unflatten(1, (-1, group)) if group else weight == 0
            assert (rows.sum(dim=-1) == (gone if group else gone * weight.shape[1])).all()
        assert sum(map(torch.numel, weights)) < sum(p.numel() for p in masked.parameters())
        changed = [name for name, p in masked.named_parameters() if not torch.equal(p, dense.get_parameter(name))]
        assert len(changed) == len(weights) == 12


def test_the_time_of_zeros_is_a_row_a_target_and_a_table(tmp_path, monkeypatch, capsys):
    file = tmp_path / "zeros_time.csv"
    arguments = ["zeros", "--shape", "tiny", "--batch", "1", "--length", "4", "--repeats", "2"]
    monkeypatch.setattr("sys.argv", [*arguments, "--output", str(file)])
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    assert zeros.main() == zeros.main() == 0
    rows = list(csv.DictReader(file.open()))
    assert [row["target"] for row in rows] == ["s0.5", "2:4"]
    for row in rows:
        assert float(row["ratio"]) == pytest.approx(float(row["dense_cpu_ms"]) / float(row["masked_cpu_ms"]), rel=1e-4)
    shown = zeros_time(pd.read_csv(file))
    assert shown["Weights"].tolist() == ["50 % zeros", "2:4 zeros"]
    monkeypatch.setattr("sys.argv", [*arguments, "--length", "1000"])
    assert zeros.main() == 2 and "--length=1000 is not a whole number from 1 to 512" in capsys.readouterr().err
