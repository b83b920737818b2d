"""Multiple choice in the laboratory: files of one's own and of the hub, uneven numbers of choices."""

import json
from functools import partial

import pandas as pd
import pytest
import torch
from choices import choices_batch, tiny_chooser

import kprune
from experiments.cell.saved import evaluate_saved
from experiments.config.cell import configured
from experiments.inputs.checkpoints import load_model, load_tokenizer
from experiments.scoring.evaluation import evaluate
from experiments.tasks import build_task
from kprune.data import sequences
from kprune.errors import UserError

OWN = {"name": "mine", "kind": "custom_choice", "evaluation_file": None, "text": ["question"], "choices": "choices"}
OWN |= {"label": "label", "max_length": 40, "average_length": None, "batch_size": 3}
WORDS = "ada babbage saw the engine of paris and wrote a long letter to bob on a rainy day".split()
ROWS = [
    {
        "question": " ".join(WORDS[k % 5 : k % 5 + 4]),
        "choices": [" ".join(WORDS[(k + c) % 14 : (k + c) % 14 + 1 + c]) for c in range(2 + k % 3)],
        "label": k % 2,
    }
    for k in range(20)
]


@pytest.fixture
def file(tmp_path):
    def write(rows=ROWS, name="data.jsonl"):
        (tmp_path / name).write_text("\n".join(json.dumps(row) for row in rows))
        return str(tmp_path / name)

    return write


def built(file, **changes):
    return build_task(OWN | {"train_file": file, "evaluation_file": file} | changes)


def test_an_example_has_the_tokens_of_its_choices_one_behind_the_other(file, tokenizer):
    training = built(file()).training(tokenizer)
    for row in (0, 1, 2):
        question, choices = ROWS[row]["question"], ROWS[row]["choices"]
        pairs = [tokenizer(question, choice, truncation=True, max_length=40) for choice in choices]
        assert training[row] == {
            "input_ids": [token for pair in pairs for token in pair["input_ids"]],
            "token_type_ids": [kind for pair in pairs for kind in pair["token_type_ids"]],
            "choices": [len(pair["input_ids"]) for pair in pairs],
            "label": ROWS[row]["label"],
        }
    assert len(training) == 20 and "label" not in built(file()).evaluation(tokenizer).examples[0]
    assert built(file()).sequences == pytest.approx(sum(2 + k % 3 for k in range(20)) / 20)


def test_a_question_stands_before_each_choice_of_a_context(file, tokenizer):
    rows = [row | {"context": "ada wrote"} for row in ROWS]
    task = built(file(rows), text=["context", "question"])
    (first, *_) = task.training_questions()
    assert (first.texts, first.choices) == (["ada wrote", ROWS[0]["question"]], ROWS[0]["choices"])
    pairs = [tokenizer("ada wrote", f"{ROWS[0]['question']} {choice}") for choice in first.choices]
    found = task.training(tokenizer)[0]
    assert found["input_ids"] == [token for pair in pairs for token in pair["input_ids"]]
    assert found["choices"] == [len(pair["input_ids"]) for pair in pairs]


@pytest.mark.parametrize("question", ["ada", "engine " * 9, "engine " * 400])
@pytest.mark.parametrize("context", [None, "paris", "paris " * 300])
@pytest.mark.parametrize("length", [1, 5, 20, 34])
def test_a_choice_is_read_whole_however_long_the_texts_before_it_are(file, tokenizer, question, context, length):
    rows = [{"question": question, "choices": ["w" * length, "x" * length], "label": 0}]
    if context is not None:
        rows[0]["context"] = context
    task = built(file(rows), text=["question"] if context is None else ["context", "question"])
    (example,) = task.training(tokenizer)
    for row, letter in zip(sequences(example), "wx", strict=True):
        words = tokenizer.convert_ids_to_tokens(row["input_ids"])
        assert words[-length - 1 :] == [letter, *[f"##{letter}"] * (length - 1), "[SEP]"]
        assert len(words) <= 40 and words[1] in ("a", "e", "p")
        before = len(question.replace(" ", "")) + len((context or "").replace(" ", ""))
        assert len(words) == min(40, before + length + 3)


def test_of_a_choice_that_is_too_long_by_itself_the_question_stays(file, tokenizer):
    rows = [{"question": "engine " * 2000, "choices": ["w" * 38, "paris " * 2000], "label": 0}]
    (example,) = built(file(rows)).training(tokenizer)
    assert example["choices"] == [40, 40]
    assert all(row["token_type_ids"].count(0) > 15 for row in sequences(example))


@pytest.mark.parametrize(
    "choices, label, number",
    [
        (["a", "b", "c"], 2, 2),
        (["a", "b", "c"], "2", 2),
        (["a", "b", "c"], 2.0, 2),
        (["a", "b", "c"], "2.0", 2),
        (["a", "b", "c"], "C", 2),
        ({"text": ["a", "b"], "label": ["A", "B"]}, "B", 1),
        ({"text": ["a", "b", "c"], "label": ["1", "2", "3"]}, "1", 0),  # as in ARC
        ({"text": ["a", "b"], "label": [1, 2]}, 2, 1),
    ],
)
def test_labels_are_numbers_letters_or_names(file, choices, label, number):
    (question,) = built(file([{"question": "x", "choices": choices, "label": label}])).training_questions()
    assert question.right == number


def test_a_column_for_each_choice(tmp_path, tokenizer):
    rows = {"question": ["x", "y"], "A": ["a", "b"], "B": ["c", "d"], "C": ["e", ""], "label": ["C", "b"]}
    for kind in ("csv", "parquet"):
        table = pd.DataFrame(rows)
        (table.to_csv if kind == "csv" else table.to_parquet)(tmp_path / f"data.{kind}", index=False)
        task = built(str(tmp_path / f"data.{kind}"), choices=["A", "B", "C"])
        assert [(list(q.choices), q.right) for q in task.training_questions()] == [
            (["a", "c", "e"], 2),
            (["b", "d"], 1),
        ]


def test_lists_in_parquet(tmp_path):
    pd.DataFrame(ROWS).to_parquet(tmp_path / "data.parquet")
    assert [list(q.choices) for q in built(str(tmp_path / "data.parquet")).training_questions()] == [
        row["choices"] for row in ROWS
    ]


def test_swag_is_read_from_the_hub(write_split, tokenizer):
    rows = {"sent1": ["ada sat.", "bob saw."], "sent2": ["she", "he"], "label": [3, 0]}
    rows |= {f"ending{k}": [f"ran {k}", f"ate {k}"] for k in range(4)}
    for split in ("train", "validation"):
        write_split("allenai/swag", "regular", split, rows)
    task = configured(["task=swag"]).task.build()
    (first, second) = task.evaluation_questions()
    assert (first.texts, first.choices) == (["ada sat.", "she"], [f"ran {k}" for k in range(4)])
    assert (first.right, second.right) == (3, 0)
    assert [len(example["choices"]) for example in task.training(tokenizer)] == [4, 4]


def test_the_score_is_the_share_of_questions_answered_rightly(file, tokenizer):
    model, task = tiny_chooser(dtype=torch.float32), built(file())
    right = []
    for row in ROWS:
        firsts = [row["question"]] * len(row["choices"])
        inputs = tokenizer(firsts, row["choices"], padding=True, return_tensors="pt")
        logits = model(**{name: value[None] for name, value in inputs.items()}).logits[0]
        right.append(int(logits.argmax()) == row["label"])
    assert 0 < sum(right) < 20
    assert evaluate(model, task, tokenizer) == pytest.approx(100 * sum(right) / 20)


@pytest.fixture
def checkpoint(tmp_path, tokenizer):
    tiny_chooser(dtype=torch.float32).save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def run(own_cell, checkpoint):
    return partial(own_cell, "task=custom_choice", "task.max_length=40", f"model.checkpoint={checkpoint}")


@pytest.mark.parametrize("method", ["kprune", "kprune_plus_fast", "kwon", "random"])
def test_a_cell(run, file, tmp_path, method):
    record = run(f"task.train_file={file()}", f"method={method}", "calibration.tokens=1000")
    assert (record.metric, record.evaluation.examples) == ("accuracy", 4)
    assert record.flops_reduction >= 0.4 and 600 < record.calibration.tokens < 1400
    (folder,) = tmp_path.glob("outputs/**/model")
    task = build_task(OWN | {"train_file": file()})
    assert evaluate(load_model(folder, task), task, load_tokenizer(folder)) == pytest.approx(record.score)


def test_a_model_that_the_library_saved_is_scored_on_a_file(checkpoint, file, tmp_path):
    outcome = kprune.prune(tiny_chooser(dtype=torch.float32), [choices_batch()], 0.4, "random")
    outcome.save(tmp_path / "small", load_tokenizer(checkpoint))
    settings = ["task=custom_choice", f"task.evaluation_file={file()}", "task.max_length=40", "tracking=none"]
    score = evaluate_saved(configured([f"evaluate={tmp_path / 'small'}", *settings]))
    task = build_task(OWN | {"train_file": file(), "evaluation_file": file()})
    assert score == evaluate(outcome.model, task, load_tokenizer(checkpoint))


@pytest.mark.parametrize("method", ["kprune_finetuned", "ebert", "dynabert_w", "cofi"])
def test_methods_that_train(run, file, method):
    recipe = ["method.recipe.epochs=1", "method.recipe.batch_size=4"]
    record = run(f"task.train_file={file()}", f"method={method}", *recipe, "latency=null")
    assert 0 <= record.score <= 100 and record.flops_reduction >= 0.35


def test_a_model_is_fine_tuned_for_it(run, file, checkpoint, tmp_path):
    settings = ["model.checkpoint=null", f"model.pretrained={checkpoint}", "+task.finetuning.epochs=1"]
    record = run(f"task.train_file={file()}", "method=random", *settings)
    assert record.checkpoint.source == "fine-tuned"


@pytest.mark.parametrize(
    "change, words",
    [
        ({"label": 3}, "row 2: label '3' is no number from 0 to 2, nor a letter from A to C"),
        ({"label": "D"}, "row 2: label 'D' is no number"),
        ({"label": -1}, "row 2: label '-1' is no number"),
        ({"label": True}, "row 2: label 'True' is no number"),
        ({"label": None}, "row 2: the label is missing"),
        ({"choices": ["a"]}, "row 2 has 1 choice, and choosing takes two or more"),
        ({"choices": []}, "row 2 has 0 choice"),
        ({"choices": ["a", ""]}, "row 2: choice 1 is '', no text"),
        ({"choices": ["a", None]}, "row 2: choice 1 is 'None', no text"),
        ({"choices": "a"}, "row 2: choices are 'a', no list of texts"),
        ({"choices": {"text": ["a", "b"], "label": ["A", "B"]}, "label": "C"}, "row 2: label 'C' is not one of A, B"),
        ({"choices": {"text": ["a", "b"], "label": ["A", "A"]}, "label": "A"}, "row 2: label 'A' is not one of A, A"),
        ({"label": 0.5}, "row 2: label '0.5' is no number"),
        ({"question": 7}, "row 2: 7 is no text"),
    ],
)
def test_bad_rows_are_one_line(run, file, change, words):
    rows = [ROWS[0], ROWS[1] | change, *ROWS[2:6]]
    with pytest.raises(UserError) as error:
        run(f"task.train_file={file(rows)}", "method=random")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_other_mistakes_are_one_line(run, file, world, tmp_path):
    for settings, words in (
        ([], "give task.train_file=FILE"),
        ([f"task.train_file={file()}", "task.choices=answers"], "has no column answers"),
        ([f"task.train_file={file()}", "task.choices=[A]"], "names 1 column"),
        ([f"task.train_file={file()}", "task.text=[a,b,c]"], "names 3 columns"),
        ([f"task.train_file={file()}", "task.choices=[A,B,A]"], "column A is named twice"),
        ([f"task.train_file={file(ROWS[:2], 'two.jsonl')}"], "too few rows (2) to hold some out"),
        ([f"task.train_file={file()}", f"model.checkpoint={world / 'checkpoint'}"], "needs one ForMultipleChoice"),
        ([f"task.train_file={file()}", "task.max_length=3"], "leaves no room for a text beside 3 special tokens"),
    ):
        with pytest.raises(UserError) as error:
            run(*settings, "method=random")
        assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "example, words",
    [
        ({"choices": [2, 2], "label": 1}, None),
        ({"label": 1}, "has choices None: give a list with the number of tokens of each, two or more"),
        ({"choices": [4], "label": 0}, "has choices [4]: give a list"),
        ({"choices": [2, 3], "label": 1}, "has choices of 5 tokens, and 4 input_ids"),
        ({"choices": [2, 2], "label": 2}, "has label 2, outside 0 to 1"),
        ({"choices": [2, 2], "label": True}, "has label True, outside 0 to 1"),
    ],
)
def test_a_calibration_file(run, file, tmp_path, example, words):
    examples = [{"input_ids": [5 + k, 7, 9, 11]} | example for k in range(12)]
    (tmp_path / "calibration.json").write_text(json.dumps({"examples": examples}))
    settings = [f"task.train_file={file()}", "method=kwon", f"calibration.file={tmp_path / 'calibration.json'}"]
    settings += ["calibration.tokens=100000"]
    if words is None:
        assert run(*settings).calibration.tokens == 48
        return
    with pytest.raises(UserError) as error:
        run(*settings)
    assert words in str(error.value) and "\n" not in str(error.value)
