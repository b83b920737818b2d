"""Records in their folders: found again, written whole or not at all."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from records import PREDICTED, RECORD, record, write_result

from experiments.scoring import predictions
from experiments.scoring.predictions import Predictions
from experiments.store import results
from experiments.store.provenance import commit, versions
from experiments.store.record import Record
from kprune.errors import UserError
from kprune.target import Target

ROOT = Path(__file__).parents[2]
FIXED = (
    "task model method variant seed metric higher_is_better dense_score score evaluation checkpoint "
    "flops_reduction_requested flops_reduction params_reduction kept_heads kept_neurons pruning_seconds "
    "seconds_by_stage peak_memory_mb calibration latency versions commit config"
).split()


def test_keys_are_the_fixed_ones_in_their_order():
    assert [field.name for field in fields(Record)][: len(FIXED)] == FIXED


@pytest.mark.parametrize(
    "variant, target, expected",
    [
        ({}, "0.8", "kprune/0.8/seed1"),
        ({}, "3x", "kprune/3x/seed1"),
        ({"tokens": 1000, "lambdas": [1e-4, 1.0]}, "0.7", "kprune+lambdas=0.0001_1,tokens=1000/0.7/seed1"),
        ({"file": "a/b"}, "p0.2", "kprune+file=a_b/p0.2/seed1"),
        ({}, "2:4", "kprune/2:4/seed1"),
    ],
)
def test_folder_of_a_cell(variant, target, expected):
    path = results.cell_folder("out", "mrpc", "minilm", "kprune", variant, Target.parse(target), 1)
    assert path == Path("out/mrpc/minilm") / expected


def test_a_finished_cell_is_found(folder):
    assert results.finished(folder, {"seed": 0}) is None
    written = write_result(folder, record())
    assert results.finished(folder, {"seed": 0}) == written
    assert sorted(os.listdir(folder)) == ["predictions.npz", "result.json"]
    assert (folder / "result.json").stat().st_mode & 0o777 == 0o644


def test_another_configuration_is_an_error(folder):
    write_result(folder, record(config={"seed": 0, "calibration": {"tokens": 1000}}))
    with pytest.raises(UserError, match=r"\(calibration.tokens was 1000, is 2000\)") as error:
        results.finished(folder, {"seed": 0, "calibration": {"tokens": 2000}})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "one, other, expected",
    [
        ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": 1, "d": 3}}}, ("a.b.d", 2, 3)),
        ({"a": 1}, {"a": 1, "b": None}, ("b", None, None)),
        ({"a": {"b": 1}}, {"a": None}, ("a", {"b": 1}, None)),
        ({"a": [1, 2]}, {"a": [1]}, ("a", [1, 2], [1])),
    ],
)
def test_the_setting_that_differs_is_named_by_its_leaf(one, other, expected):
    assert results.first_difference(one, other) == expected


@pytest.mark.parametrize("keep", [0, 1, 50, -3])
def test_a_truncated_record_is_said_and_run_again(folder, capsys, keep):
    write_result(folder, record())
    path = folder / "result.json"
    path.write_bytes(path.read_bytes()[:keep])
    assert results.finished(folder, {"seed": 0}) is None
    assert f"{path} is damaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        "null",
        json.dumps(RECORD | {"config": None}),
        json.dumps(RECORD | {"score": None}),
        json.dumps({key: value for key, value in RECORD.items() if key != "details"}),
        json.dumps(RECORD | {"details": None}),
    ],
)
def test_a_record_of_something_else_is_damaged(folder, content):
    (folder / "result.json").write_text(content)
    assert results.finished(folder, {"seed": 0}) is None


def test_numbers_that_are_none_are_null(folder):
    write_result(folder, record(details={"ridge": [1.0, float("inf")]}))
    content = json.loads((folder / "result.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["details"]["ridge"] == [1.0, None]


def test_a_process_killed_while_writing_leaves_nothing_finished(folder):
    code = (
        "import os, sys; from pathlib import Path; from experiments.store import results;"
        "os.replace = lambda *names: os._exit(9); results.write_json(Path(sys.argv[1]), {'config': {}, 'score': 1})"
    )
    killed = subprocess.run([sys.executable, "-c", code, folder / "result.json"], cwd=ROOT, check=False)
    assert killed.returncode == 9
    assert os.listdir(folder) and results.finished(folder, {}) is None


def test_a_full_disk_is_one_line_and_leaves_nothing(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_result(folder, record())
    assert not os.listdir(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def save_model(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{}")


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("file", [1, 2])
def test_a_disk_that_fills_up_changes_nothing(folder, monkeypatch, earlier, file):
    if earlier:
        write_result(folder, record(), model=save_model)
    before, synced = contents(folder), []

    def full(_):
        synced.append(1)
        if len(synced) == file:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_result(folder, record(score=71.0), model=save_model)
    assert contents(folder) == before and bool(before) == earlier


def test_a_second_result_takes_the_firsts_place(folder):
    write_result(folder, record(), model=save_model)
    assert set(contents(folder)) == {"result.json", "predictions.npz", "model/config.json"}
    (folder / results.STAGE).mkdir()  # a killed run's
    (folder / results.STAGE / "model").write_text("")
    write_result(folder, record(score=71.0))
    assert sorted(os.listdir(folder)) == ["predictions.npz", "result.json"]  # no model of another run beside them
    assert results.finished(folder, {"seed": 0}).score == 71.0


@pytest.mark.parametrize("outputs", ["file", "/proc/none"])
def test_outputs_that_are_not_writable_are_one_line(tmp_path, outputs):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="outputs=FOLDER"), results.locked(tmp_path / outputs / "cell"):
        pass


def test_a_failed_cell_leaves_no_folder(tmp_path):
    folder = results.cell_folder(str(tmp_path / "out"), "mrpc", "minilm", "kprune", {}, Target("flops", 0.8), 0)
    with pytest.raises(UserError, match="wrong"), results.locked(folder):
        raise UserError("wrong input: mend it")
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("changes", [{"score": float("inf")}, {"kept_heads": [2.0, float("nan")]}])
def test_a_record_that_could_not_be_read_again_is_not_written(folder, changes):
    write_result(folder, record())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"nothing is written, .*{next(iter(changes))} is None.*: remove less"):
        write_result(folder, record(**changes), model=save_model)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_record_never_stands_without_its_predictions(folder, monkeypatch):
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (moved.append(Path(new)), replace(old, new)))
    write_result(folder, record(), model=save_model)
    names = [path.name for path in moved if path.parent == folder]
    assert names == [results.READY, "model", "predictions.npz", "result.json"]


class Interruption(BaseException):
    """A process that ends."""


def interrupt(monkeypatch, calls: int) -> None:
    """End the process in the place of the n-th change that it makes to files."""
    left = [calls]

    def ending(change):
        def changed(*arguments, **options):
            if left[0] <= 0:
                raise Interruption
            left[0] -= 1
            return change(*arguments, **options)

        return changed

    monkeypatch.setattr(os, "replace", ending(os.replace))
    monkeypatch.setattr(results.shutil, "rmtree", ending(results.shutil.rmtree))
    monkeypatch.setattr(Path, "unlink", ending(Path.unlink))


@pytest.mark.parametrize("earlier_has_model", [False, True])
@pytest.mark.parametrize("later_has_model", [False, True])
def test_an_interruption_at_any_point_leaves_one_whole_result(
    folder, tmp_path, monkeypatch, earlier_has_model, later_has_model
):
    """The earlier one or the later, with its own predictions and model, once the next process has the cell."""

    def model(text):
        return lambda place: (place.mkdir(), (place / "config.json").write_text(text))

    other = Predictions("accuracy", np.array([True, True, True]))
    seen, n = set(), 0
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_result(folder, record(score=70.0), PREDICTED, model("70") if earlier_has_model else None)
        with monkeypatch.context() as patch:
            interrupt(patch, n)
            try:
                write_result(folder, record(score=71.0), other, model("71") if later_has_model else None)
                ended = True
            except Interruption:
                ended = False
        for again in range(3):  # nothing is lost either if the process that mends it is interrupted
            with monkeypatch.context() as patch, contextlib.suppress(Interruption):
                interrupt(patch, again)
                with results.locked(folder):
                    pass
        with results.locked(folder):
            found = results.finished(folder, {"seed": 0})
        assert found is not None, f"lost after {n} changes"
        seen.add(found.score)
        later = found.score == 71.0
        assert predictions.load(folder / "predictions.npz").score == (other if later else PREDICTED).score
        has_model = later_has_model if later else earlier_has_model
        assert (folder / "model").is_dir() == has_model
        if has_model:
            assert (folder / "model/config.json").read_text() == f"{found.score:.0f}"
        assert set(os.listdir(folder)) <= {"result.json", "predictions.npz", "model", results.STAGE}
        n += 1
        if ended:
            break
    assert seen == {70.0, 71.0} and n > 5


def test_where_a_result_comes_from(monkeypatch):
    assert {"python", "torch", "transformers", "datasets", "kprune"} <= set(versions())
    assert versions()["python"] == sys.version.split()[0]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    if head.returncode == 0:
        assert commit().removesuffix("-dirty") == head.stdout.strip()
    monkeypatch.setenv("PATH", "")
    assert commit() is None
