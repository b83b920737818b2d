"""A retraining-free method, then a short fine-tuning of the pruned model: what a little training adds, and what it costs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from baselines.retrained.distillation import logit_loss, see
from baselines.retrained.stages import Stages, weights_sha256
from kprune.clock import Clock
from kprune.contract import MASKS, Job, Method, Outcome
from kprune.errors import UserError
from kprune.methods.kprune import KPrune
from kprune.models.copies import frozen_view
from kprune.objectives import Objective
from kprune.training import Recipe

OWN_VERSION = 1
"""Of what is done after pruning."""


@dataclass(frozen=True)
class FineTuned(Method):
    """Prune with `pruner`, then train the physically smaller model against the dense one and the labels.

    Attributes:
        distillation: share of the teacher's logits in the loss; the task's loss has the rest.
        temperature: of the distillation.
        max_examples: cap on the training examples, None for all.
        bf16: linear layers in bfloat16 while training.
    """

    pruner: Method = field(default_factory=KPrune)
    recipe: Recipe = Recipe(epochs=1, lr=2e-5, warmup=0.1)
    distillation: float = 0.5
    temperature: float = 2.0
    max_examples: int | None = None
    bf16: bool = False
    name: str = "kprune_finetuned"

    def __post_init__(self) -> None:
        if self.pruner.budgets == MASKS:
            raise UserError(
                f"pruner={self.pruner.name} sets single weights to zero, which training would fill again: use a pruner that "
                "removes units, such as kprune"
            )

    @property
    def needs(self) -> frozenset[str]:
        """Return what the pruner needs, and the training set."""
        return self.pruner.needs | {"training"}

    @property
    def version(self) -> int:
        """Return a number that rises with this method's own version and with the pruner's."""
        return OWN_VERSION + self.pruner.version - 1

    @property
    def budgets(self) -> frozenset[str]:
        """Return the pruner's."""
        return self.pruner.budgets

    @property
    def uniform(self) -> bool:
        """Tell whether the pruner keeps layers alike, which training does not change."""
        return self.pruner.uniform

    def reach(self, model: nn.Module, sequence_length: float) -> float:
        """Return the pruner's."""
        return self.pruner.reach(model, sequence_length)

    def prune(self, job: Job) -> Outcome:
        """Prune a copy of the job's model with the pruner, and train what is left."""
        outcome = self.pruner.prune(job)
        clock, data, objective = Clock(), job.data, job.objective
        stages = Stages(self, data, self.max_examples, clock)
        teacher, student = frozen_view(job.model), outcome.model.requires_grad_(True)
        settings = (
            self.recipe,
            self.distillation,
            self.temperature,
            self.max_examples,
            self.bf16,
            weights_sha256(student),
        )
        stages.train(
            "fine_tuning",
            student,
            self.losses(student, teacher, objective),
            self.recipe,
            stages.state_file(self.name, settings),
        )
        outcome.seconds_by_stage |= clock.seconds
        outcome.details |= stages.on_record()
        return outcome

    def losses(self, student: nn.Module, teacher: nn.Module, objective: Objective) -> Callable:
        """Return the losses: the teacher's logits and the labels."""

        def losses(batch: dict[str, Tensor], epochs: float) -> Iterator[Tensor]:
            with torch.no_grad():
                target = see(teacher, batch, objective, self.bf16)
            seen = see(student, batch, objective, self.bf16)
            yield (
                self.distillation * logit_loss(objective, seen, target, self.temperature)
                + (1 - self.distillation) * objective.loss(seen.logits, batch["labels"])
            )

        return losses
