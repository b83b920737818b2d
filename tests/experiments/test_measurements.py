"""Measurements in CSV files: what is no such file is never overwritten."""

import pytest

from analysis.tables.__main__ import main as tables
from experiments.store import measurements
from experiments.sweep.__main__ import parse
from kprune.errors import UserError

COLUMNS = ("shape", "seconds")


@pytest.mark.parametrize(
    "content", ["notes of a day", '{"score": 1}\n', "shape\n", "shape,seconds\na\n", "shape,seconds\na,1,2\n"]
)
def test_a_file_of_something_else_stays_as_it_is(tmp_path, content):
    file = tmp_path / "notes.txt"
    file.write_text(content)
    for use in (measurements.make_room, lambda *given: measurements.put(*given, ["shape"], [dict.fromkeys(COLUMNS)])):
        with pytest.raises(UserError, match="give another --output FILE or remove it"):
            use(file, COLUMNS)
    assert file.read_text() == content


@pytest.mark.parametrize("edit", [lambda text: b"\xef\xbb\xbf" + text, lambda text: text.replace(b"\n", b"\r\n")])
def test_what_a_spreadsheet_saves_is_read(tmp_path, edit):
    file = tmp_path / "rows.csv"
    measurements.write(file, COLUMNS, [{"shape": "tiny", "seconds": 1.5}])
    file.write_bytes(edit(file.read_bytes()))
    assert measurements.read(file, COLUMNS) == [{"shape": "tiny", "seconds": "1.5"}]


def test_an_empty_file_is_filled(tmp_path):
    file = tmp_path / "rows.csv"
    file.touch()
    measurements.put(file, COLUMNS, ["shape"], [{"shape": "tiny", "seconds": 2}])
    assert measurements.read(file, COLUMNS) == [{"shape": "tiny", "seconds": "2"}]


def test_the_home_folder_is_meant_where_a_shell_leaves_its_sign(tmp_path, monkeypatch, capsys):
    """As in --outputs=~/cells, which bash hands over as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["sweep", "accuracy", "--outputs=~/cells"])
    assert parse().outputs == str(tmp_path / "cells")
    monkeypatch.setattr("sys.argv", ["tables", "~/cells"])
    assert tables() == 2 and f"{tmp_path}/cells does not exist" in capsys.readouterr().err
