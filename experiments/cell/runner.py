"""One cell, from its config to its result.json."""

import time
from functools import partial
from typing import Any

import torch

from experiments.cell.memory import PeakMemory
from experiments.cell.saved import save_model
from experiments.cell.tracking import track
from experiments.config import budgets
from experiments.config.methods import build_method
from experiments.config.settings import check_settings
from experiments.inputs.subject import Subject, flops_length, pruning_data, subject_for
from experiments.scoring.evaluation import predictions_of
from experiments.store import results
from experiments.store.identity import identity_of, variant_of
from kprune import checkpoint as pruned_checkpoint
from kprune.budgets.latency import measure_latency
from kprune.contract import Outcome
from kprune.data import CalibrationSet
from kprune.models import adapter_for
from kprune.models.flops import flops_reduction, model_flops, params_reduction
from kprune.objectives import Objective


def run_cell(config: dict[str, Any], defaults: dict[str, Any], group: str, sweep: bool, command: str) -> dict[str, Any]:
    """Run a cell, or find it finished.

    Args:
        config: the composed config as plain values.
        defaults: `method` and `calibration` as their config files have them; what differs names the cell's variant.
        group: name of the sweep, for tracking.
        sweep: several cells in one go: the pruned model is not saved unless asked for.
        command: what runs this cell, for the model card.

    Returns:
        The record, as in result.json.

    Raises:
        UserError: anything the user can mend.
    """
    check_settings(config)
    pruner = build_method(config["method"])
    budgets.check_budget(config, pruner)
    identity = identity_of(config)
    variant = variant_of(config, defaults)
    folder = results.cell_folder(
        config["outputs"],
        config["task"]["name"],
        config["model"]["name"],
        config["method"]["name"],
        variant,
        budgets.target_of(config),
        config["seed"],
    )
    pruned_checkpoint.check_format(config["format"], config["onnx"])
    with results.locked(folder):
        record = results.finished(folder, identity)
        if record is not None and not config["force"]:
            model = "" if sweep or (folder / "model").is_dir() else ", without a saved model"
            print(f"{folder}: finished before{model}, score {record['score']:.2f}; force=true runs it again")
            return record
        subject = subject_for(config)
        outcome, record, predicted = prune_cell(config, identity, variant, pruner, subject)
        saving = config["save_model"] or (config["save_model"] is None and not sweep)
        save = partial(save_model, outcome=outcome, subject=subject, record=record, config=config, command=command)
        record = results.write(folder, record, predicted, save if saving else None)
    track(record, group, config["tracking"]["mode"], config["outputs"])
    print(summary(record))
    if (folder / "model").is_dir():
        print(f"pruned model: {folder}/model")
    print(f"results: {folder}/result.json")
    return record


def prune_cell(config: dict[str, Any], identity: dict, variant: dict, pruner, subject: Subject):
    """Prune, measure what came out, and put it on record."""
    start, peak = time.perf_counter(), PeakMemory(subject.device)
    task, tokenizer = subject.task, subject.tokenizer
    torch.manual_seed(config["seed"])
    data = pruning_data(config, subject, pruner.needs_labels)
    calibration = data.calibration
    length = flops_length(config, task, tokenizer, calibration)
    objective: Objective = task.objective
    outcome, latency = budgets.prune_within(config, pruner, subject.model, objective, data, length)
    sizes = measure_sizes(subject, outcome, length)
    predicted = predictions_of(outcome.model, task, tokenizer, subject.device)
    evaluation = task.evaluation(tokenizer)
    if config["latency"] and latency is None and not outcome.count_units:
        latency = measure_latency(subject.model, outcome.model, **config["latency"])
    record = results.Result(
        task=task.name,
        model=config["model"]["name"],
        method=pruner.name,
        variant=variant,
        seed=config["seed"],
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        dense_score=subject.dense_score,
        score=predicted.score,
        evaluation={
            "split": evaluation.split,
            "examples": evaluation.size,
            "majority": evaluation.majority,
            "sha256": evaluation.sha256,
        },
        checkpoint={"source": subject.checkpoint.source, "sha256": subject.checkpoint.sha256},
        flops_reduction_requested=budgets.requested(config),
        **sizes,
        pruning_seconds=sum(outcome.seconds_by_stage.values()),
        seconds_by_stage=dict(outcome.seconds_by_stage),
        peak_memory_mb=peak.mb(),
        calibration={
            "examples": len(calibration.examples),
            "tokens": calibration.tokens,
            "labels": pruner.needs_labels,
        },
        latency=latency,
        versions=results.versions(),
        commit=results.commit(),
        config=identity,
        details=outcome.details
        | {
            "sequence_length": length,
            "kept_units": outcome.kept_units,
            "cell_seconds": time.perf_counter() - start,  # with evaluation and latency: what a plan counts on
        },
    )
    return outcome, record, predicted


def measure_sizes(subject: Subject, outcome: Outcome, length: float) -> dict[str, Any]:
    """Reductions and kept units, counted on the pruned model; on the evaluation inputs where they depend on them."""
    dense = adapter_for(subject.model)
    heads, neurons = outcome.kept_heads, outcome.kept_neurons
    if outcome.count_units:
        inputs = subject.task.evaluation(subject.tokenizer).examples
        batches = CalibrationSet(inputs, subject.task.batch_size, subject.tokenizer.pad_token_id or 0).batches()
        units = outcome.count_units(batches)
        heads, neurons = units[0::2], units[1::2]
        left = sum(n * s.unit_flops(length) for n, s in zip(units, dense.sublayers, strict=True))
        flops, params = 1 - left / model_flops(dense, length), 0.0
    else:
        pruned = adapter_for(outcome.model)
        flops, params = flops_reduction(dense, pruned, length), params_reduction(dense, pruned)
    return {"flops_reduction": flops, "params_reduction": params, "kept_heads": heads, "kept_neurons": neurons}


def summary(record: dict[str, Any]) -> str:
    """One line on a cell."""
    latency = record["latency"]
    speed = f", {latency['speedup']:.2f}x faster" if latency else ""
    return (
        f"{record['task']} {record['model']} {record['method']}: {record['metric']} {record['dense_score']:.2f} dense, "
        f"{record['score']:.2f} pruned; {100 * record['flops_reduction']:.1f} % of FLOPs removed{speed}, "
        f"{record['pruning_seconds']:.0f} s on {record['calibration']['tokens']} calibration tokens"
    )
