"""Fine-tune a pretrained encoder on a task by the standard recipe, so that there is a model to prune."""

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
"""Timed steps of each precision; the first, which warms up, is not counted."""


def recipe_of(task: Task) -> Recipe:
    """Return the standard recipe with the task's own settings.

    Raises:
        UserError: a setting is unknown.
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
    """Train `model` in place and write it to `folder`, which is whole or not there.

    What was done is kept beside `folder` once a minute and after each epoch; a run that was killed goes on from there
    and ends with the same weights (on the same device with the same threads).

    Args:
        model: float32, with the task's head.
        device: the GPU if there is one, for None.

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
    """Return a run on the task's loss, in bf16 if its notes say so."""

    def losses(batch: dict[str, Tensor], epochs: float) -> Iterator[Tensor]:
        yield task_loss(model, batch, objective, run.notes["bf16"])

    run = Training(model, losses, examples, pad_token_id, recipe, seed, adjust="the rate (++task.finetuning.lr=RATE)")
    return run


def bf16_is_faster(run: Training) -> bool:
    """Measure on the run's device, with a batch of middling length; nothing of the run is changed but its notes."""
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
    return min(seconds[True][1:]) < min(seconds[False][1:])  # the least, since others may use the device, too


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
