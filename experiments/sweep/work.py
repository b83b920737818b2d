"""Running the open cells of a plan, with one process for all cells of a task and model."""

import itertools
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection

from experiments.cell.runner import run_cell
from experiments.store.record import Record
from experiments.sweep.plan import Cell
from kprune.errors import OutOfReach, UserError

DONE, OUT_OF_REACH, FAILED = "done", "out of reach", "failed"


def run(cells: Sequence[Cell], group: str) -> Iterator[tuple[Cell, str, Record | str]]:
    """Yield (cell, state, record or message) for each cell when it has been run; a failed cell does not stop the other cells.

    The state DONE comes with the cell's record, OUT_OF_REACH and FAILED come with a message. A process runs the cells of one task
    and model: what its cells share stays in memory, and all its memory is freed before the next task or model.

    Args:
        cells: the cells, in an order in which those of one task and model are neighbours.
        group: name of the sweep, for tracking.
    """
    for _, some in itertools.groupby(cells, key=lambda cell: cell.folder.parts[-5:-3]):
        some = list(some)
        while (
            some
        ):  # if a process dies, for example of too little memory, one cell fails and a new process runs the rest
            answered = 0
            for answer in in_process(some, group):
                yield answer
                answered += 1
            some = some[answered:]


def in_process(cells: Sequence[Cell], group: str) -> Iterator[tuple[Cell, str, Record | str]]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(cells, group, theirs))
    process.start()
    theirs.close()  # so that the end of the process is the end of the pipe
    try:
        for cell in cells:
            try:
                state, what = ours.recv()
            except EOFError:
                process.join()
                yield (
                    cell,
                    FAILED,
                    f"the process died ({death(process.exitcode)}): see its messages, or free some memory",
                )
                return
            yield cell, state, what
        process.join()
    finally:
        ours.close()
        if process.is_alive():
            process.terminate()
            process.join()


def work(cells: Sequence[Cell], group: str, answers: Connection) -> None:
    """Run cells one after the other and send the state and the record or message of each to `answers`."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    for cell in cells:
        try:
            answers.send((DONE, run_cell(cell.config, group, cell.command)))
        except OutOfReach as error:
            answers.send((OUT_OF_REACH, str(error)))
        except UserError as error:
            answers.send((FAILED, str(error)))
        except KeyboardInterrupt:
            sys.exit(130)
        except Exception as error:  # any error fails only this cell
            traceback.print_exc()
            answers.send((FAILED, f"{type(error).__name__}: {error}"))


def end_with_parent() -> None:
    """End this process when its parent process ends, so that it does not run a cell that the next run of the grid begins again.

    Ending at any time is safe, because each file is written completely or not at all.
    """
    multiprocessing.parent_process().join()
    os._exit(1)


def death(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
