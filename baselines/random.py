"""Random pruning: the floor below which a method has learnt nothing."""

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.ranking import Ranking
from kprune.transformer.adapter import Sublayer


@dataclass(frozen=True)
class Random(Ranking):
    """Keep units in a random order, a head as likely as a neuron, so that every sublayer keeps about the same share.

    The order is drawn from torch's own generator, which the runner seeds.
    """

    name: str = "random"

    def scores(self, sublayer: Sublayer, cost: float) -> Tensor:
        return torch.rand(sublayer.units, dtype=torch.float64)
