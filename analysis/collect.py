"""Finished cells as one CSV file to commit: `python -m analysis.collect OUTPUTS results/cells.csv`."""

import argparse
import sys
from pathlib import Path

import pandas as pd

from analysis.files import write_text
from analysis.records import KEY, command, in_order, load


def collect(outputs: Path, file: Path) -> tuple[int, int]:
    """Write the cells below `outputs` to `file`; cells that stand there already and were not run again stay.

    Returns:
        Cells written anew, cells kept.

    Raises:
        UserError: no finished cell, or the file is not such a CSV file or not writable.
    """
    cells = load(outputs)
    kept = 0
    if file.exists():
        earlier = load(file)
        new = set(cells[list(KEY)].itertuples(index=False, name=None))
        earlier = earlier[[key not in new for key in earlier[list(KEY)].itertuples(index=False, name=None)]]
        kept = len(earlier)
        cells = pd.concat([frame for frame in (cells, earlier) if len(frame)])
    write_text(file, in_order(cells).to_csv(index=False, float_format="%.6g"))
    return len(cells) - kept, kept


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.collect", description=__doc__.split(":")[0])
    parser.add_argument("outputs", type=Path, help="output folder of run.py")
    parser.add_argument("file", type=Path, help="CSV file")
    arguments = parser.parse_args()
    new, kept = collect(arguments.outputs, arguments.file)
    print(f"{arguments.file}: {new} cells of {arguments.outputs}, {kept} kept from before")


if __name__ == "__main__":
    sys.exit(command(main))
