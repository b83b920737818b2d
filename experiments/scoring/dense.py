"""The predictions of the dense model, computed once for each checkpoint and task and kept in the cache."""

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
"""Version of the cached file; raised when the evaluation changes."""


def dense_predictions(
    model: nn.Module,
    task: Task,
    tokenizer,
    device: torch.device,
    settings: Settings,
    checkpoint: str,
    anew: bool = False,
) -> Predictions:
    """Return the predictions of the dense model from the cache; missing predictions are computed and written to the cache.

    Args:
        settings: the settings of the task.
        checkpoint: hash of the files that determine the model's predictions (`checkpoint_sha256`).
        anew: whether the predictions are computed again although the cache has them.

    Raises:
        UserError: a logit is not finite, or the cache can't be written to.
    """
    path = dense_file(task, tokenizer, device, settings, checkpoint)
    with locked(path):
        known = None if anew else predictions.load(path)
        if known is None:
            known = predictions_of(model, task, tokenizer, device)
            write_whole(path, lambda temporary: temporary.write_bytes(predictions.packed(known)), OTHER_CACHE)
    return known


def dense_file(task: Task, tokenizer, device: torch.device, settings: Settings, checkpoint: str) -> Path:
    """Return the path of the cached file; its name has a hash of all that the predictions depend on.

    The hash includes the tokens and the gold of the evaluation set.
    """
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
