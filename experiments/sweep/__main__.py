"""Run a grid of conf/grid: `python -m experiments.sweep NAME [--models A,B] [--tasks ...] [--small] [--dry-run] [OVERRIDE ...]`."""

import argparse
import itertools
import os
import sys
import time

from tqdm import tqdm

from experiments.cell.tracking import track_sweep
from experiments.sweep import work
from experiments.sweep.plan import Grid, Plan, cells_of, estimate, plan_of
from kprune.contract import MEASURED
from kprune.errors import UserError, command
from kprune.files import reachable


@command
def main() -> int:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    arguments = parse()
    try:
        run(arguments)
    except KeyboardInterrupt:
        print("stopped: run the same command again for the other cells", file=sys.stderr)
        return 130
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.sweep", description="Run the cells of a grid.")
    parser.add_argument("name", help="name of a file in conf/grid")
    parser.add_argument("overrides", nargs="*", help="settings of every cell, as for run.py: calibration.tokens=20000")
    for name, kind in (("models", str), ("tasks", str), ("methods", str), ("reductions", float), ("seeds", int)):
        parser.add_argument(f"--{name}", metavar="A,B", help="in place of the grid's own")
        parser.set_defaults(**{f"{name}_kind": kind})
    parser.add_argument("--outputs", type=lambda name: str(reachable(name)), default="outputs")
    parser.add_argument("--small", action="store_true", help="the grid's small version")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and run nothing")
    return parser.parse_intermixed_args()


def run(arguments: argparse.Namespace) -> None:
    """Run the cells of a grid that are not finished.

    Raises:
        UserError: an option is wrong (raised before a cell is run), or cells failed; the message has a line for each failed cell.
    """
    changes = {}
    for name in ("models", "tasks", "methods", "reductions", "seeds"):
        text = getattr(arguments, name)
        if text is None:
            continue
        given = [entry for entry in text.replace(" ", ",").split(",") if entry]
        if not given:
            raise UserError(f"--{name} '{text}' names none: give some, as A,B, or leave it out for the grid's own")
        try:
            changes[name] = [getattr(arguments, f"{name}_kind")(entry) for entry in given]
        except ValueError as error:
            raise UserError(f"--{name} {text}: {error}: give numbers, as 0.6,0.8") from error
    grid = Grid.read(arguments.name, arguments.small, **changes)
    others = (o for o in (o.lstrip("+") for o in arguments.overrides) if o.startswith(("budget=", "sparsity=")))
    other = next((o for o in others if o not in (f"budget={grid.budget}", "sparsity=null")), None)
    if other and "reductions" in changes:
        raise UserError(
            f"--reductions {arguments.reductions} are shares of {MEASURED[grid.budget]}: leave it or {other} out"
        )
    plan = plan_of(cells_of(grid, arguments.outputs, arguments.overrides))
    seconds = estimate(plan)
    print(announcement(arguments.name, plan, seconds), flush=True)
    if arguments.dry_run:
        return
    failed, skipped, records = [], 0, [record for _, record in plan.finished]
    group = time.strftime(f"{arguments.name}-%Y%m%d-%H%M%S")
    with tqdm(total=len(plan.open), desc=arguments.name, unit="cell", disable=None) as bar:
        for cell, state, what in work.run(plan.open, group):
            bar.update()
            if state == work.DONE:
                records.append(what)
            skipped += state == work.OUT_OF_REACH
            if state == work.OUT_OF_REACH:
                print(f"{cell.name}: {what}; – in tables")
            if state == work.FAILED:
                failed.append(f"{cell.name}: {what}")
                print(f"failed: {failed[-1]}", file=sys.stderr)
    if plan.open and records:
        track_sweep(records, group, plan.open[0].config.tracking, arguments.outputs)
    done = len(plan.open) - len(failed) - skipped
    print(
        f"{arguments.name}: {done} cells run, {len(plan.finished)} finished before, {skipped} out of reach, {len(failed)} failed"
    )
    if failed:
        raise UserError("\n".join(failed))


def announcement(name: str, plan: Plan, seconds: list[float | None]) -> str:
    """Return a text with the number of cells to run and the expected duration, for each task and model and in all.

    Args:
        name: the name of the grid.
        plan: its cells.
        seconds: the expected seconds of each cell in `plan.open`; None if they are not known.
    """
    lines = [f"{name}: {len(plan.open)} cells to run, {len(plan.finished)} finished before"]
    by_place = itertools.groupby(zip(plan.open, seconds, strict=True), key=lambda entry: entry[0].folder.parts[-5:-3])
    for (task, model), entries in by_place:
        entries = list(entries)
        methods = dict.fromkeys(cell.config.method.name for cell, _ in entries)
        lines.append(
            f"  {task} {model}: {len(entries)} cells of {', '.join(methods)}, {duration([s for _, s in entries])}"
        )
    lines.append(
        f"expected: {duration(seconds)} (by finished cells of the same kind; else by a rule for two CPU cores, an upper "
        f"bound on a GPU; without checkpoints that have to be fine-tuned first)"
    )
    return "\n".join(lines)


def duration(seconds: list[float | None]) -> str:
    known = sum(entry for entry in seconds if entry is not None)
    text = f"{known / 3600:.1f} h" if known >= 3600 else f"{known / 60:.0f} min" if known >= 60 else f"{known:.0f} s"
    unknown = sum(entry is None for entry in seconds)
    return f"{text} and the training of {unknown} cells" if unknown else text


if __name__ == "__main__":
    sys.exit(main())
