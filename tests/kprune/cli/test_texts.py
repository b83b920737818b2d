"""Files of texts: what is read of them, what can't be, and which are drawn."""

import os
from pathlib import Path

import pytest
from command_line import SENTENCES
from transformers import AutoTokenizer

from kprune.cli.drawing import draw, held_out
from kprune.cli.texts import Texts, read_texts
from kprune.errors import UserError
from kprune.files import reachable

# Name and content of a file, what is asked for, and the texts.
READ = {
    "lines": ("a.txt", b"one\r\n\n  two \rthree", {}, [("one",), ("two",), ("three",)]),
    "utf-8 with a byte order mark": ("a.txt", "\ufeffé".encode(), {}, [("é",)]),
    "utf-16": ("a.txt", "é\nè".encode("utf-16"), {}, [("é",), ("è",)]),
    "a line separator inside a line": ("a.txt", "a\u2028b".encode(), {}, [("a\u2028b",)]),
    "one column": ("a.csv", b"whatever\none\n", {}, [("one",)]),
    "a column by name": ("a.csv", b"id,Sentence,label\nx,one,good\ny,,bad\n", {}, [("one",)]),
    "the one column of words": ("a.csv", b"words,stars\none,1\n2,2.5\n", {}, [("one",), ("2",)]),
    "quotes": ("a.csv", b'text,label\n"a, ""b""\nc",1\n', {}, [('a, "b"\nc',)]),
    "semicolons": ("a.csv", b"text;label\none, two;1\n", {}, [("one, two",)]),
    "tabs": ("a.tsv", b"text\tlabel\none\t1\n", {}, [("one",)]),
    "vertical bars": ("a.csv", b"text|label\none, two|1\nthree|2\n", {}, [("one, two",), ("three",)]),
    "semicolons, and a comma in a name": ("a.csv", b"text;label,kind\none;1\n", {}, [("one",)]),
    "semicolons, and a comma in a quoted name": ("a.csv", b'text;"label, kind"\none;1\n', {}, [("one",)]),
    "tabs, and a comma in a name": ("a.tsv", b"text\tlabel, kind\none\t1\n", {}, [("one",)]),
    "commas in a file for tabs": ("a.tsv", b"text,label\none,1\n", {}, [("one",)]),
    "a separator by the column that is asked for": (
        "a.csv",
        b"body;label,kind\none, two;1\n",
        {"text_column": "body"},
        [("one, two",)],
    ),
    "carriage returns alone": ("a.csv", b"text;label\rone, two;1\rthree;2\r", {}, [("one, two",), ("three",)]),
    "blank lines before the header": ("a.csv", b" \n\n  \ntext\none\n", {}, [("one",)]),
    "rows of separators alone": ("a.csv", b"text,label\n,,\none,1\n , \n", {}, [("one",)]),
    "blanks in the header": ("a.csv", b" sentence , label\none,1\n", {}, [("one",)]),
    "a column that is asked for": ("a.csv", b"text,other\none,two\n", {"text_column": "other"}, [("two",)]),
    "a column of a name of two lines": ("a.csv", b'"a\nb",c\nx,y\n', {"text_column": "a\nb"}, [("x",)]),
    "pairs": ("a.csv", b"a,b\none,two\nthree,\n", {"text_column": "b", "second_column": "a"}, [("two", "one")]),
    "a short row": ("a.csv", b"label,text\n1\n2,two\n", {}, [("two",)]),
    "a long text": ("a.csv", b"text\n" + b"x" * 200_000, {}, [("x" * 200_000,)]),
    "json lines": ("a.jsonl", b'{"text": "one", "n": 1}\n\n{"n": 2, "text": null}\n', {}, [("one",)]),
    "a character of two escapes": ("a.jsonl", b'{"text": "\\ud83d\\ude00"}', {}, [("\U0001f600",)]),
    "json strings": ("a.jsonl", b'"one"\n"two"', {}, [("one",), ("two",)]),
    "a json list": ("a.json", b'[{"body": "one"},\n {"body": "two"}]', {}, [("one",), ("two",)]),
    "question and choices": (
        "a.jsonl",
        b'{"context": "c", "question": "q", "choices": ["one", " two"]}\n{"question": "r", "choices": ["a", "b", "c"]}',
        {},
        [("q", "one", "two"), ("r", "a", "b", "c")],
    ),
    "names in other cases, with blanks around them": (
        "a.jsonl",
        b'{" Question": "q", "Choices ": ["a", "b"]}',
        {},
        [("q", "a", "b")],
    ),
    "choices as of ARC": (
        "a.jsonl",
        b'{"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}}',
        {},
        [("q", "a", "b")],
    ),
    "question and context": ("a.jsonl", b'{"id": "x", "context": "c", "question": "q"}', {}, [("q", "c")]),
}


@pytest.mark.parametrize("name", READ)
def test_reading(name, tmp_path):
    file, content, columns, rows = READ[name]
    (tmp_path / file).write_bytes(content)
    assert read_texts(tmp_path / file, **columns).rows == rows


UNREADABLE = {
    "nothing there": ("a.txt", None, {}, "there is no file"),
    "empty": ("a.txt", b" \n", {}, "is empty"),
    "another kind": ("a.parquet", b"PAR1", {}, "is not a .txt"),
    "latin-1": ("a.txt", "one\ntwo é".encode("latin-1"), {}, r"line 2, is not UTF-8 \(byte 0xe9\).* iconv"),
    "zero bytes": ("a.txt", b"a\0b", {}, "zero bytes"),
    "header alone": ("a.csv", b"text,label\n", {}, "header and no rows"),
    "wrong column": ("a.csv", b"text,label\na,1\n", {"text_column": "txt"}, "no column 'txt': it has text, label"),
    "wrong second column": ("a.csv", b"a,b\nx,y\n", {"text_column": "a", "second_column": "c"}, "no column 'c'"),
    "several columns of words": ("a.csv", b"a,b\nx,y\n", {}, "has 2 columns that may be the texts.*; it has a, b"),
    "several named columns": ("a.csv", b"text,review\nx,y\n", {}, "has 2 columns that may be the texts"),
    "numbers alone": ("a.csv", b"a,b\n1,2\n", {}, "has no columns that may be the texts"),
    "an empty column": ("a.csv", b"text,b\n,2\n", {}, "no text in column text"),
    "a name of two lines": ("a.csv", b'"a\nb",c\nx,y\n', {}, "; it has a b, c$"),
    "a name of two lines in json": (
        "a.jsonl",
        b'{"a\\r\\nb": "x", "c": "y"}',
        {"text_column": "d\ne"},
        "no column 'd e': it has a b, c",
    ),
    "twice the same column": ("a.csv", b"text,text\na,b\n", {}, "two columns of one name"),
    "a comma without quotes": ("a.csv", b"text,label\na, b,1\n", {}, "line 2, has 3 entries, the header 2"),
    "two separators": ("a.csv", b"text;label,kind\na, b;1\n", {}, "header has ',' and ';', either of which may"),
    "a separator of the header alone": ("a.csv", b"text,label\none^1\ntwo^2\n", {}, "every row has fewer entries"),
    "an open quote": ("a.csv", b'text\n"a\nb\n', {}, "is not CSV"),
    "too deep": ("a.jsonl", b"[" * 200_000, {}, r"line 1, is not JSON \(nested too deep\)"),
    "not json": ("a.jsonl", b'{"text": "one"}\n{"text"\n', {}, "line 2, is not JSON"),
    "half a character": (
        "a.jsonl",
        b'{"text": "\\ud83d\\ude00"}\n\n{"text": "one \\uD83d"}',
        {},
        r"row 3, has half a character, .ud83d: mend it or remove the row",
    ),
    "half a character in a choice": (
        "a.json",
        b'[{"question": "q", "choices": ["\\ude00", "b"]}]',
        {},
        "row 1, has half a character",
    ),
    "a number of 5000 digits": ("a.jsonl", b'{"text": ' + b"1" * 5000 + b"}", {}, "line 1, is not JSON .*integer"),
    "json numbers": ("a.jsonl", b"1\n", {}, "row 1, is a int"),
    "a list for a text": ("a.jsonl", b'{"text": ["a"]}', {}, "column text holds a list"),
    "one choice": ("a.jsonl", b'{"question": "q", "choices": ["a"]}', {}, "row 1, has 1 choice: give two"),
    "an empty choice": (
        "a.jsonl",
        b'{"question": "q", "choices": ["a", ""]}',
        {},
        "column choices is .* not a list of texts",
    ),
    "choices and no choices": (
        "a.jsonl",
        b'{"question": "q", "choices": ["a", "b"]}\n{"question": "r", "choices": "a"}',
        {},
        "row 2: column choices is 'a', not a list",
    ),
    "an object without texts": (
        "a.jsonl",
        b'{"question": "q", "choices": {"a": 1}}',
        {},
        "column choices is 'None', not a list",
    ),
    "columns of lines": ("a.txt", b"one", {"text_column": "text"}, "has no columns"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_can_not_be_read(name, tmp_path):
    file, content, columns, message = UNREADABLE[name]
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_texts(tmp_path / file, **columns)
    assert "\n" not in str(error.value)


def test_drawing(world):
    tokenizer = AutoTokenizer.from_pretrained(world / "checkpoint")
    texts = Texts(Path("a.txt"), [(text,) for text in SENTENCES] * 2, ())
    everything = draw(texts, tokenizer, False, 6, 10**6, seed=0)
    assert len(everything) == len(set(SENTENCES)), "a text that is there twice is drawn once"
    assert max(len(example["input_ids"]) for example in everything) == 6
    some = draw(texts, tokenizer, False, 6, 100, seed=0)
    lengths = [len(example["input_ids"]) for example in some]
    assert sum(lengths[:-1]) < 100 <= sum(lengths) and some == everything[: len(some)]
    assert draw(texts, tokenizer, False, 6, 100, seed=1) != some
    fit, unseen = held_out(everything, 10**6)
    assert len(unseen) == 8 and len(fit) == 72
    assert not [example for example in unseen if example in fit]


def test_home_folders(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert reachable("~/small") == Path("/home/me/small")


def test_paths_that_are_not_in_utf_8():
    with pytest.raises(UserError, match="can't be reached .'utf-8' codec can't encode"):
        reachable(os.fsdecode(b"small-\xe9"))
