"""Single weights set to zero, a layer at a time: the frame of SparseGPT and Wanda."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from kprune.budgets import Budget
from kprune.clock import Clock
from kprune.contract import ZEROS, Job, Method, Outcome
from kprune.errors import UserError
from kprune.models import Block, view_of
from kprune.models.copies import frozen_copy
from kprune.models.modeling_kprune import sizes
from kprune.models.surgery import input_weight
from kprune.plan import Plan
from kprune.streams import CalibrationState, calibration_states
from kprune.target import Target
from kprune.types import Model

TOKENS = 1024
"""Tokens of a batch, which has at least one text. Few: a language model computes logits of them all, as wide as its vocabulary."""


class Inputs(ABC):
    """Statistics of a linear module's inputs, summed over tokens, by which a method chooses the weights to set to zero."""

    @abstractmethod
    def add(self, inputs: Tensor) -> None:
        """Add tokens [N, columns]."""

    @abstractmethod
    def masked(self, weight: Tensor) -> Tensor:
        """Return the weights [rows, columns] of a module with these inputs, some of them zero; in float64."""


class Masking(Method):
    """Set a share, or a pattern, of the weights of every linear module of the layers to zero.

    All linear modules of the layers lose the same share; embeddings, norms, biases, pooler and head stay. A layer's inputs come from
    the pruned layers below it; within a layer, statistics are taken while it is still dense. Padding does not count, nor do the
    positions that DeBERTa's query and key modules also read.
    """

    budgets = ZEROS

    @abstractmethod
    def inputs(self, columns: int, sparsity: Target, device: torch.device) -> Inputs:
        """Return the statistics of no token yet, for a module of `columns` inputs."""

    def check(self, model: Model, asked: Budget | Target) -> None:
        """Check that a sparsity is asked for, and that its pattern fits this model.

        Raises:
            UserError: a budget is asked for, or the groups of the pattern do not divide the inputs of a module.
        """
        super().check(model, asked)
        assert isinstance(asked, Target), "a budget was refused"
        for block in view_of(model).blocks:
            for module in block.linears:
                columns = sizes(module)[0]
                if columns % (asked.group or 1):
                    raise UserError(
                        f"sparsity={asked} is of groups of {asked.group} inputs, and a linear module of {block.name} has "
                        f"{columns}: give a share, such as sparsity=0.5"
                    )

    def prune(self, job: Job) -> Outcome:
        """Prune a copy of the job's model; the objective is not read.

        Raises:
            UserError: the model's family is not supported, or the inputs of a module are not finite.
        """
        clock, view = Clock(), view_of(frozen_copy(job.model))
        with torch.no_grad():
            with clock("embeddings"):
                states = calibration_states(view, job.data.calibration.steps(TOKENS))
            for blocks in tqdm(view.by_layer(), desc=self.name, unit="layer", disable=None):
                with clock("statistics"):
                    found = self.read(blocks, states, job.sparsity, view.device)
                with clock("masks"):
                    for block, (first, last) in zip(blocks, found, strict=True):
                        for module in block.linears:
                            weight = input_weight(module)
                            weight.copy_((last if module is block.output else first).masked(weight))
                with clock("student"):
                    for state in states:
                        for block in blocks:
                            state.student = block.run(state.student, state.context)
                        state.teacher = state.student
        plan = Plan.of_sparsity(view, job.sparsity)
        return Outcome(view.model.requires_grad_(True), plan, dict(clock.seconds), {})

    def read(
        self, blocks: Sequence[Block], states: Sequence[CalibrationState], sparsity: Target, device: torch.device
    ) -> list[tuple[Inputs, Inputs]]:
        """Return the statistics of a layer: per block, of what its input modules read, and of what its output projection reads.

        Raises:
            UserError: an input is not finite.
        """
        found = [
            (self.inputs(block.hidden_size, sparsity, device), self.inputs(block.columns, sparsity, device))
            for block in blocks
        ]
        for state in states:
            x = state.student
            for block, (first, last) in zip(blocks, found, strict=True):
                above, features = block.run_with_features(x, state.context)
                if features is not None:
                    first.add(finite(block.norm_before(x)[state.real], block))
                    last.add(finite(features[state.real], block))
                x = above
        return found


def finite(values: Tensor, block: Block) -> Tensor:
    """Return the values if they are finite.

    Raises:
        UserError: a value is not.
    """
    if not torch.isfinite(values).all():
        raise UserError(f"the features of {block.name} hold NaN or infinity: check the checkpoint's weights")
    return values


def smallest(scores: Tensor, count: int) -> Tensor:
    """Return the mask of the `count` smallest scores of each row, [..., n] bool; of equal ones, the first."""
    order = scores.argsort(dim=-1, stable=True)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order[..., :count], True)
