import numpy as np
import pytest
from scipy.stats import spearmanr

from analysis import bootstrap
from analysis.bootstrap import correlation, difference, ranks, resamples
from experiments.scoring.counts import counted, score_of


def test_mean_scores_against_resampling_items_one_by_one():
    rng = np.random.default_rng(1)
    ours, theirs = rng.random(60) < 0.8, rng.random(60) < 0.6
    measured, low, high = difference("accuracy", ours, theirs)
    assert measured == pytest.approx(100 * (ours.mean() - theirs.mean()))
    drawn = rng.integers(60, size=(20000, 60))
    literal = np.percentile(100 * (ours[drawn].mean(axis=1) - theirs[drawn].mean(axis=1)), [2.5, 97.5])
    assert [low, high] == pytest.approx(literal, abs=100 / 60 + 0.1)  # one item, of 60


def test_the_spearman_of_every_resample_is_scipys():
    """Resampling makes ties of its own; constant values count as 0, as in the metric."""
    rng = np.random.default_rng(1)
    values, gold = np.round(rng.normal(size=(2, 50)), 1)
    counts = resamples(50)[:40]
    drawn = [np.repeat(np.arange(50), row.astype(int)) for row in counts]
    expected = [100 * spearmanr(values[chosen], gold[chosen]).statistic for chosen in drawn]
    assert correlation(ranks(values, counts), ranks(gold, counts), counts) == pytest.approx(expected)
    constant = np.zeros(50)
    assert correlation(ranks(constant, counts), ranks(gold, counts), counts).tolist() == [0] * 40


def test_paired_means_paired():
    """Two models that err on the same items differ for sure where unpaired ones would not."""
    rng = np.random.default_rng(2)
    gold = rng.normal(size=200)
    theirs = gold + rng.normal(size=200)
    ours = theirs + 0.02 * (gold - theirs)
    measured, low, high = difference("spearman", ours, theirs, gold)
    assert 0 < low < measured < high < 3
    assert measured == pytest.approx(100 * (spearmanr(ours, gold).statistic - spearmanr(theirs, gold).statistic))


def test_the_same_every_time_and_nothing_for_the_same_model():
    ours, theirs = np.array([1.0, 0.5, 0.0, 0.25] * 9), np.array([0.5, 0.5, 1.0, 0.0] * 9)
    assert difference("f1", ours, theirs) == difference("f1", ours, theirs)
    bootstrap.resamples.cache_clear()
    assert difference("f1", ours, ours) == (0, 0, 0)
    assert difference("spearman", ours, ours, theirs) == (0, 0, 0)


@pytest.mark.parametrize("metric", ["micro_f1", "macro_f1", "matthews"])
def test_scores_of_counts_against_resampling_items_one_by_one(metric):
    rng = np.random.default_rng(1)
    gold, *models = (np.eye(3, dtype=bool)[rng.integers(3, size=80)] for _ in range(3))
    ours, theirs = (counted(np.where(rng.random((80, 1)) < 0.6, gold, model), gold) for model in models)
    measured, low, high = difference(metric, ours, theirs)

    def score(values):
        return float(score_of(metric, values.sum(axis=0), len(values)))

    assert measured == pytest.approx(score(ours) - score(theirs))
    drawn = rng.integers(80, size=(5000, 80))
    literal = np.percentile([score(ours[rows]) - score(theirs[rows]) for rows in drawn], [2.5, 97.5])
    assert [low, high] == pytest.approx(literal, abs=2)
    assert difference(metric, ours, ours) == (0, 0, 0)


def test_the_same_items_are_drawn_for_every_model_of_counts():
    """A difference over a third model is the sum of the two differences on the way, in each resample."""
    rng = np.random.default_rng(4)
    gold, *models = (np.eye(2, dtype=bool)[rng.integers(2, size=50)] for _ in range(4))
    a, b, c = (counted(model, gold) for model in models)
    over = bootstrap.differences("macro_f1", a, b) + bootstrap.differences("macro_f1", b, c)
    assert over == pytest.approx(bootstrap.differences("macro_f1", a, c))


def test_items_of_one_group_are_drawn_together():
    """Ten articles of 20 questions each, against drawing articles one by one; an article's questions share much."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(10), rng.integers(10, 30, size=10))
    ours = np.clip(0.5 + 0.3 * rng.normal(size=10)[groups] + 0.1 * rng.normal(size=len(groups)), 0, 1)
    theirs = np.clip(ours - 0.1 + 0.2 * rng.normal(size=10)[groups], 0, 1)
    _, low, high = difference("f1", ours, theirs, groups=groups)
    draws = []
    for drawn in rng.integers(10, size=(5000, 10)):
        items = np.concatenate([np.flatnonzero(groups == group) for group in drawn])
        draws.append(100 * (ours[items] - theirs[items]).mean())
    assert [low, high] == pytest.approx(np.percentile(draws, [2.5, 97.5]).tolist(), abs=1.0)
    _, narrow_low, narrow_high = difference("f1", ours, theirs)
    assert high - low > 1.5 * (narrow_high - narrow_low)
