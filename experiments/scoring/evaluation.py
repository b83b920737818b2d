"""Scoring a model, dense or pruned, on a task's evaluation set."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from experiments.scoring.predictions import Predictions
from experiments.tasks.base import Task
from kprune.data import Example, collate
from kprune.errors import UserError
from kprune.models.inputs import model_inputs, on_device
from kprune.objectives import Objective


def evaluate(
    model: nn.Module, task: Task, tokenizer, device: str | torch.device = "cpu", batch_size: int | None = None
) -> float:
    """Return the model's score on the task's evaluation set, a perplexity or else in percent.

    Arguments and errors are as in `predictions_of`; a score that is not finite raises a UserError, too.
    """
    return predictions_of(model, task, tokenizer, device, batch_size).score


def predictions_of(
    model: nn.Module, task: Task, tokenizer, device: str | torch.device = "cpu", batch_size: int | None = None
) -> Predictions:
    """Return the model's predictions for the items of the task's evaluation set.

    Args:
        device: the device that the model is moved to; the model stays there.
        batch_size: number of examples in a forward pass; None for the task's own.

    Raises:
        UserError: a logit is not finite.
    """
    evaluation = task.evaluation(tokenizer)
    logits = predict(
        model,
        evaluation.examples,
        task.objective,
        tokenizer.pad_token_id or 0,
        device,
        batch_size or task.batch_size,
        f"{task.name} {evaluation.split}",
        evaluation.reduce,
    )
    return evaluation.predictions(logits)


def predict(
    model: nn.Module,
    examples: Sequence[Example],
    objective: Objective,
    pad_token_id: int,
    device: str | torch.device = "cpu",
    batch_size: int = 32,
    description: str | None = None,
    reduce: Callable[[Tensor, Example], Tensor] = lambda logits, example: logits,
) -> list[Tensor]:
    """Return the model's answer to each example (`objective.answers`), in the order of `examples`, on the CPU.

    Answers that have a value for each position are cut to the length of the example. Batches have examples of similar length, to
    limit the padding, and the longest come first, so that a batch that does not fit in memory fails at once.

    Args:
        device: the device that the model is moved to; the model stays there.
        batch_size: number of examples in a forward pass.
        description: label of the progress bar.
        reduce: maps an example's answer, on the device, to the tensor that is kept.

    Raises:
        UserError: a logit is not finite.
    """
    order = sorted(range(len(examples)), key=lambda i: len(examples[i]["input_ids"]), reverse=True)
    logits: list[Tensor] = [torch.empty(0)] * len(examples)
    was_training = model.training
    model.to(device).eval()
    try:
        with torch.inference_mode(), tqdm(total=len(examples), desc=description, disable=None) as bar:
            for start in range(0, len(order), batch_size):
                indices = order[start : start + batch_size]
                batch = on_device(collate([examples[i] for i in indices], pad_token_id), device)
                read = objective.answers(model(**model_inputs(batch)), batch).float()
                if not torch.isfinite(read).all():
                    raise UserError(
                        "the model's logits are not finite: its weights are damaged or overflow on "
                        "this device; check the checkpoint, or use another device or float32"
                    )
                for i, row in zip(indices, read, strict=True):
                    logits[i] = reduce(objective.crop(row, len(examples[i]["input_ids"])), examples[i]).cpu()
                bar.update(len(indices))
    finally:
        model.train(was_training)
    return logits
