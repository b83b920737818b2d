"""Generated cases of a user's own model and batches: each ends in a right result or in one line, and nothing of it is changed."""

import contextlib
import copy
import os
import re

import pytest
import torch
from generated import cases
from torch import nn
from transformers import PreTrainedModel

import kprune
from kprune.models import view_of
from kprune.models.masks import masked

COUNT, FIRST = (int(number) for number in os.environ.get("KPRUNE_FUZZ", "64,0").split(","))
"""More cases, by other numbers: KPRUNE_FUZZ=500,1000."""
OURS = {"kprune", "architectures", "auto_map"}


@contextlib.contextmanager
def forwards():
    """Count forward passes of transformers' models without their head, copies included, while the context is open."""
    count = [0]

    def hook(module, inputs):
        count[0] += isinstance(module, PreTrainedModel) and module.base_model is module

    handle = nn.modules.module.register_module_forward_pre_hook(hook)
    try:
        yield count
    finally:
        handle.remove()


def state(model):
    """Return what must be as it was: values, and the identity of every module and parameter."""
    tensors = {name: tensor for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    return {
        "config": copy.deepcopy(getattr(model.config, "to_dict", dict)()) if hasattr(model, "config") else None,
        "attention": getattr(getattr(model, "config", None), "_attn_implementation", None),
        "generation": repr(getattr(model, "generation_config", None)),
        "modules": {name: (id(m), type(m), m.training, sorted(vars(m))) for name, m in model.named_modules()},
        "hooks": {
            name: [[*map(id, hooks.values())] for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)]
            for name, m in model.named_modules()
        },
        "tensors": {
            name: (
                id(t),
                t.requires_grad,
                t.dtype,
                t.device,
                t.is_inference() or t._version,
                t.is_contiguous(),
                t.grad is None,
            )
            for name, t in tensors.items()
        },
        "values": {name: t.detach().clone() for name, t in tensors.items()},
        "flags": (torch.get_default_dtype(), torch.get_float32_matmul_precision(), torch.is_grad_enabled()),
        "random": torch.get_rng_state(),
    }


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return one.is_meta or bool(((one == other) | ((one != one) & (other != other))).all())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return one == other


def answers(model, batches):
    """Return a model's answers at real tokens, batch by batch, in evaluation mode."""
    found = []
    modes = {module: module.training for module in model.modules()}
    # As models of transformers can only be run if their config does not ask for tuples.
    own, model.config.return_dict = model.config.return_dict, True
    model.eval()
    with torch.no_grad():
        for batch in batches:
            inputs = {
                n: v.to(model.device)
                for n, v in batch.items()
                if n in ("input_ids", "attention_mask", "token_type_ids")
            }
            output = model(**inputs)
            for name in ("logits", "start_logits", "end_logits", "last_hidden_state"):
                if name in output:
                    tensor, mask = output[name], batch.get("attention_mask")
                    per_token = tensor.shape[:2] == batch["input_ids"].shape and (tensor.dim() == 3 or name != "logits")
                    found.append((tensor[mask.bool()] if per_token and mask is not None else tensor).cpu())
    for module, mode in modes.items():
        module.training = mode
    model.config.return_dict = own
    return found


def assert_close(ours, theirs, tolerance):
    assert len(ours) == len(theirs) > 0
    scale = max(float(tensor.abs().max()) for tensor in theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.isfinite(one).all()
        assert float((one - other).abs().max()) <= tolerance * scale


@pytest.mark.parametrize("case", cases(COUNT, FIRST), ids=lambda case: case.name.replace("/", " "))
def test_a_right_result_or_one_line(case, tmp_path):
    check(case, tmp_path, "cpu")


@pytest.mark.gpu
def test_on_a_gpu(tmp_path):
    for case in cases(60, 1):
        if not case.refused:
            check(case, tmp_path / str(case.seed), "cuda")


def check(case, tmp_path, device):
    model, method, ask = case.model(), case.options["method"].name, case.options["ask"].apply
    config = getattr(model, "config", None)
    vocabulary = getattr(config, "vocab_size", 99)
    types = getattr(config, "type_vocab_size", 0) if case.seed % 2 else 0
    given, plain = case.batches(vocabulary, types), case.batches(vocabulary, types)
    if device != "cpu":
        model.to(device)
    before = state(model)
    around = case.options["around"].apply
    with forwards() as count, around() if around else contextlib.nullcontext():
        try:
            outcome, error = kprune.prune(model, given, method=method, **ask), None
        except kprune.UserError as caught:
            outcome, error = None, caught
    after = state(model)
    for what in before:
        assert equal(before[what], after[what]), f"{what} changed"
    if error is not None:
        expected = "|".join(filter(None, (case.refused, case.may)))
        assert expected and re.search(expected, str(error)), error
        assert "\n" not in str(error) and len(str(error)) < 320
        # Whether an answer depends on the side of the padding is asked of the model, twice for each of three batches.
        assert count[0] <= 6 * ("padded on the left" in str(error)), "told only after a forward pass"
        return
    assert not case.refused, "it was pruned"
    check_outcome(outcome, model, list(plain), case, tmp_path)


def check_outcome(outcome, model, batches, case, tmp_path):
    pruned = outcome.model
    tolerance = 1e-8 if model.dtype == torch.float64 else 1e-3
    assert all(outcome.details[name] >= value - 1e-9 for name, value in case.options["ask"].apply.items())
    found = answers(pruned, batches)
    if case.options["method"].apply is False:  # weights stay as they are
        dense = copy.deepcopy(model)
        view = view_of(dense)
        masks = [
            torch.zeros(block.units, dtype=model.dtype)
            .index_fill_(0, torch.tensor(kept, dtype=torch.long), 1)
            .to(model.device)
            for block, kept in zip(view.blocks, outcome.plan.kept.values(), strict=True)
        ]
        unmasked = answers(dense, batches)
        with masked(view, masks):
            expected = answers(dense, batches)
        assert_close(found, expected, tolerance)
        with pytest.raises(AssertionError):  # or the masks do nothing, and the test proves nothing
            assert_close(unmasked, expected, 0.01)
    parameters = dict(model.named_parameters())
    for name, parameter in pruned.named_parameters():
        was = parameters[name] if name in parameters else None
        assert parameter.dtype == model.dtype and parameter.device == model.device
        assert was is None or parameter.requires_grad == was.requires_grad
    modes = {name: module.training for name, module in model.named_modules()}
    assert all(module.training == modes.get(name, model.training) for name, module in pruned.named_modules())
    plain = [{n: v for n, v in m.config.to_dict().items() if n not in OURS} for m in (pruned, model)]
    assert plain[0] == plain[1] and pruned.config._attn_implementation == model.config._attn_implementation
    loaded = case.options["saved"].apply(outcome, tmp_path / "model")
    loaded.set_attn_implementation(model.config._attn_implementation)
    assert_close(answers(loaded, batches), answers(copy.deepcopy(pruned).float(), batches), 1e-3)
    if model.can_generate():
        assert loaded.generation_config.to_dict() == model.generation_config.to_dict()
