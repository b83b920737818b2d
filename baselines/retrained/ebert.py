"""EBERT (Liu et al., Findings of ACL 2021): small predictors decide for each input which heads and neurons to compute."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from baselines.retrained.distillation import at_least_float32, task_loss
from baselines.retrained.stages import Stages
from kprune.clock import Clock
from kprune.contract import Job, Method, Outcome
from kprune.errors import UserError
from kprune.models import view_of
from kprune.models.copies import frozen_copy
from kprune.models.flops import model_flops
from kprune.models.inputs import model_inputs, on_device
from kprune.objectives import Objective
from kprune.plan import Plan
from kprune.training import Recipe, parameter_groups

BOTTLENECK = 64
OPEN = 2.0
"""The bias of the gates' logits before training, with which most gates are open."""
HALVINGS = 18
HIGHEST = 100.0
"""Gates' logits are expected within ±HIGHEST."""
THRESHOLD_EXAMPLES = 256


@dataclass(frozen=True)
class EBERT(Method):
    """Train model and predictors together on `task loss + λ (share of FLOPs computed − target)²`.

    The gates are made as in the authors' code: a predictor per block, from the mean token (first layer) or the [CLS]
    token through 64 dimensions to a gate for each head or neuron; Gumbel-sigmoid with straight-through in training,
    logit > threshold after it. A decoder's first token sees no other, so that there, all predictors read the mean token.

    Departures from the authors' code: its loss pulls each block to the target, too, by 5 λ times the mean over layers of (share of
    heads open − target)² and of (share of neurons open − target)²; its predictors are normed over the batch, here over their
    dimensions; its mean token counts padding; the predictor of the FFN of its first layer reads the [CLS] token; half of its
    gates are open at first, here most are; it gates a neuron before the activation, here after it (for GELU the value is the same,
    the gradient of the gate is not); the rate of its predictors is constant, here it rises and falls with the model's; and it
    takes the weights that are best on the development set, here those of the last step are taken.

    The penalty leaves the FLOPs near the target, not at it. So that methods are compared at the same FLOPs, one threshold for
    all gates (0 in the paper) is then set so that the mean FLOPs over calibration examples are the target.

    FLOPs and kept units are means over the evaluation inputs, at the sequence length that every method is counted at; those of
    the predictors, which read one vector a sequence, are left out (there, they count). The model here computes every unit and
    masks those whose gates are closed, so its latency would mean nothing and is not measured. A training serves one reduction,
    since the target is in the loss.

    Attributes:
        recipe: of the model (the paper: 3e-5, SST-2 3 epochs at batch 32; its script has no warm-up and no weight decay).
        predictor_lr: the paper's 0.02.
        penalty: λ, the paper's 4.
        max_examples: cap on the training examples, None for all.
        bf16: linear layers in bfloat16 while training.
    """

    recipe: Recipe = Recipe(epochs=3, lr=3e-5, warmup=0.1)
    predictor_lr: float = 0.02
    penalty: float = 4.0
    max_examples: int | None = None
    bf16: bool = False
    name: str = "ebert"
    one_model = False

    needs = frozenset({"training"})
    budgets = frozenset({"flops"})

    def prune(self, job: Job) -> Outcome:
        """Train a gated copy of the job's model, and set the threshold of its gates.

        Raises:
            UserError: the model's family is not supported, the loss is not finite, or no threshold meets the budget.
        """
        clock, target = Clock(), 1 - job.budget.flops_reduction
        model, objective, data, budget = job.model, job.objective, job.data, job.budget
        stages = Stages(self, data, self.max_examples, clock)
        torch.manual_seed(data.seed)
        gated = GatedModel(frozen_copy(model).requires_grad_(True), budget.sequence_length)
        groups = parameter_groups(gated.model, self.recipe)
        groups.append({"params": list(gated.predictors.parameters()), "lr": self.predictor_lr, "weight_decay": 0.0})
        settings = (self.recipe, self.predictor_lr, self.penalty, self.max_examples, self.bf16, budget)
        stages.train(
            "training",
            gated,
            self.losses(gated, objective, target),
            self.recipe,
            stages.state_file(self.name, settings),
            groups,
        )
        gated.requires_grad_(False)
        with clock("threshold"):
            batches = replace(data.calibration, examples=data.calibration.examples[:THRESHOLD_EXAMPLES]).batches()
            untouched = gated.share(gated.count_units(batches))
            set_threshold(gated, batches, target)
            units = gated.count_units(batches)
        details = {
            "threshold": gated.threshold.item(),
            "flops_reduction_at_threshold_0": 1 - float(untouched),
            **stages.on_record(),
        }
        return Outcome(gated, Plan.of_means(gated.view, units), dict(clock.seconds), details, gated.count_units)

    def losses(self, gated: "GatedModel", objective: Objective, target: float) -> Callable:
        """Return the losses: the task's, and the penalty on the share of FLOPs that the gates of the batch leave."""

        def losses(batch: dict[str, Tensor], epochs: float) -> Iterator[Tensor]:
            task = task_loss(gated, batch, objective, self.bf16)
            excess = gated.share(gated.open_units()) - target
            yield task + self.penalty * excess**2

        return losses


class Predictor(nn.Module):
    """Map a block's input to the logits of its gates: [B, T, d] to [B, units]."""

    def __init__(self, hidden_size: int, units: int, pools: bool):
        super().__init__()
        self.pools = pools
        self.down = nn.Linear(hidden_size, BOTTLENECK)
        self.norm = nn.LayerNorm(BOTTLENECK)
        self.up = nn.Linear(BOTTLENECK, units)
        nn.init.constant_(self.up.bias, OPEN)

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        seen = hidden[:, 0]
        if self.pools:
            weights = real[..., None].to(hidden.dtype)
            seen = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        return self.up(torch.relu(self.norm(self.down(seen))))


class GatedModel(nn.Module):
    """A model whose heads and neurons are gated by its inputs; called like the model itself.

    Outside training, a gate is open if its logit is above `threshold`.
    """

    def __init__(self, model: nn.Module, sequence_length: float):
        super().__init__()
        self.model = model
        self.view = view_of(model)
        self.blocks = [s for s in self.view.blocks if s.units]
        pools = self.view.family.reads_last_token
        self.predictors = nn.ModuleList(Predictor(s.hidden_size, s.units, pools or s.layer == 0) for s in self.blocks)
        self.predictors.to(model.device, model.dtype)
        self.register_buffer("threshold", torch.zeros((), device=model.device))
        self.sequence_length = sequence_length
        self.gates: list[Tensor] = []

    def forward(self, **inputs):
        with self._gated(inputs["attention_mask"].flatten(0, -2)):
            return self.model(**inputs)

    def open_units(self) -> list[Tensor]:
        """Return the mean number of open gates per block over the examples of the last batch, differentiable."""
        gates = iter(self.gates)
        return [next(gates).sum(dim=1).mean() if s.units else self.threshold.new_zeros(()) for s in self.view.blocks]

    def share(self, units: Iterable[Tensor | float]) -> Tensor | float:
        """Return the share of the model's FLOPs that so many units per block have."""
        flops = [n * s.unit_flops(self.sequence_length) for n, s in zip(units, self.view.blocks, strict=True)]
        return sum(flops) / model_flops(self.view, self.sequence_length)

    @torch.no_grad()
    def count_units(self, batches: Iterable[dict[str, Tensor]]) -> list[float]:
        """Return the mean number of open gates per block over the examples of all batches."""
        self.eval()
        totals, examples = [0.0] * len(self.view.blocks), 0
        for batch in batches:
            size = len(batch["input_ids"])
            self(**on_device(model_inputs(batch), self.model.device))
            totals = [total + size * units.item() for total, units in zip(totals, self.open_units(), strict=True)]
            examples += size
        return [total / examples for total in totals]

    def gate(self, logits: Tensor) -> Tensor:
        """Return hard gates, 0 or 1: [B, units]. In training they are drawn, and have the sigmoid's gradient."""
        if not self.training:
            return (logits > self.threshold).to(logits.dtype)
        uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
        soft = torch.sigmoid(logits + uniform.log() - (1 - uniform).log())
        return (soft > 0.5).to(soft.dtype) + (soft - soft.detach())

    @contextmanager
    def _gated(self, attention_mask: Tensor) -> Iterator[None]:
        """Gate every block while the context is open.

        A block's predictor reads what its first input module reads, and the gates multiply its features.
        """
        self.gates = []
        handles = []
        for index, (block, predictor) in enumerate(zip(self.blocks, self.predictors, strict=True)):

            def predict(module, inputs, index=index, predictor=predictor):
                if len(self.gates) == index:  # a projection of positions comes later
                    hidden = inputs[0].view(*attention_mask.shape, -1)
                    self.gates.append(self.gate(at_least_float32(predictor(hidden, attention_mask))))

            def close(module, inputs, block=block):
                gates = self.gates[-1].repeat_interleave(block.width, dim=1)
                features = inputs[0].view(*attention_mask.shape, -1)
                return ((features * gates[:, None]).view_as(inputs[0]),)

            handles.append(block.inputs[0].register_forward_pre_hook(predict))
            handles.append(block.output.register_forward_pre_hook(close))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def set_threshold(gated: GatedModel, batches: Sequence[dict[str, Tensor]], target: float) -> None:
    """Set the lowest threshold (to a small error) at which the mean share of FLOPs over batches is within the target.

    Raises:
        UserError: at every threshold up to `HIGHEST`, open gates leave more than the target.
    """
    low, high = -HIGHEST, HIGHEST
    for _ in range(HALVINGS):
        gated.threshold.fill_((low + high) / 2)
        if gated.share(gated.count_units(batches)) > target:
            low = gated.threshold.item()
        else:
            high = gated.threshold.item()
    if high == HIGHEST:
        raise UserError(
            f"EBERT's gates leave over {target:.1%} of FLOPs at any threshold up to {HIGHEST:g}: lower predictor_lr"
        )
    gated.threshold.fill_(high)
