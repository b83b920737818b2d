"""Predictions beside a record: read back, damaged, and never missing."""

import numpy as np
import pytest
from records import PREDICTED, record, write_result

from experiments.scoring import predictions
from experiments.scoring.predictions import Predictions
from kprune.errors import UserError


@pytest.mark.parametrize(
    "predicted, score",
    [
        (PREDICTED, 200 / 3),
        (Predictions("f1", np.array([0.25, 1.0])), 62.5),
        (Predictions("spearman", np.array([0.1, 0.3, 0.2], np.float32), np.array([1.0, 5.0, 3.0])), 100.0),
    ],
)
def test_predictions_read_back(folder, predicted, score):
    write_result(folder, record(), predicted)
    read = predictions.load(folder / "predictions.npz")
    assert read.score == predicted.score == pytest.approx(score)
    assert read.values.dtype == predicted.values.dtype and (read.gold is None) == (predicted.gold is None)


@pytest.mark.parametrize("keep", [0, 1, 100, -3])
def test_damaged_predictions_are_none_and_said(folder, capsys, keep):
    path = folder / "predictions.npz"
    assert predictions.load(path) is None and capsys.readouterr().out == ""
    path.write_bytes(predictions.packed(PREDICTED)[:keep])
    assert predictions.load(path) is None and "is damaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    "metric, values", [("perplexity", [900.0, 1e4]), ("f1", [0.5, np.nan]), ("accuracy", [np.inf])]
)
def test_a_score_that_is_no_number_is_one_line(metric, values):
    """As the perplexity of a model that is pruned to nothing."""
    with pytest.raises(UserError, match=f"^the model's {metric} is (inf|nan), .*: remove less") as error:
        _ = Predictions(metric, np.array(values)).score
    assert "\n" not in str(error.value)
