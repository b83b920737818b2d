"""The head of language models, and K-prune's family on a tiny Llama."""

import pytest
import torch
from language import texts, tiny_llama
from transformers import GPT2Config, GPT2LMHeadModel

import kprune
from kprune.models import view_of
from kprune.objectives import CausalLM, objective_of
from kprune.objectives.vocabulary_head import vocabulary_signs


def test_divergence_is_the_kl_of_every_real_token():
    model, batch = tiny_llama(), texts()
    objective = objective_of(model)
    assert isinstance(objective, CausalLM)
    with torch.no_grad():
        teacher = objective.read(model(**batch), batch["attention_mask"])
        student = teacher + 0.1 * torch.randn_like(teacher) * batch["attention_mask"][..., None]
    found = objective.divergence(student, teacher, 2.0)
    for row in range(len(student)):
        real = batch["attention_mask"][row].bool()
        p, q = (logits[row, real].div(2.0).softmax(-1) for logits in (student, teacher))
        assert found[row].item() == pytest.approx(4 * (p * (p / q).log()).sum().item(), rel=1e-4)


def test_roots_squared_are_the_fisher_of_the_divergence_in_expectation():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 7, generator=generator, dtype=torch.float64)
    change = 1e-3 * torch.randn(1, 3, 7, generator=generator, dtype=torch.float64)
    objective = CausalLM()
    exact = objective.divergence(logits + change, logits, 2.0).item()
    drawn = []
    for key in range(4000):
        z = logits.clone().requires_grad_(True)
        (root,) = objective.fisher_roots(z, 2.0, torch.tensor([key]))
        drawn.append(0.5 * (torch.autograd.grad(root.sum(), z)[0] * change).sum().item() ** 2)
    # Roots of different tokens are independent: the square of the sum has no cross terms in expectation.
    assert sum(drawn) / len(drawn) == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("classes", [7, 9, 10])
def test_signs_of_different_classes_are_unrelated(classes):
    signs = vocabulary_signs(40_000, classes, torch.Generator().manual_seed(0)).double()
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(signs.T @ signs / len(signs), torch.eye(classes).double(), rtol=0, atol=0.03)
    assert signs.mean(dim=0).abs().max() < 0.03


def test_padding_draws_the_same_signs():
    long, short = (vocabulary_signs(tokens, 50, torch.Generator().manual_seed(3)) for tokens in (9, 4))
    assert torch.equal(long[:4], short)


@pytest.mark.parametrize("method", ["kprune", "kprune_plus", "kprune_plus_fast"])
def test_a_language_model_is_pruned_and_saved(method, tmp_path):
    model, batches = tiny_llama(), [texts(seed) for seed in range(3)]
    outcome = kprune.prune(model, batches, params_reduction=0.3, method=method)
    assert 0.3 <= outcome.details["params_reduction"] < 0.4
    outcome.save(tmp_path / "small")
    loaded = kprune.load(tmp_path / "small")
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batches[0]).logits, outcome.model(**batches[0]).logits)
    heads = [block.units for block in view_of(outcome.model).of_kind("heads")]
    assert heads == outcome.kept_heads


def tiny_gpt2():
    torch.manual_seed(0)
    shape = dict(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_inner=48, n_positions=64, initializer_range=0.3)
    return GPT2LMHeadModel(GPT2Config(**shape, pad_token_id=0)).eval()


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
@pytest.mark.parametrize("format", ["pruned", "dense"])
def test_how_a_model_generates_is_saved(make, format, tmp_path):
    model = make()
    model.generation_config.update(max_new_tokens=7, do_sample=True, top_k=3, eos_token_id=[4, 5])
    outcome = kprune.prune(model, [texts()], 0.5, "magnitude")
    folder = outcome.save(tmp_path / "small", format=format)
    loaded = kprune.load(folder) if format == "pruned" else type(model).from_pretrained(folder)
    assert loaded.generation_config.to_dict() == model.generation_config.to_dict()


def test_a_damaged_generation_config_is_one_line(tmp_path):
    folder = kprune.prune(tiny_llama(), [texts()], 0.5, "magnitude").save(tmp_path / "small")
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(kprune.UserError, match="generation_config.json is damaged") as error:
        kprune.load(folder)
    assert "\n" not in str(error.value)


def test_settings_of_generation_that_transformers_does_not_know_are_left_out(tmp_path):
    folder = kprune.prune(tiny_llama(), [texts()], 0.5, "magnitude").save(tmp_path / "small")
    (folder / "generation_config.json").write_text('{"top_k": 3, "to_dict": 1, "validate": "x", "_secret": 2}')
    generation = kprune.load(folder).generation_config
    assert generation.top_k == 3 and callable(generation.to_dict) and not hasattr(generation, "_secret")


def test_token_types_that_are_words_are_given_for_all_batches_or_none():
    ids = torch.randint(5, 60, (2, 8), generator=torch.Generator().manual_seed(0))
    typed = {"input_ids": ids, "token_type_ids": torch.full_like(ids, 7)}
    with pytest.raises(kprune.UserError, match="some batches have token_type_ids and some none"):
        kprune.prune(tiny_gpt2(), [typed, {"input_ids": ids}], 0.5)
