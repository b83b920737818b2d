"""K-prune with passes over the whole model for each block, as in the authors' code, to measure its cost.

As in that code, batches are in the order of drawing, and the teacher's outputs of every block are kept for all tokens. For each block,
there is a forward and a backward pass of the whole model. The backward pass includes the gradients of the weights; the forward pass also
collects the features, from which the least squares build one matrix. The authors' loop over thresholds, quadratic in the number of
units, is replaced by a sort.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kprune.clock import Clock
from kprune.contract import Job, Method, Outcome
from kprune.models import Block, ModelView, view_of
from kprune.models.copies import frozen_copy
from kprune.models.inputs import on_device
from kprune.models.surgery import keep_units, unit_columns
from kprune.objectives import Objective
from kprune.solve.mask_search import search


@dataclass(frozen=True)
class WholeModel(Method):
    """K-prune by passes over the whole model; the scores are only K_pred, from the gradients of masks of single features."""

    temperature: float = 2.0
    name: str = "whole_model"

    def prune(self, job: Job) -> Outcome:
        """Prune a copy of the job's model, block by block, each time by passes over the whole model."""
        clock, model, objective, budget = Clock(), job.model, job.objective, job.budget
        student, teacher = view_of(frozen_copy(model).requires_grad_(True)), view_of(frozen_copy(model))
        batches = [on_device(batch, model.device) for batch in job.data.calibration.batches(by_length=False)]
        with clock("teacher"):
            logits, outputs = self.teacher(teacher, batches, objective)
        remaining, costs, kept_units = budget.limit(student), list(budget.costs(student).values()), []
        for index, block in enumerate(student.blocks):
            with clock("knowledge"):
                scores, features, residuals = self.measure(student, index, batches, logits, objective)
            with clock("mask_search"):
                scores = [s / c.per_unit for s, c in zip(scores[index:], costs[index:], strict=True)]
                kept = search(scores, costs[index:], remaining)[0].nonzero()[:, 0]
                remaining -= costs[index].of(len(kept), len(scores[0]))
            with clock("weight_tuning"), torch.no_grad():
                self.tune(block, kept, features, outputs[index] - residuals)
            kept_units.append(kept.tolist())
        return Outcome.of(student, kept_units, clock, {})

    @torch.no_grad()
    def teacher(self, view: ModelView, batches, objective: Objective) -> tuple[list[Tensor], list[Tensor]]:
        """Return the logits of each batch, and for each block X + Sub(X) of all N tokens with padding, [N, d]."""
        logits, outputs = [], [[] for _ in view.blocks]
        for batch in batches:
            hidden, context = view.embed(batch)
            for block, seen in zip(view.blocks, outputs, strict=True):
                moved = hidden + block.update(hidden, context)
                seen.append(moved.flatten(0, 1))
                hidden = block.norm_after(moved)
            logits.append(objective.answers(view.apply_head(hidden, batch), batch))
        return logits, [torch.cat(seen) for seen in outputs]

    def measure(self, view: ModelView, at: int, batches, logits, objective: Objective):
        """Return the scores of the units of all blocks, and the features and inputs of one block.

        Args:
            at: the index of this block.
            logits: the teacher's logits of each batch.

        Returns:
            the scores, [units] for each block; the features, [N, n], and the inputs of the residual, [N, d], of block `at`, over all
            N tokens with padding.
        """
        device = view.device
        masks = [torch.ones(s.units * s.width, device=device, requires_grad=True) for s in view.blocks]
        scores = [torch.zeros(s.units, dtype=torch.float64, device=device) for s in view.blocks]
        features, residuals = [], []
        for batch, target in zip(batches, logits, strict=True):
            hidden, context = view.embed(batch)
            for index, (block, mask) in enumerate(zip(view.blocks, masks, strict=True)):
                if block.units:
                    f = block.features(hidden, context) * mask
                    update = block.output(f)
                else:
                    f, update = hidden[..., :0], block.output.bias
                if index == at:
                    features.append(f.detach().flatten(0, 1))
                    residuals.append(hidden.detach().flatten(0, 1))
                hidden = block.join(hidden, update)
            read = objective.answers(view.apply_head(hidden, batch), batch)
            objective.divergence(read, target, self.temperature).mean().backward()
            for block, mask, score in zip(view.blocks, masks, scores, strict=True):
                if block.units:
                    score += mask.grad.double().square().unflatten(0, (-1, block.width)).mean(dim=1)
                    mask.grad = None
            view.model.zero_grad(set_to_none=True)
        return scores, torch.cat(features), torch.cat(residuals)

    @staticmethod
    def tune(block: Block, kept: Tensor, features: Tensor, targets: Tensor) -> None:
        """Keep some units of a block and fit its output projection by float32 normal equations.

        Args:
            kept: [units] the indices of the kept units.
            features: [N, n] the features of all units before the removal.
            targets: [N, d] the wanted outputs of the block, with the bias.
        """
        columns = unit_columns(kept, block.width)
        keep_units(block, kept)
        if len(kept):
            chosen = features[:, columns]
            gram, cross = chosen.T @ chosen, chosen.T @ (targets - block.output.bias)
            block.output.weight.data.copy_(torch.linalg.lstsq(gram, cross).solution.T)
