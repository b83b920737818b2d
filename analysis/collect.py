"""Finished cells as one CSV file to commit: `python -m analysis.collect OUTPUTS results/cells.csv`.

What K-prune, K-prune+, their variants and the retrained methods predicted goes into a folder beside it, so that cells of another
machine can still be compared with them, and ratios of losses have intervals; of language models, a number for each window, what
every method did.
"""

import argparse
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import registry
from analysis.pairing import DIFFERENCE, differences, is_reference, predictions, references
from analysis.records import KEY, cell_name, in_order, kept_predictions, load, read_folder
from experiments.store.locks import locked_file
from kprune.errors import command
from kprune.files import OTHER_FOLDER, reachable, write_text, write_whole


def collect(outputs: Path, file: Path) -> tuple[int, int]:
    """Write the cells below `outputs` to `file`; cells that stand there already and were not run again stay, and so do latencies.

    One process at a time does so; others wait.

    Returns:
        Cells written anew, cells kept.

    Raises:
        UserError: no finished cell, or the file is not such a CSV file or not writable.
    """
    cells = read_folder(outputs)
    with locked_file(file, OTHER_FOLDER):
        before = load(file) if file.exists() else cells[:0]
        cells, earlier = with_times(cells, before), kept_of(before, cells)
        both = pd.concat([frame for frame in (cells, earlier) if len(frame)], ignore_index=True)
        both.loc[: len(cells) - 1, DIFFERENCE] = differences(both)[: len(cells)]
        both.loc[outdated(both, len(cells), file), DIFFERENCE] = float("nan")
        compared = (
            registry.ours(cells["method"])
            | registry.retrained(cells["method"])
            | cells["metric"].str.endswith("perplexity")
        )
        write_text(file, in_order(both.drop(columns="predictions")).to_csv(index=False, float_format="%.6g"))
        # Last: an interrupted run must not leave new predictions by which the next one takes earlier differences for today's.
        for _, cell in cells[compared].iterrows():
            keep(cell["predictions"], kept_predictions(file, cell))
    return len(cells), len(earlier)


def with_times(cells: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """Return cells with the latencies that stand in the file beside the same run of each: `make speed-ups` may have timed them there."""
    names = [name for name in cells if name.startswith("latency_")]
    known = {run_of(cell): cell[names] for _, cell in before.iterrows()}
    times = [known.get(run_of(cell), cell[names]) for _, cell in cells.iterrows()]
    return cells.assign(**pd.DataFrame(times, index=cells.index).astype(cells.dtypes[names]))


def run_of(cell: pd.Series) -> tuple:
    """Return a cell's key with the seconds that it took, as the file has them: no second run takes the same."""
    return (*cell[list(KEY)], f"{cell['pruning_seconds']:.6g}")


def kept_of(before: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the file that are not among `cells`."""
    new = set(cells[list(KEY)].itertuples(index=False, name=None))
    return before[[key not in new for key in before[list(KEY)].itertuples(index=False, name=None)]]


def outdated(both: pd.DataFrame, new: int, file: Path) -> list[int]:
    """Return the positions of earlier cells whose difference is from another K-prune cell than the one beside them now.

    Args:
        both: `new` new cells, then the earlier ones, whose own predictions are gone: they can't be compared again.
    """
    changed = [
        position
        for position, cell in both.iloc[:new].iterrows()
        if is_reference(cell["method"], cell["variant"]) and not same(cell["predictions"], kept_predictions(file, cell))
    ]
    found = [
        position
        for position, reference in enumerate(references(both))
        if position >= new and reference in changed and not pd.isna(both[DIFFERENCE[0]].iloc[position])
    ]
    for position in found:
        print(
            f"{cell_name(both.iloc[position])} loses its interval, K-prune's cell beside it is another: collect it again",
            file=sys.stderr,
        )
    return found


def same(one: Path, other: Path) -> bool:
    """Tell whether two files hold the same predictions."""
    ours, theirs = predictions(one), predictions(other)
    if ours is None or theirs is None or ours.keys() != theirs.keys():
        return False
    return all(np.array_equal(ours[name], theirs[name]) for name in ours)


def keep(ours: Path, kept: Path) -> None:
    """Copy a cell's predictions; if they are missing or damaged, remove those of an earlier cell in their place."""
    if predictions(ours):
        write_whole(kept, partial(shutil.copyfile, ours))
    else:
        kept.unlink(missing_ok=True)


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.collect", description=__doc__.split(":")[0])
    parser.add_argument("outputs", type=reachable, help="output folder of run.py")
    parser.add_argument("file", type=reachable, help="CSV file")
    arguments = parser.parse_args()
    new, kept = collect(arguments.outputs, arguments.file)
    print(f"{arguments.file}: {new} cells of {arguments.outputs}, {kept} kept from before")


if __name__ == "__main__":
    sys.exit(main())
