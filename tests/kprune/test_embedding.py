"""Embeddings of a bare encoder: pooled, compared by their distance, and pruned."""

import pytest
import torch
import torch.nn.functional as F
import transformers
from tiny import CONFIGS, FAMILIES, tiny_batch, tiny_calibration, tiny_model
from transformers import GPT2Config, GPT2DoubleHeadsModel, GPT2LMHeadModel, LlamaConfig, LlamaModel

import kprune
from baselines.kwon import Kwon
from baselines.random import Random
from kprune.data import CalibrationSet, collate
from kprune.errors import UserError
from kprune.methods.kprune_plus import KPrunePlus
from kprune.methods.kprune_plus.fisher import measure_fisher
from kprune.models import view_of
from kprune.models.masks import masked
from kprune.objectives import CausalLM, Embedding, objective_of
from kprune.objectives.embedding import POOLINGS
from kprune.streams import calibration_states


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bare(family="bert", dtype=torch.float64):
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(CONFIGS[family](), attn_implementation="sdpa")
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model.to(dtype).eval()


def hidden(states):
    return type("Output", (), {"last_hidden_state": states})


def embedded(model, batch, objective):
    return objective.read(model(**batch), batch["attention_mask"])


def test_the_head_is_told_by_the_model():
    assert isinstance(objective_of(bare()), Embedding)
    config = GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=99)
    assert isinstance(objective_of(GPT2LMHeadModel(config)), CausalLM)
    with pytest.raises(UserError, match="has a head beside its encoder: give the encoder, model.base_model"):
        objective_of(GPT2DoubleHeadsModel(config))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_reads_real_tokens_whatever_side_is_padded(pooling):
    states = drawn(3, 5, 4)
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    real = [states[0, :3], states[1, 2:], states[2]]
    expected = [{"mean": t.mean(dim=0), "first": t[0], "last": t[-1]}[pooling] for t in real]
    torch.testing.assert_close(Embedding(pooling, False).read(hidden(states), mask), torch.stack(expected))
    unit = torch.stack([e / e.norm() for e in expected])
    torch.testing.assert_close(Embedding(pooling).read(hidden(states), mask), unit)
    tokens = Embedding(pooling).read_tokens(mask, last=False)
    nowhere = states.masked_fill(~tokens[..., None], float("nan"))  # as an attention makes of padding alone
    torch.testing.assert_close(Embedding(pooling, False).read(hidden(nowhere), mask), torch.stack(expected))


def test_a_projection_comes_before_the_length():
    weight, states, mask = drawn(2, 4, seed=1), drawn(3, 5, 4), torch.ones(3, 5)
    found = Embedding(project=lambda pooled: pooled @ weight.T).read(hidden(states), mask)
    torch.testing.assert_close(found, F.normalize(states.mean(dim=1) @ weight.T, dim=-1))


def test_the_divergence_of_unit_vectors_is_that_of_their_cosines():
    student, teacher = (F.normalize(drawn(4, 7, seed=seed), dim=-1) for seed in (1, 2))
    cosines = F.cosine_similarity(student, teacher, dim=-1)
    torch.testing.assert_close(Embedding().divergence(student, teacher, 2.0), 2 - 2 * cosines)
    assert not Embedding().divergence(teacher, teacher, 2.0).any()


@pytest.mark.parametrize("normalise", [True, False])
def test_the_roots_are_the_fisher_in_expectation(normalise):
    """Of the pooled vector, through the normalisation: 2 (I − ê êᵀ) / ‖e‖², or 2 I."""
    pooled, objective = 2 * drawn(6), Embedding(normalise=normalise)
    keys = torch.arange(20_000)
    variable = pooled.expand(len(keys), -1).clone().requires_grad_()
    logits = F.normalize(variable, dim=-1) if normalise else variable
    fisher = torch.zeros(6, 6, dtype=torch.float64)
    for root in objective.fisher_roots(logits, 2.0, keys):
        (gradient,) = torch.autograd.grad(root.sum(), variable, retain_graph=True)
        assert gradient.std(dim=0).max() > 0, "the signs are not random"
        fisher += gradient.T @ gradient / len(keys)
    unit, eye = pooled / pooled.norm(), torch.eye(6, dtype=torch.float64)
    exact = 2 * (eye - unit.outer(unit)) / pooled.square().sum() if normalise else 2 * eye
    assert (fisher - exact).abs().max() < 0.02 * exact.abs().max()


def test_the_roots_are_the_second_order_of_the_divergence_in_expectation():
    pooled, change, keys = drawn(6), 1e-3 * drawn(6, seed=1), torch.arange(20_000)
    read = lambda vector: F.normalize(vector, dim=-1)  # noqa: E731
    exact = Embedding().divergence(read(pooled + change), read(pooled), 2.0)
    roots = [
        torch.autograd.functional.jvp(
            lambda vector: torch.stack(Embedding().fisher_roots(read(vector), 2.0, keys)),
            pooled.expand(len(keys), -1),
            change.expand(len(keys), -1),
        )[1]
    ]
    torch.testing.assert_close(torch.stack(roots).square().sum(dim=1).mean() / 2, exact, rtol=0.03, atol=0)


def test_batch_and_padding_do_not_matter():
    model, objective = bare(), Embedding()
    examples = tiny_calibration(examples=9).examples
    view = view_of(model)
    whole = measure_fisher(view, calibration_states(view, [collate(examples, 1)]), objective, 2.0)
    alone = measure_fisher(view, calibration_states(view, [collate([e], 1) for e in examples]), objective, 2.0)
    for ours, theirs in zip(whole, alone, strict=True):
        assert ours.energy > 0
        torch.testing.assert_close(ours.covariance, theirs.covariance, rtol=1e-9, atol=1e-12)
    together = embedded(model, collate(examples, 1), objective)
    for row, example in zip(together, examples, strict=True):
        torch.testing.assert_close(embedded(model, collate([example], 1), objective)[0], row)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_pruned_is_masked(family):
    """Without any tuning of what is left."""
    model, batch = bare(family), tiny_batch()
    outcome = kprune.prune(model, tiny_calibration(24).batches(), 0.5, method=Random())
    masks = []
    for block, kept in zip(view_of(model).blocks, outcome.plan.kept.values(), strict=True):
        masks.append(torch.zeros(block.units, dtype=torch.float64))
        masks[-1][torch.tensor(kept, dtype=torch.long)] = 1.0
    with masked(view_of(model), masks):
        expected = embedded(model, batch, Embedding())
    assert (expected - embedded(model, batch, Embedding())).abs().max() > 1e-3
    torch.testing.assert_close(embedded(outcome.model, batch, Embedding()), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["kprune", "kprune_plus"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_it_is_pruned_saved_and_loaded(pooling, method, tmp_path):
    model, batch = bare(dtype=torch.float32), tiny_batch()
    outcome = kprune.prune(model, tiny_calibration(24).batches(), 0.5, method, task=Embedding(pooling))
    assert outcome.details["flops_reduction"] >= 0.5
    outcome.save(tmp_path / "model")
    expected = outcome.model(**batch).last_hidden_state
    anywhere = transformers.AutoModel.from_pretrained(tmp_path / "model", trust_remote_code=True).eval()
    for loaded in (kprune.load(tmp_path / "model"), anywhere):
        torch.testing.assert_close(loaded(**batch).last_hidden_state, expected, rtol=0, atol=1e-6)
    assert "AutoModel.from_pretrained" in (tmp_path / "model" / "README.md").read_text()


def test_k_prune_plus_keeps_embeddings_closer_than_chance():
    model, batches, unseen = bare(), tiny_calibration(60).batches(), tiny_batch(seed=5)
    teacher = embedded(model, unseen, Embedding())
    found = [
        Embedding().divergence(embedded(kprune.prune(model, batches, 0.4, m).model, unseen, Embedding()), teacher, 1.0)
        for m in (KPrunePlus(), Random())
    ]
    assert found[0].mean() < 0.5 * found[1].mean()


def test_a_decoder_needs_no_padding_token():
    """Nothing looks for its last token by one."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        initializer_range=0.3,
    )
    assert config.pad_token_id is None
    model = LlamaModel(config).double().eval()
    batches = CalibrationSet(tiny_calibration(24).examples, 8, 0).batches()
    outcome = kprune.prune(model, batches, 0.5, "kprune_plus", task=Embedding("last"))
    assert outcome.details["flops_reduction"] >= 0.5


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Embedding("max"), "pooling='max' is unknown: use mean, first, last"),
        (
            lambda: kprune.prune(bare(), tiny_calibration().batches(), method=Kwon()),
            "method kwon needs labels, and task 'embedding' has none: use kprune or kprune_plus",
        ),
        (
            lambda: kprune.prune(tiny_model(), tiny_calibration().batches(), task="embedding"),
            r"task 'embedding' is for a \.\.\.Model model",
        ),
    ],
)
def test_what_can_not_be_is_refused_in_one_line(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
