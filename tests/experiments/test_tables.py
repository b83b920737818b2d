"""Own data files: whatever separator, encoding and form of JSON they have, the rows are the same."""

import json

import pytest
import yaml

from experiments.config.composing import CONF
from experiments.config.groups import CalibrationSettings
from experiments.inputs import calibration as calibrations
from experiments.inputs.calibration import average_length, draw_calibration
from experiments.inputs.texts import read_file
from experiments.tasks import build_task, text
from experiments.tasks.tables import read_table
from kprune.data import mean_length
from kprune.errors import UserError

ROWS = [
    {"sentence": text, "label": label}
    for text, label in [("a café, or two", "01"), ('he said "no"; NA', "NA"), ("x", "-1")]
]


def csv_of(separator=",", quote=True):
    def cell(value):
        return '"' + value.replace('"', '""') + '"' if quote else value

    return (
        "\n".join(["sentence" + separator + "label", *(separator.join(map(cell, row.values())) for row in ROWS)]) + "\n"
    )


FILES = {
    "plain.csv": csv_of().encode(),
    "mark.csv": csv_of().encode("utf-8-sig"),
    "blanks.csv": csv_of(", ").encode(),
    "around.csv": csv_of().replace("sentence,label", " sentence , label ").encode(),
    "semicolons.csv": csv_of(";").encode(),
    "tabs.csv": csv_of("\t").encode(),
    "tabs.tsv": csv_of("\t").encode(),
    "bars.csv": csv_of("|").encode(),
    "returns.csv": csv_of("; ").replace("\n", "\r").encode(),
    "windows.csv": csv_of().replace("\n", "\r\n").encode("cp1252"),
    "latin.CSV": csv_of().encode("latin-1"),
    "utf16.csv": csv_of(";").encode("utf-16"),
    "utf16le.csv": csv_of().encode("utf-16-le"),
    "utf16be.csv": csv_of().encode("utf-16-be"),
    "utf32.csv": csv_of().encode("utf-32"),
    "lines.jsonl": "\n".join(map(json.dumps, ROWS)).encode(),
    "lines.json": "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode("utf-8-sig"),
    "array.json": json.dumps(ROWS, indent=1).encode(),
    "array.jsonl": json.dumps(ROWS).encode("utf-16"),
    "names.json": json.dumps([{f" {key} ": value for key, value in row.items()} for row in ROWS]).encode(),
}


@pytest.mark.parametrize("name", FILES)
def test_the_rows_are_the_same(name, tmp_path, capsys):
    (tmp_path / name).write_bytes(FILES[name])
    frame = read_table(tmp_path / name, ["sentence", "label"])
    assert frame.to_dict("records") == ROWS and list(frame.index) == [1, 2, 3]
    assert ("is not UTF-8" in capsys.readouterr().out) == (name in ("windows.csv", "latin.CSV"))


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", b"text,label\nx,1\n", "no column sentence: it has text, label"),
        ("a.csv", b'"text\nof it",label\nx,1\n', "no column sentence: it has text of it, label"),
        ("a.csv", b"sentence,label,sentence \nx,1,y\n", "2 columns sentence"),
        ("a.csv", b"sentence,label\n", "no rows"),
        ("a.csv", b"\n\n", "cannot be read"),
        ("a.csv", b"sentence,label\nx,1\ny,2,3\n", "cannot be read as csv"),
        ("a.json", b'{"sentence": "x"', "cannot be read as json"),
        ("a.json", b'["x", "y"]', "row 1 is 'x', not an object"),
        ("a.json", b"3\n", "row 1 is '3', not an object"),
        ("a.csv", b"sentence,label\nx,1,z\ny,2\n", "cannot be read as csv"),
        ("a.jsonl", b'{"sentence": "x"}\n{"sentence"', "cannot be read as jsonl .line 2, is not JSON"),
        (
            "a.jsonl",
            b'{"sentence": "x"}\n{"sentence": "\\ud83d"}',
            "cannot be read as jsonl .row 2, has half a character",
        ),
        ("a.json", b"[]", "has no rows"),
        ("a.jsonl", b"", "has no rows"),
        ("a.parquet", b"no", "cannot be read as parquet"),
        ("a.xlsx", b"", "none of .csv, .tsv"),
    ],
)
def test_what_is_no_table_is_one_line(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_table(tmp_path / name, ["sentence", "label"])
    assert "\n" not in str(error.value)


def test_a_line_ends_where_json_lines_do(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a\u2028b\x85c"}, ensure_ascii=False), encoding="utf-8-sig")
    assert read_table(tmp_path / "a.jsonl", ["text"])["text"].tolist() == ["a\u2028b\x85c"]
    assert read_file(tmp_path / "a.jsonl", "calibration.data").documents == ["a\u2028b\x85c"]
    (tmp_path / "a.txt").write_text("a\u2028b\nc\n", encoding="utf-8-sig")
    assert read_file(tmp_path / "a.txt", "calibration.data", lines=True).documents == ["a\u2028b", "c"]


def own(tmp_path, labels, **settings):
    path = tmp_path / "own.csv"
    path.write_text("text,label\n" + "".join(f"film number {i},{label}\n" for i, label in enumerate(labels)))
    content = yaml.safe_load((CONF / "task/custom.yaml").read_text())
    return build_task(content | {"train_file": str(path), "evaluation_file": str(path)} | settings)


@pytest.mark.parametrize(
    "labels, given, names, numbers",
    [
        (["-1", "1"] * 3, None, ["-1", "1"], [0, 1] * 3),
        (["1", "2"] * 3, [1, 2], ["1", "2"], [0, 1] * 3),
        (["1", "2"] * 3, [2, 1], ["2", "1"], [1, 0] * 3),
        (["-1", "0", "1"] * 2, [-1, 0, 1], ["-1", "0", "1"], [0, 1, 2] * 2),
        (["1.0", "0.0"] * 3, None, ["0", "1"], [1, 0] * 3),
        (["1", "0"] * 3, ["no", "yes"], ["no", "yes"], [1, 0] * 3),
        (["Yes ", "no"] * 3, ["no", "YES"], ["no", "YES"], [1, 0] * 3),
    ],
)
def test_labels_of_all_kinds(tmp_path, tokenizer, labels, given, names, numbers):
    task = own(tmp_path, labels, label_names=given)
    assert task.label_names == names
    assert [example["label"] for example in task.training(tokenizer)] == numbers


@pytest.mark.parametrize(
    "labels, given, message",
    [
        (["-1", "0", "1"] * 2, None, r"row 1: label -1 is negative.*task.label_names=\[-1,0,1\]"),
        (["0", "1"] * 3, [1, 2], "row 1: label 0 is none of the classes 1, 2"),
        (["0.5", "3"] * 3, None, "row 1: label 0.5 is a value.*task.problem=regression"),
    ],
)
def test_labels_that_are_none(tmp_path, tokenizer, labels, given, message):
    with pytest.raises(UserError, match=message):
        own(tmp_path, labels, label_names=given).training(tokenizer)


@pytest.fixture
def tokenised(monkeypatch):
    """Rows handed to the tokenizer, by how many at once."""
    rows, tokenise = [], text.tokenise
    monkeypatch.setattr(text, "tokenise", lambda t, texts, n: rows.append(len(texts[0])) or tokenise(t, texts, n))
    return rows


def test_what_is_drawn_alone_is_tokenised(tmp_path, tokenizer, tokenised):
    task = own(tmp_path, ["no", "yes"] * 5000)
    drawn = draw_calibration(task, tokenizer, CalibrationSettings(100.0, 12, None, None), 0, True)
    assert len(drawn.examples) == 12 and sum(tokenised) <= 12
    training = task.training(tokenizer)
    assert drawn.examples[0] in [training[row] for row in range(len(training))]
    assert sum(tokenised) == 10_000, "each row once"


def test_examples_made_one_by_one_are_those_made_together(tmp_path, tokenizer, tokenised):
    one, other = (own(tmp_path, ["no", "yes"] * 4).training(tokenizer) for _ in range(2))
    assert [one[row] for row in (5, 3, -1, 5)] == [[*other][row] for row in (5, 3, 7, 5)]
    assert [rows for rows in tokenised if rows] == [1, 1, 1, 8]
    assert one[2:6] == list(other)[2:6] and len(one) == 8
    with pytest.raises(IndexError):
        one[8]


def test_the_length_of_many_is_that_of_a_part(tmp_path, tokenizer, tokenised, monkeypatch):
    training = own(tmp_path, ["no", "yes"] * 500).training(tokenizer)
    task = own(tmp_path, ["no", "yes"])
    assert average_length(task, training) == mean_length(list(training))
    monkeypatch.setattr(calibrations, "MEASURED", 100)
    monkeypatch.setattr(calibrations, "MEASURED_OF_MORE", 60)
    fresh = own(tmp_path, ["no", "yes"] * 500).training(tokenizer)
    tokenised.clear()
    assert average_length(task, fresh) == pytest.approx(mean_length(training), rel=0.1) and sum(tokenised) == 60
    task.average_length = 7.0
    assert average_length(task, fresh) == 7.0


def test_a_window_without_room_for_text(tmp_path, tokenizer):
    with pytest.raises(UserError, match="task.max_length=2 leaves no room.*task.max_length=3"):
        own(tmp_path, ["no", "yes"] * 3, max_length=2).training(tokenizer)
    assert len(own(tmp_path, ["no", "yes"] * 3, max_length=3).training(tokenizer)[0]["input_ids"]) == 3
