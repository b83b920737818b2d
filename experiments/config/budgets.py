"""The budget that a config names: a share of FLOPs, or a measured speed-up."""

from typing import Any

from torch import nn

from kprune.budgets.flops import Budget, check_grain
from kprune.budgets.latency import Point, check_any_budget, check_speedup, prune_to_speedup
from kprune.contract import Outcome, Pruner, PruningData
from kprune.errors import UserError
from kprune.objectives import Objective

BUDGETS = ("flops", "latency")


def check_budget(config: dict[str, Any], pruner: Pruner) -> None:
    """What pruning would refuse, told before anything is loaded.

    Raises:
        UserError: the budget is unknown or out of range, or not one that the method can prune to.
    """
    check_grain(config["grain"])
    if config["budget"] not in BUDGETS:
        raise UserError(f"budget={config['budget']} is unknown: use {' or '.join(BUDGETS)}")
    if config["budget"] == "flops":
        if config["speedup"] is not None:
            raise UserError(f"speedup={config['speedup']} goes with another budget: add budget=latency")
        Budget(config["flops_reduction"], 1.0)
        return
    check_speedup(config["speedup"])
    check_any_budget(pruner)
    if not config["latency"]:
        raise UserError("budget=latency needs a batch size and length to measure at: leave latency as it is")


def target_of(config: dict[str, Any]) -> str:
    """The request as it stands in a cell's path: 0.8 of the FLOPs, or 3x as fast."""
    return f"{config['flops_reduction']:g}" if config["budget"] == "flops" else f"{config['speedup']:g}x"


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """What of the budget's settings a result depends on. Cells from before there was a choice stay what they were."""
    if config["budget"] == "flops":
        settings = {"flops_reduction": config["flops_reduction"]}
    else:
        settings = {"budget": config["budget"], "speedup": config["speedup"]}
    return settings | variant(config)


def variant(config: dict[str, Any]) -> dict[str, Any]:
    """What of the budget's settings the path does not tell."""
    return {"grain": config["grain"]} if config["grain"] != 1 else {}


def requested(config: dict[str, Any]) -> float | None:
    """The share of FLOPs asked for, where it was."""
    return config["flops_reduction"] if config["budget"] == "flops" else None


def prune_within(
    config: dict[str, Any], pruner: Pruner, model: nn.Module, objective: Objective, data: PruningData, length: float
) -> tuple[Outcome, dict[str, Any] | None]:
    """Prune to the config's budget, FLOPs being counted at `length`.

    Returns:
        the outcome, and its latency where that was the budget and so has been measured.

    Raises:
        OutOfReach: the budget is beyond what the method, or any method, can do on the model.
    """
    if config["budget"] == "flops":
        budget = Budget(config["flops_reduction"], length, config["grain"])
        budget.check_reach(pruner, model)
        return pruner.prune(model, objective, data, budget), None
    point = Point(**config["latency"])
    speedup, grain = config["speedup"], config["grain"]
    outcome, latency = prune_to_speedup(pruner, model, objective, data, speedup, length, point, grain)
    if not outcome.details["latency_budget"]["reached"]:
        print(f"speedup={speedup:g} was not reached within 5 %: {latency['speedup']:.2f}x is the closest of three")
    return outcome, latency
