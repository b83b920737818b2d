"""Settings of a wrong kind are one line, before anything is loaded or written."""

import re

import pytest
from tiny import tiny_model
from world import overrides

from experiments.cell import saved
from experiments.cell.runner import run_cell
from experiments.config.cell import configured
from experiments.config.composing import CONF, compose_cell
from experiments.config.groups import LatencyPoint
from experiments.config.reading import GROUPS, KINDS, OPTIONAL
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
        ("'calibration.file=set.json' 'calibration.tokens=5'", "calibration.tokens=5 would be ignored"),
        ("'calibration.examples=3' 'calibration.tokens=5'", "calibration.examples=3 counts examples"),
        (
            "'method=wanda' 'sparsity=0.5' 'latency.batch_size=8'",
            "latency.batch_size=8 latency.sequence_length=8 is never",
        ),
        ("'method=ebert' 'latency.batch_size=8'", "latency.batch_size=8 latency.sequence_length=8 is never"),
        *(
            (
                f"'method=ebert' 'latency.batch_size=null' 'latency.sequence_length=null' '{option}'",
                f"{option} would save nothing",
            )
            for option in ("save_model=true", "format=dense", "onnx=int8")
        ),
        *((f"{name}=null", f"{name}=") for name in ("device", "outputs", "budget", "grain", "force")),
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
        ("onnx=int4", "one of int8"),
        ("+flop_reduction=0.6", "use flops_reduction"),
        ("+latency.warm_up=3", "latency.warm_up is unknown"),
        ("+calibration.token=3", "use calibration.tokens"),
        ("~seed", "seed=0"),
        ("model.checkpoint=3", "model.checkpoint=FOLDER"),
        ("tracking.mode=on", "one of offline, online, disabled"),
        *((f"'budget=latency' 'speedup={value}'", "finite number") for value in ("nan", "inf", "fast")),
    ],
)
def test_a_value_of_a_wrong_kind_is_told_before_anything_is_loaded(world, tmp_path, override, remedy):
    several = re.findall("'(.*?)'", override) or [override]
    with pytest.raises(UserError, match=re.escape(remedy)) as error:
        configured([*overrides(world), f"outputs={tmp_path / 'o'}", *several])
    name = several[-1].partition("=")[0].lstrip("+~")
    assert name in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("group", [group for group in GROUPS if group != "latency"])
def test_a_group_that_is_null_is_told_as_it_is_composed(group):
    with pytest.raises(UserError, match=f"{group}=null: .*as in method=kprune"):
        compose_cell([f"{group}=null"])


@pytest.mark.parametrize("task", TASKS)
def test_the_config_files_are_in_order_and_no_setting_of_theirs_is_unchecked(task, tmp_path):
    (tmp_path / "own.txt").write_text("a text")
    files = {"custom": "csv"} | dict.fromkeys(("custom_tokens", "custom_choice", "custom_reranking"), "jsonl")
    own = {name: [f"task.train_file=own.{kind}"] for name, kind in files.items()}
    own |= {name: [f"task.evaluation_file={tmp_path / 'own.txt'}"] for name in ("custom_text", "custom_masked")}
    overrides = [f"task={task}", *own.get(task, [])]
    configured(overrides)
    named = {name.partition(".")[0] for name in KINDS}
    assert named == set(compose_cell(overrides)[0])
    assert set(GROUPS) == named - {name for name in KINDS if "." not in name}
    assert not set(KINDS) & set(OPTIONAL)


def test_everything_that_is_wrong_is_told_at_once(world):
    wrong = {
        "seed=abc": "seed=abc is not a whole number",
        "flops_reduction=1.5": "flops_reduction=1.5 is outside (0, 1)",
        "speedup=3": "speedup=3 goes with another budget",
        "calibration.tokens=0": "calibration.tokens=0 is not a number above 0",
        "method.mu=-1": "method.mu=-1 is out of range",
        "method.knowledge.temperature=0": "method.knowledge.temperature=0 is out of range",
        "task.max_length=0": "task.max_length=0 is not a whole number",
        "task.problem=ranking": "",
        "format=nonsense": "format=nonsense is unknown",
        "tracking.mode=on": "tracking.mode=on is not one of",
        "+flop_reduction=0.6": "flop_reduction is unknown",
        "~force": "force is missing",
    }
    given = [entry for entry in overrides(world) if not entry.startswith(("calibration.tokens", "task.max"))]
    with pytest.raises(UserError) as error:
        configured([*given, *wrong])
    lines = str(error.value).splitlines()
    for words in filter(None, wrong.values()):
        assert sum(words in line for line in lines) == 1, words
    assert len(lines) == len(set(lines)) == sum(map(bool, wrong.values()))


def test_one_mistake_is_not_told_twice(world):
    """What follows from a mistake is none of its own: a budget that is unknown has no amount that could be wrong."""
    with pytest.raises(UserError) as error:
        configured([*overrides(world), "budget=time", "flops_reduction=2"])
    assert str(error.value).count("\n") == 0


@pytest.mark.parametrize("name", ["task.name", "model.name", "model.encoder", "method.name"])
@pytest.mark.parametrize("value", ["../there", "a/b", "..", "a b"])
def test_a_name_that_would_leave_its_folder_is_refused(world, name, value):
    with pytest.raises(UserError, match=f"{name}=.*is not a name of letters"):
        configured([*overrides(world), f"{name}='{value}'"])


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
    configured(["task=custom", "task.train_file=own.csv", override])


def test_of_an_option_that_is_given_twice_the_last_one_counts(world):
    assert configured([*overrides(world), "seed=1", "method=magnitude", "seed=2", "method=kprune"]).seed == 2
    assert configured([*overrides(world), "method=magnitude", "method=kprune"]).method.name == "kprune"


def test_latency_is_not_measured_on_more_than_the_model_reads(world, tmp_path, monkeypatch):
    monkeypatch.setenv("KPRUNE_CACHE", str(world / "cache"))
    monkeypatch.setattr("experiments.cell.runner.prune_within", lambda *_: pytest.fail("something was pruned"))
    config = configured([*overrides(world), f"outputs={tmp_path / 'o'}", "latency.sequence_length=65"])
    with pytest.raises(UserError, match="sequence_length=65 is more than the 64 tokens"):
        run_cell(config, "single", "")
    subject.check_latency_point(LatencyPoint(1, 64), tiny_model())
    with pytest.raises(UserError, match="the 62 tokens"):
        subject.check_latency_point(LatencyPoint(1, 64), tiny_model("roberta"))


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"task": null}', "null", "{", '{"task": {"name": "a"}}', '{"task": {"name": []}}']
)
def test_a_saved_models_damaged_record_is_one_line(world, tmp_path, content):
    (tmp_path / "kprune.json").write_text(content)
    config = configured([*overrides(world), f"evaluate={tmp_path}"])
    with pytest.raises(UserError, match="kprune.json is damaged") as error:
        saved.evaluate_saved(config)
    assert "\n" not in str(error.value)
