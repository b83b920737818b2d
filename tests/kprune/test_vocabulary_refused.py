"""Tokenizers, models and texts whose vocabulary can't be cut: one line."""

import pytest
import spellers
import torch
from tiny import tiny_tokenizer
from tokenizers import AddedToken
from transformers import PreTrainedTokenizer

import kprune
from kprune.errors import UserError


def wrong(make):
    """A case: what makes a model, texts and tokenizer of which something is wrong."""
    model, tokenizer = spellers.spelling_model()
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
    tokenizer.add_tokens([AddedToken(f"<new{i}>") for i in range(spellers.ROWS + 1)])
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
