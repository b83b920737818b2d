"""A retraining-free method, then a short fine-tuning of the pruned model: what a little training adds, and what it costs."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baselines.distillation import logit_loss, see
from baselines.training import Recipe, Training, first_of_shuffled, on_record, state_file, train
from kprune.objectives import Objective
from kprune.pruner import Budget, Outcome, Pruner, PruningData, frozen_copy


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
        return getattr(self.pruner, "any_budget", False)

    def reach(self, model: nn.Module, sequence_length: float) -> float:
        return self.pruner.reach(model, sequence_length)

    def prune(self, model: nn.Module, objective: Objective, data: PruningData, budget: Budget) -> Outcome:
        outcome = self.pruner.prune(model, objective, data, budget)
        available = len(data.training())
        examples = first_of_shuffled(data.training(), self.max_examples, data.seed)
        teacher, student = frozen_copy(model), outcome.model.requires_grad_(True)

        def losses(batch: dict[str, Tensor], epochs: float) -> Iterator[Tensor]:
            with torch.no_grad():
                target = see(teacher, batch, objective, self.bf16)
            seen = see(student, batch, objective, self.bf16)
            yield (self.distillation * logit_loss(objective, seen, target, self.temperature)
                   + (1 - self.distillation) * objective.loss(seen.logits, batch["labels"]))  # fmt: skip

        settings = (self.recipe, self.distillation, self.temperature, self.max_examples, self.bf16, weights_sha256(student))
        run = Training(student, losses, examples, data.calibration.pad_token_id, self.recipe, data.seed)
        trained = train(run, "fine-tuning the pruned model", state_file(data, self.name, settings), available)
        outcome.seconds_by_stage["fine_tuning"] = trained.seconds
        outcome.details |= on_record({"fine_tuning": trained})
        return outcome


def weights_sha256(model: nn.Module) -> str:
    """Names the pruned model that a training starts from."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
