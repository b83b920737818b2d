"""Rewrite the README's tables from the committed cells: `python -m analysis.readme`; `--check` only compares.

A table stands between `<!-- table:NAME -->` and `<!-- /table:NAME -->`; the names are those of `TABLES`.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from analysis import summary
from analysis.records import command, load, write_text
from analysis.tables import aggregate, cell_table, notes, render, score_table
from kprune.errors import UserError

EMBEDDED = "docstrings"
MARKED = re.compile(r"<!-- table:(?P<name>[\w-]+) -->\n(?P<body>.*?)<!-- /table:(?P=name) -->", re.DOTALL)
OPENING = re.compile(r"<!-- table:([\w-]+) -->")


def scores(cells: pd.DataFrame) -> str:
    """Scores of all tasks but the embedded one, a column per target."""
    return render(score_table(aggregate(cells[cells["task"] != EMBEDDED])), "markdown")


def measurements(cells: pd.DataFrame) -> str:
    """Every measurement of these cells, with what it was measured on."""
    chosen = cells[cells["task"] != EMBEDDED]
    return render(cell_table(aggregate(chosen)), "markdown") + f"\n{notes(chosen)}\n"


def demo(cells: pd.DataFrame) -> str:
    """Every measurement of the embedded task."""
    chosen = cells[cells["task"] == EMBEDDED]
    return render(cell_table(aggregate(chosen)), "markdown") + f"\n{notes(chosen)}\n"


def accuracy(cells: pd.DataFrame) -> str:
    """Scores of K-prune and of its authors' variant, a row per task, and their means."""
    return render(summary.accuracy(cells[cells["task"] != EMBEDDED]), "markdown")


def cost(cells: pd.DataFrame) -> str:
    """Seconds, calibration tokens and speed-ups of the same cells, with what they were measured on."""
    chosen = cells[cells["task"] != EMBEDDED]
    return render(summary.cost(chosen), "markdown") + f"\n{notes(chosen)}\n"


TABLES: dict[str, Callable[[pd.DataFrame], str]] = {
    "accuracy": accuracy,
    "cost": cost,
    "scores": scores,
    "measurements": measurements,
    "demo": demo,
}


def rewrite(text: str, cells: pd.DataFrame) -> str:
    """The README's text with every marked table made anew; a table without a cell is left empty.

    Raises:
        UserError: a marker names no known table, or is not closed.
    """

    def table(match: re.Match) -> str:
        name = match["name"]
        embedded = (cells["task"] == EMBEDDED).to_numpy()
        body = TABLES[name](cells) if (embedded if name == "demo" else ~embedded).any() else ""
        return f"<!-- table:{name} -->\n{body}<!-- /table:{name} -->"

    closed = [match["name"] for match in MARKED.finditer(text)]
    for name in OPENING.findall(text):
        if name not in TABLES:
            raise UserError(f"the README marks a table '{name}': use one of {', '.join(TABLES)}")
        if name not in closed:
            raise UserError(f"the README does not close its table '{name}': add <!-- /table:{name} -->")
    return MARKED.sub(table, text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.readme", description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=Path, default=Path("results/cells.csv"), help="CSV file of analysis.collect")
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the README is stale")
    arguments = parser.parse_args()
    cells = load(arguments.cells)
    if not arguments.readme.is_file():
        raise UserError(f"{arguments.readme} does not exist: give --readme FILE")
    text = arguments.readme.read_text()
    rewritten = rewrite(text, cells)
    if arguments.check:
        if text != rewritten:
            print(f"{arguments.readme} is not what {arguments.cells} makes of it: run python -m analysis.readme")
            sys.exit(1)
        return
    write_text(arguments.readme, rewritten)
    print(f"{arguments.readme}: tables made from {len(cells)} cells of {arguments.cells}")


if __name__ == "__main__":
    sys.exit(command(main))
