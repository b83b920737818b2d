"""Tables from result files: `python -m analysis.tables OUTPUTS [NAME ...] [--format latex] [--output FOLDER]`."""

import argparse
import sys
from pathlib import Path

import pandas as pd

from analysis.aggregate import aggregate
from analysis.records import folder_of, load
from analysis.render import SUFFIX, render
from analysis.tables import TABLES, notes
from kprune.errors import command
from kprune.files import reachable, write_text

PRINTED = ("accuracy", "measurements")


def write_tables(table: pd.DataFrame, name: str, folder: Path) -> dict[str, Path]:
    """Write a table in all formats.

    Args:
        table: rows of `aggregate`.
        name: name of the table in `TABLES`.
        folder: folder to write to.

    Returns:
        The file of each format; empty if the table has no row.

    Raises:
        UserError: a file can't be written.
    """
    shown = TABLES[name].make(table)
    if shown.empty:
        return {}
    paths = {form: folder / f"{name}.{suffix}" for form, suffix in SUFFIX.items()}
    for form, path in paths.items():
        write_text(path, render(shown, form))
    return paths


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.tables", description="Tables from result files.")
    parser.add_argument("source", type=reachable, help="output folder of run.py, or CSV file of analysis.collect")
    parser.add_argument("names", nargs="*", metavar="NAME", default=PRINTED, help=f"printed: {', '.join(TABLES)}")
    parser.add_argument("--format", choices=SUFFIX, default="markdown", help="what is printed; all three are written")
    parser.add_argument("--output", type=reachable, help="folder to write to; default: tables/ beside or in the source")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in TABLES:
            parser.error(f"no table {name}: use {', '.join(TABLES)}")
    cells = load(arguments.source)
    folder = arguments.output or folder_of(arguments.source) / "tables"
    table = aggregate(cells)
    written = {name: write_tables(table, name, folder) for name in TABLES}
    write_text(folder / "cells.csv", table.drop(columns="predictions").to_csv(index=False))
    print(f"{notes(cells)}\n")
    for name in arguments.names:
        if written[name]:
            print(f"{TABLES[name].title}. {TABLES[name].note}\n\n{written[name][arguments.format].read_text()}")
        else:
            print(f"{TABLES[name].title}: no cells for it in {arguments.source}\n")
    print(f"tables: {folder}/{{{','.join(name for name in TABLES if written[name])}}}.{{{','.join(SUFFIX.values())}}}")


if __name__ == "__main__":
    sys.exit(main())
