"""Running one cell, from its configuration to its result.json."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from experiments.cell.identity import folder_of, identity_of
from experiments.cell.measuring import latency_of, measure_sizes, vocabulary_used
from experiments.cell.memory import PeakMemory
from experiments.cell.pruning import prune_within
from experiments.cell.saved import missing_of, save_model
from experiments.cell.tracking import track
from experiments.config.cell import CellConfig
from experiments.inputs.drawing import DrawnTexts
from experiments.inputs.subject import (
    Subject,
    calibrated,
    flops_length,
    subject_for,
    subject_unscored,
    vocabulary_for,
)
from experiments.scoring import predictions
from experiments.scoring.evaluation import predictions_of
from experiments.scoring.predictions import Predictions
from experiments.store import results
from experiments.store.provenance import commit, versions
from experiments.store.record import CalibrationUsed, CheckpointUsed, Evaluation, Latency, Record, VocabularyUsed
from experiments.tasks import EvaluationSet
from kprune import processes
from kprune.budgets.latency.timing import device_name
from kprune.contract import Outcome, PruningData
from kprune.data import CalibrationSet
from kprune.vocabulary import Vocabulary, cut_vocabulary


def run_cell(config: CellConfig, group: str, command: str) -> Record | None:
    """Return the record of a cell, after running it if it is not finished; None in a process that only helps the first one to prune.

    Args:
        group: name of the sweep, for tracking.
        command: the command that runs this cell, for the model card.

    Raises:
        UserError: a setting, the data, the checkpoint or the machine does not allow the cell; the message names the remedy.
        OutOfReach: the method can't reach the target on the model.
    """
    if processes.rank() > 0:
        help_to_prune(config)
        return None
    with helpers_waiting() as begin:
        config.method.build().check_processes()
        if config.target.kind == "latency":
            processes.check_alone("budget=latency", "start one, or ask for a share of FLOPs or parameters")
        return run_first(config, group, command, begin)


def run_first(config: CellConfig, group: str, command: str, begin: Callable[[], None]) -> Record:
    """Return the record of a cell, after running it if it is not finished, in the process that writes its files.

    Args:
        begin: tells the helping processes to prune; it is not called if the cell is finished.
    """
    folder, identity = folder_of(config), identity_of(config)
    with results.locked(folder):
        record = results.finished(folder, identity)
        if record is not None and not config.force:
            saves = config.save_model and config.method.build().one_model
            missing = missing_of(folder / "model", config.format, config.onnx) if saves else ""
            print(f"{folder}: finished before{missing}, score {record.score:.2f}; force=true runs it again")
            return record

        subject = subject_for(config)
        vocabulary = vocabulary_for(config, subject)
        begin()
        record, outcome, predicted = prune_and_score(config, identity, subject, vocabulary)
        files = {"predictions.npz": lambda file: results.write_bytes(file, predictions.packed(predicted))}
        if config.save_model:
            tokenizer = vocabulary.tokenizer if vocabulary else subject.tokenizer
            saving = (record, outcome, subject, tokenizer, config.format, config.onnx, command)
            files["model"] = lambda model: save_model(model, *saving)
        results.write(folder, record, files)
    track(record, group, config.tracking, config.outputs)
    print(summary(record, config.method.build().passes))
    if (folder / "model").is_dir():
        print(f"pruned model: {folder}/model")
    print(f"results: {folder}/result.json")
    return record


def prune_and_score(
    config: CellConfig, identity: dict[str, Any], subject: Subject, vocabulary: Vocabulary | None
) -> tuple[Record, Outcome, Predictions]:
    """Prune a cell's subject, cut its vocabulary if one is given, then measure and score the pruned model.

    Returns:
        the record, the outcome of the pruning, and the pruned model's predictions, whose `dense` are the dense model's values.
    """
    start, peak = time.perf_counter(), PeakMemory(subject.device)
    torch.manual_seed(config.seed)
    outcome, latency, data, length = pruned(config, subject)
    if vocabulary:
        cut_vocabulary(outcome.model, vocabulary.kept)
    task, dense, calibration = subject.task, subject.dense, data.calibration
    sizes = measure_sizes(subject, outcome, length)
    tokenizer = vocabulary.tokenizer if vocabulary else subject.tokenizer
    predicted = replace(predictions_of(outcome.model, task, tokenizer, subject.device), dense=dense.values)
    labels = "labels" in config.method.build().needs
    record = Record(
        task=task.name,
        model=config.model.name,
        method=config.method.name,
        variant=config.variant.plain(),
        seed=config.seed,
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        dense_score=dense.score,
        score=predicted.score,
        # In the dense model's tokens, so that every cell of a task has the same evaluation set on record.
        evaluation=evaluation_used(task.evaluation(subject.tokenizer)),
        checkpoint=CheckpointUsed(subject.checkpoint.source, subject.checkpoint.sha256),
        flops_reduction_requested=config.target.requested("flops"),
        params_reduction_requested=config.target.requested("parameters"),
        **sizes.on_record(),
        latency=latency_of(config.latency, subject, outcome, latency),
        pruning_seconds=sum(outcome.seconds_by_stage.values()),
        seconds_by_stage=dict(outcome.seconds_by_stage),
        peak_memory_mb=peak.mb(),
        calibration=CalibrationUsed(len(calibration.examples), calibration.tokens, labels, **origin(calibration)),
        versions=versions(),
        commit=commit(),
        config=identity,
        target=config.target,
        device=device_name(subject.device),
        vocabulary=vocabulary_used(vocabulary, subject),
        details=outcome.details
        | {
            "sequence_length": length,
            "cell_seconds": time.perf_counter()
            - start,  # includes evaluation and latency; `sweep.plan.estimate` reads it
        },
    )
    return record, outcome, predicted


def evaluation_used(evaluation: EvaluationSet) -> Evaluation:
    """Return a record's entry on an evaluation set."""
    return Evaluation(
        evaluation.split,
        evaluation.size,
        evaluation.majority,
        evaluation.sha256,
        evaluation.data,
        evaluation.window,
        evaluation.first_token,
    )


def pruned(config: CellConfig, subject: Subject) -> tuple[Outcome, Latency | None, PruningData, float]:
    """Prune a cell's subject.

    Returns:
        the outcome, its latency if the budget is latency (else None), the data that the method read, and the length of a sequence,
        in tokens, at which FLOPs are counted.
    """
    data = calibrated(config, subject)
    length = flops_length(bool(config.calibration.file), subject.task, subject.tokenizer, data.calibration)
    return *prune_within(config, subject, data, length), data, length


@contextmanager
def helpers_waiting() -> Iterator[Callable[[], None]]:
    """Yield a function that tells the helping processes to begin; if it is not called in the block, they are told to stop at its end."""
    begun = False

    def begin() -> None:
        nonlocal begun
        begun = processes.broadcast_flag(True)

    try:
        yield begin
    finally:
        if not begun:
            processes.broadcast_flag(False)


def help_to_prune(config: CellConfig) -> None:
    """Take part in the pruning of a cell, if the first process says that the cell is pruned; no file is written."""
    if processes.broadcast_flag(False):
        subject = subject_unscored(config)
        torch.manual_seed(config.seed)
        pruned(config, subject)


def origin(calibration: CalibrationSet) -> dict[str, Any]:
    """Return the origin of a calibration set that was drawn from texts, as entries of a record; {} for another calibration set."""
    if not isinstance(calibration, DrawnTexts):
        return {}
    return {name: getattr(calibration, name) for name in ("data", "texts", "window", "draw")}


def kept_tokens(used: VocabularyUsed) -> str:
    """Return a cut vocabulary in words."""
    return (
        f"{used.kept:,} of {used.of:,} tokens kept, without which {100 * used.missing:.1f} % of the evaluation set's tokens are spelled "
        f"by others ({used.growth:.3f} times as many tokens)"
    )


def summary(record: Record, passes: bool) -> str:
    """Return the result of a cell as one line.

    Args:
        record: the record of the cell.
        passes: whether the method runs the model on the calibration set.
    """
    removed = f"{100 * record.flops_reduction:.1f} % of FLOPs removed"
    if record.sparsity is not None:
        removed = f"{100 * record.sparsity:.1f} % of the layers' weights are zero, no parameter and no FLOP less"
    if record.vocabulary:
        removed += f", {kept_tokens(record.vocabulary)}"
    speed = f", {record.latency.speedup:.2f}x faster" if record.latency else ""
    read = f" on {record.calibration.tokens:,} calibration tokens" if passes else ""
    return (
        f"{record.task} {record.model} {record.method}: {record.metric} {record.dense_score:.2f} dense, "
        f"{record.score:.2f} pruned; {removed}{speed}, {record.pruning_seconds:.0f} s{read}"
    )
