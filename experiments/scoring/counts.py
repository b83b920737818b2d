"""Scores that are no mean over items, but are made of sums of counts over them."""

import numpy as np

F1 = ("f1", "micro_f1", "macro_f1", "entity_f1")


def counted(predicted: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return true positives, predicted positives and actual positives of each item and class: [N, K, 3] for bools [N, K]."""
    return np.stack([predicted & gold, predicted, gold], axis=-1).astype(np.int64)


def score_of(metric: str, totals: np.ndarray, items: int) -> np.ndarray:
    """Return a score × 100 of counts that are summed over the items: [...] for [..., K, 3].

    F1 is the mean over the kinds (a kind that is neither predicted nor there counts as 0); Matthews' correlation takes the
    kinds as the classes of which each item has one. It is 0 if all items are of one class, or all are predicted as one.
    """
    hits, predicted, gold = np.moveaxis(np.asarray(totals, dtype=np.float64), -1, 0)
    if metric in F1:
        return 100 * _ratio(2 * hits, predicted + gold).mean(axis=-1)
    covariance = items * hits.sum(axis=-1) - (predicted * gold).sum(axis=-1)
    variances = [items**2 - (amount**2).sum(axis=-1) for amount in (predicted, gold)]
    return 100 * _ratio(covariance, np.sqrt(variances[0] * variances[1]))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return a quotient, 0 where there is nothing to divide by."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
