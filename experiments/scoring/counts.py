"""Scores that are computed from sums of counts over the items, and are no mean over the items."""

import numpy as np

F1 = ("f1", "micro_f1", "macro_f1", "entity_f1")


def counted(predicted: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return true positives, predicted positives and actual positives, [N, K, 3] integers.

    Args:
        predicted, gold: [N, K] bools, for N items and K classes.
    """
    return np.stack([predicted & gold, predicted, gold], axis=-1).astype(np.int64)


def score_of(metric: str, totals: np.ndarray, items: int) -> np.ndarray:
    """Return the score in percent, [...], of counts that are summed over the items.

    F1 is the mean over the kinds; a kind that is neither predicted nor present counts as 0. For Matthews' correlation, the kinds are
    the classes, of which each item has one; it is 0 if all items are of one class or are predicted as one class.

    Args:
        metric: one of `F1`, or "matthews".
        totals: [..., K, 3], the sums over the items of the result of `counted` for K kinds.
        items: number of items.
    """
    hits, predicted, gold = np.moveaxis(np.asarray(totals, dtype=np.float64), -1, 0)
    if metric in F1:
        return 100 * _ratio(2 * hits, predicted + gold).mean(axis=-1)
    covariance = items * hits.sum(axis=-1) - (predicted * gold).sum(axis=-1)
    variances = [items**2 - (amount**2).sum(axis=-1) for amount in (predicted, gold)]
    return 100 * _ratio(covariance, np.sqrt(variances[0] * variances[1]))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return above / below elementwise; 0 where `below` is 0."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
