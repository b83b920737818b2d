import pytest
from records import FIRST_VERSION

from analysis.aggregate import aggregate
from analysis.records import load
from analysis.tables import TABLES


@pytest.fixture
def cells(write_cell, outputs):
    """K-prune+ on two tasks at two shares, on a third at one of them; Kwon et al. on one."""
    for task, target, score, speedup in (
        ("mrpc", "0.6", 79.0, 2.0),
        ("mrpc", "0.8", 78.0, 3.0),
        ("sst2", "0.6", 77.0, 4.0),
        ("sst2", "0.8", 70.0, 12.0),
        ("qnli", "0.8", 50.0, 1.0),
    ):
        method = {"method": "kprune_plus", "target": target, "flops_reduction_requested": float(target)}
        more = {"params_reduction": float(target) - 0.1, "latency": FIRST_VERSION["latency"] | {"speedup": speedup}}
        write_cell(task=task, dense_score=80.0, score=score, **method, **more)
    write_cell(task="mrpc", method="kwon", dense_score=80.0, score=79.0)
    return aggregate(load(outputs))


def test_a_share_is_told_by_the_tasks_that_have_every_share(cells):
    assert TABLES["trade"].make(cells).to_numpy().tolist() == [
        ["K-prune+", "60 %", "2", "2.00", "3.00", "50.0 %", "2.83x"],
        ["K-prune+", "80 %", "2", "6.00", "10.00", "30.0 %", "6.00x"],
    ]


def test_without_our_methods_there_is_none(cells):
    assert TABLES["trade"].make(cells[cells["method"] == "kwon"]).empty
