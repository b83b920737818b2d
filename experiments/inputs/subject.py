"""What the cells of one task and checkpoint share."""

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
    """Data and the dense model.

    Attributes:
        anew: whether the dense model is scored again, although its score is kept.
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
        """Return what the dense model predicts, computed when it is first asked for."""
        task, checkpoint, settings = self.task, self.checkpoint, self.settings.settings
        found = dense_predictions(self.model, task, self.tokenizer, self.device, settings, checkpoint.digest, self.anew)
        print(f"{task.name}: dense {task.metric} {found.score:.2f} ({checkpoint.source} checkpoint)")
        warn_of_little(task, found.score, task.evaluation(self.tokenizer).majority)
        warn_of_chance(task, found.score, len(self.tokenizer))
        return found


def subject_for(config: CellConfig) -> Subject:
    """Return the shared part of a cell; kept for the next cell of the same task and model.

    What is asked for is checked before the dense model is scored.

    Raises:
        UserError: the device is not there, data or checkpoint are wrong, the model reads less than latency asks for, or it is
            to be saved in a format that it can't have, masked in groups that its modules do not have, or to keep the tokens of
            texts that are not to be had; or as `calibrated` says.
        OutOfReach: more is to go than the model's units have, or than the method can remove.
    """
    subject = subject_unscored(config)
    if not config.target.is_sparsity and config.method.build().one_model:  # other cells have no smaller model to time
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
    """Return the shared part of a cell before anything is checked or scored; kept as `subject_for` says.

    Raises:
        UserError: the device is not there, data or checkpoint are wrong.
    """
    device = pick_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    return _subject(config.task, config.model, device, config.force)


def check_latency_point(latency: LatencyPoint | None, model: nn.Module, generates: bool = False) -> None:
    """Raise a UserError if latency is to be measured on longer inputs, and the one token generated more, than the model reads."""
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
    """Warn if the dense model is worse than the most frequent class: its classes may be numbered in another order than the data's."""
    if majority is not None and task.metric == "accuracy" and dense_score < majority:
        print(
            f"warning: the dense model scores below the most frequent class's share, {majority:.2f}: are the classes in the "
            "order that it was trained with (custom data: task.label_names)?"
        )


def warn_of_chance(task: Task, dense_score: float, vocabulary: int) -> None:
    """Warn if a language model predicts tokens worse than by guessing: its tokenizer may be another model's."""
    if task.metric in PERPLEXITIES and dense_score > vocabulary:
        print(
            f"warning: the dense model's perplexity is above {vocabulary}, its vocabulary: is the tokenizer beside it its own?"
        )


def calibrated(config: CellConfig, subject: Subject) -> PruningData:
    """Return what a cell's method reads; one object for all cells with the same calibration set, so that they share what they can.

    Raises:
        UserError: the precision means nothing on the subject's device, or the calibration set can't be drawn or read.
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
    """Return the vocabulary that a cell cuts its pruned model to, one object for all cells with the same; None for the whole one.

    Raises:
        UserError: the texts are not to be had, or model and tokenizer can't be cut.
    """
    if config.vocabulary is None:
        return None
    key = (config.vocabulary, config.calibration, config.seed)
    if key not in subject.vocabularies:
        texts = vocabulary_texts(config.vocabulary, config, subject)
        subject.vocabularies[key] = vocabulary_of(subject.model, subject.tokenizer, texts)
    return subject.vocabularies[key]


def vocabulary_texts(name: str, config: CellConfig, subject: Subject) -> list[Text]:
    """Return the texts of a file, or the tokens of the calibration set or of all training examples."""
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
    """Return the length FLOPs are counted at: the mean of a given file; else as `average_length` has it."""
    if from_file:
        return calibration.sequence_length
    return average_length(task, task.training(tokenizer))


def pick_device(name: str) -> torch.device:
    """Return the device of a name, `auto` being the GPU if there is one; a GPU becomes the current one.

    Raises:
        UserError: the device is unknown, not there, or without float64.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not computes_in_float64(name):
        raise UserError(f"device={name} is not to be had here, or has no float64: use device=auto or device=cpu")
    device = torch.device(name)
    if device.type == "cuda":
        # torch makes a GPU the current one by its index alone.
        device = device if device.index is not None else torch.device("cuda", torch.cuda.current_device())
        torch.cuda.set_device(device)  # what asks for "the" GPU, to wait for it say, means this one
    return device
