"""What `kprune.prune` makes of the batches that users give: masks, padding, token types, single examples."""

from contextlib import nullcontext

import pytest
import torch
from api import IDS, Recorder, kept, padded_batches
from language import tiny_llama
from tiny import tiny_batch, tiny_calibration, tiny_model
from transformers import DataCollatorWithFlattening

import kprune
from kprune.api import calibration_set
from kprune.errors import UserError
from kprune.objectives import objective_of


def test_batches_without_a_mask_have_no_padding():
    ids = torch.randint(5, 99, (4, 6), generator=torch.Generator().manual_seed(0))
    model = tiny_model()
    calibration = calibration_set(model, [{"input_ids": ids, "attention_mask": None}], objective_of(model), False)
    assert calibration.tokens == 24


RIGHT = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])


@pytest.mark.parametrize(
    "batches, message",
    [
        ([], "batches is empty"),
        (None, "batches is a NoneType"),
        ({"input_ids": IDS}, "batches is one batch"),
        ([(IDS, RIGHT)], "batch 0 is a tuple: give dicts"),
        ([{"attention_mask": RIGHT}], "batch 0 has no tensor input_ids, but attention_mask"),
        ([{"input_ids": None, "attention_mask": RIGHT}], "batch 0 has no tensor input_ids"),
        ([{"input_ids": [[1, 2]]}], "^batch 0: input_ids is a list: give a tensor, .*return_tensors='pt'"),
        ([{"input_ids": IDS, "attention_mask": RIGHT.numpy()}], "^batch 0: attention_mask is a ndarray: give a tensor"),
        ([{"input_ids": IDS[0]}], r"input_ids are \[4\] torch.int64"),
        ([{"input_ids": IDS[:0]}], "batch 0 is empty"),
        ([{"input_ids": IDS, "attention_mask": RIGHT[:1]}], r"attention_mask is \[1, 4\], input_ids \[2, 4\]"),
        ([{"input_ids": IDS}, {"input_ids": IDS, "attention_mask": RIGHT * 0}], "batch 1, example 0 is padding alone"),
        ([{"input_ids": IDS, "attention_mask": RIGHT.flip(1)}], "padded on the left, and the model's answer depends"),
        ([{"input_ids": IDS, "attention_mask": torch.tensor([[1, 0, 1, 0], [1, 1, 1, 1]])}], "padding between tokens"),
        ([{"input_ids": IDS, "token_type_ids": IDS}], "token type 7, the model's number of types is 2"),
        (
            [{"input_ids": IDS, "token_type_ids": torch.full((2, 4), float("nan"))}],
            r"token_type_ids are torch.float32: give integers, token_type_ids.long\(\)$",
        ),
        ([{"input_ids": IDS, "token_type_ids": RIGHT.bool()}], "token_type_ids are torch.bool: give integers"),
        ([{"input_ids": IDS - 9}], "token -2, the model's vocabulary is 99"),
        ([{"input_ids": IDS * 99}], "token 693, the model's vocabulary is 99"),
        ([{"input_ids": torch.full((1, 65), 7)}], "65 tokens, the model reads 64"),
    ],
)
def test_batches_that_no_model_reads(batches, message):
    with pytest.raises(UserError, match=message):
        kprune.prune(tiny_model(), batches)


@pytest.mark.parametrize("told_by", ["position_ids", "flash_attn_kwargs", "seq_idx"])
def test_several_texts_in_a_row_are_refused(told_by):
    texts = [{"input_ids": list(range(5, 5 + length))} for length in (9, 4, 7)]
    collate = DataCollatorWithFlattening(return_position_ids=told_by == "position_ids")
    if told_by != "position_ids":
        setattr(collate, f"return_{told_by}", True)
    with pytest.raises(UserError, match="^batch 0 has several texts in a row.*: give each text a row of its own"):
        kprune.prune(tiny_llama(), [collate(texts, return_tensors="pt")], 0.3)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_positions_that_the_model_counts_by_itself_change_nothing(family):
    """RoBERTa's begin behind the padding's number, 1; at padding they may be anything."""
    model, plain = tiny_model(family, dtype=torch.float32), list(padded_batches(tiny_model()))
    first = 2 if family == "roberta" else 0
    counted = [
        b | {"position_ids": first + torch.arange(b["input_ids"].shape[1]).expand_as(b["input_ids"])} for b in plain
    ]
    assert kept(model, counted) == kept(model, plain)
    for wrong in (counted[0]["position_ids"] + 1, counted[0]["position_ids"][:1]):
        with pytest.raises(UserError, match="position_ids other than the model's own"):
            kprune.prune(model, [counted[0] | {"position_ids": wrong}], 0.5)


def test_token_types_are_read_and_are_zero_where_a_batch_has_none():
    model, plain = tiny_model(dtype=torch.float32), list(padded_batches(tiny_model()))
    typed = [b | {"token_type_ids": torch.ones_like(b["input_ids"])} for b in plain]
    zeros = [b | {"token_type_ids": torch.zeros_like(b["input_ids"])} for b in plain]
    assert kept(model, typed) != kept(model, plain) == kept(model, zeros)
    for mixed in ([*typed[:3], *plain[3:]], [*plain[3:], *typed[:3]]):
        same = [b if "token_type_ids" in b else b | {"token_type_ids": torch.zeros_like(b["input_ids"])} for b in mixed]
        assert kept(model, mixed) == kept(model, same)
    distilbert = tiny_model("distilbert", dtype=torch.float32)
    assert kept(distilbert, typed) == kept(distilbert, plain), "a model without token types does not read them"


@pytest.mark.parametrize("method", ["kprune", "kprune_plus"])
@pytest.mark.parametrize(
    "family, head", [("bert", "classification"), ("bert", "span"), ("distilbert", "classification")]
)
def test_one_example_alone(method, family, head):
    """Of one token that has all the weight, no feature varies."""
    model = tiny_model(family, head, dtype=torch.float32)
    for length in (1, 6):
        outcome = kprune.prune(model, [{"input_ids": torch.arange(5, 5 + length)[None]}], 0.5, method)
        assert outcome.details["flops_reduction"] >= 0.5
        assert all(torch.isfinite(parameter).all() for parameter in outcome.model.parameters())


@pytest.mark.parametrize("method", ["kprune", "kprune_plus"])
def test_one_example_that_holds_all_the_energy(method):
    """All others are so certain that nothing is felt of what is done to them."""
    model, batch = tiny_model("distilbert", dtype=torch.float32), tiny_batch()
    logits = model(**batch).logits
    with torch.no_grad():
        model.classifier.weight.mul_(60)
        model.classifier.bias.copy_(60 * (model.classifier.bias - logits[0]))  # the first is undecided
    outcome = kprune.prune(model, [batch], 0.5, method)
    assert outcome.details["flops_reduction"] >= 0.5


@pytest.mark.parametrize("length, accepted", [(20, False), (64, True)])
def test_padding_before_an_example_beyond_what_the_model_reads(length, accepted):
    """An example as long as what the model reads leaves no padding that it could hang on."""
    model = tiny_model(dtype=torch.float32)
    ids = torch.randint(5, 99, (2, 80), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(80) >= 70 - length) & (torch.arange(80) < 70)  # and some behind it
    batch = {"input_ids": ids, "attention_mask": mask.long().expand(2, 80)}
    with (
        nullcontext()
        if accepted
        else pytest.raises(UserError, match="padded on the left, and the model's answer depends")
    ):
        assert kprune.prune(model, [batch], 0.5).details["sequence_length"] == length


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_before_an_example_is_as_none_if_the_model_answers_the_same(side):
    model, recorder = tiny_model("roberta", "span", dtype=torch.float32), Recorder(needs={"labels"})
    pad = model.config.pad_token_id
    padded = []
    for batch in padded_batches(model):
        lengths = batch["attention_mask"].sum(dim=1)
        shift = batch["input_ids"].shape[1] - lengths if side == "left" else torch.zeros_like(lengths)
        turned = {
            name: torch.stack([row.roll(int(by)) for row, by in zip(batch[name], shift, strict=True)])
            for name in ("input_ids", "attention_mask")
        }
        assert (turned["input_ids"][turned["attention_mask"] == 0] == pad).all()
        padded.append(turned | {"start_positions": shift, "end_positions": shift + lengths - 1})
    kprune.prune(model, padded, 0.5, method=recorder)
    assert recorder.examples == [
        {**plain, "label": (0, len(plain["input_ids"]) - 1)} for plain in tiny_calibration(24).examples
    ]
    with pytest.raises(UserError, match="^batch 0 is padded on the left") if side == "left" else nullcontext():
        kprune.prune(tiny_model("roberta", dtype=torch.float32), padded, 0.5)
