"""A finished cell as a Weights & Biases run."""

import os
from pathlib import Path
from typing import Any

import wandb

from kprune.errors import UserError

NUMBERS = (
    "score", "dense_score", "flops_reduction", "flops_reduction_requested", "params_reduction", "pruning_seconds",
    "peak_memory_mb",
)  # fmt: skip


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
    mode = os.environ.get("WANDB_MODE") or mode
    if mode == "disabled":
        return
    method = method_name(result)
    requested = result["flops_reduction_requested"]
    target = f"{result['config']['speedup']:g}x" if requested is None else f"{requested:g}"
    name = "/".join([result["task"], result["model"], method, target, f"seed{result['seed']}"])
    settings = wandb.Settings(
        silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True, x_disable_machine_info=True
    )
    try:
        Path(outputs).mkdir(parents=True, exist_ok=True)
        with wandb.init(
            project="kprune", dir=outputs, mode=mode, group=group, job_type=method, name=name,
            config=result["config"], settings=settings,
        ) as run:  # fmt: skip
            units = kept_units(result)
            for row in units:
                run.log({f"kept/{key}": value for key, value in row.items()})
            columns = ["layer", "heads", "neurons"]
            table = wandb.Table(columns=columns, data=[[row[column] for column in columns] for row in units])
            run.log(numbers(result) | {"kept_units": table})
            run.summary.update(texts(result))
    except (wandb.Error, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
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
