"""Training by gradient, the one loop of every retrained method and of fine-tuning.

AdamW, a linear warm-up and decay, batches of examples of like length, and a state that is kept on disk, so that a run that
was killed goes on from there and ends with the same weights, bit for bit, on the same device with the same threads.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from kprune.data import Example, collate
from kprune.errors import UserError, one_line
from kprune.files import OTHER_CACHE, write_whole
from kprune.models.inputs import on_device
from kprune.settings_checks import check_settings

GROUP = 50
"""Batches whose examples are sorted by length together."""
SAVE_SECONDS = 60.0
LOSS_POINTS = 60
"""Points of a run's loss curve on record, each a mean over its stretch of steps."""

Losses = Callable[[dict[str, Tensor], float], Iterable[Tensor]]
"""Takes a batch and the epochs done so far (a fraction), gives scalars one by one; each is differentiated before the
next is asked for, and the gradients add up. Each is a mean over the batch."""


@dataclass(frozen=True)
class Recipe:
    """AdamW with a linear warm-up (a share of all steps) and decay; the gradient's norm is clipped at `clip`."""

    epochs: int = 3
    lr: float = 5e-5
    batch_size: int = 32
    warmup: float = 0.06
    clip: float = 1.0
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        check_settings(self)


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Return the optimizer's groups of a model's parameters: biases and norms are not decayed."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    return [
        {"params": matrices, "lr": recipe.lr, "weight_decay": recipe.weight_decay},
        {"params": vectors, "lr": recipe.lr, "weight_decay": 0.0},
    ]


class Training:
    """A training run that can be stopped and taken up between any two steps.

    Args:
        learner: everything whose state is kept; those of its parameters that require gradients are trained.
        groups: the optimizer's parameter groups with their own `lr`; `parameter_groups` if None. With `free` set, a
            group's rate is constant and its gradient not clipped.
        notes: plain values that belong to the run; a state on disk brings its own.
        adjust: what to lower if the loss is not finite, for the message.
        dropout: whether the learner drops features while it is trained, as its config says.
    """

    def __init__(
        self,
        learner: nn.Module,
        losses: Losses,
        examples: Sequence[Example],
        pad_token_id: int,
        recipe: Recipe,
        seed: int,
        groups: list[dict[str, Any]] | None = None,
        notes: dict[str, Any] | None = None,
        adjust: str = "recipe.lr",
        dropout: bool = True,
    ):
        self.learner, self.losses, self.examples, self.pad_token_id = learner, losses, examples, pad_token_id
        self.recipe, self.seed, self.notes, self.adjust = recipe, seed, notes or {}, adjust
        self.dropout = dropout
        self.device = next(learner.parameters()).device
        self.per_epoch = math.ceil(len(examples) / recipe.batch_size)
        self.steps = recipe.epochs * self.per_epoch
        self.step = 0
        self.seconds = self.earlier_seconds = 0.0
        self.seen: list[float] = []
        groups = groups or parameter_groups(learner, recipe)
        self.optimizer = torch.optim.AdamW(
            [{"free": False, **group, "peak": group["lr"]} for group in groups], fused=True
        )
        torch.manual_seed(seed)

    def train(self, description: str, state: Path | None = None) -> None:
        """Train to the end; the state is written once a minute and after each epoch."""
        self.learner.train(self.dropout)
        pause = SAVE_SECONDS
        saved = clock = time.perf_counter()
        before = self.seconds
        bar = tqdm(total=self.steps, initial=self.step, desc=description, disable=None)
        with bar:
            while self.step < self.steps:
                epoch, first = divmod(self.step, self.per_epoch)
                for indices in batch_order(self.examples, self.recipe.batch_size, self.seed, epoch)[first:]:
                    self.seen.append(self.update(self.batch(indices)))
                    self.step += 1
                    self.seconds = before + time.perf_counter() - clock
                    bar.update()
                    if self.step % 20 == 0:
                        bar.set_postfix(loss=f"{self.seen[-1]:.3f}")
                    if state and time.perf_counter() - saved > pause:
                        pause, saved = self.save(state, pause)
                if state and self.step < self.steps:
                    pause, saved = self.save(state, pause)

    def update(self, batch: dict[str, Tensor]) -> float:
        """Take one step of the optimizer, and return the loss before it.

        Raises:
            UserError: the loss is not finite.
        """
        factor = rate(self.step, self.steps, self.recipe.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * (1.0 if group["free"] else factor)
        total = self.backward(batch)
        if not math.isfinite(total):
            raise UserError(f"the loss is {total} at step {self.step}: lower {self.adjust} or check the data")
        bound = [p for group in self.optimizer.param_groups if not group["free"] for p in group["params"]]
        nn.utils.clip_grad_norm_(bound, self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def backward(self, batch: dict[str, Tensor]) -> float:
        """Add a batch's gradients, and return the sum of its losses."""
        total = 0.0
        for loss in self.losses(batch, self.step / self.per_epoch):
            loss.backward()
            total += loss.item()
        return total

    def batch(self, indices: list[int]) -> dict[str, Tensor]:
        return on_device(collate([self.examples[i] for i in indices], self.pad_token_id), self.device)

    def random_state(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def set_random_state(self, state: dict[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"].cpu())
        if "cuda" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"].cpu(), self.device)

    def save(self, path: Path, pause: float = 0.0) -> tuple[float, float]:
        """Write the state to `path`; that of a finished run has no moments of the optimizer.

        Returns:
            seconds to wait before the next write (more if writing is slow), and the time now.

        Raises:
            UserError: the folder is not writable, or the disk is full.
        """
        start = time.perf_counter()
        tensors = {f"learner.{name}": value for name, value in self.learner.state_dict().items()}
        if self.step < self.steps:
            for index, moments in self.optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        tensors |= {f"random.{name}": value for name, value in self.random_state().items()}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        content = {
            "step": self.step,
            "steps": self.steps,
            "seconds": self.seconds,
            "losses": self.seen,
            "notes": self.notes,
        }
        metadata = {"training": json.dumps(content)}
        write_whole(path, lambda temporary: save_file(tensors, temporary, metadata), OTHER_CACHE)
        now = time.perf_counter()
        return max(pause, 20 * (now - start)), now

    def resume(self, path: Path) -> None:
        """Take up the state at `path`, if there is one.

        Raises:
            UserError: it is damaged, or another run's.
        """
        if not path.is_file():
            return
        try:
            with safe_open(path, framework="pt") as file:
                content = json.loads((file.metadata() or {})["training"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            if content["steps"] != self.steps:
                raise ValueError(f"{content['steps']} steps in place of {self.steps}")
            self.learner.load_state_dict(below("learner", tensors))
            moments: dict[int, dict[str, Tensor]] = {}
            for name, value in below("optimizer", tensors).items():
                index, key = name.split(".")
                moments.setdefault(int(index), {})[key] = value
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
            self.step, self.seconds, self.seen = content["step"], content["seconds"], content["losses"]
            self.notes, self.earlier_seconds = content["notes"], content["seconds"]
            self.set_random_state(below("random", tensors))
        except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(
                f"{path}, the state of a training, is damaged or another's "
                f"({one_line(error, 120)}): remove it and start again"
            ) from error
        if self.step < self.steps:
            print(f"training goes on from step {self.step} of {self.steps}")

    def losses_on_record(self) -> list[tuple[int, float]]:
        """Return the loss curve in at most `LOSS_POINTS` stretches: (last step, mean)."""
        stretch = max(1, math.ceil(len(self.seen) / LOSS_POINTS))
        parts = (self.seen[start : start + stretch] for start in range(0, len(self.seen), stretch))
        return [(min((i + 1) * stretch, len(self.seen)), sum(part) / len(part)) for i, part in enumerate(parts)]


def below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries named `prefix.` something, by that something."""
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def rate(step: int, steps: int, warmup: float) -> float:
    """Return the share of the learning rate at a step: up linearly over the `warmup` share of the steps, then down to 0."""
    rising = max(1, round(warmup * steps))
    return min((step + 1) / rising, (steps - step) / max(1, steps - rising))


def batch_order(examples: Sequence[Example], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the indices of an epoch's batches: random, but of examples of like length."""
    generator = torch.Generator().manual_seed(1000 * seed + epoch)
    order = torch.randperm(len(examples), generator=generator).tolist()
    batches = []
    for start in range(0, len(order), GROUP * batch_size):
        group = sorted(order[start : start + GROUP * batch_size], key=lambda i: len(examples[i]["input_ids"]))
        batches += [group[i : i + batch_size] for i in range(0, len(group), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
