"""A retraining-free method, then a short fine-tuning of the pruned model: what a little training adds, and what it costs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baselines.retrained.distillation import logit_loss, see
from baselines.retrained.stages import Stages, weights_sha256
from kprune.budgets.flops import Budget
from kprune.clock import Clock
from kprune.contract import Outcome, Pruner, PruningData
from kprune.models.copies import frozen_view
from kprune.objectives import Objective
from kprune.training import Recipe


@dataclass(frozen=True)
class FineTuned:
    """Prune with `pruner`, then train the physically smaller model against the dense one and the labels.

    Attributes:
        distillation: share of the teacher's logits in the loss; the task's loss has the rest.
        temperature: of the distillation.
        max_examples: cap on the training examples, None for all.
        bf16: linear layers in bfloat16 while training.
    """

    pruner: Pruner
    recipe: Recipe = Recipe(epochs=1, lr=2e-5, warmup=0.1)
    distillation: float = 0.5
    temperature: float = 2.0
    max_examples: int | None = None
    bf16: bool = False
    name: str = "kprune_finetuned"

    @property
    def needs_labels(self) -> bool:
        return self.pruner.needs_labels

    @property
    def any_budget(self) -> bool:
        return self.pruner.any_budget

    def reach(self, model: nn.Module, sequence_length: float) -> float:
        return self.pruner.reach(model, sequence_length)

    def prune(self, model: nn.Module, objective: Objective, data: PruningData, budget: Budget) -> Outcome:
        outcome = self.pruner.prune(model, objective, data, budget)
        clock = Clock()
        stages = Stages(self.name, data, self.max_examples, clock)
        teacher, student = frozen_view(model), outcome.model.requires_grad_(True)
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
        """The teacher's logits and the labels."""

        def losses(batch: dict[str, Tensor], epochs: float) -> Iterator[Tensor]:
            with torch.no_grad():
                target = see(teacher, batch, objective, self.bf16)
            seen = see(student, batch, objective, self.bf16)
            yield (
                self.distillation * logit_loss(objective, seen, target, self.temperature)
                + (1 - self.distillation) * objective.loss(seen.logits, batch["labels"])
            )

        return losses
