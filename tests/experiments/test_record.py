"""The record: one schema, which reads what this and earlier versions wrote and names what is wrong."""

import json

import pytest
from records import RECORD, record

from experiments.store.record import Record
from experiments.store.variant import named, variant_of, variant_parts, variant_text
from kprune.errors import UserError
from kprune.target import Target

EARLIER = {key: value for key, value in RECORD.items() if key not in ("target", "plan", "params_reduction_requested")}


def test_what_is_written_reads_back():
    assert Record.from_json(json.loads(json.dumps(record().to_json()))) == record()
    assert record().to_json() == RECORD


def test_a_record_from_before_records_named_their_target():
    by_flops = Record.from_json(EARLIER)
    assert by_flops == record(plan=None) and by_flops.target == Target("flops", 0.8)
    asked = {"flops_reduction_requested": None, "config": {"budget": "latency", "speedup": 3}}
    assert str(Record.from_json(EARLIER | asked).target) == "3x"


def test_parts_that_earlier_versions_left_out_are_none_and_new_ones_are_left_out():
    short = Record.from_json(EARLIER | {"evaluation": {"split": "validation", "examples": 8}, "invented_later": 1})
    assert (short.evaluation.majority, short.evaluation.sha256) == (None, None)
    assert "invented_later" not in short.to_json()
    assert Record.from_json(EARLIER | {"latency": None}).latency is None


def test_numbers_that_are_none_are_null():
    assert record(details={"ridge": [1.0, float("inf")]}).to_json()["details"] == {"ridge": [1.0, None]}


@pytest.mark.parametrize(
    "content, wrong",
    [
        ([], "the record is"),
        (None, "the record is None"),
        ({}, "no target"),
        ({key: value for key, value in RECORD.items() if key != "score"}, "score is missing"),
        (RECORD | {"score": None}, "score is None"),
        (RECORD | {"score": "high"}, "score is 'high'"),
        (RECORD | {"seed": True}, "seed is True"),
        (RECORD | {"kept_heads": [1, "2"]}, "kept_heads is '2'"),
        (RECORD | {"latency": {"speedup": 2.0}}, "latency.device is missing"),
        (RECORD | {"evaluation": {"split": "validation", "examples": 8.5}}, "evaluation.examples is 8.5"),
        (RECORD | {"seconds_by_stage": {"knowledge": None}}, "seconds_by_stage.knowledge is None"),
        (RECORD | {"target": "fast"}, "target 'fast' is unknown"),
        (RECORD | {"config": None}, "config is None"),
        (RECORD | {"details": None}, "details is None"),
        (EARLIER | {"flops_reduction_requested": None}, "no target: flops_reduction=null"),
    ],
)
def test_what_is_no_record_is_named(tmp_path, content, wrong):
    with pytest.raises(ValueError, match="^" + wrong.replace("[", r"\[")):
        Record.from_json(content)
    (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"result.json is damaged \(") as error:
        Record.read(tmp_path / "result.json")
    assert wrong in str(error.value) and "\n" not in str(error.value)


def test_the_version_of_a_method_is_the_first_if_nothing_is_said():
    assert record().method_version == 1 and record(config={"method_version": 3}).method_version == 3


@pytest.mark.parametrize(
    "variant, text",
    [
        ({}, ""),
        ({"tokens": 1000, "lambdas": [1e-4, 1.0]}, "lambdas=0.0001_1,tokens=1000"),
        ({"file": "a/b,c"}, "file=a_b_c"),
        ({"mu": 2.0, "tuning": False, "measure_every": None}, "measure_every=None,mu=2,tuning=False"),
        ({"ridge": 0.123456789}, "ridge=0.123456789"),
    ],
)
def test_the_variant_has_one_text(variant, text):
    assert variant_text(variant) == text and variant_text(variant_parts(text)) == text
    assert named("kprune", variant) == (f"kprune+{text}" if text else "kprune")
    assert record(variant=variant).name == named("kprune", variant)


def test_a_variant_is_what_differs_from_the_files_own():
    defaults = {"method": {"mu": 1.0, "knowledge": {"kl": "a"}}, "calibration": {"tokens": 100, "file": None}}
    settings = {"method": {"mu": 1.0, "knowledge": {"kl": "b"}}, "calibration": {"file": "there/set.json"}}
    assert variant_of(settings, defaults) == {"kl": "b", "file": "set"}
    assert variant_of(defaults, defaults, grain=16) == {"grain": 16}
    assert variant_of(defaults, defaults, uniform=True) == {"uniform": True}
