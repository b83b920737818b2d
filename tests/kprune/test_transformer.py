import copy

import pytest
import torch
from tiny import FAMILIES, HEADS, tiny_batch, tiny_model

from kprune.errors import UserError
from kprune.models import view_of
from kprune.models.flops import flops_reduction, model_flops
from kprune.models.masks import masked
from kprune.models.surgery import keep_units


def logits(output):
    return torch.cat([value.flatten() for value in output.to_tuple()])


def some_masks(view, share=0.5, empty=(0, 3)):
    """Random masks; the first attention and the second FFN lose everything."""
    generator = torch.Generator().manual_seed(1)
    masks = [(torch.rand(s.units, generator=generator) < share).double() for s in view.blocks]
    for index in empty:
        masks[index].zero_()
    return masks


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_running_the_blocks_is_running_the_model(family, head, attention):
    model, batch = tiny_model(family, head, attention), tiny_batch()
    view = view_of(model)
    ours = logits(view.run(0, *view.embed(batch), batch))
    torch.testing.assert_close(ours, logits(model(**batch)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_masked_equals_physically_pruned(family, attention, dtype, tolerance):
    model, batch = tiny_model(family, "classification", attention, dtype), tiny_batch()
    dense = logits(model(**batch))
    view, pruned = view_of(model), copy.deepcopy(model)
    masks = [mask.to(dtype) for mask in some_masks(view)]
    with masked(view, masks):
        expected = logits(model(**batch))
    for block, mask in zip(view_of(pruned).blocks, masks, strict=True):
        keep_units(block, mask.nonzero()[:, 0])
    scale = expected.abs().max()
    assert (expected - dense).abs().max() > 0.05 * scale, "the mask does nothing, so the test proves nothing"
    assert (logits(pruned(**batch)) - expected).abs().max() <= tolerance * scale


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_every_single_zero_mask_changes_the_output(family):
    model, batch = tiny_model(family), tiny_batch()
    view, dense = view_of(model), logits(model(**batch))
    for index, block in enumerate(view.blocks):
        masks = [torch.ones(s.units, dtype=torch.float64) for s in view.blocks]
        masks[index][block.units - 1] = 0
        with masked(view, masks):
            assert (logits(model(**batch)) - dense).abs().max() > 1e-6


def test_flops_are_those_of_the_modules():
    """The closed form against a count of the matrix products that one sequence takes."""
    view, s = view_of(tiny_model()), 10
    counted = 0
    for block in view.blocks:
        linears = [*block.inputs, block.output]
        counted += sum(2 * s * linear.in_features * linear.out_features for linear in linears)
        if block.kind == "heads":
            counted += 2 * (2 * s * s * block.output.in_features)
    assert model_flops(view, s) == counted


def test_emptied_blocks_cost_nothing_but_their_bias():
    model = tiny_model()
    pruned = copy.deepcopy(model)
    for block in view_of(pruned).blocks:
        keep_units(block, torch.tensor([], dtype=torch.long))
    assert flops_reduction(view_of(model), view_of(pruned), 10) == 1
    left = [name for name, parameter in view_of(pruned).layers.named_parameters() if "LayerNorm" not in name]
    assert all(name.endswith("bias") for name in left) and len(left) == 6


def test_unsupported_family():
    with pytest.raises(UserError, match="'Linear' is not supported: use one of bert"):
        view_of(torch.nn.Linear(2, 2))


def test_layers_that_share_weights_are_refused():
    model = tiny_model()
    model.bert.encoder.layer[1] = model.bert.encoder.layer[0]
    with pytest.raises(UserError, match="share weights.*its own copy"):
        view_of(model)
    model = tiny_model()
    attention = model.bert.encoder.layer[0].attention.self
    attention.key.weight = attention.query.weight
    with pytest.raises(UserError, match="share weights"):
        view_of(model)
