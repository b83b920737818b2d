"""LLM-Pruner: Ma, Fang, Wang, "LLM-Pruner: On the Structural Pruning of Large Language Models" (NeurIPS 2023, arXiv 2305.11627)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from baselines.owned import owned_sums
from baselines.same_share import same_share
from kprune.budgets import Budget
from kprune.clock import Clock
from kprune.contract import Job, Method, Outcome
from kprune.data import CalibrationSet
from kprune.errors import UserError
from kprune.models import ModelView, view_of
from kprune.models.copies import frozen_copy
from kprune.models.flops import model_flops
from kprune.models.inputs import call, on_device
from kprune.models.surgery import keep_units
from kprune.objectives import CausalLM
from kprune.objectives.base import IGNORED
from kprune.solve.uniform import best_units
from kprune.types import Model

TOKENS = 1024
"""Tokens of a backward pass. Its memory grows with their number; the gradient does not depend on it."""


@dataclass(frozen=True)
class LLMPruner(Method):
    """Keep the units whose weights matter most to the loss, the same share in every layer that is not spared.

    A unit's score is the sum over all weights w that it owns, biases left out, of |w ∂L/∂w| (`param_first`), or of
    |w ∂L/∂w − ½ w² F| (`param_mix`), F the mean over examples of the squared gradient of an example's loss. L is the mean
    cross-entropy of the next tokens of the calibration texts; no other labels are read. Nothing is compensated. The authors'
    LoRA afterwards, which trains, is left out.

    As in the authors' script for LLaMA-7B: `param_first` (the default of their program is `param_mix`), and layers that are
    spared by hand, 4 at the bottom and 2 at the top of 32, here as shares of the depth, rounded. Departures: their calibration
    set is ten texts of 64 tokens from BookCorpus, here it is the job's; under grouped queries, their code adds the scores of query
    heads to those of the wrong key heads (it views rows as [ratio, rows of keys]), here a unit has its own query heads. `param_second`,
    `vectorize` and the channel mode, which narrows the hidden size, are left out. The gradient of all weights of the layers is
    in memory at once, for `param_mix` two numbers a weight.

    Attributes:
        taylor: the score, as above.
        spared_bottom, spared_top: shares of the layers, from the bottom and from the top, that lose nothing.
    """

    taylor: Literal["param_first", "param_mix"] = "param_first"
    spared_bottom: float = 0.125
    spared_top: float = 0.0625
    name: str = "llm_pruner"

    heads = frozenset({"causal_lm"})

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = self.spared_bottom, self.spared_top
        if not all(0 <= share < 1 for share in shares) or sum(shares) >= 1:
            raise UserError(
                f"spared_bottom={self.spared_bottom} and spared_top={self.spared_top} spare all layers, or are no shares: give two "
                "that are 0 or above and less than 1 together"
            )

    def spared(self, view: ModelView) -> set[int]:
        """Return the layers that lose nothing."""
        depth = len(view.layers)
        bottom, top = round(self.spared_bottom * depth), round(self.spared_top * depth)
        return {*range(bottom), *range(depth - top, depth)}

    def reach(self, model: Model, sequence_length: float) -> float:
        """Return the share of FLOPs of the layers that are not spared."""
        view = view_of(model)
        spared = self.spared(view)
        stay = sum(b.units * b.unit_flops(sequence_length) for b in view.blocks if b.layer in spared)
        return 1 - stay / model_flops(view, sequence_length)

    def check(self, model: Model, budget: Budget) -> None:
        """Check as for any method, and that the budget pays for the spared layers.

        Raises:
            OutOfReach: the spared layers alone cost more than the budget leaves.
            UserError: for the reasons that `Method.check` names.
        """
        super().check(model, budget)
        view = view_of(model)
        same_share(view, budget, self.spared(view))

    def prune(self, job: Job) -> Outcome:
        """Prune a copy of the job's model.

        Raises:
            OutOfReach, UserError: for the reasons that `check` names; or the gradients are not finite, or there is no next token.
        """
        self.check(job.model, job.budget)
        clock, view = Clock(), view_of(frozen_copy(job.model))

        def measure(clock: Clock) -> list[Tensor]:
            with clock("gradients"):
                return taylor_scores(view, job.data.calibration, self.taylor == "param_mix")

        scores = job.data.once(("llm_pruner", self.taylor), clock, measure)
        with clock("surgery"):
            counts = same_share(view, job.budget, self.spared(view))
            kept = [best_units(of, count) for of, count in zip(scores, counts, strict=True)]
            for block, units in zip(view.blocks, kept, strict=True):
                keep_units(block, units)
        return Outcome.of(view, [units.tolist() for units in kept], clock, {})


def taylor_scores(view: ModelView, calibration: CalibrationSet, mixed: bool) -> list[Tensor]:
    """Return the score of every unit, [units] per block in float64 on the CPU (eqs. 4 and 5 of the paper, element-wise).

    Args:
        view: of a frozen copy; left as it was.
        mixed: whether the score is `param_mix`, which takes a backward pass for every example.

    Raises:
        UserError: a gradient is not finite, or no example has two tokens.
    """
    weights = [module.weight for block in view.blocks for module in block.linears]
    first = {weight: torch.zeros_like(weight) for weight in weights}
    second = {weight: torch.zeros_like(weight) for weight in weights} if mixed else {}
    batches = calibration.steps(1 if mixed else TOKENS)
    predicted = [int(batch["attention_mask"][:, 1:].sum()) for batch in batches]
    if not sum(predicted):
        raise UserError(
            "no calibration example has two tokens, so there is no next token to predict: give longer texts"
        )
    share = 0.0

    def take(weight: nn.Parameter) -> None:
        # A gradient is added and freed at once, so that those of all weights are never held beside their sum.
        assert weight.grad is not None
        first[weight].add_(weight.grad, alpha=share)
        if mixed:
            second[weight].addcmul_(weight.grad, weight.grad, value=1 / len(batches))
        weight.grad = None

    handles = [weight.requires_grad_(True).register_post_accumulate_grad_hook(take) for weight in weights]
    try:
        with torch.enable_grad():
            for batch, count in zip(tqdm(batches, "LLM-Pruner", unit="batch", disable=None), predicted, strict=True):
                share = count / sum(predicted)
                if count:
                    next_token_loss(view, on_device(batch, view.device)).backward()
    finally:
        for handle, weight in zip(handles, weights, strict=True):
            handle.remove()
            weight.requires_grad_(False)
    if not all(torch.isfinite(gradient).all() for gradient in first.values()):
        raise UserError("gradients of the loss hold NaN or infinity: check the checkpoint's weights")

    def salience(weight: nn.Parameter) -> Tensor:
        value = weight.detach() * first[weight]
        return (value - 0.5 * weight.detach().square() * second[weight] if mixed else value).abs()

    return [owned_sums(block, salience).cpu() for block in view.blocks]


def next_token_loss(view: ModelView, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean cross-entropy of the next tokens of a batch."""
    objective, mask = CausalLM(), batch["attention_mask"]
    labels = batch["input_ids"].masked_fill(mask == 0, IGNORED)
    return objective.loss(objective.read(call(view.model, batch), mask), labels)
