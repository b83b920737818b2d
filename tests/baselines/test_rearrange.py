import pytest
import torch

from baselines.kwon.rearrange import rearrange


def literal_rearrangement(mask, gradients):
    """Every candidate set built and its gradients summed anew."""
    squares = [gradients[:, i].square().sum().item() for i in range(len(mask))]
    order = sorted(range(len(mask)), key=lambda i: squares[i])
    pruned = [i for i in order if not mask[i]]
    for unit in [i for i in order if mask[i]]:
        candidates = [*pruned, unit]
        lengths = [
            sum((gradients[:, j] for j in candidates if j != left_out), torch.zeros(len(gradients)))
            .square()
            .sum()
            .item()
            for left_out in candidates
        ]
        del candidates[lengths.index(min(lengths))]
        pruned = candidates
    return torch.tensor([i not in pruned for i in range(len(mask))])


def objective(mask, gradients):
    return gradients[:, ~mask].sum(dim=1).square().sum()


@pytest.mark.parametrize("seed", range(30))
def test_rearrangement_is_the_literal_loop_and_never_worse(seed):
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(5, 14, generator=generator, dtype=torch.float64) + 0.5
    importance = gradients.square().sum(dim=0)
    mask = importance > importance.sort().values[[2, 6, 11][seed % 3] - 1]
    before, given = gradients.clone(), mask.clone()
    rearranged = rearrange(mask, gradients)
    assert torch.equal(rearranged, literal_rearrangement(mask, gradients))
    assert rearranged.sum() == mask.sum()
    assert objective(rearranged, gradients) <= objective(mask, gradients) * (1 + 1e-12)
    assert torch.equal(gradients, before) and torch.equal(mask, given), "shared gradients must stay as they are"


def test_some_masks_change_for_the_better():
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(5, 14, generator=generator, dtype=torch.float64) + 0.5
    importance = gradients.square().sum(dim=0)
    mask = importance > importance.median()
    assert objective(rearrange(mask, gradients), gradients) < 0.9 * objective(mask, gradients)


@pytest.mark.parametrize("value", [True, False])
def test_nothing_to_exchange(value):
    mask = torch.full((4,), value)
    assert torch.equal(rearrange(mask, torch.randn(3, 4, dtype=torch.float64)), mask)
    assert len(rearrange(mask[:0], torch.zeros(3, 0, dtype=torch.float64))) == 0
