"""The command line, end to end on a tiny model and one's own data: results, sweeps, and one line for bad input."""

import json
import os
import subprocess
from types import SimpleNamespace

import pytest
from commands import run_python
from safetensors.torch import load_file, save_file
from world import bad, environment, run

from analysis.records import read_folder
from experiments.inputs.subject import warn_of_little
from experiments.scoring.predictions import load
from experiments.store.record import Record


@pytest.fixture(scope="module")
def cell(world):
    outputs = world / "outputs"
    done = run(world, f"outputs={outputs}", "flops_reduction=0.6")
    assert done.returncode == 0, done.stderr
    return outputs / "custom/minilm/kprune+tokens=200/0.6/seed0"


def test_a_cell_writes_its_record(cell):
    record = json.loads((cell / "result.json").read_text())
    assert record["flops_reduction"] >= 0.6 == record["flops_reduction_requested"]
    assert record["variant"] == {"tokens": 200}
    assert len(record["kept_heads"]) == len(record["kept_neurons"]) == 3
    assert record["target"] == "0.6" and "kept_units" not in record["details"]
    blocks = [f"{layer}.{site}" for layer in range(3) for site in ("attention", "ffn")]
    assert list(record["plan"]) == blocks
    assert [len(record["plan"][block]) for block in blocks if "attention" in block] == record["kept_heads"]
    assert [len(record["plan"][block]) for block in blocks if "ffn" in block] == record["kept_neurons"]
    assert Record.read(cell / "result.json").to_json() == record
    assert 0 < record["params_reduction"] < 1
    assert {"teacher", "knowledge", "mask_search", "weight_tuning"} == set(record["seconds_by_stage"])
    assert record["latency"]["threads"] == 1 and record["checkpoint"]["source"] == "given"
    assert record["calibration"]["tokens"] > 100
    assert (
        record["evaluation"]["majority"] == pytest.approx(100 / 3, abs=10) and len(record["evaluation"]["sha256"]) == 64
    )
    assert load(cell / "predictions.npz").score == record["score"]


def test_a_finished_cell_is_skipped_and_another_configuration_refused(world, cell):
    before = (cell / "result.json").stat().st_mtime_ns
    done = run(world, f"outputs={cell.parents[4]}", "flops_reduction=0.6")
    assert done.returncode == 0 and "finished before" in done.stdout
    (cell / "model").rename(cell / "elsewhere")
    done = run(world, f"outputs={cell.parents[4]}", "flops_reduction=0.6")
    assert "finished before, without a saved model" in done.stdout
    (cell / "elsewhere").rename(cell / "model")
    done = run(world, f"outputs={cell.parents[4]}", "flops_reduction=0.6", "format=dense")
    assert "finished before, its model saved as format=pruned" in done.stdout
    other = run(world, f"outputs={cell.parents[4]}", "flops_reduction=0.6", "task.max_length=5")
    bad(other, "another configuration", "task.max_length was 32, is 5")
    assert (cell / "result.json").stat().st_mtime_ns == before


def test_a_dense_model_worse_than_none_is_warned_of(capsys):
    task = SimpleNamespace(metric="accuracy")
    warn_of_little(task, 60.0, 59.9)
    warn_of_little(task, 60.0, None)
    assert capsys.readouterr().out == ""
    warn_of_little(task, 60.0, 60.1)
    assert "task.label_names" in capsys.readouterr().out


def test_the_saved_model_scores_the_same_again(world, cell):
    score = json.loads((cell / "result.json").read_text())["score"]
    done = run(world, f"evaluate={cell / 'model'}")
    assert done.returncode == 0, done.stderr
    assert f"{score:.2f}" in done.stdout
    assert json.loads((cell / "model/config.json").read_text())["id2label"]["2"] == "good"


def test_the_model_card_has_the_command_that_made_it(cell):
    record = json.loads((cell / "result.json").read_text())
    card = (cell / "model/README.md").read_text()
    (command,) = [line for line in card.splitlines() if line.startswith("python run.py")]
    for override in ("task=custom", "'task.text=[review]'", "calibration.tokens=200", "flops_reduction=0.6"):
        assert f" {override} " in f"{command} "
    for shown in (
        f"{record['score']:.2f}",
        f"{record['latency']['speedup']:.2f}x faster",
        record["checkpoint"]["sha256"],
    ):
        assert shown in card


def test_a_dense_copy_and_onnx(world, tmp_path):
    done = run(world, f"outputs={tmp_path}", "flops_reduction=0.6", "format=dense", "onnx=true")
    assert done.returncode == 0, done.stderr
    record = next(tmp_path.rglob("result.json"))
    folder = record.parent / "model"
    assert (folder / "model.onnx").is_file() and not (folder / "modeling_kprune.py").exists()
    assert "no faster" in (folder / "README.md").read_text()
    again = run(world, f"evaluate={folder}")
    assert again.returncode == 0, again.stderr
    assert f"{json.loads(record.read_text())['score']:.2f}" in again.stdout


def test_layers_that_are_alike(world, tmp_path):
    done = run(world, f"outputs={tmp_path}", "flops_reduction=0.2", "format=uniform")
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.rglob("result.json")
    record = json.loads(file.read_text())
    assert record["variant"]["uniform"] is True and record["config"]["uniform"] is True
    assert "uniform=True" in str(file)
    assert len(set(record["kept_heads"])) == len(set(record["kept_neurons"])) == 1
    again = run(world, f"evaluate={file.parent / 'model'}")
    assert f"{record['score']:.2f}" in again.stdout
    # The same cell, saved in another way: it is there already.
    again = run(world, f"outputs={tmp_path}", "flops_reduction=0.2", "uniform=true")
    assert "finished before" in again.stdout
    other = run(world, f"outputs={tmp_path}", "format=gguf")
    bad(other, "format='gguf' is for language models")
    assert "dense accuracy" not in other.stdout, "it is told before the dense model is scored"


def test_a_damaged_record_is_run_again(world, tmp_path):
    arguments = (f"outputs={tmp_path}", "flops_reduction=0.5")
    run(world, *arguments)
    record = next(tmp_path.rglob("result.json"))
    record.write_text(record.read_text()[:100])
    done = run(world, *arguments)
    assert done.returncode == 0 and "damaged" in done.stdout
    assert json.loads(record.read_text())["score"] >= 0


def test_a_failed_cell_does_not_stop_the_sweep(world, tmp_path):
    done = run(world, "flops_reduction=1.5,0.5", f"outputs={tmp_path}", sweep=True)
    bad(done, "flops_reduction=1.5", "outside (0, 1)")
    assert [path.parts[-3] for path in tmp_path.rglob("result.json")] == ["0.5"]
    assert not list(tmp_path.rglob("model")), "a sweep saves models only when asked to"


def test_a_sweep_into_a_folder_that_is_not_to_be_made(world):
    bad(
        run(world, "flops_reduction=0.4,0.5", "outputs=/proc/nope", sweep=True),
        "/proc/nope is not writable",
        "outputs=FOLDER",
    )


def test_an_earlier_result_outlives_a_failure_of_force(world, cell):
    def everything():
        return {path: path.read_bytes() for path in cell.rglob("*") if path.is_file()}

    before = everything()
    assert {"result.json", "predictions.npz", "model/model.safetensors"} <= {str(p.relative_to(cell)) for p in before}
    bad(run(world, f"outputs={cell.parents[4]}", "flops_reduction=0.6", "force=true", "device=cuda:9"), "device=cuda:9")
    assert everything() == before


def test_every_baseline_by_its_name(world, tmp_path):
    done = run(world, "method=kwon,kcm,magnitude,random", "flops_reduction=0.35", f"outputs={tmp_path}", sweep=True)
    assert done.returncode == 0, done.stderr
    records = {path.parts[-4].split("+")[0]: json.loads(path.read_text()) for path in tmp_path.rglob("result.json")}
    assert {name: record["calibration"]["labels"] for name, record in records.items()} == {
        "kwon": True,
        "kcm": False,
        "magnitude": False,
        "random": False,
    }
    assert all(record["flops_reduction"] >= 0.35 and record["latency"] for record in records.values())
    assert all(record["method"] == name for name, record in records.items())
    assert len(records["kcm"]["details"]["r2"]["iterations"]) == 3


def trainings(world):
    return set((world / "cache/trainings").rglob("*.safetensors"))


def test_retrained_methods(world, tmp_path):
    overrides = ("flops_reduction=0.5", "method.recipe.epochs=1", "method.max_examples=40", "save_model=true")
    before = trainings(world)
    for method in ("dynabert_d", "ebert"):
        # Of EBERT alone, a latency would be refused: a sweep has it for other methods.
        done = run(world, f"method={method}", *overrides, f"outputs={tmp_path}", sweep=method == "ebert")
        assert done.returncode == 0, done.stderr
    records = {
        path.parts[-4].split("+")[0]: (json.loads(path.read_text()), path.parent)
        for path in tmp_path.rglob("result.json")
    }
    dynabert, folder = records["dynabert_d"]
    assert dynabert["flops_reduction"] >= 0.5 and dynabert["latency"]["speedup"] > 0 and (folder / "model").is_dir()
    assert dynabert["details"]["training"]["depth_stage"] == {"steps": 2, "epochs": 1, "examples": 40, "capped": True}
    assert set(dynabert["seconds_by_stage"]) == {"rewiring", "width_stage", "depth_stage", "extraction"}
    ebert, folder = records["ebert"]
    assert ebert["latency"] is None and not (folder / "model").exists() and ebert["params_reduction"] == 0
    units = [*zip(ebert["kept_heads"], [4] * 3, strict=True), *zip(ebert["kept_neurons"], [48] * 3, strict=True)]
    assert all(0 <= kept <= there for kept, there in units) and 0 < ebert["flops_reduction"] < 1
    assert "no smaller model to save" in done.stdout
    again = run(world, "method=ebert", *overrides, f"outputs={tmp_path}", sweep=True)
    assert "finished before, score" in again.stdout, "no saved model is missing"
    assert len(trainings(world) - before) == 3


def test_a_latency_budget_names_its_cell_and_measures_it(world, tmp_path):
    done = run(world, f"outputs={tmp_path}", "budget=latency", "speedup=1.1", "grain=4", "method=magnitude")
    assert done.returncode == 0, done.stderr
    assert "calibration tokens" not in done.stdout, "magnitude reads none"
    (cell,) = tmp_path.rglob("result.json")
    assert cell.parts[-4:-1] == ("magnitude+grain=4,tokens=200", "1.1x", "seed0")
    record = json.loads(cell.read_text())
    # On a busy machine, times of microseconds can ask for nothing to be removed.
    assert record["flops_reduction_requested"] is None and 0 <= record["flops_reduction"] < 1
    attempts = record["details"]["latency_budget"]["attempts"]
    assert 1 <= len(attempts) <= 3 and record["latency"]["speedup"] in [a["speedup"] for a in attempts]
    assert record["latency"]["speedup_range"][0] <= record["latency"]["speedup_range"][1]
    assert "flops_reduction" not in record["config"] and record["config"]["speedup"] == 1.1
    assert {"latency_table", "latency_search", "mask_search"} <= set(record["seconds_by_stage"])
    assert all(n % 4 == 0 for n in record["kept_neurons"])
    assert float(read_folder(tmp_path).loc[0, "latency_speedup"]) == record["latency"]["speedup"]
    assert read_folder(tmp_path).loc[0, "target"] == "1.1x"


def test_a_parameters_budget_names_its_cell(world, tmp_path):
    done = run(world, f"outputs={tmp_path}", "budget=parameters", "params_reduction=0.4", "method=kprune")
    assert done.returncode == 0, done.stderr
    (cell,) = tmp_path.rglob("result.json")
    assert cell.parts[-4:-1] == ("kprune+tokens=200", "p0.4", "seed0")
    record = Record.read(cell)
    assert record.params_reduction >= 0.4 == record.params_reduction_requested
    assert record.flops_reduction_requested is None and str(record.target) == "p0.4"
    assert record.config["params_reduction"] == 0.4 and "flops_reduction" not in record.config


def test_all_mistakes_of_a_cell_are_told_at_once_a_line_each(world, tmp_path):
    wrong = {
        "flops_reduction=1.5": "outside (0, 1)",
        "seed=abc": "whole number",
        "method.mu=-1": "method.mu=-1",
        "task.problem=ranking": "task.problem=ranking",
    }
    done = run(world, f"outputs={tmp_path}", *wrong)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len(lines) == len(wrong), done.stderr
    for words in wrong.values():
        assert sum(line.startswith("error: ") and words in line for line in lines) == 1
    both = run(world, f"outputs={tmp_path}", "flops_reduction=1.5,1.6", "seed=abc", sweep=True)
    lines = [line for line in both.stderr.splitlines() if line.startswith("error: ")]
    assert both.returncode == 2 and len(lines) == 4, both.stderr
    assert all("flops_reduction=1." in line.partition(":")[2].split(": ")[0] for line in lines)
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["task=nonsense"], ["task=nonsense is unknown", ", mrpc, "]),
        (["model=nonsense"], ["model=nonsense is unknown", ", minilm, "]),
        (["method=nonsense"], ["method=nonsense is unknown", ", kprune_official, "]),
        (["+experiment=nonsense"], ["experiment=nonsense is unknown", ", mrpc_80pct, "]),
        (["experiment=mrpc_80pct"], ["experiment is not in the config", "write +experiment=mrpc_80pct"]),
        (["+experiment=mrpc_80pct", "+experiment=rte_80pct"], ["experiment=rte_80pct is given beside another"]),
        (["+launcher=joblib"], ["+launcher=joblib runs the cells of a sweep", "add -m"]),
        (["flops_reduction", "=0.5"], ["flops_reduction has no value", "write flops_reduction=VALUE"]),
        (["flops_reduction=0"], ["outside (0, 1)"]),
        (["nonsense=1"], ["nonsense is unknown", "conf/config.yaml"]),
        (["method.lamda=1"], ["method.lamda is unknown", "conf/method/"]),
        (["budget=nonsense"], ["budget=nonsense", "flops, parameters or latency"]),
        (["speedup=3"], ["speedup=3", "budget=latency"]),
        (["budget=latency"], ["asks for no speed-up", "speedup=3"]),
        (["budget=latency", "speedup=3", "flops_reduction=0.7"], ["flops_reduction=0.7", "another budget"]),
        (["budget=parameters", "params_reduction=0.999"], ["params_reduction=0.999 is out of reach", "ask for less"]),
        (["format=dense", "save_model=false"], ["format=dense", "save_model=true"]),
        (["budget=latency", "speedup=1000"], ["speedup=1000 is out of reach", "ask for less"]),
        (["grain=0"], ["grain=0", "whole number"]),
        (["method=null"], ["Config group override", "method=kprune"]),
        (["seed=abc"], ["seed=abc", "seed=0"]),
        (["method.recipe.epochs=1"], ["one of method=cofi, dynabert_d", "write ++method.recipe.epochs="]),
        (["task.window=8"], ["one of task=c4", "write ++task.window="]),
        (["method.nonsense=1"], ["method.nonsense is unknown", "conf/method/"]),
        (["calibration.tokens=${nothing}"], ["nothing", "calibration.tokens"]),
        (["latency.sequence_length=4000"], ["latency.sequence_length=4000", "64 tokens"]),
        (["format=nonsense"], ["format=nonsense", "gguf or gguf-f32"]),
        (["calibration.tokens=1"], ["calibration.tokens=1"]),
        (["model.checkpoint=/nowhere"], ["/nowhere"]),
        (["device=cuda:9"], ["device=cuda:9"]),
        (["evaluate=/nowhere"], ["/nowhere"]),
    ],
)
def test_bad_input_is_one_line(world, tmp_path, overrides, words):
    done = run(world, f"outputs={tmp_path}", *overrides)
    bad(done, *words)
    assert not list(tmp_path.rglob("result.json")) and not list(tmp_path.rglob("model"))


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["calibration.tokens=1"], ["less than one example"]),
        (["calibration.tokens=100000", "calibration.data=/nowhere"], ["/nowhere"]),
        (["method=kcm", "flops_reduction=0.9"], ["kcm reaches a FLOPs reduction of 0.400", "ask for less"]),
    ],
)
def test_what_pruning_would_refuse_is_told_before_the_dense_model_is_scored(world, tmp_path, overrides, words):
    done = run(world, f"outputs={tmp_path}", *overrides)
    bad(done, *words)
    assert "dense" not in done.stdout


def test_data_that_are_nowhere(world, tmp_path):
    options = ["task=mnli", "task.max_length=32", f"model.checkpoint={world / 'checkpoint'}", "latency=null"]
    bad(run_python(["run.py", *options, f"outputs={tmp_path / 'o'}"], environment(world)), "nyu-mll/glue")


def test_nan_in_the_checkpoint(world, tmp_path):
    folder = tmp_path / "checkpoint"
    subprocess.run(["cp", "-r", world / "checkpoint", folder], check=True)
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.1.output.dense.weight"][3, 4] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    bad(
        run(world, f"outputs={tmp_path / 'o'}", f"model.checkpoint={folder}"),
        "bert.encoder.layer.1.output.dense.weight",
    )


def test_calibration_files(world, tmp_path):
    def with_file(content, *more):
        (tmp_path / "c.json").write_text(json.dumps(content))
        given = [f"calibration.file={tmp_path / 'c.json'}", "calibration.tokens=100000"]
        return run(world, f"outputs={tmp_path / 'o'}", *given, *more)

    bad(with_file({"examples": []}), "calibration.file=", "is empty")
    bad(with_file({}), "damaged")
    bad(with_file({"examples": [{"input_ids": [1, 1, 1]}]}), "padding alone")
    bad(with_file({"examples": [{"input_ids": [5, 6], "attention_mask": [0, 0]}]}), "padding alone")
    bad(with_file({"examples": [{"input_ids": [5, 6], "label": 3}]}), "label 3")
    bad(with_file({"examples": [{"input_ids": [5, 600]}]}), "vocabulary")
    alike = with_file({"examples": [{"input_ids": list(range(5, 15))}] * 8}, "method.lambdas=[0.1,1]")
    bad(alike, "one example", "lambdas=[0.1]")
    good = with_file({"examples": [{"input_ids": list(range(5, 15 - i)), "label": 1} for i in range(8)]})
    assert good.returncode == 0, good.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_outputs_not_writable(world, tmp_path):
    tmp_path.chmod(0o500)
    bad(run(world, f"outputs={tmp_path / 'o'}"), "not writable")


def test_outputs_below_a_file(world, tmp_path):
    (tmp_path / "file").write_text("")
    bad(run(world, f"outputs={tmp_path / 'file'}"), "not writable")
