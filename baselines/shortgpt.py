"""ShortGPT: Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect" (arXiv 2403.03853)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from kprune.budgets import Budget
from kprune.clock import Clock
from kprune.contract import Job, Method, Outcome
from kprune.data import CalibrationSet
from kprune.errors import OutOfReach, UserError
from kprune.models import ModelView, view_of
from kprune.models.copies import frozen_copy
from kprune.models.flops import model_flops
from kprune.models.inputs import on_device
from kprune.models.surgery import check_layers_can_go, keep_layers
from kprune.models.uniform import check_alike
from kprune.plan import Plan
from kprune.solve.mask_search import BUDGET_ROUNDING
from kprune.types import Model


@dataclass(frozen=True)
class ShortGPT(Method):
    """Drop whole layers, first those whose output differs least in direction from their input, until the budget is met.

    Norms and residual connections go with a layer. At least one layer stays. If the lowest is built differently from the
    others, as ModernBERT's, which has no first norm, it stays. The order is measured once, on the dense model, as in the
    paper, which drops a number of layers; here, the budget decides how many.

    Departures from the authors' code: it compares the input of the highest layer with that layer's output after the model's
    last norm, here with the output itself; it counts padding; and it cuts texts into windows of 256 tokens.
    """

    name: str = "shortgpt"

    uniform = True

    def reach(self, model: Model, sequence_length: float) -> float:
        """Return the share of FLOPs that all layers but one have."""
        view = view_of(model)
        layers = [
            sum(block.units * block.unit_flops(sequence_length) for block in blocks) for blocks in view.by_layer()
        ]
        return 1 - max(layers) / model_flops(view, sequence_length)

    def check(self, model: Model, budget: Budget) -> None:
        """Check as for any method, and that the budget pays for one layer.

        Raises:
            OutOfReach: one layer costs more than the budget leaves.
            UserError: for the reasons that `Method.check` names, or layers can't go.
        """
        super().check(model, budget)
        view = view_of(model)
        check_layers_can_go(view)
        if max(layer_costs(view, budget)) > budget.limit(view) * (1 + BUDGET_ROUNDING):
            raise OutOfReach("method shortgpt keeps a layer at least, and the budget leaves less: ask for less")

    def check_alike(self, view: ModelView, budget: Budget) -> None:
        """Check that a model's layers are alike. The budget does not matter: layers that stay keep all units, as a stock config has them.

        Raises:
            UserError: they are not.
        """
        check_alike(view)

    def prune(self, job: Job) -> Outcome:
        """Prune a copy of the job's model; its labels are not read.

        Raises:
            OutOfReach: the budget leaves less than a layer.
            UserError: the model's family is not supported, or its hidden states are not finite.
        """
        self.check(job.model, job.budget)
        clock, view = Clock(), view_of(frozen_copy(job.model))

        def measure(clock: Clock) -> list[float]:
            with clock("influence"):
                return block_influence(view, job.data.calibration)

        influence = job.data.once(("shortgpt",), clock, measure)
        with clock("surgery"):
            stay = layers_that_stay(view, influence)
            ranks = [math.inf if layer in stay else value for layer, value in enumerate(influence)]
            dropped = least_influential(ranks, layer_costs(view, job.budget), job.budget.limit(view))
            kept = [[] if block.layer in dropped else list(range(block.units)) for block in view.blocks]
            plan = Plan.of(view, kept, dropped)
            keep_layers(view, [layer for layer in range(len(view.layers)) if layer not in dropped])
        details = {"block_influence": influence}
        return Outcome(view.model.requires_grad_(True), plan, dict(clock.seconds), details)


def layers_that_stay(view: ModelView, influence: Sequence[float]) -> set[int]:
    """Return the layers that the rest of the model can't do without.

    These are the lowest layer, if it differs from the others, and, in a model with attention in some layers alone, the most influential
    of those: without one, transformers has no keys to count the positions of generated tokens by.
    """
    stay = {0} if lowest_differs(view) else set()
    attending = [layer for layer, blocks in enumerate(view.by_layer()) if any(block.attends for block in blocks)]
    if 0 < len(attending) < len(influence):
        stay.add(max(attending, key=lambda layer: influence[layer]))
    return stay


def lowest_differs(view: ModelView) -> bool:
    """Tell whether the norms of the lowest layer differ in kind from those of the layer above, which then can't take its place."""
    lowest, *above = ([type(block.norm) for block in blocks] for blocks in view.by_layer()[:2])
    return above != [lowest]


def layer_costs(view: ModelView, budget: Budget) -> list[float]:
    """Return what the units of each layer cost."""
    costs = budget.costs(view)
    return [sum(costs[block.name].of(block.units, block.units) for block in blocks) for blocks in view.by_layer()]


def least_influential(influence: Sequence[float], costs: Sequence[float], limit: float) -> list[int]:
    """Return the layers to drop so that what is left costs at most `limit`, sorted; of equally influential layers, the lower goes first."""
    left, dropped = sum(costs), []
    for layer in sorted(range(len(costs)), key=lambda layer: influence[layer]):
        if left <= limit * (1 + BUDGET_ROUNDING) or len(dropped) == len(costs) - 1:
            break
        dropped.append(layer)
        left -= costs[layer]
    return sorted(dropped)


@torch.no_grad()
def block_influence(view: ModelView, calibration: CalibrationSet) -> list[float]:
    """Return, for each layer, the mean over real tokens of 1 − cos(input, output) (eq. 1 of the paper).

    Raises:
        UserError: a hidden state is not finite.
    """
    turned, tokens = [0.0] * len(view.layers), 0
    for batch in tqdm(calibration.batches(), desc="ShortGPT", unit="batch", disable=None):
        batch = on_device(batch, view.device)
        x, context = view.embed(batch)
        real = batch["attention_mask"].bool()
        tokens += int(real.sum())
        for layer, blocks in enumerate(view.by_layer()):
            before = x
            for block in blocks:
                x = block.run(x, context)
            turned[layer] += (1 - cosines(before[real], x[real])).sum().item()
    influence = [total / tokens for total in turned]
    if not torch.tensor(influence).isfinite().all():
        raise UserError("hidden states hold NaN or infinity: check the checkpoint's weights")
    return influence


def cosines(one: Tensor, two: Tensor) -> Tensor:
    """Return the cosines between rows, [N] in float64."""
    return F.cosine_similarity(one.double(), two.double(), dim=-1)
