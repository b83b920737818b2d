"""Fewer tokens: texts of kept ones are split and answered as before, to the last bit; everything else is spelled, and told."""

import json
import os
from pathlib import Path

import pytest
import spellers
import torch
from commands import run_plain
from decoders import SHAPE as DECODER
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tiny import SHAPE, tiny_tokenizer
from tokenizers import AddedToken
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizer,
)

import kprune
from kprune.cli import main
from kprune.errors import UserError
from kprune.models import view_of
from kprune.models.flops import megabytes, model_parameters
from kprune.vocabulary import cut_vocabulary, spelling_of, vocabulary_of
from kprune.vocabulary.tokenizer import ids_of, joined

TOKENIZERS = {
    "bert": spellers.wordpiece,
    "electra": spellers.wordpiece,
    "distilbert": spellers.wordpiece,
    "gpt2": spellers.byte_level,
    "roberta": spellers.byte_level_after_padding,
    "mpnet": spellers.byte_level_after_padding,
    "xlm-roberta": spellers.unigram,
    "deberta-v2": spellers.unigram,
    "modernbert": spellers.byte_level,
    "llama": spellers.bytes_behind,
    "opt": spellers.byte_level_after_padding,
}
ENCODERS = [family for family in TOKENIZERS if family not in ("gpt2", "llama", "opt")]
DECODERS = ["gpt2", "llama", "opt"]
ROWS = 7
"""Of the word embeddings that no token has, as where they are rounded up."""


def tiny(family="bert", auto=AutoModelForSequenceClassification, tokenizer=None, **settings):
    """A tiny model in float32 with a tokenizer of its family's kind."""
    torch.manual_seed(0)
    tokenizer = tokenizer or TOKENIZERS[family]()
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    shape = DECODER if family in DECODERS else SHAPE
    config = shape | special | {"vocab_size": len(tokenizer) + ROWS} | settings
    if family == "opt":
        config |= {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.3}
    if family == "distilbert":
        config |= {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48}
    return auto.from_config(AutoConfig.for_model(family, **config)).eval(), tokenizer


def of_kept(vocabulary, texts):
    """Those of the texts whose tokens are all kept."""
    ids = ids_of(vocabulary.whole, texts)
    return [text for text, tokens in zip(texts, ids, strict=True) if set(tokens) <= set(vocabulary.kept)]


@torch.no_grad()
def answers(model, tokenizer, texts):
    return model(**tokenizer(texts, padding=True, return_tensors="pt"))[0]


@pytest.mark.parametrize("family", TOKENIZERS)
def test_a_text_of_kept_tokens_is_split_as_before(family):
    model, tokenizer = tiny(family, AutoModel)
    vocabulary = vocabulary_of(model, tokenizer, spellers.lines(40))
    assert len(vocabulary.kept) < vocabulary.of - ROWS and vocabulary.of == len(tokenizer) + ROWS
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
    model, tokenizer = tiny(family, auto)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    texts = spellers.lines(6)
    outcome = kprune.prune_vocabulary(model, texts, tokenizer)
    dense, small = answers(model, tokenizer, texts), answers(outcome.model, outcome.tokenizer, texts)
    if auto is AutoModelForMaskedLM:
        kept = vocabulary_of(model, tokenizer, texts).kept
        dense = dense[..., kept]
    assert torch.equal(dense, small) and dense.std() > 0.01
    assert outcome.model.config.vocab_size == outcome.details["vocabulary"]["kept"] < model.config.vocab_size
    assert model.config.vocab_size == len(tokenizer) + ROWS
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items()), "it was changed"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_has_the_logits_of_kept_tokens(family, tied, tmp_path):
    model, tokenizer = tiny(family, AutoModelForCausalLM, tie_word_embeddings=tied)
    texts = spellers.lines(6)
    kept = vocabulary_of(model, tokenizer, texts).kept
    gone = min(set(range(len(tokenizer))) - set(kept))
    model.generation_config.suppress_tokens = [tokenizer.eos_token_id, gone]
    outcome = kprune.prune_vocabulary(model, texts, tokenizer)
    assert torch.equal(answers(model, tokenizer, texts)[..., kept], answers(outcome.model, outcome.tokenizer, texts))
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
    model, tokenizer = tiny()
    texts = spellers.lines(12)
    whole, pruned = (
        kprune.prune_vocabulary(model, texts, tokenizer),
        kprune.prune(model, batches(tokenizer, texts), 0.5),
    )
    one = kprune.prune(whole.model, batches(whole.tokenizer, texts), 0.5)
    other = kprune.prune_vocabulary(pruned, texts, tokenizer)
    assert one.plan == other.plan and other.details["flops_reduction"] == pruned.details["flops_reduction"]
    found = [answers(outcome.model, whole.tokenizer, texts) for outcome in (one, other)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)
    other.save(tmp_path / "small")
    again, spelled = kprune.load(tmp_path / "small"), AutoTokenizer.from_pretrained(tmp_path / "small")
    assert torch.equal(answers(again, spelled, texts), found[1])
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
    model, tokenizer = tiny()
    texts = spellers.lines(6)
    outcome = kprune.prune_vocabulary(model, texts, tokenizer)
    outcome.save(tmp_path / "small")
    run_plain(FRESH_PROCESS % texts, tmp_path)
    assert torch.equal(torch.load(tmp_path / "logits"), answers(model, tokenizer, texts))
    found = outcome.details["vocabulary"]
    assert found["parameters"] == [model_parameters(view_of(m)) for m in (model, outcome.model)]
    on_disk = sum(weight.nbytes for weight in load_file(tmp_path / "small/model.safetensors").values()) / 1e6
    assert found["megabytes"] == [megabytes(view_of(model)), on_disk]
    assert json.loads((tmp_path / "small/config.json").read_text())["vocab_size"] == found["kept"]


@pytest.mark.parametrize("wrapper", ["SentenceTransformer", "CrossEncoder"])
def test_a_model_of_sentence_transformers_comes_out_as_one(tmp_path, wrapper):
    model, tokenizer = tiny(auto=AutoModel) if wrapper == "SentenceTransformer" else tiny(num_labels=1)
    model.save_pretrained(tmp_path / "dense"), tokenizer.save_pretrained(tmp_path / "dense")
    if wrapper == "SentenceTransformer":
        dense = SentenceTransformer(modules=[Transformer(str(tmp_path / "dense")), Pooling(32)], device="cpu")
    else:
        dense = CrossEncoder(str(tmp_path / "dense"), device="cpu")
    texts = spellers.lines(6)
    pairs = [(texts[0], text) for text in texts]
    outcome = kprune.prune_vocabulary(dense, [word for pair in pairs for word in pair])
    answer = lambda model: model.encode(texts) if wrapper == "SentenceTransformer" else model.predict(pairs)  # noqa: E731
    assert (answer(outcome.model) == answer(dense)).all() and len(dense.tokenizer) == len(tokenizer)
    outcome.save(tmp_path / "small")
    opened = type(dense)(str(tmp_path / "small"), device="cpu")
    assert (answer(opened) == answer(dense)).all()
    assert len(opened.tokenizer) == outcome.details["vocabulary"]["kept"] < len(tokenizer)


def test_bpe_joins_the_lowest_pair_first_and_the_first_of_several():
    ranks = {("a", "b"): 1, ("b", "a"): 0, ("ba", "b"): 2, ("a", "bab"): 3}
    assert joined("abab", ranks) == ["ba", "bab", "abab"]
    assert joined("aaab", {("a", "a"): 0, ("aa", "ab"): 2, ("a", "b"): 1}) == ["aa", "ab", "aaab"]
    assert joined("xyz", ranks) == []


def test_tokens_may_be_given_in_place_of_texts():
    model, tokenizer = tiny()
    texts = spellers.lines(6)
    ids = ids_of(tokenizer, texts)
    found = [vocabulary_of(model, tokenizer, given).kept for given in (texts, ids, map(torch.tensor, ids))]
    assert found[0] == found[1] == found[2]


def test_a_missing_token_is_counted_once_and_what_stands_for_it_makes_texts_longer():
    model, tokenizer = tiny()
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
    model, tokenizer = tiny(family, AutoModel)
    tokenizer.add_tokens(["<word>"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<mark>"]})
    texts = [f"{text} <word> <mark>" for text in spellers.lines(4)]
    outcome = kprune.prune_vocabulary(model, spellers.lines(4), tokenizer)
    assert outcome.tokenizer.convert_tokens_to_ids("<word>") < len(outcome.tokenizer) < len(tokenizer)
    assert torch.equal(answers(model, tokenizer, texts), answers(outcome.model, outcome.tokenizer, texts))
    words = [(t.decode(t(texts[0])["input_ids"], skip_special_tokens=True)) for t in (tokenizer, outcome.tokenizer)]
    assert words[0] == words[1] and "<word>" in words[0] and "<mark>" not in words[0]


def wrong(make):
    """A case: what makes a model, texts and tokenizer of which something is wrong."""
    model, tokenizer = tiny()
    return make(model, tokenizer)


class Slow(PreTrainedTokenizer):
    def __init__(self):
        super().__init__()

    @property
    def vocab_size(self):
        return 0

    def get_vocab(self):
        return {}


def added(model, tokenizer):
    tokenizer.add_tokens([AddedToken(f"<new{i}>") for i in range(ROWS + 1)])
    return model, spellers.lines(3), tokenizer


def shared(model, tokenizer):
    model.classifier.words = torch.nn.Linear(1, 1)
    model.classifier.words.weight = model.get_input_embeddings().weight
    return model, spellers.lines(3), tokenizer


def other_padding(model, tokenizer):
    model.config.pad_token_id = 7
    return model, spellers.lines(3), tokenizer


WRONG = {
    "no text": (lambda m, t: (m, [], t), ["there is no text"]),
    "blank": (lambda m, t: (m, [" ", ""], t), ["blank"]),
    "a token beyond": (lambda m, t: (m, [[5, 5000]], t), ["the token 5000", "the model has"]),
    "slow": (lambda m, t: (m, spellers.lines(3), Slow()), ["Slow", "no fast one", "AutoTokenizer"]),
    "no tokenizer": (lambda m, t: (m, spellers.lines(3), None), ["come with its tokenizer", "tokenizer="]),
    "words alone": (lambda m, t: (m, ["w1"], tiny_tokenizer()), ["WordLevel", "can't spell"]),
    "another's": (
        lambda m, t: (m, spellers.lines(3), spellers.bytes_behind()),
        ["600 tokens, the model", "own tokenizer"],
    ),
    "another's padding": (other_padding, ["pads with token 1", "pad_token_id=7"]),
    "an added token": (added, ["<new", "was added", "resize_token_embeddings"]),
    "shared": (shared, ["shared with classifier.words.weight", "a copy of its own"]),
}


@pytest.mark.parametrize("make, words", WRONG.values(), ids=WRONG)
def test_what_can_not_be_cut_is_one_line(make, words):
    model, texts, tokenizer = wrong(make)
    with pytest.raises(UserError) as error:
        kprune.prune_vocabulary(model, texts, tokenizer)
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words), error.value


def test_tokens_that_settings_name_stay_whoever_has_them():
    model, tokenizer = tiny("gpt2", AutoModelForCausalLM)
    model.config.decoder_start_token_id = row = len(tokenizer) + 2
    before = model.get_input_embeddings().weight[row].clone()
    vocabulary = vocabulary_of(model, tokenizer, spellers.lines(3))
    cut_vocabulary(model, vocabulary.kept)
    assert model.config.decoder_start_token_id == len(vocabulary.kept) - 1 == len(vocabulary.tokenizer)
    assert torch.equal(model.get_input_embeddings().weight[-1], before)


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
        dense = answers(model, tokenizer, [text for text in texts if text])
        cut_vocabulary(model, vocabulary.kept)
        small = answers(model, vocabulary.tokenizer, [text for text in texts if text])
        assert torch.equal(dense[..., vocabulary.kept] if dense.shape != small.shape else dense, small)


def batches(tokenizer, texts):
    return [tokenizer(texts[start : start + 4], padding=True, return_tensors="pt") for start in range(0, len(texts), 4)]


@pytest.fixture
def checkpoint(tmp_path):
    """A classifier and its tokenizer in a folder, and a file of texts."""
    model, tokenizer = tiny()
    model.save_pretrained(tmp_path / "dense"), tokenizer.save_pretrained(tmp_path / "dense")
    (tmp_path / "texts.txt").write_text("\n".join(spellers.lines(60)))
    return tmp_path / "dense"


def run(*arguments):
    assert main([*map(str, arguments)]) == 0


def test_the_command_cuts_the_vocabulary_alone_and_says_what_texts_become(checkpoint, tmp_path, capsys):
    texts = tmp_path / "texts.txt"
    run("vocabulary", checkpoint, texts, "--output", tmp_path / "small")
    shown = capsys.readouterr().out
    small = AutoModelForSequenceClassification.from_pretrained(tmp_path / "small").eval()
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (checkpoint, tmp_path / "small")]
    dense = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    assert torch.equal(
        answers(dense, tokenizers[0], spellers.lines(60)), answers(small, tokenizers[1], spellers.lines(60))
    )
    assert (
        f"{small.config.vocab_size:,}" in shown and "a tenth of the texts, spelled by the tokens of the others" in shown
    )
    assert "tokens kept" in (tmp_path / "small/README.md").read_text()
    run("compare", checkpoint, tmp_path / "small", texts, "--threads", 1)
    assert "divergence from the dense model: 0 nats" in capsys.readouterr().out


@pytest.mark.parametrize("vocabulary", ["calibration", "words.txt"])
def test_the_command_prunes_units_and_tokens(checkpoint, tmp_path, capsys, vocabulary):
    (tmp_path / "words.txt").write_text("\n".join(spellers.lines(3)))
    given = vocabulary if vocabulary == "calibration" else tmp_path / vocabulary
    output = tmp_path / "small"
    options = ["--flops-reduction", 0.5, "--method", "kprune_plus_fast", "--threads", 1, "--output", output]
    run("prune", checkpoint, tmp_path / "texts.txt", "--vocabulary", given, *options)
    shown = capsys.readouterr().out
    small, tokenizer = kprune.load(output), AutoTokenizer.from_pretrained(output)
    assert len(tokenizer) == small.config.vocab_size < len(spellers.wordpiece())
    (told,) = [line for line in shown.splitlines() if line.startswith("tokens ")]
    assert f"{small.config.vocab_size}" in told.split()
    assert "tokens of held-out texts are spelled by others" in shown
    assert "| tokens of held-out texts that others spell |" in (output / "README.md").read_text()
    assert set(ids_of(tokenizer, spellers.lines(3))[0]) <= set(range(small.config.vocab_size))


@pytest.mark.parametrize(
    "given, words",
    [("none.txt", ["there is no file", "none.txt"]), ("empty.txt", ["empty.txt is empty"])],
)
def test_a_file_without_texts_is_one_line_before_the_work_starts(checkpoint, tmp_path, capsys, given, words):
    (tmp_path / "empty.txt").write_text(" \n")
    output = tmp_path / "small"
    for command in (
        ["prune", checkpoint, tmp_path / "texts.txt", "--vocabulary", tmp_path / given, "--output", output],
        ["vocabulary", checkpoint, tmp_path / given, "--output", output],
    ):
        assert main([*map(str, command)]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("error: ") and all(word in line for word in words) and not output.exists()
