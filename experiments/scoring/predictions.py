"""The predictions of a model for single items, from which scores and comparisons of two models are computed."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.scoring import counts, metrics
from kprune.errors import UserError

PERPLEXITIES = ("perplexity", "masked_perplexity")
"""Metrics that are the exponential of a mean loss; lower is better."""
OPTIONAL = ("gold", "groups", "dense")
"""Arrays of `Predictions` that may be None."""


@dataclass(frozen=True)
class Predictions:
    """The predictions of one model on one evaluation set of N items, in the order of the items.

    Attributes:
        metric: a metric of `Task`.
        values: [N] whether the item is right (accuracy), F1 in [0, 1] of a question, nDCG or reciprocal rank in [0, 1] of a query,
            the predicted value (spearman), or the loss of a window (perplexity); [N, K, 3] counts (`counts.counted`) for F1 of
            classes, labels or entities, and for Matthews' correlation.
        gold: [N] the right values, for spearman; None for other metrics.
        groups: [N] the number of each item's group, such as the article of a question. Items of a group are not independent, and a
            bootstrap draws them together. None if all items are independent.
        dense: the `values` of the dense model that this model was pruned from; None if this is the dense model.
    """

    metric: str
    values: np.ndarray
    gold: np.ndarray | None = None
    groups: np.ndarray | None = None
    dense: np.ndarray | None = None

    @property
    def score(self) -> float:
        """Return the score: a perplexity, or else a number in percent.

        Raises:
            UserError: the score is not finite.
        """
        if self.metric == "spearman":
            score = metrics.spearman(self.values, self.gold)
        elif self.values.ndim == 3:
            score = float(counts.score_of(self.metric, self.values.sum(axis=0), len(self.values)))
        elif self.metric in PERPLEXITIES:
            with np.errstate(over="ignore"):
                score = float(np.exp(np.mean(self.values, dtype=np.float64)))
        else:
            score = 100 * float(np.mean(self.values))
        if not np.isfinite(score):
            raise UserError(
                f"the model's {self.metric} is {score}, which no record holds: remove less, or check the checkpoint's weights"
            )
        return score


def packed(predictions: Predictions) -> bytes:
    """Return the bytes of a compressed .npz file with `metric`, `values` and the arrays of `OPTIONAL` that are not None."""
    arrays = {"metric": np.array(predictions.metric), "values": predictions.values}
    for name in OPTIONAL:
        if getattr(predictions, name) is not None:
            arrays[name] = getattr(predictions, name)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def load(path: Path) -> Predictions | None:
    """Return the predictions in a file of `packed` bytes; None if it is missing or damaged. A printed line tells of damage."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            optional = {name: arrays[name] for name in OPTIONAL if name in arrays}
            return Predictions(str(arrays["metric"]), arrays["values"], **optional)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        print(f"{path} is damaged: it is made again")
        return None
