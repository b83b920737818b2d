"""`kprune vocabulary`, and `kprune prune --vocabulary`."""

import pytest
import spellers
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import kprune
from kprune.cli import main
from kprune.vocabulary.tokenizer import ids_of


@pytest.fixture
def checkpoint(tmp_path):
    """A classifier and its tokenizer in a folder, and a file of texts."""
    model, tokenizer = spellers.spelling_model()
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
        spellers.answers(dense, tokenizers[0], spellers.lines(60)),
        spellers.answers(small, tokenizers[1], spellers.lines(60)),
    )
    assert (
        f"{small.config.vocab_size:,}" in shown and "a tenth of the texts, spelled with the tokens of the rest" in shown
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
    assert "tokens of held-out texts are not kept" in shown
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
