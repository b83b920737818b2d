"""The dense model's evaluation, done once per checkpoint and kept in the cache for other processes."""

import hashlib
import json
from pathlib import Path

import torch
from torch import nn

from experiments.config.groups import Settings
from experiments.inputs.cache import cache_folder, locked
from experiments.scoring import predictions
from experiments.scoring.evaluation import predictions_of
from experiments.scoring.predictions import Predictions
from experiments.store.provenance import versions
from experiments.tasks import Task
from kprune.files import OTHER_CACHE, write_whole

FORMAT = 3
"""Of the cached file; raised when evaluation itself changes."""


def dense_predictions(
    model: nn.Module,
    task: Task,
    tokenizer,
    device: torch.device,
    settings: Settings,
    checkpoint: str,
    anew: bool = False,
) -> Predictions:
    """Return what the dense model predicts: from the cache, else computed and kept there.

    Args:
        settings: the task's.
        checkpoint: hash of all that the model computes by.
        anew: what the cache has is computed again.

    Raises:
        UserError: a logit is not finite, or the cache cannot be written to.
    """
    path = dense_file(task, tokenizer, device, settings, checkpoint)
    with locked(path):
        known = None if anew else predictions.load(path)
        if known is None:
            known = predictions_of(model, task, tokenizer, device)
            write_whole(path, lambda temporary: temporary.write_bytes(predictions.packed(known)), OTHER_CACHE)
    return known


def dense_file(task: Task, tokenizer, device: torch.device, settings: Settings, checkpoint: str) -> Path:
    """Return the file, named after all that the predictions depend on; the evaluation set is in it with its tokens and gold."""
    depends_on = {
        "format": FORMAT,
        "checkpoint": checkpoint,
        "task": settings.plain(),
        "evaluation": task.evaluation(tokenizer).sha256,
        "device": device.type,
        "versions": {name: versions()[name] for name in ("torch", "transformers")},
    }
    key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / "dense" / f"{task.name}-{key}.npz"
