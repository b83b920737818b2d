"""Magnitude pruning: the sanity floor that looks at weights alone."""

import torch
from torch import nn

from kprune.mask_search import greedy
from kprune.objectives import Objective
from kprune.pruner import Budget, Clock, Outcome, PruningData, frozen_copy
from kprune.transformer import adapter_for
from kprune.transformer.adapter import Sublayer
from kprune.transformer.flops import model_flops
from kprune.transformer.surgery import keep_units


class Magnitude:
    """Keep the units with the largest squared weights per FLOP; weights stay as they are.

    Subclasses score units otherwise.
    """

    name = "magnitude"
    needs_labels = False

    def reach(self, model: nn.Module, sequence_length: float) -> float:
        return 1.0

    def prune(self, model: nn.Module, objective: Objective, data: PruningData, budget: Budget) -> Outcome:
        clock, adapter = Clock(), adapter_for(frozen_copy(model))
        with clock("mask_search"):
            flops = [sublayer.unit_flops(budget.sequence_length) for sublayer in adapter.sublayers]
            scores = [self.scores(sublayer, f) for sublayer, f in zip(adapter.sublayers, flops, strict=True)]
            allowed = model_flops(adapter, budget.sequence_length) * (1 - budget.flops_reduction)
            masks = greedy(scores, flops, allowed)
        kept = [mask.nonzero()[:, 0] for mask in masks]
        with clock("surgery"):
            for sublayer, units in zip(adapter.sublayers, kept, strict=True):
                keep_units(sublayer, units)
        return Outcome.of(adapter.model, [units.tolist() for units in kept], clock, {})

    def scores(self, sublayer: Sublayer, flops: float) -> torch.Tensor:
        """Sum of squares of all weights that a unit owns, over its FLOPs: [units]."""
        if sublayer.units == 0:
            return torch.zeros(0)
        owned = sublayer.projection.weight.square().sum(dim=0)
        for linear in sublayer.inputs:
            owned = owned + linear.weight.square().sum(dim=1) / flops
        return owned.unflatten(0, (-1, sublayer.unit_size)).sum(dim=1) / flops
