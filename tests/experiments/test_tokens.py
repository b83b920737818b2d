"""Tagged words in the laboratory: word pieces, entities, files of one's own and of the hub."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from tiny import tiny_model
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from experiments.scoring.entities import counts_of, entities
from experiments.scoring.evaluation import predict
from experiments.tasks import build_task
from kprune.errors import UserError
from kprune.objectives import TokenClassification

TAGS = ["O", "B-LOC", "B-PER", "I-PER"]
OWN = {"name": "mine", "kind": "custom_tokens", "evaluation_file": None, "text": "tokens", "label": "tags"}
OWN |= {"max_length": 32, "average_length": None, "batch_size": 8}
ROWS = [
    {"tokens": ["ada", "lovelace", "saw", "paris"], "tags": ["B-PER", "I-PER", "O", "B-LOC"]},
    {"tokens": ["saw", "ada"], "tags": ["O", "B-PER"]},
    {"tokens": ["paris", "\u200b", "saw", "lovelace"], "tags": ["B-LOC", "O", "O", "B-PER"]},
]


def word_pieces():
    """A tokenizer that cuts words, between [CLS] and [SEP], and makes nothing of a blank of width zero."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "ada", "love", "##la", "##ce", "saw", "pa", "##ris"]
    backend = Tokenizer(models.WordPiece({piece: place for place, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Replace("\u200b", "")
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")


@pytest.fixture
def file(tmp_path):
    def write(rows=ROWS, name="data.jsonl"):
        (tmp_path / name).write_text("\n".join(json.dumps(row) for row in rows))
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize(
    "tags, found",
    [
        ("O O", set()),
        ("B-PER I-PER O B-LOC", {("PER", 0, 2), ("LOC", 3, 4)}),
        ("B-PER B-PER", {("PER", 0, 1), ("PER", 1, 2)}),
        ("O I-PER I-PER", {("PER", 1, 3)}),  # as in IOB1, and as models write
        ("B-PER I-LOC I-LOC", {("PER", 0, 1), ("LOC", 1, 3)}),
        ("I-LOC B-LOC I-LOC", {("LOC", 0, 1), ("LOC", 1, 3)}),
    ],
)
def test_entities_are_those_of_conlleval(tags, found):
    assert entities(tags.split()) == found


def test_an_entity_counts_if_all_of_it_is_found():
    assert counts_of("B-PER O O B-LOC".split(), "B-PER I-PER O B-LOC".split()) == [1, 2, 2]
    assert counts_of("B-LOC I-LOC".split(), "B-PER I-PER".split()) == [0, 1, 1]


def test_the_first_piece_of_a_word_carries_its_tag(file):
    task = build_task(OWN | {"train_file": file(), "evaluation_file": file()})
    assert (task.label_names, task.metric, type(task.objective)) == (TAGS, "entity_f1", TokenClassification)
    ada, _, paris = task.training(word_pieces())
    assert ada["input_ids"] == [2, 4, 5, 6, 7, 8, 9, 10, 3]
    assert ada["label"] == [-100, 2, 3, -100, -100, 0, 1, -100, -100]
    assert paris["label"] == [-100, 1, -100, 0, 2, -100, -100, -100], "a word without a piece has no label"


@pytest.mark.parametrize("max_length, hits", [(32, 5), (7, 4)])
def test_right_answers_score_100_unless_they_are_cut_off(file, max_length, hits):
    task = build_task(OWN | {"train_file": file(), "evaluation_file": file(), "max_length": max_length})
    tokenizer = word_pieces()
    answers = []
    for example in task.training(tokenizer):
        right = torch.tensor([max(label, 0) for label in example["label"]])
        answers.append(task.evaluation(tokenizer).reduce(torch.nn.functional.one_hot(right, 4).double(), example))
    found = task.evaluation(tokenizer).predictions(answers)
    assert found.values.sum(axis=0).tolist() == [[hits, hits, 5]]
    assert found.score == pytest.approx(100 * 2 * hits / (hits + 5))


def test_a_model_is_scored_on_the_pieces_alone(file):
    """In padded batches as each sentence by itself."""
    model, tokenizer = tiny_model(head="token_classification"), word_pieces()
    task = build_task(OWN | {"train_file": file(), "evaluation_file": file()})
    evaluation = task.evaluation(tokenizer)
    found = predict(model, evaluation.examples, task.objective, 0, reduce=evaluation.reduce)
    for places, example in zip(found, evaluation.examples, strict=True):
        alone = model(input_ids=torch.tensor([example["input_ids"]])).logits[0].argmax(dim=-1)
        assert torch.equal(places, alone)


@pytest.mark.parametrize("named", [True, False])
def test_a_data_set_of_the_hub(tmp_path, monkeypatch, named):
    """Tags are numbers, with names of the data set's or the task's."""
    names = ["O", "B-PER", "I-PER", "B-LOC"]
    tags = [[names.index(tag) for tag in row["tags"]] for row in ROWS]
    kind = Sequence(ClassLabel(names=names) if named else Value("int64"))
    features = Features({"tokens": Sequence(Value("string")), "ner_tags": kind})
    data = Dataset.from_dict({"tokens": [row["tokens"] for row in ROWS], "ner_tags": tags}, features=features)
    folder = tmp_path / "mirror" / "somebody" / "names"
    (folder / "en").mkdir(parents=True)
    for split in ("train", "test"):
        data.to_parquet(folder / "en" / f"{split}.parquet")
    configs = "configs:\n- config_name: en\n  data_files:\n" + "".join(
        f"  - split: {split}\n    path: en/{split}.parquet\n" for split in ("train", "test")
    )
    (folder / "README.md").write_text(f"---\n{configs}---\n")
    monkeypatch.setenv("KPRUNE_MIRROR", str(tmp_path / "mirror"))
    settings = {
        "name": "names",
        "kind": "tokens",
        "hub_id": "somebody/names",
        "config": "en",
        "evaluation_split": "test",
    }
    settings |= {"text": "tokens", "label": "ner_tags", "max_length": 32, "average_length": None, "batch_size": 8}
    task = build_task(settings | {"label_names": names})
    assert task.training(word_pieces())[0]["label"] == [-100, 1, 2, -100, -100, 0, 3, -100, -100]
    assert task.evaluation(word_pieces()).gold == [row["tags"] for row in ROWS]


@pytest.fixture
def run(own_cell, tmp_path):
    model = tiny_model(head="token_classification", dtype=torch.float32)
    # In another order than the data's.
    model.config.id2label = dict(enumerate(reversed(TAGS)))
    model.config.label2id = {name: place for place, name in model.config.id2label.items()}
    model.save_pretrained(tmp_path / "checkpoint")
    word_pieces().save_pretrained(tmp_path / "checkpoint")

    return partial(own_cell, "task=custom_tokens", "task.max_length=32", f"model.checkpoint={tmp_path / 'checkpoint'}")


@pytest.mark.parametrize("method", ["kprune", "kprune_plus_fast", "kwon"])
def test_a_cell(run, file, method):
    record = run(f"task.train_file={file(ROWS * 20)}", f"method={method}")
    assert (record.metric, record.evaluation.examples) == ("entity_f1", 12)
    assert record.flops_reduction >= 0.4 and 0 <= record.score <= 100


def without(row, **changes):
    return [*ROWS[:2], ROWS[2] | changes]


@pytest.mark.parametrize(
    "rows, words",
    [
        (without(2, tags=["O"]), "row 3 has 4 tokens and 1 tags: mend it"),
        (without(2, tokens=[], tags=[]), "row 3 has no tokens: remove the row"),
        (without(2, tokens="paris saw"), "row 3: tokens are 'paris saw', no list of texts"),
        (without(2, tags=[1, 0, 0, 2]), "row 3: tags are '[1, 0, 0, 2]', no list of texts"),
        (without(2, tags=["LOC", "O", "O", "O"]), "row 3: tag 'LOC' is neither O nor B- or I- before a kind"),
        (without(2, tags=["B-ORG", "O", "O", "O"]), "has 4 labels (I-PER, B-PER, B-LOC, O), custom_tokens has 5"),
        ([{"words": ["a"], "tags": ["O"]}], "has no column tokens"),
    ],
)
def test_bad_rows_are_one_line(run, file, rows, words):
    with pytest.raises(UserError) as error:
        run(f"task.train_file={file(rows)}", f"task.evaluation_file={file(name='test.jsonl')}", "method=random")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_other_mistakes_are_one_line(run, file, world):
    with pytest.raises(UserError, match="give task.train_file=FILE"):
        run("method=random")
    with pytest.raises(UserError, match="too few rows .2. to hold some out"):
        run(f"task.train_file={file(ROWS[:2])}", "method=random")
    tags = "task.label_names=[O,B-PER,I-PER,B-ORG]"
    with pytest.raises(UserError, match="tag B-LOC is none of O, B-PER, I-PER, B-ORG; mend it or list all tags"):
        build_task(
            OWN | {"train_file": file(), "evaluation_file": file(), "label_names": tags[18:-1].split(",")}
        ).training(word_pieces())
    with pytest.raises(UserError, match="BertForSequenceClassification.*ForTokenClassification"):
        run(f"task.train_file={file(ROWS * 5)}", f"model.checkpoint={world / 'checkpoint'}", "method=random")


def test_a_slow_tokenizer_is_refused(file):
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="save a fast tokenizer"):
        build_task(OWN | {"train_file": file(), "evaluation_file": file()}).tokenise_training(Slow())


def test_an_example_without_room_for_a_word_is_refused(file):
    task = build_task(OWN | {"train_file": file(), "evaluation_file": file(), "max_length": 1})
    for make in (task.training, task.evaluation):
        with pytest.raises(UserError, match="task.max_length=1 leaves no room for a text"):
            make(word_pieces())


def test_gold_is_the_same_whatever_the_tokenizer_cuts(file):
    task = build_task(OWN | {"train_file": file(), "evaluation_file": file(), "max_length": 4})
    assert task.evaluation(word_pieces()).gold == [row["tags"] for row in ROWS]
    assert np.shape(task.evaluation(word_pieces()).firsts[0]) == (4,)
