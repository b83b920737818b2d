"""What a student is trained on: the task's labels, or a teacher's logits and hidden states."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kprune.models.inputs import model_inputs
from kprune.objectives import Objective


@dataclass(frozen=True)
class Outputs:
    """A model's outputs on a batch.

    logits: as the objective reads them, float32. hidden: embeddings and every layer's output, L + 1 tensors [B, T, d].
    real: [B, T] bool, False at padding.
    """

    logits: Tensor
    hidden: tuple[Tensor, ...]
    real: Tensor


def outputs_of(model: Callable, batch: dict[str, Tensor], objective: Objective, bf16: bool = False) -> Outputs:
    """Return a model's outputs on a batch; its linear layers run in bfloat16 if `bf16` is set."""
    output = _run(model, batch, bf16, output_hidden_states=True)
    logits = objective.answers(output, batch)
    return Outputs(at_least_float32(logits), output.hidden_states, batch["attention_mask"].bool())


def task_loss(model: Callable, batch: dict[str, Tensor], objective: Objective, bf16: bool = False) -> Tensor:
    """Return the loss on a batch's labels."""
    logits = objective.answers(_run(model, batch, bf16), batch)
    return objective.loss(at_least_float32(logits), batch["labels"])


def logit_loss(objective: Objective, student: Outputs, teacher: Outputs, temperature: float) -> Tensor:
    """Return the mean divergence of the student's logits from the teacher's: KL(teacher ‖ student), or the squared error."""
    return objective.divergence(teacher.logits, student.logits, temperature).mean()


def hidden_loss(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Return the mean squared error over the real tokens and the hidden dimensions of two hidden states [B, T, d]."""
    return (at_least_float32(student[real]) - at_least_float32(teacher[real])).square().mean()


def _run(model: Callable, batch: dict[str, Tensor], bf16: bool, **settings):
    # Autocast's cache stays off: inside the autocast that pruning runs in, it would hold the weights of the first step to the end.
    with torch.autocast(batch["input_ids"].device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
        return model(**model_inputs(batch), **settings)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 if it is in bfloat16, which is too coarse for sums."""
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor
