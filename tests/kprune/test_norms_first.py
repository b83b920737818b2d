"""K-prune+ where norms come before their blocks: what a block is asked for, and which units may go."""

import pytest
import torch
from decoders import tiny_decoder
from families import tiny_of
from language import texts, tiny_llama
from tiny import tiny_model
from transformers import GPT2Config, GPT2LMHeadModel

import kprune
from kprune.budgets import FlopsBudget, ParametersBudget
from kprune.errors import UserError
from kprune.methods.kprune import KPrune
from kprune.methods.kprune_plus.algorithm import KPrunePlus
from kprune.methods.kprune_plus.allocation import prunable_kinds
from kprune.methods.kprune_plus.fisher import OutputFisher
from kprune.models import view_of
from kprune.models.blocks import accepted
from kprune.models.copies import frozen_copy
from kprune.models.surgery import keep_units, output_weight
from kprune.streams import calibration_states


def tiny_gpt2():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=60, n_embd=32, n_layer=3, n_head=4, n_inner=48, n_positions=64, initializer_range=0.3
    )
    return GPT2LMHeadModel(config).eval()


def drifted(index: int, model=None):
    """A block of a model, a Llama by default, its original, and a state at its input whose student is off the teacher."""
    model = model or tiny_llama().double()
    teacher, student = (view_of(frozen_copy(model)) for _ in range(2))
    (state,) = calibration_states(teacher, [texts()])
    with torch.no_grad():
        for block in teacher.blocks[:index]:
            state.teacher = block.run(state.teacher, state.context)
        state.student = state.teacher + 0.1 * torch.randn_like(state.teacher)
    return student.blocks[index], teacher.blocks[index], state


@pytest.mark.parametrize("index", [2, 3])
@pytest.mark.parametrize("repair", [0.0, 0.3, 1.0])
def test_what_a_block_is_asked_for(index, repair):
    """Its own dense output on the student's stream, and a share of what the stream has lost since."""
    block, original, state = drifted(index)
    before = state.teacher
    with torch.no_grad():
        total = before + original.update(before, state.context)
        own = original.update(state.student, state.context)
        expected = own + repair * (total - (state.student + own))
        KPrunePlus(repair=repair, map_input=False).set_target(block, original, state)
    torch.testing.assert_close(state.update_target(), expected)
    # A teacher that nothing is made up for is not run.
    torch.testing.assert_close(state.teacher, total if repair else before)


@pytest.mark.parametrize("index", [2, 3])
@pytest.mark.parametrize("repair", [0.3, 1.0])
@torch.no_grad()
def test_what_a_block_is_asked_for_whose_update_is_multiplied(repair, index):
    """To repair all of it leads to the teacher's stream."""
    block, original, state = drifted(index, tiny_decoder("granite"))
    before, multiplier = state.teacher, block.module.residual_multiplier
    own = original.update(state.student, state.context)
    moved = before + multiplier * original.update(before, state.context)
    KPrunePlus(repair=repair, map_input=False).set_target(block, original, state)
    torch.testing.assert_close(state.teacher, moved)
    ours = state.student + multiplier * state.update_target()
    torch.testing.assert_close(ours - moved, (1 - repair) * (state.student + multiplier * own - moved))


def test_an_identity_in_the_place_of_a_norm_of_the_update_is_no_norm():
    """So that the stream can be repaired."""
    for case in ("hyperclovax", "hyperclovax, norms first alone"):
        block = view_of(tiny_of(case)).blocks[0]
        assert (block.output_norm is None) == ("alone" in case)


@pytest.mark.parametrize("index", [2, 3])
@pytest.mark.parametrize("repair", [0.3, 1.0])
@torch.no_grad()
def test_what_a_block_is_asked_for_whose_update_is_normed(repair, index):
    """Its norm can't repair the stream, so a share of the teacher's own update is asked for."""
    block, original, state = drifted(index, tiny_decoder("gemma2"))
    norm = getattr(block.module, ("post_attention_layernorm", "post_feedforward_layernorm")[index % 2])
    before = state.teacher
    own, update = (original.update(x, state.context) for x in (state.student, before))
    KPrunePlus(repair=repair, map_input=False).set_target(block, original, state)
    torch.testing.assert_close(state.teacher, before + norm(update))
    torch.testing.assert_close(state.update_target(), own + repair * (update - own))


@pytest.mark.parametrize("family", ["gpt_neox", "phi"])
@pytest.mark.parametrize("index", [2, 3])
@pytest.mark.parametrize("repair", [0.0, 0.3, 1.0])
@torch.no_grad()
def test_what_a_block_is_asked_for_in_a_parallel_layer(repair, index, family):
    """The feed-forward network reads the layer's input, and repairs what the attention left of the stream's error, too."""
    block, original, state = drifted(index, tiny_decoder(family))
    (before, read), (ours, mine) = ((x[..., :32], x[..., -32:]) for x in (state.teacher, state.student))
    layer, was = original.module, state.student
    if index == 2:
        attention = layer.attention if family == "gpt_neox" else layer.self_attn
        own, update = (
            attention(layer.input_layernorm(x), **accepted(type(attention), state.context[1], any_name=True))[0]
            for x in (mine, read)
        )
    else:
        norm = layer.post_attention_layernorm if family == "gpt_neox" else layer.input_layernorm
        own, update = (layer.mlp(norm(x)) for x in (mine, read))
    KPrunePlus(repair=repair, map_input=False).set_target(block, original, state)
    torch.testing.assert_close(state.update_target(), own + repair * (before + update - ours - own))
    if repair:
        torch.testing.assert_close(block.stream(state.teacher), before + update)
    after = block.run(was, state.context)
    torch.testing.assert_close(block.stream(after), ours + own)
    # Above the attention, the layer's input is still to be read; above the layer, there is one stream again.
    torch.testing.assert_close(after[..., 32:], was if index == 2 else was[..., :0])


@pytest.mark.parametrize("family", ["llama", "granite", "gemma2", "gpt_neox", "phi", "lfm2", "qwen3_5_text"])
@torch.no_grad()
def test_kprune_tunes_towards_the_same_update(family):
    """A block that keeps all units on the teacher's own stream keeps its function, whatever its weights were."""
    block, original, state = drifted(3, tiny_decoder(family))
    state.student = before = state.teacher
    output_weight(block).zero_()
    KPrune(ridge=0.0).tune(block, original, [state])
    torch.testing.assert_close(state.student, original.run(before, state.context), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(state.teacher, original.run(before, state.context))


@pytest.mark.parametrize("repair", [0.0, 0.5, 1.0])
def test_an_attention_without_units_is_passed(repair):
    """It has no output bias either, so its update is one zero for all tokens."""
    model = tiny_llama()
    keep_units(view_of(model).blocks[4], torch.arange(0))
    outcome = kprune.prune(model, [texts()], 0.4, method=KPrunePlus(repair=repair, kinds=("neurons",)))
    assert outcome.kept_heads[2] == 0 and sum(outcome.kept_neurons) < sum(
        view_of(model).blocks[i].units for i in (1, 3, 5)
    )


@pytest.mark.parametrize("index", [2, 3])
def test_nothing_to_repair_leaves_the_weights(index):
    """The dense weights are the optimum of a target that they make, whatever the ridge around them."""
    block, original, state = drifted(index)
    pruner = KPrunePlus(repair=0.0, ridge=0.3, ridge_around="dense", map_input=False)
    dense = output_weight(block).clone()
    with torch.no_grad():
        pruner.set_target(block, original, state)
        problem = pruner.problem(block, [state], [torch.rand_like(state.student[..., 0])])
        pruner.solve(block, problem, pruner.prior(block))
    torch.testing.assert_close(output_weight(block), dense)


def test_a_large_ridge_draws_to_the_dense_weights():
    block, original, state = drifted(3)
    pruner = KPrunePlus(repair=1.0, ridge=1e9, ridge_around="dense", map_input=False)
    dense = output_weight(block).clone()
    with torch.no_grad():
        pruner.set_target(block, original, state)
        problem = pruner.problem(block, [state], [torch.ones_like(state.student[..., 0])])
        pruner.solve(block, problem, pruner.prior(block))
    torch.testing.assert_close(output_weight(block), dense)


def test_tokens_beyond_the_clip_count_as_at_it():
    """Their weight times their features' energy is the clip times the median's."""
    features = torch.tensor([[1.0, 2.0, 3.0, 500.0, 0.0]])
    fisher = OutputFisher(torch.eye(2), [torch.ones(1, 5)], [features], energy=4.0, tokens=4)
    (factors,) = fisher.clip_factors(10.0)
    assert factors[0, :3].tolist() == [1.0, 1.0, 1.0]
    assert factors[0, 3] * features[0, 3] == 10 * features[features > 0].median()
    assert fisher.clip_factors(None) == [1.0]


@pytest.mark.parametrize("clip", ["auto", None])
def test_a_block_that_adds_nothing_goes_first(clip):
    """Features of zeros have no median to clip at."""
    model = tiny_llama()
    model.model.layers[1].mlp.up_proj.weight.data.zero_()
    method = KPrunePlus(refit_epochs=1, clip=clip, kinds=["neurons"])
    outcome = kprune.prune(model, [texts(seed) for seed in range(3)], params_reduction=0.25, method=method)
    assert outcome.kept_neurons[1] == 0 < min(outcome.kept_neurons[::2])


def test_a_block_that_adds_nothing_is_fitted_if_it_stays():
    model = tiny_llama()
    model.model.layers[1].self_attn.v_proj.weight.data.zero_()
    method = KPrunePlus(refit_epochs=1, kinds=["neurons"])
    outcome = kprune.prune(model, [texts(seed) for seed in range(3)], params_reduction=0.25, method=method)
    assert torch.isfinite(outcome.model(**texts()).logits).all()


@pytest.mark.parametrize("tune", [True, False])
def test_blocks_that_lose_nothing_are_tuned_if_asked(tune):
    model = tiny_llama()
    method = KPrunePlus(kinds=("neurons",), tune=tune, refit_epochs=0)
    outcome = kprune.prune(model, [texts(seed) for seed in range(3)], params_reduction=0.3, method=method)
    first = next(b.layer for b in view_of(outcome.model).of_kind("neurons") if b.units < 48)
    rows = zip(view_of(model).of_kind("heads"), view_of(outcome.model).of_kind("heads"), strict=True)
    for dense, pruned in rows:
        same = torch.equal(output_weight(dense), output_weight(pruned))
        assert same == (not tune or dense.layer <= first)


@pytest.mark.parametrize(
    ("model", "refit_epochs", "tuned"),
    [(tiny_llama, 0, False), (tiny_llama, 3, True), (tiny_model, 0, True), (tiny_model, 3, True)],
)
def test_blocks_that_lose_nothing_are_left_if_norms_come_first_and_nothing_is_refitted(model, refit_epochs, tuned):
    assert KPrunePlus(refit_epochs=refit_epochs).resolved(view_of(model())).tune is tuned
    assert KPrunePlus(refit_epochs=refit_epochs, tune=not tuned).resolved(view_of(model())).tune is not tuned


@pytest.mark.parametrize(("model", "usual"), [(tiny_llama, 0.1), (tiny_model, 0.01)])
def test_the_ridge_is_larger_if_norms_come_first(model, usual):
    batches = [texts(seed) for seed in range(3)]

    def pruned(**settings):
        method = KPrunePlus(refit_epochs=0, **settings)
        return kprune.prune(model(), batches, 0.5, method)

    default, same, other = pruned(), pruned(ridge=usual), pruned(ridge=10 * usual)
    assert {ridge for ridge in default.details["ridge"] if ridge is not None} == {usual}
    ours, theirs = default.model.state_dict(), same.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    others = other.model.state_dict()
    assert any(ours[name].shape != others[name].shape or not torch.equal(ours[name], others[name]) for name in ours)


def test_groups_of_heads_go_when_neurons_do_not_suffice():
    grouped, single = view_of(tiny_llama()), view_of(tiny_gpt2())
    assert [block.grouped for block in grouped.blocks] == [True, False] * 3
    assert not any(block.grouped for block in single.blocks)
    both = ("heads", "neurons")
    for view, budget, kinds in (
        (grouped, ParametersBudget(0.3), ("neurons",)),
        (grouped, ParametersBudget(0.9), both),
        (grouped, FlopsBudget(0.9, 10.0), both),
        (single, ParametersBudget(0.3), both),
    ):
        assert tuple(prunable_kinds(view, budget)) == kinds


def test_more_than_the_units_that_may_go_is_told():
    method = KPrunePlus(kinds=["neurons"], refit_epochs=0)
    with pytest.raises(
        UserError,
        match=r"kinds=\['neurons'\] allows the removal of neurons only, .*ask for less, or add heads to kinds",
    ):
        kprune.prune(tiny_llama(), [texts()], 0.9, method)


@pytest.mark.parametrize(
    "settings",
    [
        dict(kinds=["layers"]),
        dict(kinds=5),
        dict(kinds=[]),
        dict(refit_epochs=1.5),
        dict(layers_on=0),
        dict(kinds="heads"),
        dict(tune="x"),
        dict(map_input=3),
        dict(refit_lr="x"),
        dict(ridge="x"),
        dict(repair="x"),
    ],
)
def test_settings_that_mean_nothing(settings):
    with pytest.raises(kprune.UserError, match="is unknown: use|: the default is|lets nothing go: leave it out, or"):
        KPrunePlus(**settings)
