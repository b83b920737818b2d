"""Single numbers of the pages' prose."""

import pytest
from records import FIRST_VERSION

from analysis.numbers import Numbers, number_asked
from analysis.records import load

CONFIG = {"method": {"lambdas": [0.1], "mu": 1.0, "knowledge": {"temperature": 2.0}}}


@pytest.fixture
def numbers(write_cell, outputs, tmp_path):
    """Three tasks, of which RTE's dense model is near the majority; K-prune and K-prune+ with two budgets, one of them on one task."""
    for task, majority, lost in (("mrpc", 70.0, 4.0), ("sst2", 50.0, 8.0), ("rte", 79.0, 40.0)):
        for method, share, seconds in (("kprune", 1.0, 10.0), ("kprune_plus", 0.25, 20.0)):
            for tokens in (20000, 100000):
                if tokens == 100000 and task == "sst2" and method == "kprune_plus":
                    continue
                write_cell(
                    task=task,
                    method=method,
                    dense_score=80.0,
                    score=80.0 - share * lost * 20000 / tokens,
                    evaluation={"split": "validation", "examples": 408, "majority": majority, "sha256": "cd34"},
                    variant={"tokens": tokens},
                    config=CONFIG | {"calibration": {"tokens": tokens}},
                    pruning_seconds=seconds * (1.5 if task == "rte" and method == "kprune" else 1),
                    latency=FIRST_VERSION["latency"]
                    | {"speedup": 4.0 if method == "kprune" else (1.0 if task == "rte" else 2.0)},
                )
    (tmp_path / "latency.csv").write_text(
        "runtime,speedup,repeats\neager,3.96,9\neager,9.0,1\ncompile,5.04,3\nonnx,2.0,9\n"
    )
    (tmp_path / "bench.csv").write_text(
        "shape,tokens,method,seconds,device\nminilm,900,kprune,10,a\nminilm,900,kprune_plus,25,a\nminilm,1900,kprune,10,a\n"
        "minilm,1900,kprune_plus,15,a\nminilm,1900,kprune_plus,90,b\nbert_base,900,kprune,10,a\n"
    )
    return Numbers(load(outputs), tmp_path)


@pytest.mark.parametrize(
    "call, value",
    [
        ("loss kprune 0.8 20000", "6.00"),
        ("loss kprune_plus 0.8 20000", "1.50"),
        ("loss kprune_plus 0.8 100000", "–"),
        ("loss kprune_plus 0.7 20000", "–"),
        ("loss-on mrpc kprune_plus 0.8 100000", "0.20"),
        ("loss-on rte kprune_plus 0.8 100000", "–"),
        ("ratio kprune_plus 20000 kprune 20000 0.8", "0.25"),
        ("ratio kprune_plus 20000 kprune 100000 0.8", "1.25"),
        ("ratio kprune_plus 20000 kwon 100000 0.8", "–"),
        ("tasks", "2"),
        ("cost lowest kprune_plus kprune", "1.3"),
        ("cost highest kprune_plus kprune", "2.0"),
        ("cost highest kprune_plus kwon", "–"),
        ("bench lowest kprune_plus kprune", "1.5"),
        ("bench highest kprune_plus kprune", "2.5"),
        ("bench highest kprune_plus kwon", "–"),
        # Two cells of MRPC, two of RTE, one of SST-2: (½ ½ ¼ ¼ ½)^(1/5).
        ("relative-speed kprune_plus kprune", f"{2 ** (-7 / 5):.2f}"),
        ("relative-speed kprune_plus kwon", "–"),
        ("speedup lowest latency.csv", "2.0"),
        ("speedup lowest latency.csv runtime=eager,compile", "4.0"),
        ("speedup highest latency.csv runtime=eager", "4.0"),
        ("speedup highest latency.csv runtime=tpu", "–"),
        ("speedup highest other.csv", "–"),
    ],
)
def test_numbers(numbers, call, value):
    assert number_asked(call, numbers) == value
