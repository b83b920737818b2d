"""`evaluate=FOLDER`: what stands beside it counts or is refused, and nothing outside the folder is touched for it."""

import builtins
import importlib.util
import json
import re
import shutil
from contextlib import nullcontext

import pytest
from world import overrides

from experiments.cell import saved
from experiments.cell.identity import folder_of, identity_of
from experiments.cell.runner import run_cell
from experiments.config.cell import configured
from experiments.config.evaluating import refuse_unused, task_beside
from experiments.inputs import hub
from kprune.errors import UserError


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    """A saved model of the world's cell, its overrides and its score."""
    outputs = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KPRUNE_CACHE", str(world / "cache"))
        patch.delenv("KPRUNE_MIRROR", raising=False)
        options = [*overrides(world), f"outputs={outputs}", "flops_reduction=0.5", "method=magnitude", "latency=null"]
        config = configured([option for option in options if not option.startswith("latency.")])
        score = run_cell(config, "single", "").score
    return folder_of(config) / "model", score


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch, world):
    monkeypatch.delenv("KPRUNE_MIRROR", raising=False)
    monkeypatch.setenv("KPRUNE_CACHE", str(world / "cache"))
    monkeypatch.setattr(hub, "_from_hub", lambda *_: pytest.fail("something was fetched"))


def scored(folder, *options):
    return saved.evaluate_saved(configured([f"evaluate={folder}", *options]))


def refused(folder, *options, words=()):
    with pytest.raises(UserError) as error:
        scored(folder, *options)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def test_alone_it_scores_what_the_cell_scored(made, capsys):
    folder, score = made
    assert scored(folder) == score
    assert "(20% of data.csv, seed 0)" in capsys.readouterr().out


def test_options_that_say_what_the_model_is_are_no_matter(made, world):
    folder, score = made
    same = ["model.checkpoint", "calibration.tokens", "task.label", "threads"]
    given = [option for option in overrides(world) if option.partition("=")[0] in same or option == "tracking=none"]
    assert (
        scored(folder, "task=custom", *given, "flops_reduction=0.5", "method=magnitude", "seed=0", "grain=1") == score
    )
    assert scored(folder, "save_model=false", "force=false", "latency=null", "budget=flops") == score
    assert scored(folder, "uniform=false", "of=layers", "calibration.data=null") == score


def test_where_states_lay_is_no_matter_if_it_is_said_as_it_was():
    """A record does not tell it of a method that has the choice, as long as it is the usual one."""
    cell = identity_of(configured(["task=mrpc", "method=kprune_plus"]))
    assert not {"states", "layers_on"} & set(cell["method"])
    for typed, words in (
        ("method.states=device", None),
        ("method.layers_on=null", None),
        ("method.states=disk", "ignored"),
    ):
        given = configured(["evaluate=x", "method=kprune_plus", typed]).given
        with nullcontext() if words is None else pytest.raises(UserError, match=words):
            refuse_unused(given, cell)


@pytest.mark.parametrize(
    "options",
    [
        ["format=dense"],
        ["onnx=true"],
        ["save_model=true"],
        ["force=true"],
        ["flops_reduction=0.6"],
        ["budget=parameters", "params_reduction=0.2"],
        ["method=kprune"],
        ["method=kprune", "method.mu=3"],
        ["seed=1"],
        ["grain=16"],
        ["uniform=true"],
        ["calibration.data=elsewhere.txt"],
        ["model=bert_base"],
        ["model.checkpoint=elsewhere"],
        ["calibration.tokens=300"],
        ["calibration.file=elsewhere"],
        ["latency.batch_size=3"],
        ["tracking.mode=online"],
        ["+task.finetuning={epochs: 1}"],
        ["task.average_length=3"],
    ],
)
def test_an_option_without_use_is_refused(made, options):
    refused(made[0], *options, words=[options[-1], "would be ignored", "leave it out"])


def test_other_data_are_scored(made, world, tmp_path, capsys):
    folder, _ = made
    rows = (world / "data.csv").read_text().splitlines()
    (tmp_path / "test.csv").write_text("\n".join([rows[0], *rows[1:8]]))
    options = ["task=custom", f"task.evaluation_file={tmp_path / 'test.csv'}"]
    scores = {scored(folder, *options)}
    assert "(test.csv)" in capsys.readouterr().out
    (tmp_path / "test.csv").write_text("\n".join([rows[0], *(re.sub("[^,]+$", "fine", row) for row in rows[1:8])]))
    scores.add(scored(folder, *options))
    assert len(scores) == 2
    other = [*options, f"task.train_file={tmp_path / 'nowhere.csv'}"]
    assert scored(folder, *other) in scores, "the classes' names are in the folder"
    refused(folder, "task=custom", f"task.train_file={tmp_path / 'nowhere.csv'}", words=["no file", "nowhere.csv"])


def test_settings_of_the_task_are_used(made, monkeypatch):
    lengths = []
    monkeypatch.setattr(
        saved, "evaluate", lambda model, task, *_: lengths.append((task.max_length, task.batch_size, task.text)) or 0.0
    )
    scored(made[0], "task.max_length=4", "task.batch_size=3")
    scored(made[0])
    assert lengths == [(4, 3, ["review"]), (32, 32, ["review"])]


def test_a_text_is_joined_as_the_folder_says():
    saved_task = configured(["task=c4"]).task.settings.plain() | {"documents": 7, "separator": "", "windows": 3}
    chosen = configured(["evaluate=anywhere"]).task
    settings = task_beside(chosen, saved_task, (), {}).settings.plain()
    assert settings == saved_task


def test_what_a_finished_cell_lacks_of_a_saved_model(made, tmp_path):
    folder, _ = made
    assert saved.missing_of(folder, "pruned", False) == ""
    assert saved.missing_of(folder, "dense", False) == ", its model saved as format=pruned"
    assert saved.missing_of(folder, "pruned", True) == ", without model.onnx"
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "model.onnx").touch()
    content = json.loads((folder / saved.RECORD).read_text())
    assert content["onnx"] is False
    for onnx, missing in ((True, ""), ("int8", ", its model.onnx saved with onnx=true")):
        (tmp_path / "model" / saved.RECORD).write_text(json.dumps(content | {"onnx": True}))
        assert saved.missing_of(tmp_path / "model", "pruned", onnx) == missing
    assert saved.missing_of(tmp_path / "none", "pruned", False) == ", without a saved model"


def test_another_task_takes_the_place_of_the_saved_one(made):
    refused(made[0], "task=stsb", "task.max_length=32", words=["has 3 labels", "stsb has 1", "score"])
    for typed in ("+experiment=squad_80pct", "+experiment=[squad_80pct]", "+experiment='squad_80pct'"):
        refused(made[0], typed, words=["would be ignored", typed])


def test_a_folder_that_is_none(tmp_path, monkeypatch):
    monkeypatch.undo()
    refused("/nowhere/at/all", words=["/nowhere/at/all"])


def test_a_dense_model_takes_the_task_that_is_given(world):
    task = [option for option in overrides(world) if option.startswith("task")]
    assert 0 <= scored(world / "checkpoint", *task) <= 100
    refused(world / "checkpoint", *task, "flops_reduction=0.8", words=["flops_reduction=0.8 would be ignored"])


# --- folders of others -----------------------------------------------------------------------------------------------


@pytest.fixture
def tampered(made, tmp_path):
    """Write a copy of the saved model whose record says something else."""
    folder = tmp_path / "tampered"
    shutil.copytree(made[0], folder)

    def change(**entries):
        content = json.loads((folder / "kprune.json").read_text())
        for key, value in entries.items():
            (content if key in content else content["task"])[key] = value
        (folder / "kprune.json").write_text(json.dumps(content))
        return folder

    return change


@pytest.mark.parametrize(
    "entries, words",
    [
        ({"name": "../../evil"}, ["kprune.json is damaged", "task.name"]),
        ({"name": "/tmp/evil"}, ["kprune.json is damaged", "task.name"]),
        ({"name": "a/b"}, ["kprune.json is damaged", "task.name"]),
        ({"kind": "evil.module"}, ["reads evil.module", "task=NAME"]),
        ({"kind": "glue", "hub_id": "evil/data", "config": "x"}, ["reads evil/data", "task=NAME"]),
        ({"kind": "language", "hub_id": "evil/data", "config": "x"}, ["reads evil/data", "task=NAME"]),
        ({"kind": "squad", "hub_id": "rajpurkar/squad", "config": "../.."}, ["task=NAME"]),
        ({"train_file": "/etc/passwd"}, ["data file is missing or was changed", "task.evaluation_file=FILE"]),
        ({"train_file": "/dev/zero"}, ["data file is missing or was changed"]),
        ({"evaluation_file": "/etc/passwd", "train_file": None}, ["data file is missing or was changed"]),
        ({"cell": {"contents": {"task.train_file": "0" * 16}}}, ["data file is missing or was changed"]),
        ({"cell": {"contents": ["task.train_file"]}}, ["data file is missing or was changed"]),
        ({"cell": []}, ["data file is missing or was changed"]),
        ({"max_length": 10**9}, ["reads 64 tokens"]),
        ({"max_length": "long"}, ["kprune.json is damaged", "task.max_length"]),
        ({"batch_size": -1}, ["kprune.json is damaged", "task.batch_size"]),
        ({"label_names": {"a": 1}}, ["kprune.json is damaged", "task.label_names"]),
        ({"label_names": ["a", "b"]}, ["has 3 labels"]),
        ({"text": ["stars", "stars", "stars"]}, ["names 3 columns"]),
        ({"text": ["nothing"]}, ["no column nothing"]),
        ({"problem": "ranking"}, ["task.problem=ranking"]),
        ({"problem": ["x"]}, ["task.problem"]),
    ],
)
def test_a_tampered_record_is_one_line(tampered, monkeypatch, entries, words):
    folder, opened = tampered(**entries), []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: pytest.fail(f"{name} was looked for"))
    original = builtins.open
    monkeypatch.setattr(builtins, "open", lambda file, *a, **k: opened.append(str(file)) or original(file, *a, **k))
    refused(folder, words=words)
    assert not {"/etc/passwd", "/dev/zero"} & set(opened)


def test_a_records_libraries_are_those_of_the_file(tampered, monkeypatch):
    """A module whose name has a dot would be imported by looking for it."""
    file = {
        "kind": "docstrings",
        "name": "docstrings",
        "libraries": {"a": {"module": "x.y", "package": "x", "names": []}},
    }
    built = []

    def stop(folder, task):
        built.append(task)
        raise UserError("enough")

    monkeypatch.setattr(saved, "load_model", stop)
    refused(tampered(**file), words=["enough"])
    assert list(built[0].libraries) == configured([]).task.build().label_names
    with pytest.raises(UserError, match="x.y is no top-level module"):
        configured(["task.libraries.sympy.module=x.y"]).task.build().evaluation_table()


@pytest.mark.parametrize(
    "entries, words",
    [
        ({"quantization_config": {"quant_method": "evil"}}, ["quanti"]),
        ({"attn_implementation": "evil/kernel"}, ["evil/kernel"]),
        ({"_attn_implementation": "evil/kernel"}, ["evil/kernel"]),
        ({"architectures": [{}]}, ["without a named head"]),
        ({"architectures": "Bert"}, ["without a named head"]),
        ({"architectures": None}, ["without a named head"]),
        ({"num_attention_heads": 0}, ["does not load"]),
        ({"num_attention_heads": 7}, ["does not load"]),
        ({"hidden_size": 32000}, ["hidden_size=32000", "weights have"]),
        ({"hidden_size": 96}, ["copy the checkpoint again"]),
        ({"hidden_size": "large"}, ["hidden_size=large"]),
        ({"num_hidden_layers": 10**7}, ["num_hidden_layers=10000000"]),
        ({"num_hidden_layers": 90}, ["copy the checkpoint again"]),
        ({"intermediate_size": 10**9}, ["intermediate_size=1000000000"]),
        ({"vocab_size": 10**9}, ["vocab_size=1000000000"]),
        ({"num_labels": 10**9, "id2label": None}, ["1000000000 labels"]),
        ({"model_type": ["bert"]}, ["is not supported"]),
        ({"model_type": None}, ["is not supported"]),
        ({"vocab_size": "large"}, ["vocab_size=large"]),
        ({"num_labels": "three", "id2label": None}, ["num_labels=three"]),
        ({"id2label": {"0": "a", "1": "b", "2": ["c"]}, "label2id": [1]}, ["id2label"]),
        ({"max_position_embeddings": 10**12}, ["copy the checkpoint again"]),
        ({"max_position_embeddings": "many"}, ["does not load"]),
        ({"auto_map": {"AutoConfig": "evil--repo.Config"}}, None),
        ({"pruned_heads": {}, "attn_implementation": "eager"}, None),
    ],
)
def test_a_tampered_dense_config_is_one_line(world, tmp_path, entries, words):
    folder = tmp_path / "dense"
    shutil.copytree(world / "checkpoint", folder)
    config = json.loads((folder / "config.json").read_text()) | entries
    (folder / "config.json").write_text(json.dumps(config))
    task = [option for option in overrides(world) if option.startswith("task")]
    if words is None:  # the library's own class is taken, and no code of the folder's
        assert 0 <= scored(folder, *task) <= 100
    else:
        refused(folder, *task, words=words)


@pytest.mark.parametrize("file", ["kprune.json", "config.json"])
def test_a_file_nested_without_end_is_one_line(made, tmp_path, file):
    folder = shutil.copytree(made[0], tmp_path / "nested")
    (folder / file).write_text('{"task":' * 100_000)
    refused(folder, words=[f"{file} is damaged"])


def test_weights_are_read_in_the_folder_alone(world, tmp_path):
    folder = tmp_path / "dense"
    shutil.copytree(world / "checkpoint", folder)
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"classifier.weight": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    task = [option for option in overrides(world) if option.startswith("task")]
    refused(folder, *task, words=["index.json is damaged"])
    (tmp_path / "outside.safetensors").rename(folder / "model.safetensors")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/model"}')
    refused(folder, *task, words=["adapter_config.json", "merge"])
