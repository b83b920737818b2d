"""Random pruning: the floor below which a method has learnt nothing."""

import torch

from baselines.magnitude import Magnitude
from kprune.transformer.adapter import Sublayer


class Random(Magnitude):
    """Keep units drawn at random, by torch's generator (which the runner seeds), a head as likely as a neuron."""

    name = "random"

    def scores(self, sublayer: Sublayer, flops: float) -> torch.Tensor:
        return torch.rand(sublayer.units)
