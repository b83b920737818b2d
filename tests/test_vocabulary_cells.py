"""Cells that keep the tokens of some texts alone: what is scored, recorded, saved and shown, and what is refused."""

import pandas as pd
import pytest
import spellers
import torch
from tiny import SHAPE
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig
from world import environment, overrides

from analysis.aggregate import aggregate
from analysis.collect import collect
from analysis.records import load
from analysis.tables import TABLES
from experiments.cell.runner import run_cell
from experiments.cell.saved import evaluate_saved
from experiments.config.cell import configured
from experiments.inputs import subject
from experiments.store.record import Record
from kprune.errors import UserError
from kprune.models import view_of
from kprune.models.flops import megabytes, model_parameters
from kprune.vocabulary.tokenizer import ids_of


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A checkpoint whose tokenizer spells, and data of made-up words, of which the evaluation set has some of its own."""
    folder = tmp_path_factory.mktemp("spelled")
    tokenizer = spellers.wordpiece()
    torch.manual_seed(0)
    labels = dict(enumerate(["bad", "fine", "good"]))
    config = BertConfig(
        **SHAPE | {"vocab_size": len(tokenizer)},
        pad_token_id=1,
        id2label=labels,
        label2id={n: i for i, n in labels.items()},
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / "checkpoint")
    tokenizer.save_pretrained(folder / "checkpoint")
    for name, rows in (("data", spellers.lines(60)), ("evaluation", spellers.lines(40, seed=5))):
        stars = [("bad", "fine", "good")[row % 3] for row in range(len(rows))]
        pd.DataFrame({"review": rows, "stars": stars}).to_csv(folder / f"{name}.csv", index=False)
    (folder / "words.txt").write_text("\n".join(spellers.lines(3)))
    return folder


@pytest.fixture
def run(world, monkeypatch, tmp_path):
    """run("method=kprune", ...) runs a cell of this world and returns its record and its folder."""
    for name, value in environment(world).items():
        monkeypatch.setenv(name, value)

    def run(*settings):
        given = [*overrides(world), f"task.evaluation_file={world / 'evaluation.csv'}", "latency=null"]
        given = [option for option in given if not option.startswith("latency.")]
        config = configured([*given, *settings, f"outputs={tmp_path / 'outputs'}"])
        record = run_cell(config, "single", "python run.py")
        (file,) = (tmp_path / "outputs").glob(f"*/*/{record.name}/{record.target}/seed0/result.json")
        return record, file.parent

    return run


def texts(world, name):
    return list(pd.read_csv(world / f"{name}.csv")["review"])


@pytest.mark.parametrize("vocabulary", ["calibration", "training", "words.txt"])
def test_a_cell_scores_and_saves_what_the_new_tokenizer_spells(run, world, tmp_path, capsys, vocabulary):
    given = str(world / vocabulary) if vocabulary.endswith(".txt") else vocabulary
    record, folder = run("method=kprune_plus_fast", "flops_reduction=0.5", f"vocabulary={given}")
    assert Record.read(folder / "result.json") == record and record.variant["vocabulary"] == vocabulary.removesuffix(
        ".txt"
    )
    assert record.config["vocabulary"] == given and ("vocabulary" in record.config["contents"]) == (given != vocabulary)

    model = AutoModelForSequenceClassification.from_pretrained(folder / "model", trust_remote_code=True)
    dense = AutoModelForSequenceClassification.from_pretrained(world / "checkpoint")
    whole, small = (AutoTokenizer.from_pretrained(path) for path in (world / "checkpoint", folder / "model"))
    used = record.vocabulary
    assert (used.kept, used.of) == (len(small), len(whole)) == (model.config.vocab_size, dense.config.vocab_size)
    before, after = (
        [ids[:32] for ids in ids_of(t, texts(world, "evaluation"))] for t in (whole, small)
    )  # task.max_length
    count = sum(map(len, before))
    gone = {number for token, number in whole.get_vocab().items() if token not in small.get_vocab()}
    assert used.missing == sum(token in gone for ids in before for token in ids) / count
    assert used.growth == sum(map(len, after)) / count
    if vocabulary == "training":
        assert ids_of(small, texts(world, "data")) == [
            [small.convert_tokens_to_ids(whole.convert_ids_to_tokens(token)) for token in ids]
            for ids in ids_of(whole, texts(world, "data"))
        ]
    views = view_of(dense), view_of(model)
    sizes = (record.size.parameters_dense, record.size.parameters_pruned)
    assert sizes == tuple(map(model_parameters, views)) and sizes[1] < sizes[0]
    assert record.size.megabytes_pruned == megabytes(views[1])
    assert f"{used.kept:,} of {used.of:,} tokens kept" in capsys.readouterr().out
    card = (folder / "model/README.md").read_text()
    assert f"| tokens kept | {used.of:,} | {used.kept:,} |" in card and "The tokenizer in this folder" in card
    assert evaluate_saved(configured([f"evaluate={folder / 'model'}", "threads=1"])) == pytest.approx(record.score)


def test_the_evaluation_set_is_the_same_in_cells_of_every_vocabulary(run, tmp_path):
    found = [run("method=none", "flops_reduction=0", f"vocabulary={name}")[0] for name in ("null", "calibration")]
    assert found[0].evaluation == found[1].evaluation and found[0].vocabulary is None
    whole, cut = found
    assert whole.score == whole.dense_score == cut.dense_score and whole.flops_reduction == cut.flops_reduction == 0
    assert whole.size.parameters_dense == whole.size.parameters_pruned > cut.size.parameters_pruned
    collect(tmp_path / "outputs", tmp_path / "cells.csv")
    shown = TABLES["size"].make(aggregate(load(tmp_path / "cells.csv"))).set_index("Method")
    assert shown.loc["no pruning", "Tokens kept"] == "–" and "million" in shown.loc["no pruning", "Parameters"]
    cut_row = shown.loc["no pruning (vocabulary=calibration)"]
    assert cut_row["Tokens kept"] == f"{cut.vocabulary.kept} of {cut.vocabulary.of}"
    assert cut_row["Spelled by others"] == f"{100 * cut.vocabulary.missing:.1f} %"


def test_a_model_that_lost_tokens_alone_is_saved_in_the_stock_class(run):
    _, folder = run("method=none", "flops_reduction=0", "vocabulary=training")
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    assert type(model).__name__ == "BertForSequenceClassification" and not list((folder / "model").glob("*.py"))


@pytest.mark.parametrize(
    "settings, words",
    [
        (["vocabulary=none.txt"], ["vocabulary=none.txt does not exist"]),
        (["vocabulary=words.pdf"], ["no file of texts"]),
        (["vocabulary=BLANK"], ["has no texts"]),
        (["method=ebert", "vocabulary=training"], ["ebert", "no model whose vocabulary", "leave vocabulary out"]),
        (["method=none"], ["none removes nothing", "flops_reduction=0"]),
        (["method=kprune", "flops_reduction=0"], ["outside (0, 1)", "method=none"]),
        (["task=wikitext2", "vocabulary=calibration"], ["a perplexity is a mean over tokens", "kprune vocabulary"]),
    ],
)
def test_what_a_cell_refuses_is_one_line_before_the_dense_model_is_scored(run, tmp_path, monkeypatch, settings, words):
    monkeypatch.setattr(subject.Subject, "dense", property(lambda _: pytest.fail("the dense model was scored")))
    (tmp_path / "blank.txt").write_text("\n\n")
    settings = [option.replace("BLANK", str(tmp_path / "blank.txt")) for option in settings]
    with pytest.raises(UserError) as error:
        configured(settings) if "task=wikitext2" in settings else run(*settings)
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words), error.value
