"""DynaBERT (Hou et al., NeurIPS 2020): one training for sub-networks of several widths and depths."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from baselines.retrained.distillation import hidden_loss, logit_loss, outputs_of, task_loss
from baselines.retrained.dynabert.rewiring import rewire
from baselines.retrained.dynabert.subnetworks import Shape, Subnetwork, extract
from baselines.retrained.stages import Stages, first_of_shuffled
from kprune.budgets import Budget, FlopsBudget
from kprune.clock import Clock
from kprune.contract import Job, Method, Outcome, PruningData
from kprune.data import CalibrationSet, Example
from kprune.models import view_of
from kprune.models.copies import frozen_copy, frozen_shared_copy
from kprune.models.flops import model_flops
from kprune.models.surgery import check_layers_can_go
from kprune.objectives import Objective
from kprune.plan import Plan
from kprune.solve.mask_search import BUDGET_ROUNDING
from kprune.target import Target
from kprune.training import Recipe
from kprune.types import Model


@dataclass(frozen=True)
class DynaBERT(Method):
    """Rewire, train all widths at once, then all widths and depths, and take the largest sub-network within the budget.

    Stage w: the fine-tuned model is the fixed teacher of every width, by logits and by embeddings and hidden states. Stage
    d: DynaBERT_w, at the same width, is the teacher of every depth. One training serves all reductions; the record of each
    has the whole training's cost. Of sub-networks with equal FLOPs the one with more layers is taken.

    Departures from the paper: it trains 3 epochs a stage on data augmented as TinyBERT's; here there is no augmentation, so that
    an epoch is far shorter. It measures importance on the development set, here on training examples.

    Departures from the authors' code: without augmented data, its stage w trains every width on the labels and distils nothing;
    in its stage d, the teacher has its full width for every student; in regression, it distils no logits; and a stage ends with
    the weights that had the best sum of scores on the development set. Here, stage w distils, the teacher has the student's
    width, regression distils by the squared error, and the weights of the last step are taken. Padding is left out of the hidden
    states' loss.

    Attributes:
        widths, depths: multipliers. With depth 1 alone there is no second stage: the paper's DynaBERT_w.
        width_hidden_weight, depth_hidden_weight: of the hidden states' loss in the two stages; the logits' is 1.
        recipe: of a stage (the paper: 3 epochs, 2e-5, batches of 32).
        final_epochs: on the task's loss after the stages (the paper's optional fine-tuning, 3); 0 leaves it out.
        max_examples: cap on the training examples, None for all.
        rewiring_examples: training examples that importance is measured on.
        bf16: linear layers in bfloat16 while training.
    """

    widths: Sequence[float] = (0.25, 0.5, 0.75, 1.0)
    depths: Sequence[float] = (0.5, 0.75, 1.0)
    width_hidden_weight: float = 0.1
    depth_hidden_weight: float = 1.0
    recipe: Recipe = Recipe(epochs=3, lr=2e-5, warmup=0.0, weight_decay=0.0)
    final_epochs: int = 0
    max_examples: int | None = None
    rewiring_examples: int = 2048
    bf16: bool = False
    name: str = "dynabert_d"

    needs = frozenset({"training"})
    budgets = frozenset({"flops"})

    def shapes(self, depths: Sequence[float]) -> list[Shape]:
        """Return all sub-networks, the largest first, as the paper's training goes through them."""
        return [Shape(w, d) for d in sorted(depths, reverse=True) for w in sorted(self.widths, reverse=True)]

    def reach(self, model: nn.Module, sequence_length: float) -> float:
        """Return the share of FLOPs that the smallest sub-network saves."""
        view = view_of(model)
        smallest = min(shape.flops(view, sequence_length) for shape in self.shapes(self.depths))
        return 1 - smallest / model_flops(view, sequence_length)

    def check(self, model: Model, asked: Budget | Target) -> None:
        """Check as for any method, and that layers can go if the sub-networks are of several depths.

        Raises:
            UserError: for the reasons that `Method.check` names, or layers can't go.
        """
        super().check(model, asked)
        if min(self.depths) < 1:
            check_layers_can_go(view_of(model))

    def prune(self, job: Job) -> Outcome:
        """Train all sub-networks together, and return the largest one within the budget."""
        clock, model, objective, data = Clock(), job.model, job.objective, job.data
        stages = Stages(self, data, self.max_examples, clock)

        def rewiring(clock: Clock) -> tuple[nn.Module, list[list[int]]]:
            with clock("rewiring"):
                return rewire(model, objective, self.rewiring_batches(stages.examples, data))

        rewired, order = data.once(
            ("rewiring", self.max_examples, self.rewiring_examples, self.recipe.batch_size), clock, rewiring
        )
        shared = self.width_stage(stages, rewired, order, model, objective)
        if list(self.depths) != [1.0]:
            shared = self.depth_stage(stages, shared, objective)
        if self.final_epochs:
            shared = self.final_stage(stages, shared, objective)
        with clock("extraction"):
            shape = self.largest(model, job.budget)
            pruned = extract(shared, shape)
            order = stages.done["width_stage"].notes["order"]
            dense = view_of(model)
            kept = [sorted(units[:n]) for units, n in zip(order, shape.kept(dense), strict=True)]
            gone = set(range(len(dense.layers))) - set(shape.layers(len(dense.layers)))
        details = {"width": shape.width, "depth": shape.depth, **stages.on_record()}
        plan = Plan.of(dense, kept, sorted(gone))
        return Outcome(pruned.eval().requires_grad_(True), plan, dict(clock.seconds), details)

    @property
    def width_settings(self) -> tuple:
        """Return the settings that the training of DynaBERT_w depends on."""
        return (
            tuple(self.widths),
            self.width_hidden_weight,
            self.recipe,
            self.max_examples,
            self.rewiring_examples,
            self.bf16,
        )

    @property
    def depth_settings(self) -> tuple:
        """Return the settings that the training of DynaBERT depends on."""
        return (*self.width_settings, tuple(self.depths), self.depth_hidden_weight)

    def width_stage(
        self, stages: Stages, rewired: nn.Module, order: list[list[int]], model: nn.Module, objective: Objective
    ) -> nn.Module:
        """Train DynaBERT_w, from the rewired model; the units' order is kept with it."""
        return stages.train_once(
            "width_stage",
            rewired,
            lambda shared: self.width_losses(shared, model, objective),
            self.recipe,
            self.width_settings,
            {"order": order},
        )

    def depth_stage(self, stages: Stages, width_stage: nn.Module, objective: Objective) -> nn.Module:
        """Train DynaBERT, from DynaBERT_w."""
        return stages.train_once(
            "depth_stage",
            width_stage,
            lambda shared: self.depth_losses(shared, width_stage, objective),
            self.recipe,
            self.depth_settings,
        )

    def final_stage(self, stages: Stages, trained: nn.Module, objective: Objective) -> nn.Module:
        """Fine-tune on the labels."""
        recipe, settings = replace(self.recipe, epochs=self.final_epochs), (*self.depth_settings, self.final_epochs)
        return stages.train_once(
            "final_fine_tuning", trained, lambda shared: self.task_losses(shared, objective), recipe, settings
        )

    def rewiring_batches(self, examples: Sequence[Example], data: PruningData) -> list[dict[str, Tensor]]:
        some = first_of_shuffled(examples, self.rewiring_examples, data.seed)
        return CalibrationSet(some, self.recipe.batch_size, data.calibration.pad_token_id).batches()

    def largest(self, model: nn.Module, budget: FlopsBudget) -> Shape:
        """Return the sub-network with the most FLOPs that fit; of equals, the deepest."""
        view = view_of(model)
        allowed = model_flops(view, budget.sequence_length) * (1 - budget.flops_reduction) * (1 + BUDGET_ROUNDING)
        sizes = {shape: shape.flops(view, budget.sequence_length) for shape in self.shapes(self.depths)}
        fitting = [shape for shape in sizes if sizes[shape] <= allowed]
        return max(fitting, key=lambda shape: (round(sizes[shape] / allowed, 9), shape.depth))

    def width_losses(self, shared: nn.Module, model: nn.Module, objective: Objective) -> Callable:
        """Return the losses of every width against the fine-tuned model: logits, embeddings and hidden states."""
        teacher, networks = frozen_shared_copy(model), [Subnetwork(shared, shape) for shape in self.shapes([1.0])]

        def losses(batch: dict[str, Tensor], epochs: float) -> Iterator[Tensor]:
            with torch.no_grad():
                target = outputs_of(teacher, batch, objective, self.bf16)
            for network in networks:
                outputs = outputs_of(network, batch, objective, self.bf16)
                pairs = zip(outputs.hidden, target.hidden, strict=True)
                hidden = sum(hidden_loss(ours, theirs, outputs.real) for ours, theirs in pairs)
                yield logit_loss(objective, outputs, target, 1.0) + self.width_hidden_weight * hidden

        return losses

    def depth_losses(self, shared: nn.Module, width_stage: nn.Module, objective: Objective) -> Callable:
        """Return the losses of every width and depth against DynaBERT_w at that width, by every layer that the depth keeps."""
        width_stage, count = frozen_copy(width_stage), len(view_of(shared).layers)
        teachers = {shape.width: Subnetwork(width_stage, shape) for shape in self.shapes([1.0])}
        networks = {shape: Subnetwork(shared, shape) for shape in self.shapes(self.depths)}

        def losses(batch: dict[str, Tensor], epochs: float) -> Iterator[Tensor]:
            with torch.no_grad():
                targets = {
                    width: outputs_of(teacher, batch, objective, self.bf16) for width, teacher in teachers.items()
                }
            for shape, network in networks.items():
                outputs, target = outputs_of(network, batch, objective, self.bf16), targets[shape.width]
                # The input of every kept layer, then the top; the embeddings are the lowest layer's input.
                theirs = [target.hidden[index] for index in (*shape.layers(count), count)]
                hidden = sum(hidden_loss(a, b, outputs.real) for a, b in zip(outputs.hidden, theirs, strict=True))
                yield logit_loss(objective, outputs, target, 1.0) + self.depth_hidden_weight * hidden

        return losses

    def task_losses(self, shared: nn.Module, objective: Objective) -> Callable:
        """Return the losses of every sub-network on the labels."""
        networks = [Subnetwork(shared, shape) for shape in self.shapes(self.depths)]

        def losses(batch: dict[str, Tensor], epochs: float) -> Iterator[Tensor]:
            for network in networks:
                yield task_loss(network, batch, objective, self.bf16)

        return losses
