"""Magnitude pruning: the sanity floor that looks at weights alone."""

from dataclasses import dataclass

from torch import Tensor, nn

from baselines.ranking import Ranking
from kprune.budgets.flops import Budget
from kprune.contract import Outcome, PruningData
from kprune.models import Block, ModelView
from kprune.objectives import Objective


@dataclass(frozen=True)
class Magnitude(Ranking):
    """Keep the units with the largest squared weights per FLOP, or per whatever else the budget counts."""

    name: str = "magnitude"

    def prune(self, model: nn.Module, objective: Objective, data: PruningData, budget: Budget) -> Outcome:
        """Prune a copy of `model` to the budget; neither objective nor data are read."""

        def scores(view: ModelView) -> list[Tensor]:
            costs = budget.costs(view)
            return [squared_weights(s) / cost.per_unit for s, cost in zip(view.blocks, costs, strict=True)]

        return self.keep_best(model, budget, scores)


def squared_weights(block: Block) -> Tensor:
    """Sum of squares of all weights that a unit owns (its rows of every input linear module and its columns of the
    output projection, biases left out): [units] in float64."""
    if block.units == 0:
        return block.output.bias.new_zeros(0)
    squares = block.output.weight.double().square().sum(dim=0)
    for linear in block.inputs:
        squares = squares + linear.weight.double().square().sum(dim=1)
    return squares.unflatten(0, (-1, block.width)).sum(dim=1)
