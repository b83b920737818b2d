"""The README's small table."""

from analysis.aggregate import aggregate
from analysis.records import load
from analysis.tables import TABLES


def shown(outputs):
    return TABLES["summary"].make(aggregate(load(outputs)))


def near(majority):
    return {"split": "validation", "examples": 408, "majority": majority, "sha256": "cd34"}


def test_losses_with_deviations_the_least_mean_first(write_cell, outputs):
    for task in ("mrpc", "sst2"):
        for method, lost in (("random", 30.0), ("kprune", 4.0), ("kwon", 8.0)):
            write_cell(task=task, method=method, dense_score=80.0, score=80.0 - lost)
    write_cell(task="mrpc", method="kprune", dense_score=80.0, score=74.0, seed=1)
    write_cell(task="mrpc", method="kcm", dense_score=80.0, score=79.0)
    write_cell(task="sst2", method="kcm", dense_score=80.0, score=79.0, flops_reduction_requested=0.6)
    table = shown(outputs).set_index("Method")
    assert list(table.columns) == ["MRPC", "SST-2", "Mean"]
    assert list(table.index) == ["K-prune", "Kwon et al.", "random"], "KCM does not have every task at 80 %"
    assert table.loc["K-prune"].tolist() == ["5.00 ± 1.41", "4.00", "4.50"]


def test_a_task_near_the_majority_is_left_out(write_cell, outputs):
    for method in ("kprune", "kprune_plus"):
        write_cell(task="rte", method=method, dense_score=57.0, score=50.0, evaluation=near(52.5))
    assert shown(outputs).empty
    write_cell(task="mrpc", dense_score=78.0, score=76.0, evaluation=near(73.0))
    assert shown(outputs).to_dict("records") == [{"Method": "K-prune", "MRPC": "2.00", "Mean": "2.00"}]
