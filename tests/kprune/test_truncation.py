"""Texts that are too long are cut before the tokenizer cuts them, and read as if only it had."""

import pytest
from tiny import tiny_tokenizer

from kprune.truncation import shortened, shortened_columns

LONG = " ".join(f"w{k % 90}" for k in range(700))


def test_pairs_are_read_as_the_tokenizer_alone_cuts_them():
    tokenizer = tiny_tokenizer()
    columns = [[LONG, "w1 w2", LONG, "w3"], ["w4", LONG, LONG, "w5 w6"]]
    given = shortened_columns(tokenizer, columns, 20)
    assert max(len(text.split()) for column in given for text in column) == 40
    cut = [tokenizer(*texts, truncation=True, max_length=20)["input_ids"] for texts in (columns, given)]
    assert cut[0] == cut[1]
    assert shortened_columns(tokenizer, columns[:1], 20) == columns[:1]


@pytest.mark.parametrize("tokens", [1, 7, 700, 800])
def test_a_text_keeps_its_first_tokens(tokens):
    assert shortened(tiny_tokenizer(), LONG, tokens).split() == LONG.split()[:tokens]
