"""The Fisher information of head and neuron masks under the task loss."""

import torch
from torch import Tensor
from tqdm import tqdm

from kprune.data import CalibrationSet
from kprune.errors import UserError
from kprune.models import ModelView
from kprune.models.inputs import on_device
from kprune.models.masks import features_and_gradients, mask_gradients
from kprune.objectives import Objective


def mask_gradients_by_batch(view: ModelView, calibration: CalibrationSet, objective: Objective) -> list[Tensor]:
    """Return gradients of the task loss (the mean over a mini-batch) with respect to all masks at 1.

    Mini-batches are taken as drawn, not by length: their make-up is part of the estimate.

    Returns:
        G, per block [batches, units] in float64 on the CPU.

    Raises:
        UserError: the examples have no labels, or a gradient is not finite.
    """
    rows = []
    for batch in tqdm(calibration.batches(by_length=False), desc="Fisher", unit="batch", disable=None):
        if "labels" not in batch:
            raise UserError("the task loss needs labels, which the calibration examples lack: give labelled examples")
        batch = on_device(batch, view.device)

        def loss(output, batch=batch):
            return [objective.loss(objective.answers(output, batch), batch["labels"])]

        with torch.no_grad():
            hidden, context = view.embed(batch)
        pairs = features_and_gradients(view, 0, hidden, context, batch, loss)
        rows.append(
            [
                mask_gradients(f, g, block.width).sum(dim=(0, 2)).cpu()
                for block, (f, (g,)) in zip(view.blocks, pairs, strict=True)
            ]
        )
    gradients = [torch.stack(of_sublayer) for of_sublayer in zip(*rows, strict=True)]
    if not all(torch.isfinite(g).all() for g in gradients):
        raise UserError("gradients of the task loss hold NaN or infinity: check the checkpoint's weights")
    return gradients


def importance(gradients: Tensor) -> Tensor:
    """Return the diagonal of the Fisher information, Σ_batches g²: [units], from G [batches, units]."""
    return gradients.square().sum(dim=0)
