"""The dense evaluation: once per checkpoint, and again whenever anything it depends on changes."""

import datasets
import pytest
import torch
from pairs import PAIRS

from experiments.config.groups import Settings
from experiments.scoring import dense
from experiments.scoring.dense import dense_file, dense_predictions
from experiments.scoring.evaluation import predictions_of
from experiments.tasks import build_task

SETTINGS = PAIRS | {"max_length": 32, "average_length": None, "batch_size": 2}
CPU = torch.device("cpu")


class Model(torch.nn.Module):
    """Says "yes" to texts with an even number of tokens."""

    def forward(self, attention_mask, **_):
        even = (attention_mask.sum(dim=1) % 2 == 0).float()
        return type("Output", (), {"logits": torch.stack([1 - even, even], dim=1)})()


@pytest.fixture
def count(mirror, tmp_path, monkeypatch):
    """Evaluations that were really done, by the length of this list."""
    monkeypatch.setenv("KPRUNE_CACHE", str(tmp_path / "kprune"))
    done = []
    monkeypatch.setattr(dense, "predictions_of", lambda *a: done.append(1) or predictions_of(*a))
    return done


def evaluated(tokenizer, sha256="ab", **changes):
    settings = SETTINGS | changes  # a new task each time, as in another process
    return dense_predictions(Model(), build_task(settings), tokenizer, CPU, Settings.of(settings), sha256)


def test_anew_it_is_computed_again_and_kept(count, tokenizer):
    settings = Settings.of(SETTINGS)
    for anew, evaluations in ((False, 1), (True, 2), (False, 2)):
        dense_predictions(Model(), build_task(SETTINGS), tokenizer, CPU, settings, "ab", anew)
        assert len(count) == evaluations


def test_once_per_checkpoint_and_evaluation_set(count, tokenizer):
    first = evaluated(tokenizer)
    again = evaluated(tokenizer)
    assert len(count) == 1 and again.score == first.score and again.values.tolist() == first.values.tolist()
    evaluated(tokenizer, sha256="cd")
    assert len(count) == 2
    evaluated(tokenizer, max_length=8)
    assert len(count) == 3


def test_other_rows_or_labels_are_another_evaluation_set(count, tokenizer, write_split, tmp_path, monkeypatch):
    rows = {"sentence1": ["a cat", "it"], "sentence2": ["a", "is"], "label": [1, 0]}
    for changes in ({}, {"label": [0, 0]}, {"sentence1": ["a dog", "it"]}):
        write_split("org/pairs", "tiny", "validation", rows | changes)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / f"cache{len(count)}")
        assert len(evaluated(tokenizer).values) == 2
    assert len(count) == 3


def test_a_damaged_entry_is_computed_again_and_said(count, tokenizer, capsys):
    first = evaluated(tokenizer)
    path = dense_file(build_task(SETTINGS), tokenizer, CPU, Settings.of(SETTINGS), "ab")
    path.write_bytes(path.read_bytes()[:-20])
    assert evaluated(tokenizer).values.tolist() == first.values.tolist()
    assert len(count) == 2 and f"{path} is damaged" in capsys.readouterr().out
    evaluated(tokenizer)
    assert len(count) == 2
