"""The data and the dense model that the cells of one task and checkpoint share."""

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments.config.cell import CellConfig
from experiments.config.groups import CalibrationSettings, LatencyPoint, ModelSettings, TaskSettings
from experiments.inputs.asked import asked_of
from experiments.inputs.cache import cache_folder
from experiments.inputs.calibration import average_length, draw_calibration, read_calibration
from experiments.inputs.checkpoints import (
    Checkpoint,
    check_padding,
    find_checkpoint,
    fingerprint,
    load_model,
    load_tokenizer,
    positions_of,
)
from experiments.inputs.texts import read_file
from experiments.scoring.dense import dense_predictions
from experiments.scoring.predictions import PERPLEXITIES, Predictions
from experiments.tasks import Task
from experiments.tasks.base import CALIBRATION, TRAINING
from kprune.budgets import ParametersBudget
from kprune.checkpoint import check_kind
from kprune.contract import PruningData
from kprune.data import CalibrationSet
from kprune.errors import UserError
from kprune.models import view_of
from kprune.precision import check_reduced, computes_in_float64
from kprune.vocabulary import Vocabulary, vocabulary_of
from kprune.vocabulary.tokens import Text


@dataclass
class Subject:
    """The data and the dense model of one task and checkpoint.

    Attributes:
        settings: the settings that `task` was built from.
        anew: whether the dense model is scored again although its predictions are in the cache.
        data: the results of `calibrated`, by their settings.
        vocabularies: the results of `vocabulary_for`, by their settings.
    """

    task: Task
    checkpoint: Checkpoint
    tokenizer: Any
    model: nn.Module
    device: torch.device
    settings: TaskSettings
    anew: bool = False
    data: dict[tuple, PruningData] = field(default_factory=dict)
    vocabularies: dict[tuple, Vocabulary] = field(default_factory=dict)

    @cached_property
    def dense(self) -> Predictions:
        """Return the predictions of the dense model on the evaluation set, computed or read from the cache at the first use."""
        task, checkpoint, settings = self.task, self.checkpoint, self.settings.settings
        found = dense_predictions(self.model, task, self.tokenizer, self.device, settings, checkpoint.digest, self.anew)
        print(f"{task.name}: dense {task.metric} {found.score:.2f} ({checkpoint.source} checkpoint)")
        warn_of_little(task, found.score, task.evaluation(self.tokenizer).majority)
        warn_of_chance(task, found.score, len(self.tokenizer))
        return found


def subject_for(config: CellConfig) -> Subject:
    """Return the subject of a cell, after checking the cell's requests and scoring the dense model.

    The subject is kept in memory for the next cell of the same task and model. All checks come before the scoring.

    Raises:
        UserError: the device does not exist, the data or the checkpoint are wrong, latency is asked for at a longer sequence than
            the model reads, the model can't be saved in the format, its modules don't fit the pattern of zeros, the texts of the
            vocabulary can't be read, or `calibrated` refuses the cell.
        OutOfReach: the target removes more than the model's units have, or more than the method can remove.
    """
    subject = subject_unscored(config)
    if not config.target.is_sparsity and config.method.build().one_model:  # in other cells, no smaller model is timed
        check_latency_point(config.latency, subject.model, subject.task.generates)
    if config.save_model:
        check_kind(subject.model, config.format, subject.tokenizer)
    if config.target.kind == "parameters":
        ParametersBudget(config.target.amount, of=config.of).limit(view_of(subject.model))
    calibration = calibrated(config, subject).calibration
    vocabulary_for(config, subject)
    asked = asked_of(config, flops_length(bool(config.calibration.file), subject.task, subject.tokenizer, calibration))
    if asked is not None:
        config.method.build().check(subject.model, asked)
    subject.dense  # noqa: B018 (computes)
    return subject


def subject_unscored(config: CellConfig) -> Subject:
    """Return the subject of a cell without checking the cell's requests or scoring the model; it is kept as in `subject_for`.

    Raises:
        UserError: the device does not exist, or the data or the checkpoint are wrong.
    """
    device = pick_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    return _subject(config.task, config.model, device, config.force)


def check_latency_point(latency: LatencyPoint | None, model: nn.Module, generates: bool = False) -> None:
    """Check that the model reads sequences of the length that latency is measured at.

    Args:
        latency: the point to measure at; None if latency is not measured.
        model: the dense model.
        generates: whether one further token is generated after the sequence.

    Raises:
        UserError: the sequence, with the further token, is longer than the model reads.
    """
    positions = positions_of(model.config.to_dict())
    longest = positions and positions - generates
    if latency and longest and latency.sequence_length > longest:
        raise UserError(
            f"latency.sequence_length={latency.sequence_length} is more than the {longest} tokens that the "
            f"model reads: give latency.sequence_length={longest} or less"
        )


@lru_cache(maxsize=1)
def _subject(
    task_settings: TaskSettings, model_settings: ModelSettings, device: torch.device, anew: bool = False
) -> Subject:
    task = task_settings.build()
    model = model_settings
    checkpoint = find_checkpoint(task, model.encoder, model.pretrained, model.checkpoint, device=device)
    tokenizer = load_tokenizer(checkpoint.folder)
    dense = load_model(checkpoint.folder, task).to(device)
    check_padding(checkpoint.folder, dense, tokenizer, task)
    return Subject(task, checkpoint, tokenizer, dense, device, task_settings, anew)


def warn_of_little(task: Task, dense_score: float, majority: float | None) -> None:
    """Warn if always predicting the most frequent class scores higher than the dense model.

    The reason may be that the model numbers the classes in another order than the data.
    """
    if majority is not None and task.metric == "accuracy" and dense_score < majority:
        print(
            f"warning: the dense model scores below the most frequent class's share, {majority:.2f}: are the classes in the "
            "order that it was trained with (custom data: task.label_names)?"
        )


def warn_of_chance(task: Task, dense_score: float, vocabulary: int) -> None:
    """Warn if a language model predicts tokens worse than random guessing; the reason may be the tokenizer of another model."""
    if task.metric in PERPLEXITIES and dense_score > vocabulary:
        print(
            f"warning: the dense model's perplexity is above {vocabulary}, its vocabulary: is the tokenizer beside it its own?"
        )


def calibrated(config: CellConfig, subject: Subject) -> PruningData:
    """Return the data that a cell's method reads; cells with the same calibration set get the same object, to share its contents.

    Raises:
        UserError: the device does not support the precision, or the calibration set can't be drawn or read.
    """
    if config.precision == "reduced":
        check_reduced(subject.device, torch.float32)
    labels = "labels" in config.method.build().needs
    key = (config.calibration, config.seed, labels, config.force, config.precision)
    if key not in subject.data:
        fingerprinted = fingerprint(subject.task, subject.checkpoint.digest, config.seed)
        subject.data[key] = PruningData(
            calibration_for(config.calibration, config.seed, subject, labels),
            lambda: subject.task.training(subject.tokenizer),
            cache_folder() / "trainings" / f"{subject.task.name}-{fingerprinted}",
            config.seed,
            config.force,
            config.precision,
        )
    return subject.data[key]


def vocabulary_for(config: CellConfig, subject: Subject) -> Vocabulary | None:
    """Return the cut vocabulary of a cell's pruned model; None if the cell keeps every token.

    Cells with the same vocabulary get the same object.

    Raises:
        UserError: the texts can't be read, or the vocabulary of the model or the tokenizer can't be cut.
    """
    if config.vocabulary is None:
        return None
    key = (config.vocabulary, config.calibration, config.seed)
    if key not in subject.vocabularies:
        texts = vocabulary_texts(config.vocabulary, config, subject)
        subject.vocabularies[key] = vocabulary_of(subject.model, subject.tokenizer, texts)
    return subject.vocabularies[key]


def vocabulary_texts(name: str, config: CellConfig, subject: Subject) -> list[Text]:
    """Return the texts of the file `name`, or lists of the token ids of the calibration set or of all training examples."""
    if name == CALIBRATION:
        return [example["input_ids"] for example in calibrated(config, subject).calibration.examples]
    if name == TRAINING:
        return [example["input_ids"] for example in subject.task.training(subject.tokenizer)]
    return list(read_file(Path(name).expanduser(), "vocabulary", lines=True).documents)


def calibration_for(calibration: CalibrationSettings, seed: int, subject: Subject, labels: bool) -> CalibrationSet:
    """Read or draw a cell's calibration set."""
    if calibration.file:
        return read_calibration(calibration.file, subject.task, subject.tokenizer, subject.model, labels)
    return draw_calibration(subject.task, subject.tokenizer, calibration, seed, labels)


def flops_length(from_file: bool, task: Task, tokenizer, calibration: CalibrationSet) -> float:
    """Return the length of a sequence, in tokens, at which FLOPs are counted.

    It is the mean over the calibration set if this comes from a file, else the result of `average_length`.
    """
    if from_file:
        return calibration.sequence_length
    return average_length(task, task.training(tokenizer))


def pick_device(name: str) -> torch.device:
    """Return the device of a name, and make it torch's current device if it is named as a GPU.

    `auto` is the GPU if there is one, else the CPU.

    Raises:
        UserError: the device is unknown, does not exist, or does not compute in float64.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not computes_in_float64(name):
        raise UserError(f"device={name} is not to be had here, or has no float64: use device=auto or device=cpu")
    device = torch.device(name)
    if device.type == "cuda":
        # torch.cuda.set_device needs an index.
        device = device if device.index is not None else torch.device("cuda", torch.cuda.current_device())
        torch.cuda.set_device(device)  # calls without a device, such as torch.cuda.synchronize(), use it
    return device
