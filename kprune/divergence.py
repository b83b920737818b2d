"""How far a pruned model is from the dense one."""

import torch

from kprune.data import CalibrationSet
from kprune.models.copies import frozen_shared_copy
from kprune.models.inputs import call, on_device
from kprune.objectives import Objective
from kprune.types import Model


@torch.no_grad()
def held_out_divergence(
    student: Model, teacher: Model, objective: Objective, calibration: CalibrationSet, temperature: float
) -> float:
    """Return the mean divergence (eq. 4 of the K-prune paper) of a student from its teacher over examples, without dropout."""
    total = 0.0
    models = [frozen_shared_copy(model) for model in (student, teacher)]
    for batch in calibration.batches():
        batch = on_device(batch, teacher.device)
        s, t = (objective.answers(call(model, batch), batch) for model in models)
        total += objective.divergence(s, t, temperature).sum().item()
    return total / len(calibration.examples)
