"""Settings of a wrong kind are one line, before anything is loaded or written."""

import re

import pytest
from tiny import tiny_model
from world import overrides

from experiments.cell import runner, saved
from experiments.config.composing import CONF, compose_cell, file_defaults
from experiments.config.settings import GROUPS, KINDS, check_settings
from experiments.inputs import subject
from kprune.errors import UserError

TASKS = sorted(path.stem for path in (CONF / "task").glob("*.yaml"))


@pytest.mark.parametrize(
    "override, remedy",
    [
        *((f"flops_reduction={value}", "flops_reduction=0.8") for value in ("abc", "null", "80%", "nan", "true")),
        *((f"seed={value}", "whole number from 0") for value in ("abc", "-1", "0.5", "null", "true")),
        *((f"threads={value}", "whole number from 1") for value in ("abc", "-1", "0", "99999999999")),
        *((f"calibration.tokens={value}", "number above 0") for value in ("abc", "null", "-5", "inf")),
        *((f"calibration.examples={value}", "whole number from 1") for value in ("abc", "0", "2.5")),
        ("'calibration.file=set.json' 'calibration.examples=3'", "calibration.file has its examples already"),
        *((f"{name}=null", f"{name}=") for name in ("device", "outputs", "format", "budget", "grain", "force")),
        *((f"latency.batch_size={value}", "whole number from 1") for value in ("0", "abc")),
        ("latency.sequence_length=abc", "whole number from 1"),
        *((f"latency={value}", "latency.batch_size=32") for value in ("3", "false")),
        *(
            (f"task.{name}={value}", f"task.{name}=")
            for name in ("batch_size", "max_length")
            for value in ("0", "abc", "1.5")
        ),
        ("task.average_length=0", "number above 0"),
        ("task.text=[1]", "list of texts"),
        ("+task.finetuning=fast", "table of settings"),
        *((f"{name}=maybe", "true or false") for name in ("save_model", "force", "onnx")),
        ("+flop_reduction=0.6", "use flops_reduction"),
        ("+latency.warm_up=3", "latency.warm_up is unknown"),
        ("+calibration.token=3", "use calibration.tokens"),
        ("~seed", "seed=0"),
        ("model.checkpoint=3", "model.checkpoint=FOLDER"),
        ("tracking.mode=on", "one of offline, online, disabled"),
        *((f"'budget=latency' 'speedup={value}'", "finite number") for value in ("nan", "inf", "fast")),
    ],
)
def test_a_value_of_a_wrong_kind_is_told_before_anything_is_loaded(world, tmp_path, monkeypatch, override, remedy):
    monkeypatch.setattr(runner, "subject_for", lambda config: pytest.fail("something was loaded"))
    several = re.findall("'(.*?)'", override) or [override]
    config, _ = compose_cell([*overrides(world), f"outputs={tmp_path / 'o'}", *several])
    with pytest.raises(UserError, match=re.escape(remedy)) as error:
        runner.run_cell(config, file_defaults("kprune", "default"), "single", False, "")
    name = several[-1].partition("=")[0].lstrip("+~")
    assert name in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("group", [group for group in GROUPS if group != "latency"])
def test_a_group_that_is_null_is_told_as_it_is_composed(group):
    with pytest.raises(UserError, match=f"{group}=null: .*as in method=kprune"):
        compose_cell([f"{group}=null"])


@pytest.mark.parametrize("task", TASKS)
def test_the_config_files_are_in_order_and_no_setting_of_theirs_is_unchecked(task):
    config, _ = compose_cell([f"task={task}"])
    check_settings(config)
    named = {name.partition(".")[0] for name in KINDS}
    assert named == set(config)


@pytest.mark.parametrize(
    "override",
    [
        "latency=null",
        "calibration.tokens=1e5",
        "threads=2",
        "save_model=false",
        "+task.finetuning={epochs: 1}",
        "task.text=review",
        "task.label_names=[a,b]",
    ],
)
def test_what_is_right_is_not_refused(override):
    check_settings(compose_cell(["task=custom", override])[0])


def test_latency_is_not_measured_on_more_than_the_model_reads(world, tmp_path, monkeypatch):
    monkeypatch.setenv("KPRUNE_CACHE", str(world / "cache"))
    monkeypatch.setattr(runner, "prune_cell", lambda *_: pytest.fail("something was pruned"))
    config, defaults = compose_cell([*overrides(world), f"outputs={tmp_path / 'o'}", "latency.sequence_length=65"])
    with pytest.raises(UserError, match="sequence_length=65 is more than the 64 tokens"):
        runner.run_cell(config, defaults, "single", False, "")
    subject.check_latency_point({"sequence_length": 64}, tiny_model())
    with pytest.raises(UserError, match="the 62 tokens"):
        subject.check_latency_point({"sequence_length": 64}, tiny_model("roberta"))


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"task": null}', "null", "{", '{"task": {"name": "a"}}', '{"task": {"name": []}}']
)
def test_a_saved_models_damaged_record_is_one_line(world, tmp_path, content):
    (tmp_path / "kprune.json").write_text(content)
    config, _ = compose_cell([*overrides(world), f"evaluate={tmp_path}"])
    with pytest.raises(UserError, match="kprune.json is damaged") as error:
        saved.evaluate_saved(config)
    assert "\n" not in str(error.value)
