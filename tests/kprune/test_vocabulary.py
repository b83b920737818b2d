"""A cut vocabulary: texts of kept tokens are split and answered as before, to the last bit."""

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest
import spellers
import torch
from commands import run_plain
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

import kprune
from kprune.errors import UserError
from kprune.models import view_of
from kprune.models.flops import megabytes, model_parameters
from kprune.vocabulary import cut_vocabulary, spelling_of, vocabulary_of
from kprune.vocabulary.tokenizer import ids_of, joined

ENCODERS = [family for family in spellers.TOKENIZERS if family not in ("gpt2", "llama", "opt")]


def of_kept(vocabulary, texts):
    """Those of the texts whose tokens are all kept."""
    ids = ids_of(vocabulary.whole, texts)
    return [text for text, tokens in zip(texts, ids, strict=True) if set(tokens) <= set(vocabulary.kept)]


@pytest.mark.parametrize("family", spellers.TOKENIZERS)
def test_a_text_of_kept_tokens_is_split_as_before(family):
    model, tokenizer = spellers.spelling_model(family, AutoModel)
    vocabulary = vocabulary_of(model, tokenizer, spellers.lines(40))
    assert len(vocabulary.kept) < vocabulary.of - spellers.ROWS and vocabulary.of == len(tokenizer) + spellers.ROWS
    others = of_kept(vocabulary, spellers.lines(3000, seed=1))
    assert len(others) > 20 and not set(others) <= set(spellers.lines(40))
    new = {old: number for number, old in enumerate(vocabulary.kept)}
    assert [[new[token] for token in ids] for ids in ids_of(tokenizer, others)] == ids_of(vocabulary.tokenizer, others)
    assert spelling_of(vocabulary, others).missing == 0 and spelling_of(vocabulary, others).growth == 1
    # Everything else is there, too, as the whole vocabulary has it.
    text = "zo qux 7 ñ 日本, bamu!"
    assert vocabulary.tokenizer.decode(vocabulary.tokenizer(text)["input_ids"]) == tokenizer.decode(
        tokenizer(text)["input_ids"]
    )


HEADS = [
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoModelForQuestionAnswering,
    AutoModelForMaskedLM,
]


@pytest.mark.parametrize("auto", HEADS, ids=lambda auto: auto.__name__)
@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoder_answers_as_before_to_the_last_bit(family, auto):
    model, tokenizer = spellers.spelling_model(family, auto)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    texts = spellers.lines(6)
    outcome = kprune.prune_vocabulary(model, texts, tokenizer)
    dense, small = spellers.answers(model, tokenizer, texts), spellers.answers(outcome.model, outcome.tokenizer, texts)
    if auto is AutoModelForMaskedLM:
        kept = vocabulary_of(model, tokenizer, texts).kept
        dense = dense[..., kept]
    assert torch.equal(dense, small) and dense.std() > 0.01
    assert outcome.model.config.vocab_size == outcome.details["vocabulary"]["kept"] < model.config.vocab_size
    assert model.config.vocab_size == len(tokenizer) + spellers.ROWS
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items()), "it was changed"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("auto", [AutoModelForMaskedLM, AutoModelForSequenceClassification])
def test_modules_of_esm_hold_a_bias_and_the_mask(auto, tied):
    """Its head's bias belongs to the module around the head, and its embeddings know the mask token, here the last one."""
    tokenizer = spellers.unigram()
    settings = {"mask_token_id": tokenizer.mask_token_id, "token_dropout": True, "tie_word_embeddings": tied}
    model, tokenizer = spellers.spelling_model("esm", auto, tokenizer, **settings)
    if auto is AutoModelForMaskedLM:
        torch.nn.init.normal_(model.lm_head.bias)
    texts = [f"{text}<mask>" for text in spellers.lines(6)]
    kept = vocabulary_of(model, tokenizer, texts).kept
    outcome = kprune.prune_vocabulary(model, texts, tokenizer)
    dense = spellers.answers(model, tokenizer, texts)
    dense = dense[..., kept] if auto is AutoModelForMaskedLM else dense
    assert torch.equal(dense, spellers.answers(outcome.model, outcome.tokenizer, texts)) and dense.std() > 0.01
    assert outcome.tokenizer.mask_token_id != tokenizer.mask_token_id


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", spellers.DECODERS)
def test_a_decoder_has_the_logits_of_kept_tokens(family, tied, tmp_path):
    model, tokenizer = spellers.spelling_model(family, AutoModelForCausalLM, tie_word_embeddings=tied)
    texts = spellers.lines(6)
    kept = vocabulary_of(model, tokenizer, texts).kept
    gone = min(set(range(len(tokenizer))) - set(kept))
    model.generation_config.suppress_tokens = [tokenizer.eos_token_id, gone]
    outcome = kprune.prune_vocabulary(model, texts, tokenizer)
    assert torch.equal(
        spellers.answers(model, tokenizer, texts)[..., kept], spellers.answers(outcome.model, outcome.tokenizer, texts)
    )
    head, words = (getattr(outcome.model, f"get_{side}_embeddings")() for side in ("output", "input"))
    assert (head.weight is words.weight) == tied and len(head.weight) == len(kept) == head.out_features
    settings = outcome.model.generation_config
    assert settings.eos_token_id == outcome.tokenizer.eos_token_id == outcome.model.config.eos_token_id
    assert settings.suppress_tokens[0] == settings.eos_token_id and len(settings.suppress_tokens) == 1
    outcome.save(tmp_path / "small")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    prompt = outcome.tokenizer(texts[0], return_tensors="pt")
    assert torch.equal(again(**prompt)[0], outcome.model(**prompt)[0])


def test_units_and_tokens_go_in_either_order(tmp_path):
    model, tokenizer = spellers.spelling_model()
    texts = spellers.lines(12)
    whole, pruned = (
        kprune.prune_vocabulary(model, texts, tokenizer),
        kprune.prune(model, batches(tokenizer, texts), 0.5),
    )
    one = kprune.prune(whole.model, batches(whole.tokenizer, texts), 0.5)
    other = kprune.prune_vocabulary(pruned, texts, tokenizer)
    assert one.plan == other.plan and other.details["flops_reduction"] == pruned.details["flops_reduction"]
    found = [spellers.answers(outcome.model, whole.tokenizer, texts) for outcome in (one, other)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)
    other.save(tmp_path / "small")
    again, spelled = kprune.load(tmp_path / "small"), AutoTokenizer.from_pretrained(tmp_path / "small")
    assert torch.equal(spellers.answers(again, spelled, texts), found[1])
    assert "tokens kept" in (tmp_path / "small/README.md").read_text()
    with pytest.raises(UserError, match="tokenizer given has other tokens: leave it out"):
        other.save(tmp_path / "small", tokenizer)


FRESH_PROCESS = """
import sys, torch
sys.modules["kprune"] = None
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model, tokenizer = (kind.from_pretrained("small") for kind in (AutoModelForSequenceClassification, AutoTokenizer))
texts = %r
torch.save(model.eval()(**tokenizer(texts, padding=True, return_tensors="pt")).logits, "logits")
"""


def test_a_model_that_lost_tokens_alone_is_of_the_stock_class_in_a_fresh_process(tmp_path):
    model, tokenizer = spellers.spelling_model()
    texts = spellers.lines(6)
    outcome = kprune.prune_vocabulary(model, texts, tokenizer)
    outcome.save(tmp_path / "small")
    run_plain(FRESH_PROCESS % texts, tmp_path)
    assert torch.equal(torch.load(tmp_path / "logits"), spellers.answers(model, tokenizer, texts))
    found = outcome.details["vocabulary"]
    assert found["parameters"] == [model_parameters(view_of(m)) for m in (model, outcome.model)]
    on_disk = sum(weight.nbytes for weight in load_file(tmp_path / "small/model.safetensors").values()) / 1e6
    assert found["megabytes"] == [megabytes(view_of(model)), on_disk]
    assert json.loads((tmp_path / "small/config.json").read_text())["vocab_size"] == found["kept"]


@pytest.mark.parametrize("wrapper", ["SentenceTransformer", "CrossEncoder"])
def test_a_model_of_sentence_transformers_comes_out_as_one(tmp_path, wrapper):
    model, tokenizer = (
        spellers.spelling_model(auto=AutoModel)
        if wrapper == "SentenceTransformer"
        else spellers.spelling_model(num_labels=1)
    )
    model.save_pretrained(tmp_path / "dense"), tokenizer.save_pretrained(tmp_path / "dense")
    if wrapper == "SentenceTransformer":
        dense = SentenceTransformer(modules=[Transformer(str(tmp_path / "dense")), Pooling(32)], device="cpu")
    else:
        dense = CrossEncoder(str(tmp_path / "dense"), device="cpu")
    texts = spellers.lines(6)
    pairs = [(texts[0], text) for text in texts]
    outcome = kprune.prune_vocabulary(dense, [word for pair in pairs for word in pair])
    answer = lambda model: model.encode(texts) if wrapper == "SentenceTransformer" else model.predict(pairs)  # noqa: E731
    # How products are rounded can depend on where weights lie in memory, which differs if they are from a file.
    np.testing.assert_allclose(answer(outcome.model), answer(dense), rtol=1e-5)
    assert len(dense.tokenizer) == len(tokenizer)
    outcome.save(tmp_path / "small")
    opened = type(dense)(str(tmp_path / "small"), device="cpu")
    np.testing.assert_allclose(answer(opened), answer(dense), rtol=1e-5)
    assert len(opened.tokenizer) == outcome.details["vocabulary"]["kept"] < len(tokenizer)


def test_bpe_joins_the_lowest_pair_first_and_the_first_of_several():
    ranks = {("a", "b"): 1, ("b", "a"): 0, ("ba", "b"): 2, ("a", "bab"): 3}
    assert joined("abab", ranks) == ["ba", "bab", "abab"]
    assert joined("aaab", {("a", "a"): 0, ("aa", "ab"): 2, ("a", "b"): 1}) == ["aa", "ab", "aaab"]
    assert joined("xyz", ranks) == []


def test_tokens_may_be_given_in_place_of_texts():
    model, tokenizer = spellers.spelling_model()
    texts = spellers.lines(6)
    ids = ids_of(tokenizer, texts)
    found = [vocabulary_of(model, tokenizer, given).kept for given in (texts, ids, map(torch.tensor, ids))]
    assert found[0] == found[1] == found[2]


def test_a_missing_token_is_counted_once_and_what_stands_for_it_makes_texts_longer():
    model, tokenizer = spellers.spelling_model()
    vocabulary = vocabulary_of(model, tokenizer, spellers.lines(6))
    others = spellers.lines(50, seed=3)
    found = spelling_of(vocabulary, others)
    before, after = ids_of(tokenizer, others), ids_of(vocabulary.tokenizer, others)
    kept = set(vocabulary.kept)
    tokens = [token for ids in before for token in ids]
    assert found.tokens == len(tokens) and 0 < found.missing == sum(t not in kept for t in tokens) / len(tokens)
    assert found.growth == sum(map(len, after)) / len(tokens) > 1


@pytest.mark.parametrize("family", ["bert", "gpt2", "xlm-roberta", "llama"])
def test_an_added_token_that_has_a_row_stays_and_is_read_as_before(family):
    model, tokenizer = spellers.spelling_model(family, AutoModel)
    tokenizer.add_tokens(["<word>"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<mark>"]})
    texts = [f"{text} <word> <mark>" for text in spellers.lines(4)]
    outcome = kprune.prune_vocabulary(model, spellers.lines(4), tokenizer)
    assert outcome.tokenizer.convert_tokens_to_ids("<word>") < len(outcome.tokenizer) < len(tokenizer)
    assert torch.equal(
        spellers.answers(model, tokenizer, texts), spellers.answers(outcome.model, outcome.tokenizer, texts)
    )
    words = [(t.decode(t(texts[0])["input_ids"], skip_special_tokens=True)) for t in (tokenizer, outcome.tokenizer)]
    assert words[0] == words[1] and "<word>" in words[0] and "<mark>" not in words[0]


def test_tokens_that_settings_name_stay_whoever_has_them():
    model, tokenizer = spellers.spelling_model("gpt2", AutoModelForCausalLM)
    model.config.decoder_start_token_id = row = len(tokenizer) + 2
    before = model.get_input_embeddings().weight[row].clone()
    vocabulary = vocabulary_of(model, tokenizer, spellers.lines(3))
    cut_vocabulary(model, vocabulary.kept)
    assert model.config.decoder_start_token_id == len(vocabulary.kept) - 1 == len(vocabulary.tokenizer)
    assert torch.equal(model.get_input_embeddings().weight[-1], before)


@pytest.mark.parametrize("form", [dict, list])
def test_sequences_that_generation_is_told_of_are_the_same_words(form):
    model, tokenizer = spellers.spelling_model("gpt2", AutoModelForCausalLM)
    vocabulary = vocabulary_of(model, tokenizer, spellers.lines(3))
    stays, goes = vocabulary.kept[-2:], [max(set(range(len(tokenizer))) - set(vocabulary.kept))]
    pairs = [[stays, 30.0], [goes, 3.0]]
    model.generation_config.sequence_bias = pairs if form is list else {tuple(word): bias for word, bias in pairs}
    model.generation_config.bad_words_ids = [stays, goes]
    gone = copy.deepcopy(model)
    gone.generation_config.sequence_bias, gone.generation_config.bad_words_ids = pairs[1:], [goes]
    for cut in (model, gone):
        cut_vocabulary(cut, vocabulary.kept)
    new = [vocabulary.kept.index(token) for token in stays]
    assert model.generation_config.sequence_bias == [[new, 30.0]] and model.generation_config.bad_words_ids == [new]
    for cut in (model, gone):
        ids = torch.tensor([[new[0]]])
        assert len(cut.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=0)[0]) >= 2


@pytest.mark.real_data
def test_the_mirrors_checkpoints_answer_as_before_to_the_last_bit():
    for name, auto in (
        ("minilm-l6-mrpc", AutoModelForSequenceClassification),
        ("smollm2-135m-instruct", AutoModelForCausalLM),
    ):
        folder = Path(os.environ["KPRUNE_MIRROR"], "kprune-reference", name)
        model, tokenizer = auto.from_pretrained(folder, dtype="float32").eval(), AutoTokenizer.from_pretrained(folder)
        texts = Path(__file__).parents[2].joinpath("CONTRIBUTING.md").read_text().splitlines()[:12]
        vocabulary = vocabulary_of(model, tokenizer, texts)
        dense = spellers.answers(model, tokenizer, [text for text in texts if text])
        cut_vocabulary(model, vocabulary.kept)
        small = spellers.answers(model, vocabulary.tokenizer, [text for text in texts if text])
        assert torch.equal(dense[..., vocabulary.kept] if dense.shape != small.shape else dense, small)


def batches(tokenizer, texts):
    return [tokenizer(texts[start : start + 4], padding=True, return_tensors="pt") for start in range(0, len(texts), 4)]
