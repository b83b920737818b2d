"""What is asked for as one type: read, written, sorted and refused in one place."""

import json
import subprocess
import sys

import pytest

from kprune.errors import UserError
from kprune.plan import Plan
from kprune.target import Target, number_text


@pytest.mark.parametrize(
    "text, target",
    [
        ("0.8", Target("flops", 0.8)),
        ("1e-05", Target("flops", 1e-5)),
        ("0.123456789", Target("flops", 0.123456789)),
        ("p0.2", Target("parameters", 0.2)),
        ("3x", Target("latency", 3.0)),
        ("2.5x", Target("latency", 2.5)),
        ("s0.5", Target("sparsity", 0.5)),
        ("2:4", Target("pattern", 2, 4)),
    ],
)
def test_what_is_written_reads_back(text, target):
    assert Target.parse(text) == target and str(target) == text
    assert Target.from_options(target.options()) == target
    assert target.is_sparsity == (text in ("s0.5", "2:4"))


def test_the_option_of_a_budget_says_its_amount_and_flops_need_no_budget():
    assert Target("flops", 0.8).options() == {"flops_reduction": 0.8}
    assert Target("latency", 3).options() == {"budget": "latency", "speedup": 3}
    assert Target.from_options({"flops_reduction": 0.7, "speedup": None}) == Target("flops", 0.7)
    assert Target("sparsity", 0.5).options() == {"sparsity": 0.5} and Target("pattern", 2, 4).options() == {
        "sparsity": "2:4"
    }
    assert Target.from_options({"flops_reduction": 0.8, "sparsity": 0.5}) == Target("sparsity", 0.5)
    assert Target("parameters", 0.2).requested("parameters") == 0.2
    assert Target("parameters", 0.2).requested("flops") is None


def test_targets_are_sorted_by_kind_and_size():
    texts = ["3x", "0.8", "p0.5", "2:4", "s0.6", "0.45", "10x", "p0.2", "s0.5"]
    assert sorted(texts, key=lambda text: Target.parse(text).order) == [
        "0.45",
        "0.8",
        "p0.2",
        "p0.5",
        "3x",
        "10x",
        "s0.5",
        "s0.6",
        "2:4",
    ]


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Target.parse("fast"), ["target 'fast' is unknown", "2:4"]),
        (lambda: Target.parse("-0.8"), ["unknown"]),
        (lambda: Target.parse("0.8 "), ["unknown"]),
        (lambda: Target.parse("1.5"), ["flops_reduction=1.5 is outside (0, 1)"]),
        (lambda: Target.parse("p0"), ["params_reduction=0 is outside (0, 1)", "such as 0.2"]),
        (lambda: Target.parse("1x"), ["speedup=1 asks for no speed-up"]),
        (lambda: Target.parse("4:4"), ["4:4", "such as 2:4"]),
        (lambda: Target.parse("0:4"), ["0:4"]),
        (lambda: Target.parse("s1"), ["sparsity=1 is outside (0, 1)", "such as 0.5, or a pattern such as 2:4"]),
        (lambda: Target.of_sparsity("half"), ["sparsity=half is not a number", "such as 2:4"]),
        (lambda: Target.of_sparsity("0.5"), ["sparsity='0.5' is not a number"]),
        (lambda: Target.of_sparsity(True), ["sparsity=True is not a number"]),
        (lambda: Target.of_sparsity("3:2"), ["3:2 removes nothing"]),
        (lambda: Target("flops", "0.8"), ["flops_reduction='0.8' is not a number"]),
        (lambda: Target("flops", float("nan")), ["flops_reduction=nan"]),
        (lambda: Target("latency", None), ["speedup=null asks for no speed-up"]),
        (lambda: Target("latency", float("inf")), ["speedup=inf"]),
        (lambda: Target.from_options({"budget": "time"}), ["budget=time is unknown", "flops, parameters or latency"]),
        (lambda: Target.from_options({}), ["flops_reduction=null"]),
    ],
)
def test_what_is_no_target_is_one_line(make, words):
    with pytest.raises(UserError) as error:
        make()
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_numbers_are_short_and_lose_nothing():
    assert [number_text(value) for value in (3.0, 3, 0.1, 1e-5, 100000.0)] == ["3", "3", "0.1", "1e-05", "100000"]
    assert float(number_text(1 / 3)) == 1 / 3


def test_targets_need_no_torch():
    code = "import sys, kprune.target, experiments.store.record; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_plan_written_before_sparsity_had_its_name_is_read():
    plan = Plan({"0.ffn": "neurons"}, {"0.ffn": 2}, {"0.ffn": [0, 1]}, sparsity=Target.parse("2:4"))
    written = json.loads(json.dumps(plan.to_json()))
    earlier = {"masks" if name == "sparsity" else name: value for name, value in written.items()}
    assert earlier["masks"] == "2:4" and Plan.from_json(earlier) == Plan.from_json(written) == plan
