"""Random pruning: the floor below which a method has learnt nothing."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baselines.ranking import Ranking
from kprune.budgets.flops import Budget
from kprune.contract import Outcome, PruningData
from kprune.models import ModelView
from kprune.objectives import Objective


@dataclass(frozen=True)
class Random(Ranking):
    """Keep units in a random order, a head as likely as a neuron, so that every block keeps about the same share."""

    name: str = "random"

    def prune(self, model: nn.Module, objective: Objective, data: PruningData, budget: Budget) -> Outcome:
        """Prune a copy of `model` to the budget; of `data`, the seed alone is read."""
        generator = torch.Generator().manual_seed(data.seed)

        def scores(view: ModelView) -> list[Tensor]:
            return [torch.rand(s.units, dtype=torch.float64, generator=generator) for s in view.blocks]

        return self.keep_best(model, budget, scores)
