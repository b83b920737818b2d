"""Fine-tuning a pretrained encoder on a task by the standard recipe, if there is no checkpoint to prune."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines.retrained.distillation import task_loss
from experiments.tasks.base import Task
from kprune.data import Example
from kprune.errors import UserError
from kprune.files import OTHER_CACHE, whole_folder
from kprune.objectives import Objective
from kprune.quiet import quiet_transformers
from kprune.training import Recipe, Training, batch_order

TRIALS = 4
"""Number of timed steps of each precision, after one untimed step that warms up."""


def recipe_of(task: Task) -> Recipe:
    """Return the standard recipe, changed by the task's settings of fine-tuning.

    Raises:
        UserError: a setting is unknown or out of range.
    """
    settings = task.finetuning or {}
    names = [field.name for field in fields(Recipe)]
    for key in settings:
        if key not in names:
            raise UserError(f"task.finetuning.{key} is unknown: give {', '.join(names)}")
    return Recipe(**settings)


def finetune(
    model: nn.Module, tokenizer, task: Task, folder: str | Path, seed: int = 0, device: str | torch.device | None = None
) -> None:
    """Train `model` in place and write it to `folder`, completely or not at all.

    The state of the training is saved beside `folder` once a minute and after each epoch. A run that was killed continues from this
    state and ends with the same weights (on the same device, with the same number of threads).

    Args:
        model: the model in float32, with the task's head.
        folder: the folder to make.
        seed: draws the order of the examples and the dropout.
        device: None for the GPU if there is one, else the CPU.

    Raises:
        UserError: the data are wrong, the loss is not finite, or the folder cannot be written to.
    """
    folder, recipe = Path(folder), recipe_of(task)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    examples = list(task.training(tokenizer))
    run = finetuning_run(model.to(device), task.objective, examples, tokenizer.pad_token_id or 0, recipe, seed)
    state = folder.with_name(f".{folder.name}.state")
    run.resume(state)
    if "bf16" not in run.notes:
        run.notes["bf16"] = bf16_is_faster(run)
    run.train(f"fine-tuning on {task.name}", state)
    record = {
        "task": task.name,
        "examples": len(examples),
        "seed": seed,
        **run.notes,
        "steps": run.steps,
        "seconds": round(run.seconds, 1),
        **asdict(recipe),
    }
    model.to("cpu").eval()
    _write(model, tokenizer, folder, record)
    state.unlink(missing_ok=True)


def finetuning_run(
    model: nn.Module, objective: Objective, examples: Sequence[Example], pad_token_id: int, recipe: Recipe, seed: int
) -> Training:
    """Return a training run on the task's loss; it computes in bfloat16 if its note `bf16` is true."""

    def losses(batch: dict[str, Tensor], epochs: float) -> Iterator[Tensor]:
        yield task_loss(model, batch, objective, run.notes["bf16"])

    run = Training(model, losses, examples, pad_token_id, recipe, seed, adjust="the rate (++task.finetuning.lr=RATE)")
    return run


def bf16_is_faster(run: Training) -> bool:
    """Tell whether a step in bfloat16 is faster than one in float32 on the run's device, measured on a batch of median length.

    The run's gradients and random state are restored; its note `bf16` is left at the precision that was timed last.
    """
    order = sorted(
        batch_order(run.examples, run.recipe.batch_size, run.seed, 0),
        key=lambda indices: sum(len(run.examples[i]["input_ids"]) for i in indices),
    )
    batch = run.batch(order[len(order) // 2])
    random = run.random_state()
    run.learner.train()
    try:
        seconds = {bf16: [timed(run, batch, bf16) for _ in range(TRIALS + 1)] for bf16 in (False, True)}
    except RuntimeError:  # a device without bf16
        return False
    finally:
        run.learner.zero_grad(set_to_none=True)
        run.set_random_state(random)
    return min(seconds[True][1:]) < min(seconds[False][1:])  # the minimum, since other processes may slow single steps


def timed(run: Training, batch: dict[str, Tensor], bf16: bool) -> float:
    run.notes["bf16"] = bf16
    start = time.perf_counter()
    run.backward(batch)  # reads the loss, so the device has finished
    return time.perf_counter() - start


def _write(model: nn.Module, tokenizer, folder: Path, record: dict[str, Any]) -> None:
    """Write a transformers checkpoint with its record."""
    with whole_folder(folder, OTHER_CACHE) as temporary:
        with quiet_transformers():
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
        (temporary / "finetuning.json").write_text(json.dumps(record, indent=1))
