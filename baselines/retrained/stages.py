"""The training runs of a retrained method: their examples, where they keep their states, and what goes on record."""

import copy
import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kprune.clock import Clock
from kprune.contract import Method, PruningData
from kprune.data import Example
from kprune.errors import UserError
from kprune.training import Losses, Recipe, Training


@dataclass(frozen=True)
class Trained:
    """What is known of a training run that has ended.

    Attributes:
        examples: number of examples in an epoch.
        available: number of training examples before a cap left some out.
        seconds: of all stretches of the run together.
        earlier_seconds: those of processes before this one.
        losses: (step, mean loss up to there) along the run.
        notes: plain values kept with the state.
    """

    steps: int
    epochs: int
    examples: int
    available: int
    seconds: float
    earlier_seconds: float
    losses: list[tuple[int, float]]
    notes: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Return what goes into the result file."""
        capped = self.examples < self.available
        return {"steps": self.steps, "epochs": self.epochs, "examples": self.examples, "capped": capped}


class Stages:
    """What a method trains to prune one model, stage by stage, all on the same examples.

    Args:
        method: its name is shown by the progress bars, and its version is a part of the states' names.
        max_examples: cap on the training examples, drawn with the data's seed; None for all.
        clock: counts a stage's seconds, those of earlier processes too.

    Attributes:
        done: the stages that have ended, by name.
    """

    def __init__(self, method: Method, data: PruningData, max_examples: int | None, clock: Clock):
        everything = data.training()
        self.method, self.data, self.clock = method, data, clock
        self.available = len(everything)
        self.examples = first_of_shuffled(everything, max_examples, data.seed)
        self.done: dict[str, Trained] = {}

    def hold_out(self, every: int) -> list[Example]:
        """Take every n-th example, n being `every`, out of those that are trained on, and return them.

        Raises:
            UserError: none is left to train on.
        """
        held_out = list(self.examples[::every])
        self.examples = [example for index, example in enumerate(self.examples) if index % every]
        self.available -= len(held_out)
        if not self.examples:
            raise UserError("one training example is too few to hold out a tenth: give more (method.max_examples)")
        return held_out

    def train(
        self,
        name: str,
        learner: nn.Module,
        losses: Losses,
        recipe: Recipe,
        state: Path | None,
        groups: list[dict[str, Any]] | None = None,
        dropout: bool = True,
    ) -> None:
        """Train `learner` in place; `groups` and `dropout` are as `Training` has them."""
        self.done[name] = self._run(name, learner, losses, recipe, state, groups, None, dropout)
        self.clock.seconds[name] = self.done[name].seconds

    def train_once(
        self,
        name: str,
        start: nn.Module,
        losses_of: Callable[[nn.Module], Losses],
        recipe: Recipe,
        settings: Hashable,
        notes: dict[str, Any] | None = None,
    ) -> nn.Module:
        """Return a copy of `start` after a training that does not depend on the budget.

        The training runs once for the data, or its result is found in their workspace. Its seconds count in full each time.

        Args:
            losses_of: gives the losses of the copy.
            settings: everything that the training depends on, apart from the model, task and seed.
        """
        state = self.state_file(name, settings)

        def training(clock: Clock) -> tuple[nn.Module, Trained]:
            with clock(name):
                learner = copy.deepcopy(start).requires_grad_(True)
                trained = self._run(name, learner, losses_of(learner), recipe, state, None, notes)
                return learner.requires_grad_(False), trained

        learner, self.done[name] = self.data.once((name, settings), self.clock, training)
        self.clock.seconds[name] += self.done[name].earlier_seconds
        return learner

    def state_file(self, name: str, settings: Hashable) -> Path | None:
        """Return where a training with these settings, by this version of the method, keeps its state; None without a workspace."""
        digest = hashlib.sha256(repr((self.method.version, settings)).encode()).hexdigest()[:12]
        return self.data.workspace / f"{name}-{digest}.safetensors" if self.data.workspace else None

    def on_record(self) -> dict[str, Any]:
        """Return what an outcome's details tell: steps, epochs, examples, whether capped; and the loss curves."""
        return {
            "training": {name: trained.record() for name, trained in self.done.items()},
            "losses": {name: trained.losses for name, trained in self.done.items()},
        }

    def _run(self, name, learner, losses, recipe, state, groups, notes, dropout=True) -> Trained:
        pad, seed = self.data.calibration.pad_token_id, self.data.seed
        run = Training(learner, losses, self.examples, pad, recipe, seed, groups, notes, dropout=dropout)
        if state and self.data.anew:
            state.unlink(missing_ok=True)
        return train(run, f"{self.method.name}: {name.replace('_', ' ')}", state, self.available)


def train(run: Training, description: str, state: Path | None, available: int) -> Trained:
    """Train to the end; if `state` already holds the finished run, load it.

    Args:
        available: number of training examples before a cap left some out.
    """
    if state:
        run.resume(state)
    if run.step < run.steps:
        run.train(description, state)
        if state:
            run.save(state)
    run.learner.eval()
    return Trained(
        run.steps,
        run.recipe.epochs,
        len(run.examples),
        available,
        run.seconds,
        run.earlier_seconds,
        run.losses_on_record(),
        run.notes,
    )


def first_of_shuffled(examples: Sequence[Example], count: int | None, seed: int) -> Sequence[Example]:
    """Return at most `count` examples, drawn without replacement; all of them if None."""
    if count is None or count >= len(examples):
        return list(examples)
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
    return [examples[i] for i in order[:count].tolist()]


def weights_sha256(model: nn.Module) -> str:
    """Return a digest of a model's weights, by which the settings of a training name the pruned model that it starts from."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
