"""Random pruning: a floor, which any other method must beat."""

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.ranking import Ranking
from kprune.contract import Job, Outcome
from kprune.models import ModelView


@dataclass(frozen=True)
class Random(Ranking):
    """Keep units in a random order, a head as likely as a neuron, so that every block keeps about the same share."""

    name: str = "random"

    def prune(self, job: Job) -> Outcome:
        """Prune a copy of the job's model; of its data, the seed alone is read."""
        generator = torch.Generator().manual_seed(job.data.seed)

        def scores(view: ModelView) -> list[Tensor]:
            return [torch.rand(s.units, dtype=torch.float64, generator=generator) for s in view.blocks]

        return self.keep_best(job, scores)
