"""A finished cell as a Weights & Biases run."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb

from kprune.errors import UserError, one_line

NUMBERS = (
    "score",
    "dense_score",
    "flops_reduction",
    "flops_reduction_requested",
    "params_reduction",
    "pruning_seconds",
    "peak_memory_mb",
)


def track(result: dict[str, Any], group: str, mode: str, outputs: str = "outputs") -> None:
    """Log a cell's record: one run, grouped by sweep, its job type the method, its name the cell's.

    Args:
        result: as in result.json.
        group: name of the sweep.
        mode: offline, online or disabled (nothing is done); the environment's WANDB_MODE goes before it.
        outputs: folder that the offline run's `wandb/` is written to.

    Raises:
        UserError: wandb refuses, or an online run is not to be had.
    """
    method = method_name(result)
    requested = result["flops_reduction_requested"]
    target = f"{result['config']['speedup']:g}x" if requested is None else f"{requested:g}"
    name = "/".join([result["task"], result["model"], method, target, f"seed{result['seed']}"])
    with started(outputs, mode, group=group, job_type=method, name=name, config=result["config"]) as run:
        if run is None:
            return
        units = kept_units(result)
        for row in units:
            run.log({f"kept/{key}": value for key, value in row.items()})
        for row in losses(result):
            run.log(row)
        run.log(numbers(result) | {"kept_units": table_of(units)})
        run.summary.update(texts(result))


def track_sweep(results: Sequence[dict[str, Any]], group: str, mode: str, outputs: str = "outputs") -> None:
    """Log the table of a sweep, a row a cell, as the run `<group>/table` of its group; otherwise as `track`."""
    with started(outputs, mode, group=group, job_type="table", name=f"{group}/table") as run:
        if run is None:
            return
        rows = [
            {"task": result["task"], "model": result["model"], "method": method_name(result), "seed": result["seed"]}
            | {"metric": result["metric"]}
            | {key: result[key] for key in NUMBERS}
            | {"speedup": (result["latency"] or {}).get("speedup")}
            for result in results
        ]
        run.log({"cells": table_of(rows)})
        run.summary["count"] = len(rows)


def table_of(rows: Sequence[dict[str, Any]]) -> wandb.Table:
    columns = list(rows[0])
    return wandb.Table(columns=columns, data=[[row[column] for column in columns] for row in rows])


@contextmanager
def started(outputs: str, mode: str, **run: Any) -> Iterator[Any]:
    """A run of Weights & Biases, closed at the end; None where tracking is disabled."""
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


def method_name(result: dict[str, Any]) -> str:
    """kprune, or kprune+mu=2,tokens=1000."""
    variant = ",".join(f"{key}={value}" for key, value in sorted(result["variant"].items()))
    return f"{result['method']}+{variant}" if variant else result["method"]


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """What is plotted and compared, one flat name each."""
    latency = result["latency"] or {}
    return (
        {key: result[key] for key in NUMBERS}
        | {f"seconds/{stage}": seconds for stage, seconds in result["seconds_by_stage"].items()}
        | {f"latency/{key}": latency[key] for key in latency if isinstance(latency[key], (int, float))}
        | {f"calibration/{key}": value for key, value in result["calibration"].items()}
    )


def losses(result: dict[str, Any]) -> list[dict[str, float]]:
    """A row per point of each training's loss curve; none where nothing was trained."""
    curves = result.get("details", {}).get("losses", {})
    return [
        {f"loss/{stage}": loss, f"loss/{stage}_step": step} for stage, curve in curves.items() for step, loss in curve
    ]


def texts(result: dict[str, Any]) -> dict[str, Any]:
    """What tells how the numbers came about."""
    return {
        "metric": result["metric"],
        "evaluation": result["evaluation"],
        "checkpoint": result["checkpoint"],
        "device": (result["latency"] or {}).get("device"),
        "versions": result["versions"],
        "commit": result["commit"],
    }


def kept_units(result: dict[str, Any]) -> list[dict[str, float]]:
    """A row per layer, bottom first."""
    kept = zip(result["kept_heads"], result["kept_neurons"], strict=True)
    return [{"layer": layer, "heads": heads, "neurons": neurons} for layer, (heads, neurons) in enumerate(kept)]
