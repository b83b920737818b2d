"""One cell, from its config to its result.json."""

import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments import budgets, results
from experiments.cache import cache_folder
from experiments.calibration import draw_calibration, mean_length, read_calibration
from experiments.checkpoints import Checkpoint, find_checkpoint, fingerprint, load_model, load_tokenizer, positions_of
from experiments.dense import dense_predictions
from experiments.evaluation import evaluate, predictions_of
from experiments.identity import identity_of, variant_of
from experiments.memory import PeakMemory
from experiments.methods import build_method
from experiments.model_card import model_card
from experiments.settings import check_settings
from experiments.tasks import Task, build_task
from experiments.tracking import track
from kprune import checkpoint as pruned_checkpoint
from kprune.errors import UserError
from kprune.latency import measure_latency
from kprune.objectives import Objective
from kprune.pruner import CalibrationSet, Outcome, PruningData
from kprune.transformer import adapter_for
from kprune.transformer.flops import flops_reduction, model_flops, params_reduction


@dataclass
class Bench:
    """What the cells of one task and checkpoint share: data, dense model, its score."""

    task: Task
    checkpoint: Checkpoint
    tokenizer: Any
    model: nn.Module
    device: torch.device
    dense_score: float
    data: dict[tuple, PruningData] = field(default_factory=dict)


def run_cell(
    config: dict[str, Any], defaults: dict[str, Any], group: str, sweep: bool, command: str
) -> dict[str, Any]:
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
        config["outputs"], config["task"]["name"], config["model"]["name"], config["method"]["name"],
        variant, budgets.target_of(config), config["seed"],
    )  # fmt: skip
    pruned_checkpoint.check_format(config["format"], config["onnx"])
    with results.locked(folder):
        record = results.finished(folder, identity)
        if record is not None and not config["force"]:
            model = "" if sweep or (folder / "model").is_dir() else ", without a saved model"
            print(f"{folder}: finished before{model}, score {record['score']:.2f}; force=true runs it again")
            return record
        bench = bench_for(config)
        outcome, record, predicted = prune_cell(config, identity, variant, pruner, bench)
        results.clear(folder)  # not before: an earlier result outlives a failure of this one
        if config["save_model"] or (config["save_model"] is None and not sweep):
            save_model(folder / "model", outcome, bench, record, config, command)
        record = results.write(folder, record, predicted)
    track(record, group, config["tracking"]["mode"], config["outputs"])
    print(summary(record))
    print(f"results: {folder}/result.json")
    return record


def bench_for(config: dict[str, Any]) -> Bench:
    """The shared part of a cell; kept for the next cell of the same task and model.

    Raises:
        UserError: the device is not there, data or checkpoint are wrong, or the model reads less than latency asks for.
    """
    device = pick_device(config["device"])
    if config["threads"]:
        torch.set_num_threads(config["threads"])
    bench = _bench(_frozen(config["task"]), _frozen(config["model"]), device)
    check_latency_point(config["latency"], bench.model)
    return bench


def check_latency_point(latency: dict[str, int] | None, model: nn.Module) -> None:
    """Raises a UserError where latency is to be measured on longer inputs than the model reads."""
    positions = positions_of(model.config.to_dict())
    if latency and positions and latency["sequence_length"] > positions:
        raise UserError(f"latency.sequence_length={latency['sequence_length']} is more than the {positions} tokens that the "
                        f"model reads: give latency.sequence_length={positions} or less")  # fmt: skip


@lru_cache(maxsize=1)
def _bench(task_settings: tuple, model_settings: tuple, device: torch.device) -> Bench:
    task, model = build_task(_thawed(task_settings)), _thawed(model_settings)
    checkpoint = find_checkpoint(task, model["encoder"], model["pretrained"], model["checkpoint"])
    tokenizer = load_tokenizer(checkpoint.folder)
    dense = load_model(checkpoint.folder, task).to(device)
    settings = _thawed(task_settings)
    dense_score = dense_predictions(dense, task, tokenizer, device, settings, checkpoint.sha256).score
    print(f"{task.name}: dense {task.metric} {dense_score:.2f} ({checkpoint.source} checkpoint)")
    warn_of_little(task, dense_score, task.evaluation(tokenizer).majority)
    return Bench(task, checkpoint, tokenizer, dense, device, dense_score)


def warn_of_little(task: Task, dense_score: float, majority: float | None) -> None:
    """Say so where the dense model is worse than none: its classes may be numbered in another order than the data's."""
    if majority is not None and task.metric == "accuracy" and dense_score < majority:
        print(f"warning: the dense model scores below the most frequent class's share, {majority:.2f}: are the classes in the "
              "order that it was trained with (custom data: task.label_names)?")  # fmt: skip


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return ("dict", tuple((key, _frozen(entry)) for key, entry in value.items()))
    if isinstance(value, list):
        return ("list", tuple(_frozen(entry) for entry in value))
    return value


def _thawed(value: Any) -> Any:
    if isinstance(value, tuple):
        kind, entries = value
        return {k: _thawed(v) for k, v in entries} if kind == "dict" else [_thawed(v) for v in entries]
    return value


def prune_cell(config: dict[str, Any], identity: dict, variant: dict, pruner, bench: Bench):
    """Prune, measure what came out, and put it on record."""
    start, peak = time.perf_counter(), PeakMemory(bench.device)
    task, tokenizer = bench.task, bench.tokenizer
    torch.manual_seed(config["seed"])
    data = pruning_data(config, bench, pruner.needs_labels)
    calibration = data.calibration
    length = flops_length(config, task, tokenizer, calibration)
    objective: Objective = task.objective
    outcome, latency = budgets.prune_within(config, pruner, bench.model, objective, data, length)
    sizes = measure_sizes(bench, outcome, length)
    predicted = predictions_of(outcome.model, task, tokenizer, bench.device)
    evaluation = task.evaluation(tokenizer)
    if config["latency"] and latency is None and not outcome.count_units:
        latency = measure_latency(bench.model, outcome.model, **config["latency"])
    record = results.Result(
        task=task.name,
        model=config["model"]["name"],
        method=pruner.name,
        variant=variant,
        seed=config["seed"],
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        dense_score=bench.dense_score,
        score=predicted.score,
        evaluation={
            "split": evaluation.split,
            "examples": evaluation.size,
            "majority": evaluation.majority,
            "sha256": evaluation.sha256,
        },
        checkpoint={"source": bench.checkpoint.source, "sha256": bench.checkpoint.sha256},
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


def measure_sizes(bench: Bench, outcome: Outcome, length: float) -> dict[str, Any]:
    """Reductions and kept units, counted on the pruned model; on the evaluation inputs where they depend on them."""
    dense = adapter_for(bench.model)
    heads, neurons = outcome.kept_heads, outcome.kept_neurons
    if outcome.count_units:
        inputs = bench.task.evaluation(bench.tokenizer).examples
        batches = CalibrationSet(inputs, bench.task.batch_size, bench.tokenizer.pad_token_id or 0).batches()
        units = outcome.count_units(batches)
        heads, neurons = units[0::2], units[1::2]
        left = sum(n * s.unit_flops(length) for n, s in zip(units, dense.sublayers, strict=True))
        flops, params = 1 - left / model_flops(dense, length), 0.0
    else:
        pruned = adapter_for(outcome.model)
        flops, params = flops_reduction(dense, pruned, length), params_reduction(dense, pruned)
    return {"flops_reduction": flops, "params_reduction": params, "kept_heads": heads, "kept_neurons": neurons}


def pruning_data(config: dict[str, Any], bench: Bench, labels: bool) -> PruningData:
    """What a method reads; one object for all cells with the same calibration set, so that they share what they can."""
    key = (_frozen(config["calibration"]), config["seed"], labels)
    if key not in bench.data:
        calibration = calibration_for(config, bench, labels)
        seed = config["seed"]
        workspace = cache_folder() / "trainings" / f"{bench.task.name}-{fingerprint(bench.task, bench.checkpoint.sha256, seed)}"
        bench.data[key] = PruningData(calibration, lambda: bench.task.training(bench.tokenizer), workspace, seed)
    return bench.data[key]


def calibration_for(config: dict[str, Any], bench: Bench, labels: bool) -> CalibrationSet:
    settings = config["calibration"]
    if settings["file"]:
        return read_calibration(settings["file"], bench.task, bench.tokenizer, bench.model.config, labels)
    return draw_calibration(bench.task, bench.tokenizer, settings["tokens"], config["seed"], labels)


def flops_length(config: dict[str, Any], task: Task, tokenizer, calibration: CalibrationSet) -> float:
    """The sequence length FLOPs are counted at: the mean of a given file; else the task's own, else the training set's."""
    if config["calibration"]["file"]:
        return mean_length(calibration.examples)
    return task.average_length or mean_length(task.training(tokenizer))


def save_model(
    folder: Path, outcome: Outcome, bench: Bench, record: results.Result, config: dict[str, Any], command: str
) -> None:
    """The pruned model, with its card and what is needed to score it again."""
    if outcome.count_units:
        print(f"method {record.method} decides for each input what it computes: there is no smaller model to save")
        return
    card = model_card(record, bench.task.auto_class.__name__, config["format"], command)
    outcome.save(folder, bench.tokenizer, card, config["format"], config["onnx"])
    results.write_json(folder / "kprune.json", {"task": record.config["task"], "score": record.score})
    print(f"pruned model: {folder}")


def evaluate_saved(config: dict[str, Any]) -> float:
    """Score a saved model, pruned or dense, on the task it was pruned for."""
    check_settings(config)
    folder = Path(config["evaluate"])
    task = saved_task(folder / "kprune.json", config)
    device = pick_device(config["device"])
    score = evaluate(load_model(folder, task).to(device), task, load_tokenizer(folder), device)
    print(f"{folder}: {task.name} {task.metric} {score:.2f}")
    return score


def saved_task(record: Path, config: dict[str, Any]) -> Task:
    """The task of a saved model's record; the config's where there is none, as beside a dense model.

    Raises:
        UserError: the record is damaged.
    """
    if not record.is_file():
        print(f"{record.parent} does not say what its task is: scored on task={config['task']['name']}")
        return build_task(config["task"])
    saved = results.read_json(record)
    try:
        check_settings(config | {"task": saved.get("task") if isinstance(saved, dict) else None})
        return build_task(saved["task"])
    except UserError as error:
        raise UserError(f"{record} is damaged ({error}): save the model again") from error


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one.

    Raises:
        UserError: the device is unknown or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name} is not to be had here: use device=auto or device=cpu") from error
    return device


def summary(record: dict[str, Any]) -> str:
    """One line on a cell."""
    latency = record["latency"]
    speed = f", {latency['speedup']:.2f}x faster" if latency else ""
    return (
        f"{record['task']} {record['model']} {record['method']}: {record['metric']} {record['dense_score']:.2f} dense, "
        f"{record['score']:.2f} pruned; {100 * record['flops_reduction']:.1f} % of FLOPs removed{speed}, "
        f"{record['pruning_seconds']:.0f} s on {record['calibration']['tokens']} calibration tokens"
    )
