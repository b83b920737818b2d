"""Confidence intervals of the difference between two models: a paired bootstrap over the evaluation examples that both were scored on."""

from functools import lru_cache

import numpy as np

from experiments.scoring.counts import score_of

RESAMPLES = 1000


def difference(
    metric: str,
    ours: np.ndarray,
    theirs: np.ndarray,
    gold: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> tuple[float, float, float]:
    """Return the difference of two models in points, ours minus theirs, and the ends of its 95 % percentile interval.

    The arguments are those of `differences`.
    """
    return interval(differences(metric, ours, theirs, gold, groups))


def differences(
    metric: str,
    ours: np.ndarray,
    theirs: np.ndarray,
    gold: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Return the difference of two models in points, ours minus theirs: of all items, then of each resample, [1 + RESAMPLES].

    The seed is fixed: a second call returns the same, and the same items are drawn for all models of one evaluation set.

    Args:
        metric: "spearman", a metric of counts (`experiments.scoring.counts`), or any other; the other ones are means of one
            number per item, times 100.
        ours, theirs: a prediction, or a score for a metric that is a mean, for each item, in the same order: [N]; for a
            metric of counts of K classes, [N, K, 3].
        gold: the true values, [N]; read for "spearman" alone.
        groups: the number of each item's group, from 0, [N]; items of one group, such as the questions on one article, are
            drawn together. Read for a metric that is a mean alone; None: each item is a group.
    """
    if metric == "spearman":
        counts = np.concatenate([np.ones((1, len(gold))), resamples(len(gold))])  # the first row is the sample itself
        gold_ranks = ranks(gold, counts)
        return correlation(ranks(ours, counts), gold_ranks, counts) - correlation(
            ranks(theirs, counts), gold_ranks, counts
        )
    if ours.ndim == 3:
        return counted_scores(metric, ours) - counted_scores(metric, theirs)
    values = 100 * (ours.astype(float) - theirs.astype(float))
    if groups is None:
        groups = np.arange(len(values))
    sizes, sums = np.bincount(groups), np.bincount(groups, weights=values)
    drawn = resamples(len(sizes))
    return np.concatenate([[values.mean()], drawn @ sums / (drawn @ sizes)])


def counted_scores(metric: str, counts: np.ndarray) -> np.ndarray:
    """Return the score × 100 of counts [N, K, 3]: of all items, then of each resample, [1 + RESAMPLES]."""
    flat = counts.reshape(len(counts), -1)
    totals = np.concatenate([flat.sum(axis=0, keepdims=True), resamples(len(counts)) @ flat])
    return score_of(metric, totals.reshape(-1, *counts.shape[1:]), len(counts))


def over_seeds(draws: np.ndarray) -> np.ndarray:
    """Return the mean over S seeds of their differences: [1 + RESAMPLES].

    Each resample draws S of the seeds with replacement, too; the same seeds are drawn for all models with S seeds.

    Args:
        draws: the result of `differences` for each seed, [S, 1 + RESAMPLES].
    """
    seeds = np.random.default_rng(1).integers(len(draws), size=(len(draws), RESAMPLES))
    return np.concatenate([[draws[:, 0].mean()], draws[seeds, np.arange(1, 1 + RESAMPLES)].mean(axis=0)])


def interval(draws: np.ndarray) -> tuple[float, float, float]:
    """Return the measured value, the first of draws [1 + RESAMPLES], and the ends of the 95 % percentile interval of the rest."""
    low, high = np.percentile(draws[1:], [2.5, 97.5])
    return float(draws[0]), float(low), float(high)


@lru_cache(maxsize=2)
def resamples(size: int) -> np.ndarray:
    """Return how often each resample draws each of `size` items: [RESAMPLES, size]."""
    drawn = np.random.default_rng(0).integers(size, size=(RESAMPLES, size))
    return np.stack([np.bincount(row, minlength=size) for row in drawn]).astype(float)


def ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the rank of each item's value within each resample, equal values having their mean rank: [R, N].

    Args:
        values: [N].
        counts: how often each resample has each item, [R, N].
    """
    order = np.argsort(values, kind="stable")
    _, first, position = np.unique(values[order], return_index=True, return_inverse=True)
    ties = np.add.reduceat(counts[:, order], first, axis=1)  # items per distinct value
    middle = np.cumsum(ties, axis=1) - (ties - 1) / 2
    found = np.empty_like(counts)
    found[:, order] = middle[:, position]
    return found


def correlation(ours: np.ndarray, gold: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation × 100 of each resample, [R], from ranks and counts [R, N]; 0 if all ranks of one side are equal."""
    mean = (counts.shape[1] + 1) / 2  # ranks 1 to N, ties or not
    ours, gold = ours - mean, gold - mean
    covariance = np.einsum("rn,rn,rn->r", counts, ours, gold)
    norm = np.sqrt(np.einsum("rn,rn,rn->r", counts, ours, ours) * np.einsum("rn,rn,rn->r", counts, gold, gold))
    return 100 * np.divide(covariance, norm, out=np.zeros(len(norm)), where=norm > 0)
