"""Magnitude pruning: the sanity floor that looks at weights alone."""

from dataclasses import dataclass

from torch import Tensor

from baselines.ranking import Ranking
from kprune.transformer.adapter import Sublayer


@dataclass(frozen=True)
class Magnitude(Ranking):
    """Keep the units with the largest squared weights per FLOP."""

    name: str = "magnitude"

    def scores(self, sublayer: Sublayer, cost: float) -> Tensor:
        """Sum of squares of all weights that a unit owns (its rows of every input linear module and its columns of the
        output projection, biases left out), over its FLOPs: [units]."""
        if sublayer.units == 0:
            return sublayer.projection.bias.new_zeros(0)
        squares = sublayer.projection.weight.double().square().sum(dim=0)
        for linear in sublayer.inputs:
            squares = squares + linear.weight.double().square().sum(dim=1)
        return squares.unflatten(0, (-1, sublayer.unit_size)).sum(dim=1) / cost
