"""Models of sentence-transformers: pruned inside, the same around, saved as what it opens."""

import pytest
import torch
from commands import run_plain
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    LayerNorm,
    Normalize,
    Pooling,
    Transformer,
    WordEmbeddings,
)
from tiny import CONFIGS, tiny_calibration, tiny_model, tiny_tokenizer
from transformers import AutoModel

import kprune
from kprune.data import collate
from kprune.errors import UserError
from kprune.objectives import Embedding
from kprune.wrappers import objective_within, unwrapped

TEXTS = ["w3 w4 w5", "w90 w8 w8 w8 w61 w17", "w2"]
FRESH_PROCESS = """
import sys, torch
sys.modules["kprune"] = None
from sentence_transformers import CrossEncoder, SentenceTransformer
texts = %r
model = SentenceTransformer("pruned", trust_remote_code=True)
torch.save([torch.tensor(model.encode(texts)), type(model.transformers_model).__name__], "embeddings")
model.save_pretrained("again")
torch.save(torch.tensor(SentenceTransformer("again", trust_remote_code=True).encode(texts)), "again.pt")
model = CrossEncoder("reranker", trust_remote_code=True)
torch.save(torch.tensor(model.predict([(texts[0], text) for text in texts])), "scores")
"""


def sentence_transformer(folder, pooling="mean", behind=(), family="bert", **settings):
    """A tiny one in float32, with any modules behind its pooling."""
    torch.manual_seed(0)
    AutoModel.from_config(CONFIGS[family]()).eval().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    transformer = Transformer(str(folder))
    return SentenceTransformer(modules=[transformer, Pooling(32, pooling), *behind], device="cpu", **settings)


def cross_encoder(folder, head="regression"):
    tiny_model(head=head, dtype=torch.float32).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return CrossEncoder(str(folder), device="cpu")


def batches():
    return tiny_calibration(24).batches()


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def dense_layer():
    torch.manual_seed(1)
    return Dense(32, 16)


BEHIND = {
    "mean": ("mean", lambda: []),
    "cls, normalised": ("cls", lambda: [Normalize()]),
    "last, projected": ("lasttoken", lambda: [dense_layer(), LayerNorm(16), Normalize()]),
    "normalised, then projected": ("mean", lambda: [Normalize(), dense_layer()]),
}


@pytest.mark.parametrize("pooling, behind", BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("dimensions", [None, 8, 99])
def test_the_objective_compares_what_it_encodes(tmp_path, pooling, behind, similarity, dimensions):
    model = sentence_transformer(tmp_path, pooling, behind(), similarity_fn_name=similarity, truncate_dim=dimensions)
    objective, inputs = objective_within(model), model.tokenizer(TEXTS, padding=True, return_tensors="pt")
    found = objective.read(unwrapped(model)(**inputs), inputs["attention_mask"])
    encoded = torch.tensor(model.encode(TEXTS, normalize_embeddings=similarity == "cosine"))
    assert len(found[0]) == len(encoded[0]) <= (dimensions or 32)
    torch.testing.assert_close(found, encoded, rtol=0, atol=1e-5)
    assert similarity == "dot" or torch.allclose(found.norm(dim=-1), torch.ones(3))


@pytest.mark.parametrize("method", ["kprune", "kprune_plus"])
def test_the_one_given_stays_and_one_like_it_comes_out(tmp_path, method):
    model = sentence_transformer(tmp_path, behind=[dense_layer()])
    before, encoded = state(model), model.encode(TEXTS)
    outcome = kprune.prune(model, batches(), 0.5, method)
    assert outcome.details["flops_reduction"] >= 0.5
    assert isinstance(outcome.model, SentenceTransformer) and outcome.model.training == model.training
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())
    assert (outcome.model.encode(TEXTS) != encoded).any() and (model.encode(TEXTS) == encoded).all()
    inner = kprune.prune(unwrapped(model), batches(), 0.5, method, task=objective_within(model)).model
    ours, theirs = unwrapped(outcome.model).state_dict(), inner.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    again = kprune.prune(outcome.model, batches(), 0.3, method)
    assert sum(again.kept_neurons) < sum(outcome.kept_neurons)


def test_a_task_by_name_is_what_the_wrapper_makes_of_it(tmp_path):
    model = sentence_transformer(tmp_path, "cls")
    by_name, by_hand, other = (
        kprune.prune(model, batches(), 0.5, "kprune_plus", task=task).model.encode(TEXTS)
        for task in ("embedding", Embedding("first"), Embedding("mean"))
    )
    assert (by_name == by_hand).all() and (by_name != other).any()


def test_both_open_what_was_saved_in_a_fresh_process(tmp_path):
    """Without kprune, with the same answers; another process may round the last bit differently."""
    embedder = kprune.prune(
        sentence_transformer(tmp_path / "dense", "cls", [dense_layer(), Normalize()]), batches(), 0.5
    )
    reranker = kprune.prune(cross_encoder(tmp_path / "classifier"), batches(), 0.5)
    embedder.save(tmp_path / "pruned")
    reranker.save(tmp_path / "reranker")
    for folder, name in (("pruned", "SentenceTransformer"), ("reranker", "CrossEncoder")):
        assert f'{name}("this folder", trust_remote_code=True)' in (tmp_path / folder / "README.md").read_text()
    run_plain(FRESH_PROCESS % TEXTS, tmp_path)
    encoded, kind = torch.load(tmp_path / "embeddings", weights_only=True)
    assert kind == "PrunedBertModel"
    for vectors in (encoded, torch.load(tmp_path / "again.pt", weights_only=True)):
        torch.testing.assert_close(vectors, torch.tensor(embedder.model.encode(TEXTS)), rtol=0, atol=1e-6)
    scores = reranker.model.predict([(TEXTS[0], text) for text in TEXTS])
    saved = torch.load(tmp_path / "scores", weights_only=True)
    torch.testing.assert_close(saved, torch.tensor(scores), rtol=0, atol=1e-6)
    assert len(set(scores.tolist())) == 3


@pytest.mark.parametrize("format", ["dense", "uniform"])
def test_formats_of_the_stock_class_need_no_code(tmp_path, format):
    model = sentence_transformer(tmp_path / "dense", family="distilbert")
    outcome = kprune.prune(model, batches(), 0.3, uniform=format == "uniform")
    outcome.save(tmp_path / "model", format=format)
    opened = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    expected = torch.tensor(outcome.model.encode(TEXTS))
    torch.testing.assert_close(torch.tensor(opened.encode(TEXTS)), expected, rtol=0, atol=1e-5)
    assert type(unwrapped(opened)).__name__ == "DistilBertModel"
    widths = {layer.ffn.lin1.out_features for layer in unwrapped(opened).transformer.layer}
    assert (widths == {48}) == (format == "dense") and len(widths) == 1


def test_a_bare_model_in_the_same_folder_leaves_nothing_of_the_wrapper(tmp_path):
    model = sentence_transformer(tmp_path / "dense")
    kprune.prune(model, batches(), 0.5).save(tmp_path / "model")
    (tmp_path / "model" / "notes.txt").write_text("my own")
    assert (tmp_path / "model" / "1_Pooling").is_dir()
    kprune.prune(unwrapped(model), batches(), 0.5).save(tmp_path / "model", model.tokenizer)
    left = {path.name for path in (tmp_path / "model").iterdir()}
    assert left == {
        "README.md",
        "config.json",
        "model.safetensors",
        "modeling_kprune.py",
        "notes.txt",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@pytest.mark.parametrize("head", ["regression", "classification"])
def test_a_cross_encoder_is_pruned_as_its_classifier(tmp_path, head):
    model = cross_encoder(tmp_path, head)
    outcome = kprune.prune(model, batches(), 0.5, "kprune_plus")
    assert isinstance(outcome.model, CrossEncoder)
    inner = kprune.prune(tiny_model(head=head, dtype=torch.float32), batches(), 0.5, "kprune_plus").model.eval()
    batch = collate(tiny_calibration(3).examples, 1)
    assert torch.equal(unwrapped(outcome.model)(**batch).logits, inner(**batch).logits)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda folder: sentence_transformer(folder, "max"), "pools its tokens by .*'max'.*knows mean, cls, lasttoken"),
        (lambda folder: sentence_transformer(folder, ("mean", "max")), "pools its tokens by .*'max'"),
        (
            lambda folder: sentence_transformer(folder, behind=[torch.nn.Identity()]),
            "has a Identity behind its pooling, and kprune knows Dense",
        ),
        (
            lambda folder: sentence_transformer(folder, behind=[Dense(32, 32, module_input_name="token_embeddings")]),
            "has a Dense behind its pooling",
        ),
    ],
)
def test_what_it_makes_of_tokens_in_another_way_is_refused(tmp_path, make, message):
    with pytest.raises(UserError, match=message) as error:
        kprune.prune(make(tmp_path), batches(), 0.5)
    assert "\n" not in str(error.value) and "with a task of your own" in str(error.value)


def test_pooling_without_the_prompt_is_refused(tmp_path):
    model = sentence_transformer(tmp_path)
    model.set_pooling_include_prompt(False)
    with pytest.raises(UserError, match="'include_prompt': False"):
        kprune.prune(model, batches(), 0.5)


def test_one_without_a_transformer_is_refused():
    words = SentenceTransformer(
        modules=[WordEmbeddings(tiny_tokenizer(), torch.zeros(99, 8)), Pooling(8)], device="cpu"
    )
    with pytest.raises(UserError, match="begins with a WordEmbeddings, not with a Transformer"):
        kprune.prune(words, batches(), 0.5)


def test_a_cross_encoder_with_another_head_is_refused(tmp_path):
    model = cross_encoder(tmp_path)
    model.append(Dense(1, 1, module_input_name="scores", module_output_name="scores"))
    with pytest.raises(UserError, match="makes its scores by a Dense"):
        kprune.prune(model, batches(), 0.5)
