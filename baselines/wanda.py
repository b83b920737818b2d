"""Wanda: weights scored by their magnitude times the norm of their input (Sun, Liu, Bair, Kolter, ICLR 2024)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.masking import Inputs, Masking, smallest
from kprune.target import Target


@dataclass(frozen=True)
class Wanda(Masking):
    """Set to zero the weights with the smallest |W_ij|·‖x_j‖₂ of their row (Sun et al. 2023); the others stay as they are.

    As in the authors' code, a share is met in each row, a pattern in each group of consecutive inputs of a row, and a layer's
    inputs come from the pruned layers below. Departures from it: it runs the model in half precision; it divides the squares
    by the number of sequences, which changes no mask; and it truncates the number of a row's weights, which is rounded here.
    Its option `use_variant`, another share in each row, is left out.
    """

    name: str = "wanda"

    def inputs(self, columns: int, sparsity: Target, device: torch.device) -> Inputs:
        """Return the sums of squares over no token yet."""
        return Norms(torch.zeros(columns, dtype=torch.float64, device=device), sparsity)


@dataclass
class Norms(Inputs):
    """Σ x_j² over tokens, [columns] in float64."""

    squares: Tensor
    sparsity: Target

    def add(self, inputs: Tensor) -> None:
        """Add tokens [N, columns]."""
        self.squares += inputs.double().square().sum(dim=0)

    def masked(self, weight: Tensor) -> Tensor:
        """Return the weights [rows, columns], the least important of each row zero."""
        weight = weight.double()
        return weight.masked_fill(least_in_rows(weight.abs() * self.squares.sqrt(), self.sparsity), 0)


def least_in_rows(scores: Tensor, sparsity: Target) -> Tensor:
    """Return the mask of the weights to remove, True = removed: [rows, columns] (Sun et al. 2023, section 3)."""
    if sparsity.group is None:
        return smallest(scores, round(sparsity.amount * scores.shape[1]))
    groups = scores.unflatten(1, (-1, sparsity.group))
    return smallest(groups, sparsity.group - int(sparsity.amount)).flatten(1)
