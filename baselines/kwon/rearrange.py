"""Mask rearrangement: interactions between the units of one block, by the block-diagonal Fisher information."""

import torch
from torch import Tensor


def rearrange(mask: Tensor, gradients: Tensor) -> Tensor:
    """Exchange pruned units for kept ones so that ‖Σ_pruned g‖² falls; their number stays.

    Each kept unit in turn, the least important first, joins the pruned ones. Then the unit leaves them that makes the sum of the
    others' gradient vectors shortest. It may be the unit that has just joined, so no step makes the objective larger.

    Args:
        mask: [units] (bool, True = kept), as searched.
        gradients: G, [batches, units] in float64.

    Returns:
        the new mask, [units] (bool).
    """
    pruned, kept = (_by_importance(units.nonzero()[:, 0], gradients) for units in (~mask, mask))
    if len(pruned) == 0:
        return mask
    vectors = gradients.T[pruned]
    total, squares = vectors.sum(dim=0), vectors.square().sum(dim=1)
    for unit in kept.tolist():
        newcomer = gradients[:, unit]
        total, square = total + newcomer, newcomer.square().sum()
        # ‖total − g‖² less the constant ‖total‖²; the newcomer's own is the value to beat.
        without = squares - 2 * (vectors @ total)
        leaves = int(without.argmin())
        if without[leaves] <= square - 2 * (newcomer @ total):
            total = total - vectors[leaves]
            vectors[leaves], squares[leaves], pruned[leaves] = newcomer, square, unit
        else:
            total = total - newcomer
    rearranged = torch.ones_like(mask)
    rearranged[pruned] = False
    return rearranged


def _by_importance(units: Tensor, gradients: Tensor) -> Tensor:
    """Return units with the least important first."""
    return units[gradients[:, units].square().sum(dim=0).argsort(stable=True)]
