"""Logging finished cells and sweeps to Weights & Biases."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import wandb

from experiments.store.record import Record
from kprune.errors import UserError, one_line

NUMBERS = (
    "score",
    "dense_score",
    "flops_reduction",
    "flops_reduction_requested",
    "params_reduction",
    "params_reduction_requested",
    "sparsity",
    "pruning_seconds",
    "peak_memory_mb",
)


def track(record: Record, group: str, mode: str, outputs: str = "outputs") -> None:
    """Log a cell's record as one run: its group is the sweep, its job type the method, its name that of the cell.

    Args:
        record: the record of the cell.
        group: name of the sweep.
        mode: offline, online or disabled (nothing is logged); the environment variable WANDB_MODE overrides it.
        outputs: folder in which wandb makes its folder `wandb`.

    Raises:
        UserError: wandb can't start or write the run.
    """
    name = "/".join([record.task, record.model, record.name, str(record.target), f"seed{record.seed}"])
    with started(outputs, mode, group=group, job_type=record.name, name=name, config=record.config) as run:
        if run is None:
            return
        units = kept_units(record)
        for row in units:
            run.log({f"kept/{key}": value for key, value in row.items()})
        for row in losses(record):
            run.log(row)
        run.log(numbers(record) | {"kept_units": table_of(units)})
        run.summary.update(texts(record))


def track_sweep(records: Sequence[Record], group: str, mode: str, outputs: str = "outputs") -> None:
    """Log a table with a row for each cell of a sweep, as the run `<group>/table`; arguments and errors are as in `track`."""
    with started(outputs, mode, group=group, job_type="table", name=f"{group}/table") as run:
        if run is None:
            return
        rows = [
            {"task": record.task, "model": record.model, "method": record.name, "target": str(record.target)}
            | {"seed": record.seed, "metric": record.metric}
            | {key: getattr(record, key) for key in NUMBERS}
            | {"speedup": record.latency.speedup if record.latency else None}
            for record in records
        ]
        run.log({"cells": table_of(rows)})
        run.summary["count"] = len(rows)


def table_of(rows: Sequence[dict[str, Any]]) -> wandb.Table:
    columns = list(rows[0])
    return wandb.Table(columns=columns, data=[[row[column] for column in columns] for row in rows])


@contextmanager
def started(outputs: str, mode: str, **run: Any) -> Iterator[Any]:
    """Yield a run of Weights & Biases that is closed at the end of the block; None if tracking is disabled.

    Raises:
        UserError: wandb can't start or write the run.
    """
    mode = os.environ.get("WANDB_MODE") or mode
    if mode == "disabled":
        yield None
        return
    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        disable_code=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
    )
    try:
        Path(outputs).mkdir(parents=True, exist_ok=True)
        with wandb.init(project="kprune", dir=outputs, mode=mode, settings=settings, **run) as begun:
            yield begun
    except (wandb.Error, ValueError, OSError) as error:
        reason = one_line(error)
        raise UserError(
            f"Weights & Biases took no run ({reason}); result.json is written: use WANDB_MODE=offline or tracking=none"
        ) from error


def numbers(record: Record) -> dict[str, float | None]:
    """Return the numbers of a record to plot and compare, by flat names such as `latency/speedup`."""
    return (
        {key: getattr(record, key) for key in NUMBERS}
        | {f"seconds/{stage}": seconds for stage, seconds in record.seconds_by_stage.items()}
        | _flat("latency", record.latency)
        | _flat("calibration", record.calibration)
        | _flat("size", record.size)
        | _flat("vocabulary", record.vocabulary)
    )


def _flat(name: str, part: Any) -> dict[str, float]:
    """Return the numbers in a part of a record, by names such as `latency/speedup`; {} if the part is None."""
    values = asdict(part) if part else {}
    return {f"{name}/{key}": value for key, value in values.items() if isinstance(value, (int, float))}


def losses(record: Record) -> list[dict[str, float]]:
    """Return a row for each point of each loss curve; [] if nothing was trained."""
    curves = record.details.get("losses", {})
    return [
        {f"loss/{stage}": loss, f"loss/{stage}_step": step} for stage, curve in curves.items() for step, loss in curve
    ]


def texts(record: Record) -> dict[str, Any]:
    """Return the entries of a record that are no numbers: metric, target, evaluation, checkpoint and software."""
    return {
        "metric": record.metric,
        "target": str(record.target),
        "evaluation": asdict(record.evaluation),
        "checkpoint": asdict(record.checkpoint),
        "device": record.latency.device if record.latency else None,
        "versions": record.versions,
        "commit": record.commit,
    }


def kept_units(record: Record) -> list[dict[str, float]]:
    """Return a row for each layer with its numbers of kept heads and neurons, from bottom to top."""
    kept = zip(record.kept_heads, record.kept_neurons, strict=True)
    return [{"layer": layer, "heads": heads, "neurons": neurons} for layer, (heads, neurons) in enumerate(kept)]
