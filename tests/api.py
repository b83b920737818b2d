"""What tests of `kprune.prune` share: batches as users give them, and a method and objectives of one's own."""

import torch
from tiny import tiny_calibration

import kprune
from kprune.contract import Method
from kprune.methods.kprune.algorithm import KPrune
from kprune.objectives import Span


def padded_batches(model, pad: int | None = None):
    """Give twenty-four examples in batches, padded by the model's own token or another."""
    pad = model.config.pad_token_id if pad is None else pad
    for batch in tiny_calibration(24).batches(by_length=False):
        yield batch | {"input_ids": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, pad)}


class Recorder(Method):
    """A method that keeps what it was given."""

    name = "recorder"

    def __init__(self, needs=()):
        self.needs = frozenset(needs)

    def reach(self, model, sequence_length):
        return 0.7

    def prune(self, job):
        self.job, self.objective, self.examples = job, job.objective, job.data.calibration.examples
        return KPrune().prune(job)


IDS = torch.full((2, 4), 7)


def kept(model, batches, **settings):
    return kprune.prune(model, batches, 0.5, **settings).plan.kept


class HalfSpan(Span):
    """A user's own kind of span."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def divergence(self, student, teacher, temperature):
        return self.weight * super().divergence(student, teacher, temperature)


class Headless(HalfSpan):
    """As an objective that was written before it named several classes."""

    class_suffixes = ()

    def __init__(self):
        super().__init__(1.0)
