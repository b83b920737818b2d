"""What identifies a cell, and what of it a changed file changes."""

import os
import shutil

import pytest
from world import overrides

from experiments.config.composing import compose_cell
from experiments.store import results
from experiments.store.identity import contents, identity_of, sha256_of, variant_of
from kprune.errors import UserError


def test_a_cell_without_files_of_ones_own_is_identified_as_ever():
    identity = identity_of(compose_cell(["task=mrpc"])[0])
    assert set(identity) == {"task", "model", "method", "calibration", "seed", "latency", "flops_reduction"}


def test_where_examples_are_counted_tokens_are_not():
    cells = [compose_cell(["task=mrpc", "calibration.examples=9", *more]) for more in ([], ["calibration.tokens=500"])]
    assert identity_of(cells[0][0]) == identity_of(cells[1][0])
    assert [variant_of(*cell) for cell in cells] == [{"examples": 9}] * 2


def test_changed_data_are_another_configuration(world, tmp_path):
    shutil.copytree(world / "checkpoint", tmp_path / "checkpoint")
    files = {name: tmp_path / name for name in ("train.csv", "evaluation.csv", "calibration.json")}
    for file in files.values():
        file.write_text(file.name)
    named = ["task.train_file", "task.evaluation_file", "calibration.file", "model.checkpoint"]
    paths = [*files.values(), tmp_path / "checkpoint"]
    config, _ = compose_cell([*overrides(world), *(f"{n}={path}" for n, path in zip(named, paths, strict=True))])
    before = identity_of(config)
    assert list(before["contents"]) == named
    for name, file in zip(named, [*files.values(), tmp_path / "checkpoint/model.safetensors"], strict=True):
        was = file.read_bytes()
        os.utime(file, ns=(0, 0))
        assert identity_of(config) == before, "a date alone changes nothing"
        file.write_bytes(was + b"more")
        now = identity_of(config)
        assert {key for key in named if now["contents"][key] != before["contents"][key]} == {name}
        assert {**now, "contents": None} == {**before, "contents": None}
        file.write_bytes(was)
        os.utime(file, ns=(1, 1))


def test_a_record_of_other_data_is_refused_and_the_file_named(world, tmp_path):
    config, _ = compose_cell([*overrides(world), "model.checkpoint=null"])
    stands = identity_of(config)
    stands["contents"] = {"task.train_file": "0" * 16}
    results.write_json(tmp_path / "result.json", {"config": stands, "score": 1.0, "details": {}})
    sha = sha256_of(world / "data.csv")
    with pytest.raises(UserError, match=f'contents.task.train_file was "{"0" * 16}", is "{sha}"'):
        results.finished(tmp_path, identity_of(config))


def test_a_file_that_is_nowhere_is_left_to_who_reads_it(world):
    config, _ = compose_cell([*overrides(world), "task.train_file=/nowhere.csv", "model.checkpoint=org/of_the_hub"])
    assert contents(config) == {}
