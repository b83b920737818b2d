"""No pruning: every head and neuron stays, for cells that do something else, such as cut the vocabulary."""

from dataclasses import dataclass

from kprune.clock import Clock
from kprune.contract import Job, Method, Outcome
from kprune.models import view_of
from kprune.models.copies import frozen_copy
from kprune.target import NOTHING


@dataclass(frozen=True)
class Unpruned(Method):
    """Keep every unit; the only target that it takes is to remove nothing."""

    name: str = "none"
    budgets = frozenset({NOTHING})
    passes = False

    def prune(self, job: Job) -> Outcome:
        """Return a copy of the job's model as it is."""
        view = view_of(frozen_copy(job.model))
        return Outcome.of(view, [range(block.units) for block in view.blocks], Clock(), {})
