"""The README's tables: what is in them, and that the committed ones are those of the committed cells."""

from pathlib import Path

import pytest

from analysis import readme
from analysis.records import load
from kprune.errors import UserError

ROOT = Path(__file__).parents[2]
README = "# K\n<!-- table:accuracy -->\nstale\n<!-- /table:accuracy -->\n\n<!-- table:cost -->\n<!-- /table:cost -->\nend\n"


@pytest.fixture
def cells(write_cell, outputs):
    for task in ("stsb", "mrpc"):
        for target, tokens in ((0.7, {"tokens": 20000}), (0.8, {})):
            write_cell(task=task, flops_reduction_requested=target, variant=tokens)
    return load(outputs)


def test_cost_names_the_machine(cells):
    text = readme.marked("cost", cells)
    assert "2.50x" in text and "12.3 s" in text and "100,000" in text
    assert "a CPU, batch 32 of 128 tokens, 2 threads" in text


def test_readme_is_rewritten_and_checked(cells, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells.to_csv(tmp_path / "cells.csv", index=False)
    Path("README.md").write_text(README)
    arguments = ["readme", "--cells", "cells.csv"]
    monkeypatch.setattr("sys.argv", [*arguments, "--check"])
    with pytest.raises(SystemExit) as stale:
        readme.main()
    assert stale.value.code == 1 and Path("README.md").read_text() == README
    monkeypatch.setattr("sys.argv", arguments)
    readme.main()
    text = Path("README.md").read_text()
    assert "stale" not in text and "| MRPC (accuracy)" in text and text.endswith("\nend\n")
    monkeypatch.setattr("sys.argv", [*arguments, "--check"])
    readme.main()


def test_the_embedded_task_has_a_table_of_its_own(cells, write_cell, outputs):
    text = "<!-- table:demo -->\n<!-- /table:demo -->\n<!-- table:speedup -->\n<!-- /table:speedup -->\n"
    assert "docstrings" not in readme.rewrite(text, cells) and "MRPC" in readme.rewrite(text, cells)
    write_cell(task="docstrings")
    demo, others = readme.rewrite(text, load(outputs)).split("<!-- /table:demo -->")
    assert "docstrings" in demo and "MRPC" not in demo and "docstrings" not in others


@pytest.mark.parametrize("text", ["<!-- table:other -->\n<!-- /table:other -->", "<!-- table:cost -->\n"])
def test_wrong_markers(cells, text):
    with pytest.raises(UserError, match="README"):
        readme.rewrite(text, cells)


def test_the_committed_readme_is_up_to_date():
    text, file = (ROOT / "README.md").read_text(), ROOT / "results" / "cells.csv"
    if file.is_file():
        assert readme.rewrite(text, load(file)) == text, "run python -m analysis.readme"
    else:
        assert not any(match["body"].strip() for match in readme.MARKED.finditer(text))
