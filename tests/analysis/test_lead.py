"""By how many points our methods are ahead of the retrained ones, and how sure that is."""

import numpy as np

from analysis.aggregate import aggregate
from analysis.collect import collect
from analysis.records import load
from analysis.tables import TABLES


def right(share, seed):
    """Return which of 408 examples a model answers rightly."""
    return np.random.default_rng(seed).random(408) < share


def write(write_cell, method, answers, seed=0, **changes):
    write_cell({"values": answers}, method=method, seed=seed, score=100 * answers.mean(), **changes)


def shown(source, column="K-prune+, ahead by"):
    return TABLES["lead"].make(aggregate(load(source))).set_index("Method")[column]


def test_the_difference_has_an_interval_over_examples(write_cell, outputs, tmp_path):
    """Against examples drawn one by one, from the cells and from the committed files alone."""
    ours, theirs = right(0.85, 0), right(0.65, 1)
    write(write_cell, "kprune_plus", ours)
    write(write_cell, "cofi", theirs)
    rng = np.random.default_rng(0)
    drawn = [rng.integers(408, size=408) for _ in range(1000)]
    low, high = np.percentile([100 * (ours[rows].mean() - theirs[rows].mean()) for rows in drawn], [2.5, 97.5])
    difference = 100 * (ours.mean() - theirs.mean())
    told = shown(outputs)["CoFi, hidden size kept"]
    assert told == f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]" and 0 < low < difference < high
    collect(outputs, tmp_path / "retrained.csv")
    for file in outputs.rglob("predictions.npz"):
        file.unlink()
    assert shown(tmp_path / "retrained.csv")["CoFi, hidden size kept"] == told


def test_seeds_are_drawn_too(write_cell, outputs):
    """Of seeds that differ by ten points, the interval of the mean is wider than that of one of them."""
    for seed, share in enumerate((0.65, 0.75, 0.85)):
        write(write_cell, "kprune_plus", right(0.8, seed), seed)
        write(write_cell, "cofi", right(share, 9), seed)
    write(write_cell, "dynabert_w", right(0.75, 9))
    told = shown(outputs)
    low, high = (
        float(end) for end in told["CoFi, hidden size kept"].partition("[")[2].rstrip("]").replace("−", "-").split(", ")
    )
    assert high - low > 12
    one = 100 * (right(0.8, 0).mean() - right(0.75, 9).mean())
    assert told["DynaBERT-w"].startswith(f"{one:+.1f} ["), "one seed beside three: of the seed that both have"


def test_methods_without_a_retrained_one_beside_them_are_not_shown(write_cell, outputs):
    write(write_cell, "kprune_plus", right(0.8, 0))
    write(write_cell, "kwon", right(0.7, 0))
    assert TABLES["lead"].make(aggregate(load(outputs))).empty
