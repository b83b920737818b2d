"""A retraining-free method, then a short fine-tuning of the pruned model: what a little training adds, and what it costs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from baselines.retrained.distillation import logit_loss, outputs_of
from baselines.retrained.stages import Stages, weights_sha256
from kprune.clock import Clock
from kprune.contract import ZEROS, Job, Method, Outcome
from kprune.data import CalibrationSet, size_of
from kprune.errors import UserError
from kprune.methods.kprune import KPrune
from kprune.models.copies import frozen_shared_copy
from kprune.models.inputs import on_device
from kprune.objectives import Objective
from kprune.training import Recipe

OWN_VERSION = 2
"""The version of what is done after pruning."""
HELD_OUT = 10
"""Every tenth training example is held out."""


@dataclass(frozen=True)
class FineTuned(Method):
    """Prune with `pruner`, then train the physically smaller model against the dense one and the labels.

    Dropout is off: what is left of the model is small and close to where it should be. A tenth of the training examples is held
    out; if the loss on it does not fall, the weights from before the training are restored.

    Attributes:
        pruner: the method that prunes.
        recipe: of the training.
        distillation: weight of the loss on the teacher's logits; the task's loss has the weight 1 − `distillation`.
        temperature: of the distillation.
        max_examples: cap on the training examples, None for all.
        bf16: linear layers in bfloat16 while training.
    """

    pruner: Method = field(default_factory=KPrune)
    recipe: Recipe = Recipe(epochs=1, lr=1e-5, warmup=0.1)
    distillation: float = 0.5
    temperature: float = 2.0
    max_examples: int | None = None
    bf16: bool = False
    name: str = "kprune_finetuned"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pruner.budgets == ZEROS:
            raise UserError(
                f"pruner={self.pruner.name} sets single weights to zero, which training would fill again: use a pruner that "
                "removes units, such as kprune"
            )

    @property
    def needs(self) -> frozenset[str]:
        """Return what the pruner needs, and "training"."""
        return self.pruner.needs | {"training"}

    @property
    def version(self) -> int:
        """Return a number that rises with this method's own version and with the pruner's."""
        return OWN_VERSION + self.pruner.version - 1

    @property
    def budgets(self) -> frozenset[str]:
        """Return the pruner's budgets."""
        return self.pruner.budgets

    @property
    def uniform(self) -> bool:
        """Tell whether the pruner keeps layers alike, which training does not change."""
        return self.pruner.uniform

    def reach(self, model: nn.Module, sequence_length: float) -> float:
        """Return the pruner's reach."""
        return self.pruner.reach(model, sequence_length)

    def check_grain(self, grain: int, uniform: bool) -> None:
        """Check that the pruner rounds widths, which training does not change."""
        self.pruner.check_grain(grain, uniform)

    def prune(self, job: Job) -> Outcome:
        """Prune a copy of the job's model with the pruner, and train what is left."""
        outcome = self.pruner.prune(job)
        clock, data, objective = Clock(), job.data, job.objective
        stages = Stages(self, data, self.max_examples, clock)
        teacher, student = frozen_shared_copy(job.model), outcome.model.requires_grad_(True)
        settings = (
            self.recipe,
            self.distillation,
            self.temperature,
            self.max_examples,
            self.bf16,
            weights_sha256(student),
        )
        losses, pad = self.losses(student, teacher, objective), data.calibration.pad_token_id
        held_out = [
            on_device(batch, job.model.device)
            for batch in CalibrationSet(stages.hold_out(HELD_OUT), self.recipe.batch_size, pad).batches()
        ]
        was = {name: weight.clone() for name, weight in student.state_dict().items()}
        with clock("held_out"):
            before = mean_loss(losses, held_out)
        state = stages.state_file(self.name, settings)
        stages.train("fine_tuning", student, losses, self.recipe, state, dropout=False)
        with clock("held_out"):
            after = mean_loss(losses, held_out)
        if not after < before:
            student.load_state_dict(was)
        outcome.seconds_by_stage |= clock.seconds
        outcome.details |= stages.on_record() | {"held_out_loss": {"pruned": before, "trained": after}}
        return outcome

    def losses(self, student: nn.Module, teacher: nn.Module, objective: Objective) -> Callable:
        """Return the losses of the student: on the teacher's logits and on the labels."""

        def losses(batch: dict[str, Tensor], epochs: float) -> Iterator[Tensor]:
            with torch.no_grad():
                target = outputs_of(teacher, batch, objective, self.bf16)
            outputs = outputs_of(student, batch, objective, self.bf16)
            yield (
                self.distillation * logit_loss(objective, outputs, target, self.temperature)
                + (1 - self.distillation) * objective.loss(outputs.logits, batch["labels"])
            )

        return losses


@torch.no_grad()
def mean_loss(losses: Callable, batches: Sequence[dict[str, Tensor]]) -> float:
    """Return the mean loss over batches of examples, each example counted once."""
    total = examples = 0.0
    for batch in batches:
        size = size_of(batch)
        total += size * sum(loss.item() for loss in losses(batch, 0.0))
        examples += size
    return total / examples
