"""A tiny labelled task for each kind of head."""

import pytest
import torch
from tiny import tiny_calibration

from kprune.contract import PruningData

LABELS = {
    "classification": lambda example: example["input_ids"][1] % 3,
    "regression": lambda example: example["input_ids"][1] / 50 - 1,
    "span": lambda example: (1, 2),
}


@pytest.fixture(scope="session")
def data_for():
    """Forty-eight labelled examples and the first of them to calibrate on: data_for("span", workspace=...)."""

    def make(head: str = "classification", **settings) -> PruningData:
        rows = tiny_calibration(48, 8, longest=9)
        labelled = [{**example, "label": LABELS[head](example)} for example in rows.examples]
        return PruningData(tiny_calibration(16, 8, longest=9), lambda: labelled, **settings)

    return make


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny matrices
    yield
    torch.set_num_threads(threads)
