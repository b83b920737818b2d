"""What a model did with each scored item: what a score is the mean of, and what two models are compared by."""

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
"""Arrays that not all predictions have."""


@dataclass(frozen=True)
class Predictions:
    """One model on one evaluation set, in the order of its items.

    Attributes:
        metric: as a task's.
        values: [N] right or wrong (accuracy), F1 in [0, 1] of a question, nDCG or reciprocal rank in [0, 1] of a query, the value predicted
            (spearman), or the loss of a window (perplexity). [N, K, 3] for a metric of counts (`counts.counted`): F1 of
            classes, labels or entities, and Matthews' correlation.
        gold: [N] the values that should have been predicted, for spearman; None elsewhere.
        groups: [N] a number for each article that questions are asked of: those of one are no independent draws, and a
            bootstrap draws them together. None if every item stands for itself.
        dense: as `values`, of the dense model that this one was pruned from; None of a dense model itself.
    """

    metric: str
    values: np.ndarray
    gold: np.ndarray | None = None
    groups: np.ndarray | None = None
    dense: np.ndarray | None = None

    @property
    def score(self) -> float:
        """Return the score in percent; a perplexity as it is.

        Raises:
            UserError: it is not finite.
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
    """Return a compressed .npz file of `metric`, `values` and, if there are any, `OPTIONAL`."""
    arrays = {"metric": np.array(predictions.metric), "values": predictions.values}
    for name in OPTIONAL:
        if getattr(predictions, name) is not None:
            arrays[name] = getattr(predictions, name)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def load(path: Path) -> Predictions | None:
    """Read the file back; None if there is no such file or a damaged one (which is said in a line)."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            optional = {name: arrays[name] for name in OPTIONAL if name in arrays}
            return Predictions(str(arrays["metric"]), arrays["values"], **optional)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        print(f"{path} is damaged: it is made again")
        return None
