import pytest
import torch
from tiny import FAMILIES, HEADS, tiny_calibration, tiny_labelled, tiny_model

from baselines.kwon.fisher import importance, mask_gradients_by_batch
from kprune.errors import UserError
from kprune.models import view_of
from kprune.models.copies import frozen_copy
from kprune.models.masks import masked
from kprune.models.surgery import keep_units
from kprune.objectives import objective_of


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
def test_gradients_are_those_of_explicit_masks_under_transformers_own_loss(family, head):
    model = tiny_model(family, head)
    view, calibration = view_of(frozen_copy(model)), tiny_labelled(head, examples=7, batch_size=3)
    ours = mask_gradients_by_batch(view, calibration, objective_of(model))
    batches = calibration.batches(by_length=False)
    assert [len(batch["labels"]) for batch in batches] == [3, 3, 1]
    for row, batch in enumerate(batches):
        masks = [torch.ones(s.units, dtype=torch.float64, requires_grad=True) for s in view.blocks]
        if head == "span":
            # Alone, an example has no padding, which transformers' loss would let into the softmax.
            singles = [
                {k: v[i : i + 1, :n] for k, v in batch.items()} for i, n in enumerate(batch["attention_mask"].sum(1))
            ]
            with masked(view, masks):
                losses = [
                    view.model(
                        input_ids=s["input_ids"],
                        attention_mask=s["attention_mask"],
                        start_positions=s["labels"][:, 0],
                        end_positions=s["labels"][:, 1],
                    ).loss
                    for s in singles
                ]
            loss = torch.stack(losses).mean()
        else:
            labels = batch["labels"].double() if head in ("regression", "multi_label") else batch["labels"]
            with masked(view, masks):
                loss = view.model(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels
                ).loss
        for g, literal in zip(ours, torch.autograd.grad(loss, masks), strict=True):
            assert literal.abs().max() > 0
            torch.testing.assert_close(g[row], literal, rtol=1e-8, atol=1e-12)


def test_importance_is_the_sum_of_squares_over_batches():
    assert importance(torch.tensor([[1.0, 2.0], [3.0, -1.0]])).tolist() == [10.0, 5.0]


def test_an_emptied_block_has_no_gradients():
    model = tiny_model()
    view = view_of(frozen_copy(model))
    keep_units(view.blocks[2], torch.tensor([], dtype=torch.long))
    gradients = mask_gradients_by_batch(view, tiny_labelled(), objective_of(model))
    assert [g.shape[1] for g in gradients] == [4, 48, 0, 48, 4, 48]


def test_examples_without_labels():
    model = tiny_model()
    with pytest.raises(UserError, match="labels"):
        mask_gradients_by_batch(view_of(frozen_copy(model)), tiny_calibration(), objective_of(model))


def test_gradients_that_are_not_finite():
    model = tiny_model()
    view = view_of(frozen_copy(model))
    view.blocks[3].output.weight[0, 0] = float("inf")
    with pytest.raises(UserError, match="NaN or infinity"):
        mask_gradients_by_batch(view, tiny_labelled(), objective_of(model))
