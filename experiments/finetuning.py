"""Fine-tune a pretrained encoder on a task by the standard recipe, so that there is a model to prune."""

import json
import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from experiments.cache import write_atomically
from experiments.tasks.base import Task
from kprune.errors import UserError
from kprune.objectives import Objective
from kprune.pruner import Example, collate
from kprune.quiet import quiet_transformers

GROUP = 50
"""Batches whose examples are sorted by length together."""
SAVE_SECONDS = 60.0
TRIALS = 4
"""Timed steps of each precision; the first, which warms up, is not counted."""


@dataclass(frozen=True)
class Recipe:
    """AdamW with a linear warm-up and decay. A task's config overrides it under `finetuning`."""

    epochs: int = 3
    lr: float = 5e-5
    batch_size: int = 32
    warmup: float = 0.06
    clip: float = 1.0
    weight_decay: float = 0.01


def recipe_of(task: Task) -> Recipe:
    """The standard recipe with the task's own settings.

    Raises:
        UserError: a setting is unknown.
    """
    settings = task.finetuning or {}
    names = [field.name for field in fields(Recipe)]
    for key in settings:
        if key not in names:
            raise UserError(f"task.finetuning.{key} is unknown: give {', '.join(names)}")
    return Recipe(**settings)


def finetune(model: nn.Module, tokenizer, task: Task, folder: str | Path, seed: int = 0,
             device: str | torch.device | None = None) -> None:
    """Train `model` in place and write it to `folder`, which is whole or not there.

    What was done is kept beside `folder` once a minute and after each epoch; a run that was killed goes on from there
    and ends with the same weights (on the same device with the same threads).

    Args:
        model: float32, with the task's head.
        device: the GPU where there is one, if None.

    Raises:
        UserError: the data are wrong, the loss is not finite, or the folder cannot be written to.
    """
    folder, recipe = Path(folder), recipe_of(task)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    examples = task.training(tokenizer)
    run = _Run(model.to(device), task.objective, examples, tokenizer.pad_token_id or 0, recipe, seed, device)
    state = folder.with_name(f".{folder.name}.state")
    run.resume(state)
    run.train(state, f"fine-tuning on {task.name}")
    record = {"task": task.name, "examples": len(examples), "seed": seed, "bf16": run.bf16, "steps": run.steps,
              "seconds": round(run.seconds, 1), **asdict(recipe)}  # fmt: skip
    model.to("cpu").eval()
    _write(model, tokenizer, folder, record)
    state.unlink(missing_ok=True)


class _Run:
    """A training run that can be stopped and taken up between any two steps."""

    def __init__(self, model: nn.Module, objective: Objective, examples: Sequence[Example], pad_token_id: int,
                 recipe: Recipe, seed: int, device: torch.device):
        self.model, self.objective, self.examples, self.pad_token_id = model, objective, examples, pad_token_id
        self.recipe, self.seed, self.device = recipe, seed, device
        self.per_epoch = math.ceil(len(examples) / recipe.batch_size)
        self.steps = recipe.epochs * self.per_epoch
        self.step = 0
        self.seconds = 0.0  # in all stretches of the run together
        self.bf16: bool | None = None
        matrices = [p for p in model.parameters() if p.dim() > 1]
        vectors = [p for p in model.parameters() if p.dim() <= 1]  # biases and norms are not decayed
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=recipe.lr, fused=True,
        )  # fmt: skip
        torch.manual_seed(seed)

    def train(self, state: Path, description: str) -> None:
        self.model.train()
        if self.bf16 is None:
            self.bf16 = self.bf16_is_faster()
        pause = SAVE_SECONDS
        saved = clock = time.perf_counter()
        before = self.seconds
        bar = tqdm(total=self.steps, initial=self.step, desc=description, disable=None)
        with bar:
            while self.step < self.steps:
                epoch, first = divmod(self.step, self.per_epoch)
                for indices in batch_order(self.examples, self.recipe.batch_size, self.seed, epoch)[first:]:
                    loss = self.update(self.batch(indices))
                    self.step += 1
                    self.seconds = before + time.perf_counter() - clock
                    bar.update()
                    if self.step % 20 == 0:
                        bar.set_postfix(loss=f"{loss:.3f}")
                    if time.perf_counter() - saved > pause:
                        pause, saved = self.save(state, pause)
                if self.step < self.steps:
                    pause, saved = self.save(state, pause)

    def update(self, batch: dict[str, Tensor]) -> float:
        """One step of the optimizer; the loss before it."""
        factor = rate(self.step, self.steps, self.recipe.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * factor
        loss = self.backward(batch, bool(self.bf16))
        if not math.isfinite(loss):
            raise UserError(f"the loss is {loss} at step {self.step}: lower task.finetuning.lr or check the data")
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def backward(self, batch: dict[str, Tensor], bf16: bool) -> float:
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            output = self.model(**inputs)
        loss = self.objective.loss(self.objective.read(output, batch["attention_mask"]).float(), batch["labels"])
        loss.backward()
        return loss.item()

    def batch(self, indices: list[int]) -> dict[str, Tensor]:
        batch = collate([self.examples[i] for i in indices], self.pad_token_id)
        return {key: value.to(self.device) for key, value in batch.items()}

    def bf16_is_faster(self) -> bool:
        """Measured on this device, with a batch of middling length; nothing of the run is changed."""
        order = sorted(batch_order(self.examples, self.recipe.batch_size, self.seed, 0),
                       key=lambda indices: sum(len(self.examples[i]["input_ids"]) for i in indices))
        batch = self.batch(order[len(order) // 2])
        random = self.random_state()
        try:
            seconds = {bf16: [self.timed(batch, bf16) for _ in range(TRIALS + 1)] for bf16 in (False, True)}
        except RuntimeError:  # a device without bf16
            return False
        finally:
            self.model.zero_grad(set_to_none=True)
            self.set_random_state(random)
        return min(seconds[True][1:]) < min(seconds[False][1:])  # the least, since others may use the device, too

    def timed(self, batch: dict[str, Tensor], bf16: bool) -> float:
        start = time.perf_counter()
        self.backward(batch, bf16)  # reads the loss, so the device has finished
        return time.perf_counter() - start

    def random_state(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def set_random_state(self, state: dict[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"].cpu())
        if "cuda" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"].cpu(), self.device)

    def save(self, path: Path, pause: float) -> tuple[float, float]:
        """Write the state; seconds until the next time (longer where writing is slow), and now."""
        start = time.perf_counter()
        content = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step,
                   "steps": self.steps, "seconds": self.seconds, "bf16": self.bf16,
                   "random": self.random_state()}  # fmt: skip
        write_atomically(path, lambda temporary: torch.save(content, temporary))
        now = time.perf_counter()
        return max(pause, 20 * (now - start)), now

    def resume(self, path: Path) -> None:
        if not path.is_file():
            return
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            if state["steps"] != self.steps:
                raise ValueError(f"{state['steps']} steps in place of {self.steps}")
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except Exception as error:  # pickle, zip and torch raise a type each
            raise UserError(f"{path}, the state of an interrupted fine-tuning, is damaged "
                            f"({' '.join(str(error).split())[:120]}): remove it and start again") from error
        self.step, self.seconds, self.bf16 = state["step"], state["seconds"], state["bf16"]
        self.set_random_state(state["random"])
        print(f"fine-tuning goes on from step {self.step} of {self.steps}")


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the learning rate at a step: up linearly over the `warmup` share of the steps, then down to 0."""
    rising = max(1, round(warmup * steps))
    return min((step + 1) / rising, (steps - step) / max(1, steps - rising))


def batch_order(examples: Sequence[Example], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices of an epoch's batches: random, but of examples of like length."""
    generator = torch.Generator().manual_seed(1000 * seed + epoch)
    order = torch.randperm(len(examples), generator=generator).tolist()
    batches = []
    for start in range(0, len(order), GROUP * batch_size):
        group = sorted(order[start : start + GROUP * batch_size], key=lambda i: len(examples[i]["input_ids"]))
        batches += [group[i : i + batch_size] for i in range(0, len(group), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def _write(model: nn.Module, tokenizer, folder: Path, record: dict[str, Any]) -> None:
    """A transformers checkpoint with its record, under a temporary name first."""
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        temporary.chmod(0o755)
        with quiet_transformers():
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
        (temporary / "finetuning.json").write_text(json.dumps(record, indent=1))
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): free some space, or set KPRUNE_CACHE to a "
                        f"folder of your own") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
