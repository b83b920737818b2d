"""Checkpoints loaded, and what is checked before one is."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoTokenizer

from experiments.inputs.checkpoints.weights import check_weights
from experiments.tasks.base import Task
from kprune import checkpoint as pruned
from kprune.errors import UserError, one_line
from kprune.models.families import FAMILIES
from kprune.quiet import quiet_transformers

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Settings of a config that say how many experts a layer has."""
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json")


def load_model(folder: str | Path, task: Task) -> nn.Module:
    """Return the fine-tuned model in a folder, dense or pruned by kprune, float32, in evaluation mode.

    Raises:
        UserError: files are missing or damaged, a weight is not finite, the family is not supported, or the head is not
            the task's.
    """
    folder = Path(folder)
    config = _read_config(folder)
    _check_head(folder, config, task)
    check_weights(folder)
    if config["architectures"][0].startswith("Pruned"):
        return pruned.load(folder)
    model, info = _from_pretrained(folder, task)
    missing = sorted([*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])])
    if missing:
        raise UserError(
            f"{folder}: the weights lack {missing[0]} or have it in another shape, so the head is not "
            f"one for {task.name}: give model.checkpoint=FOLDER of a model fine-tuned on it"
        )
    return model


def load_pretrained(folder: str | Path, task: Task) -> nn.Module:
    """Return a pretrained encoder in float32 with a fresh head for the task.

    Raises:
        UserError: files are missing or damaged, a weight is not finite, or the family is not supported.
    """
    folder = Path(folder)
    config = _read_config(folder)
    _check_family(folder, config)
    _check_has_class(folder, config, task)
    task.fit(positions_of(config), str(folder))
    check_weights(folder)
    head = {}
    if task.label_names is not None:
        head = {
            "num_labels": task.num_labels,
            "id2label": dict(enumerate(task.label_names)),
            "label2id": {name: i for i, name in enumerate(task.label_names)},
            "problem_type": "regression" if task.num_labels == 1 else "single_label_classification",
        }
    model, info = _from_pretrained(folder, task, **head)
    body = sorted(
        key for key in info["missing_keys"] if key.startswith(model.base_model_prefix + ".") and ".pooler." not in key
    )
    if body:
        raise UserError(
            f"{folder}: the weights lack {body[0]}, the encoder is incomplete: give another model.pretrained"
        )
    return model


def load_tokenizer(folder: str | Path):
    """Return the tokenizer in a checkpoint's folder.

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
        raise UserError(f"{folder}: the tokenizer does not load ({one_line(error)}): save it again") from error
    vocabulary = _read_config(folder).get("vocab_size")
    # Ids may have gaps, so that the number of tokens does not tell the largest.
    tokens = 1 + max(tokenizer.get_vocab().values(), default=-1)
    if vocabulary and tokens > vocabulary:
        raise UserError(
            f"{folder}: the tokenizer has {tokens} tokens, the model {vocabulary}: put the model's own tokenizer there"
        )
    return tokenizer


def _from_pretrained(folder: Path, task: Task, **head) -> tuple[nn.Module, dict[str, Any]]:
    try:
        with quiet_transformers():
            model, info = getattr(transformers, task.objective.auto_class).from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **head,
            )
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder} does not load ({one_line(error)}): give another checkpoint") from error
    return model.eval(), info


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no config.json: give the folder of a transformers checkpoint") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}/config.json is damaged ({one_line(error)}): copy the checkpoint again") from error
    if not isinstance(config, dict):
        raise UserError(f"{folder}/config.json is damaged (not an object): copy the checkpoint again")
    return config


def _check_family(folder: Path, config: dict[str, Any]) -> None:
    family = config.get("model_type")
    if any(config.get(name) for name in EXPERTS):
        raise UserError(f"{folder} is a mixture of experts, which is not supported: give a model with one FFN a layer")
    if quantised := config.get("quantization_config"):
        how = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else "unknown"
        raise UserError(
            f"{folder} is quantised ({how}), and rounded weights can't be measured and solved with: give the checkpoint that "
            "it was made from, in float32 or half precision"
        )
    if family not in FAMILIES:
        raise UserError(f"{folder}: model family '{family}' is not supported: use one of {', '.join(FAMILIES)}")


def _check_head(folder: Path, config: dict[str, Any], task: Task) -> None:
    """Check the config's family, head, labels and positions against the task's."""
    _check_family(folder, config)
    wanted = task.objective.class_suffixes
    architecture = (config.get("architectures") or [""])[0]
    if not architecture.endswith(wanted):
        remedy = (
            "give model.checkpoint=FOLDER of a model fine-tuned on it"
            if task.fine_tuned
            else "give a language model, such as model=smollm2"
        )
        raise UserError(
            f"{folder} holds {architecture or 'a model without a named head'}, {task.name} needs one {wanted[0]}: {remedy}"
        )
    task.fit(positions_of(config), str(folder))
    if task.generates:
        _check_sliding(folder, config, task)
    if task.label_names is None:
        return
    names = config.get("id2label") or {}
    count = len(names) or config.get("num_labels") or 2  # transformers' own default
    if count != task.num_labels:
        raise UserError(
            f"{folder} has {count} labels, {task.name} has {task.num_labels}: "
            f"give model.checkpoint=FOLDER of a model fine-tuned on it"
        )
    ours = [name.lower() for name in task.label_names]
    theirs = [str(names[key]).lower() for key in sorted(names, key=int)]
    if theirs and theirs != ours and sorted(theirs) == sorted(ours):
        raise UserError(
            f"{folder} has its labels in another order ({', '.join(theirs)}) than {task.name} "
            f"({', '.join(ours)}): give a checkpoint with the task's order"
        )


def _check_has_class(folder: Path, config: dict[str, Any], task: Task) -> None:
    """Check that transformers has a class of the family with the task's head."""
    family, head = config["model_type"], task.objective
    classes = getattr(transformers, head.auto_class)._model_mapping
    if transformers.CONFIG_MAPPING[family] not in classes:
        raise UserError(
            f"{folder}: transformers has no {family} model {head.class_suffix}, which {task.name} needs: give another model"
        )


def _check_sliding(folder: Path, config: dict[str, Any], task: Task) -> None:
    """Check that no layer of a decoder attends to fewer tokens than an example has: its costs are counted for all of them."""
    window = config.get("sliding_window")
    slides = "sliding_attention" in (config.get("layer_types") or ["sliding_attention"])
    if window and slides and config.get("use_sliding_window", True) and window < task.max_length:
        raise UserError(
            f"{folder} attends through a sliding window of {window} tokens, which is not supported for longer examples: give "
            f"task.window={window} or less"
        )


def positions_of(config: dict[str, Any]) -> int | None:
    """Return the tokens of the longest input by a model's config.json; None if it does not say."""
    positions, family = config.get("max_position_embeddings"), FAMILIES.get(config.get("model_type", ""))
    if positions and family and family.positions_after_padding:
        padding = config.get("pad_token_id")
        return positions - 1 - (1 if padding is None else padding)  # 1 is these families' own
    return positions
