"""Run the open cells of a plan, those of one task and model in a process of their own."""

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
    """Yield (cell, DONE and its record, OUT_OF_REACH or FAILED and a message) as they come; one failed cell does not stop the others.

    A process serves one task and model: what its cells share stays in memory, and what one task took is given back.
    """
    for _, some in itertools.groupby(cells, key=lambda cell: cell.folder.parts[-5:-3]):
        some = list(some)
        while some:  # a process that dies, as of too little memory, takes one cell with it and not the others
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
    """Run cells as they come, in the process's own loop."""
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
        except Exception as error:  # whatever it is, the other cells go on
            traceback.print_exc()
            answers.send((FAILED, f"{type(error).__name__}: {error}"))


def end_with_parent() -> None:
    """Make sure that a killed grid does not go on with a cell that its next run begins again; whatever is written is whole or not there."""
    multiprocessing.parent_process().join()
    os._exit(1)


def death(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
