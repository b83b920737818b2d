"""What identifies a cell, and what of it a changed file changes."""

import os
import shutil

import pytest
from records import record
from world import overrides

from experiments.cell.identity import contents, identity_of, sha256_of
from experiments.config.cell import configured
from experiments.store import results
from experiments.store.record import CheckpointUsed
from kprune.errors import UserError
from kprune.methods.kprune.algorithm import KPrune


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch):
    monkeypatch.delenv("KPRUNE_MIRROR", raising=False)


def test_a_cell_without_files_of_ones_own_is_identified_as_ever():
    identity = identity_of(configured(["task=mrpc"]))
    assert set(identity) == {"task", "model", "method", "calibration", "seed", "latency", "flops_reduction"}


def test_where_states_lie_is_told_if_it_is_chosen():
    plus = ["task=mrpc", "method=kprune_plus"]
    usual, chosen = (identity_of(configured([*plus, *more]))["method"] for more in ([], ["method.states=disk"]))
    assert not {"states", "layers_on"} & set(usual) and chosen == usual | {"states": "disk"}


def test_where_examples_are_counted_tokens_are_not():
    cell = configured(["task=mrpc", "calibration.examples=9"])
    assert "tokens" not in identity_of(cell)["calibration"] and cell.variant.plain() == {"examples": 9}


def test_changed_data_are_another_configuration(world, tmp_path):
    shutil.copytree(world / "checkpoint", tmp_path / "checkpoint")
    files = {name: tmp_path / name for name in ("train.csv", "evaluation.csv", "calibration.json")}
    for file in files.values():
        file.write_text(file.name)
    named = ["task.train_file", "task.evaluation_file", "calibration.file", "model.checkpoint"]
    parts = ["model.checkpoint (tokenizer)", "model.checkpoint (config.json)"]
    paths = [*files.values(), tmp_path / "checkpoint"]
    given = [f"{name}={path}" for name, path in zip(named, paths, strict=True)]
    config = configured([*overrides(world), "calibration.tokens=100000", *given])
    before = identity_of(config)
    assert list(before["contents"]) == [*named, *parts]
    inside = [tmp_path / "checkpoint" / name for name in ("model.safetensors", "tokenizer.json", "config.json")]
    for name, file in zip([*named, *parts], [*files.values(), *inside], strict=True):
        was = file.read_bytes()
        os.utime(file, ns=(0, 0))
        assert identity_of(config) == before, "a date alone changes nothing"
        file.write_bytes(was + b" ")
        now = identity_of(config)
        assert {key for key in now["contents"] if now["contents"][key] != before["contents"][key]} == {name}
        assert {**now, "contents": None} == {**before, "contents": None}
        file.write_bytes(was)
        os.utime(file, ns=(1, 1))


def test_a_file_more_of_the_tokenizers_is_another_configuration(world, tmp_path):
    shutil.copytree(world / "checkpoint", tmp_path / "checkpoint")
    config = configured([*overrides(world), f"model.checkpoint={tmp_path / 'checkpoint'}"])
    before = contents(config)
    (tmp_path / "checkpoint/added_tokens.json").write_text("{}")
    changed = {name for name, hashed in contents(config).items() if hashed != before[name]}
    assert changed == {"model.checkpoint (tokenizer)"}


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_the_mirrors_reference_checkpoint_is_part_of_a_cell(world, tmp_path, monkeypatch, file):
    """A finished cell is not taken for this one if the reference was replaced in between."""
    config = configured(["task=mrpc", "model=minilm"])
    assert "contents" not in identity_of(config)
    reference = tmp_path / "kprune-reference/minilm-l6-mrpc"
    shutil.copytree(world / "checkpoint", reference)
    monkeypatch.setenv("KPRUNE_MIRROR", str(tmp_path))
    before = identity_of(config)
    assert list(before["contents"]) == ["reference", "reference (tokenizer)", "reference (config.json)"]
    (reference / file).write_bytes((reference / file).read_bytes() + b" ")
    assert identity_of(config) != before


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("task", ["wikitext2", "mrpc"], ids=["pruned as it is", "fine-tuned first"])
def test_the_pretrained_model_is_part_of_a_cell_if_nothing_goes_before_it(world, tmp_path, file, task):
    shutil.copytree(world / "checkpoint", tmp_path / "model")
    config = configured([f"task={task}", "model=smollm2", f"model.pretrained={tmp_path / 'model'}"])
    before = identity_of(config)
    assert list(before["contents"]) == ["pretrained", "pretrained (tokenizer)", "pretrained (config.json)"]
    (tmp_path / "model" / file).write_bytes((tmp_path / "model" / file).read_bytes() + b" ")
    assert identity_of(config) != before
    given = configured([f"task={task}", "model=smollm2", f"model.checkpoint={tmp_path / 'model'}"])
    assert not any(name.startswith("pretrained") for name in contents(given))


def test_a_record_from_before_pretrained_models_were_told_of_stands_if_its_weights_are_these(world, tmp_path):
    config = configured(["task=wikitext2", "model=smollm2", f"model.pretrained={world / 'checkpoint'}"])
    identity = identity_of(config)
    before = {name: value for name, value in identity.items() if name != "contents"}
    weights = identity["contents"]["pretrained"]
    for source, sha256 in (("pretrained", weights), ("cache", "of what was fine-tuned")):
        results.write_json(tmp_path / "result.json", record(config=before, checkpoint=CheckpointUsed(source, sha256)))
        assert results.finished(tmp_path, identity)
    results.write_json(
        tmp_path / "result.json", record(config=before, checkpoint=CheckpointUsed("pretrained", "0" * 64))
    )
    with pytest.raises(UserError, match=f'contents.pretrained was "{"0" * 64}", is "{weights}"'):
        results.finished(tmp_path, identity)


def test_a_methods_version_is_part_of_a_cell(monkeypatch):
    assert "method_version" not in identity_of(configured(["method=kprune"]))
    monkeypatch.setattr(KPrune, "version", 7)
    assert identity_of(configured(["method=kprune"]))["method_version"] == 7


def test_a_record_of_other_data_is_refused_and_the_file_named(world, tmp_path):
    config = configured([*overrides(world), "model.checkpoint=null"])
    stands = identity_of(config)
    stands["contents"] = {"task.train_file": "0" * 16}
    results.write_json(tmp_path / "result.json", record(config=stands))
    sha = sha256_of(world / "data.csv")
    with pytest.raises(UserError, match=f'contents.task.train_file was "{"0" * 16}", is "{sha}"'):
        results.finished(tmp_path, identity_of(config))


def test_a_file_that_is_nowhere_is_left_to_who_reads_it(world):
    config = configured([*overrides(world), "task.train_file=/nowhere.csv", "model.checkpoint=org/of_the_hub"])
    assert contents(config) == {}
