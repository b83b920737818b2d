"""Loading checkpoints, and the checks before one is loaded."""

import copy
import json
import math
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from experiments.inputs.checkpoints.outputs import outputs_of, reorder
from experiments.inputs.checkpoints.weights import check_weights, shapes_in, weight_files
from experiments.tasks.base import Task
from experiments.tasks.labels import shown
from kprune import checkpoint as pruned
from kprune.checkpoint.loading import ATTENTION
from kprune.checks import check_layers, reads_padding
from kprune.errors import UserError, one_line
from kprune.models import view_of
from kprune.models.families import FAMILIES, family_names
from kprune.models.modeling_kprune import pruned_class
from kprune.quiet import quiet_transformers

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Settings of a config with the number of experts in a layer."""
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json")
ADAPTER = "adapter_config.json"
SIZE = re.compile(r"(?:^|_)(?:size|dim|inner|embd|num_labels|(?:hidden_)?layers?|heads?)$")
"""Names of settings that are a dimension of a weight, or that count modules with weights."""


def load_model(folder: str | Path, task: Task) -> nn.Module:
    """Return the fine-tuned model in a folder, dense or pruned by kprune, float32, in evaluation mode.

    The outputs are matched with the task's classes by their names and put in the task's order.

    Raises:
        UserError: files are missing or damaged, a weight is not finite, the family is not supported, or the head does not fit the
            task.
    """
    folder = Path(folder)
    config = _read_config(folder)
    _check_head(folder, config, task)
    outputs = outputs_of(folder, config, task)
    check_weights(folder)
    model = pruned.load(folder) if _architecture(config).startswith("Pruned") else _load_dense(folder, task)
    if outputs:
        was = [model.config.id2label[output] for output in range(len(outputs))]
        print(f"{folder}: outputs {shown(was)} put in the order of {task.name}: {shown(task.label_names)}")
        reorder(model, outputs)
    return model


def output_order(folder: str | Path, task: Task) -> list[int] | None:
    """Return for each class of the task the number of the checkpoint's output; None if the outputs are in the task's order.

    Raises:
        UserError: config.json is missing or damaged, or the outputs don't fit the task's classes.
    """
    return outputs_of(Path(folder), _read_config(Path(folder)), task)


def _load_dense(folder: Path, task: Task) -> nn.Module:
    model, info = _from_pretrained(folder, task)
    missing = sorted([*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])])
    if missing:
        raise UserError(
            f"{folder}: the weights lack {missing[0]} or have it in another shape, so the head is not "
            f"one for {task.name}: give {task.wanted_model}"
        )
    return model


def load_pretrained(folder: str | Path, task: Task) -> nn.Module:
    """Return a pretrained encoder, dense or pruned by kprune, in float32 with a new random head for the task.

    Raises:
        UserError: files are missing or damaged, a weight is not finite, the family is not supported or has no class for the task's
            head, or the encoder reads fewer tokens than the task asks for.
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
            "problem_type": task.objective.problem_type,
        }
    if _architecture(config).startswith("Pruned"):
        return _with_fresh_head(pruned.load(folder), task, head)
    model, info = _from_pretrained(folder, task, **head)
    body = sorted(
        key for key in info["missing_keys"] if key.startswith(model.base_model_prefix + ".") and ".pooler." not in key
    )
    if body:
        raise UserError(
            f"{folder}: the weights lack {body[0]}, the encoder is incomplete: give another model.pretrained"
        )
    return model


def _with_fresh_head(encoder: PreTrainedModel, task: Task, head: dict[str, Any]) -> nn.Module:
    """Return a pruned model's encoder with a new random head for the task.

    If the head needs a pooler and the encoder has none, the pooler is random, too.
    """
    settings = copy.deepcopy(encoder.config)
    settings.update(head)
    stock = getattr(transformers, task.objective.auto_class)._model_mapping[type(settings)]
    model = pruned_class(stock)(settings)
    model.base_model.load_state_dict(encoder.base_model.state_dict(), strict=False)
    return model.float().eval()


def load_tokenizer(folder: str | Path):
    """Return the tokenizer in a checkpoint's folder.

    Raises:
        UserError: the tokenizer is missing or damaged, or it has a larger id than the model has embeddings.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"{folder} has no tokenizer ({', '.join(TOKENIZER_FILES)}): save it beside the model")
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exceptions
        raise UserError(f"{folder}: the tokenizer does not load ({one_line(error)}): save it again") from error
    vocabulary = _read_config(folder).get("vocab_size")
    # Ids may have gaps, so the largest id counts, not the number of tokens.
    tokens = 1 + max(tokenizer.get_vocab().values(), default=-1)
    if isinstance(vocabulary, int) and 0 < vocabulary < tokens:
        raise UserError(
            f"{folder}: the tokenizer has {tokens} tokens, the model {vocabulary}: put the model's own tokenizer there"
        )
    return tokenizer


def check_padding(folder: str | Path, model: nn.Module, tokenizer: Any, task: Task) -> None:
    """Check that model and tokenizer pad with the same token if the model's head reads the last token before the padding.

    Raises:
        UserError: the model has another padding token than the tokenizer, or none.
    """
    ours, theirs = tokenizer.pad_token_id or 0, model.config.pad_token_id
    if reads_padding(model, task.objective) and ours != theirs:
        has = f"pads with token {ours}" if tokenizer.pad_token_id is not None else "has no padding token"
        raise UserError(
            f"{folder}: the tokenizer {has}, and the model finds the last token of a text by pad_token_id={theirs}: save both with "
            "one (tokenizer.pad_token, model.config.pad_token_id)"
        )


def _from_pretrained(folder: Path, task: Task, **head) -> tuple[nn.Module, dict[str, Any]]:
    _check_sizes(folder, task, _read_config(folder), **head)
    try:
        with quiet_transformers():
            model, info = getattr(transformers, task.objective.auto_class).from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **head,
            )
    except Exception as error:  # transformers and the libraries that it uses raise many types
        raise UserError(f"{folder} does not load ({one_line(error)}): give another checkpoint") from error
    check_layers(folder, model, info["unexpected_keys"])
    return model.eval(), info


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no config.json: give the folder of a transformers checkpoint") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder}/config.json is damaged ({one_line(error)}): copy the checkpoint again") from error
    if not isinstance(config, dict):
        raise UserError(f"{folder}/config.json is damaged (not an object): copy the checkpoint again")
    return config


def _check_family(folder: Path, config: dict[str, Any]) -> None:
    """Check that the family of a config is supported, and that the folder has all weights in full precision and needs no other code.

    Raises:
        UserError: the model is of another family, a mixture of experts, quantised, or needs an adapter or another attention.
    """
    family = config.get("model_type")
    if any(config.get(name) for name in EXPERTS):
        raise UserError(f"{folder} is a mixture of experts, which is not supported: give a model with one FFN a layer")
    if not isinstance(family, str) or family not in FAMILIES:
        raise UserError(f"{folder}: model family '{str(family)[:40]}' is not supported: use one of {family_names()}")
    if (folder / ADAPTER).is_file():
        raise UserError(
            f"{folder} has an {ADAPTER}, so its weights are not all there: merge the adapter into the model "
            "(merge_and_unload in peft) and save it"
        )
    if quantised := config.get("quantization_config"):
        how = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else "unknown"
        raise UserError(
            f"{folder} is quantised ({how}), and quantised weights can't be pruned and fitted: give the checkpoint before "
            "quantisation, in float32 or half precision"
        )
    for name, value in config.items():
        if "attn_implementation" in name and not isinstance(value, bool) and value not in ATTENTION:
            raise UserError(
                f"{folder}/config.json asks for {name}={str(value)[:40]}, which is none of transformers' own: remove the entry"
            )


def _check_sizes(folder: Path, task: Task, config: dict[str, Any], **head) -> None:
    """Check that the model of a config can be pruned, and that its sizes fit the headers of the weights, before memory is allocated.

    Raises:
        UserError: the model can't be built or pruned, or config.json asks for larger or more weights than the files have.
    """
    shapes = [shape for file in weight_files(folder) for shape in shapes_in(file)]
    longest = max((size for shape in shapes for size in shape), default=0)
    for name, value in config.items():
        wrong = isinstance(value, float | str) or (isinstance(value, int) and not 0 <= value <= longest)
        if SIZE.search(name) and wrong:
            raise UserError(
                f"{folder}/config.json says {name}={str(value)[:40]}, and the weights have {longest} at most: copy the "
                "checkpoint again"
            )
    try:
        with quiet_transformers(), torch.device("meta"):
            settings = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **head)
            model = getattr(transformers, task.objective.auto_class).from_config(settings, trust_remote_code=False)
    except Exception as error:  # a wrong config makes transformers raise many types
        raise UserError(f"{folder} does not load ({one_line(error)}): give another checkpoint") from error
    try:
        view_of(model)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error
    needed, there = sum(weight.numel() for weight in model.parameters()), sum(map(math.prod, shapes))
    if needed > 2 * there:  # up to twice, for a missing head and for tied weights
        raise UserError(
            f"{folder}: by config.json the model has {needed} weights, and {there} are there: copy the checkpoint again"
        )


def _check_head(folder: Path, config: dict[str, Any], task: Task) -> None:
    """Check that the family is supported, the head fits the task, and the model reads the task's longest sequence."""
    _check_family(folder, config)
    wanted = task.architectures
    architecture = _architecture(config)
    if not architecture.endswith(wanted):
        raise UserError(
            f"{folder} holds {architecture or 'a model without a named head'}, {task.name} needs one {wanted[0]}: give "
            f"{task.wanted_model}"
        )
    task.fit(positions_of(config), str(folder))
    if task.generates:
        _check_sliding(folder, config, task)


def _architecture(config: dict[str, Any]) -> str:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else ""
    return name if isinstance(name, str) else ""


def _check_has_class(folder: Path, config: dict[str, Any], task: Task) -> None:
    """Check that transformers has a class of the family with the task's head."""
    family, head = config["model_type"], task.objective
    classes = getattr(transformers, head.auto_class)._model_mapping
    if transformers.CONFIG_MAPPING[family] not in classes:
        raise UserError(
            f"{folder}: transformers has no {family} model {head.class_suffixes[0]}, which {task.name} needs: give another model"
        )


def _check_sliding(folder: Path, config: dict[str, Any], task: Task) -> None:
    """Check that each layer of a decoder attends to all tokens of the longest example, as the counts of FLOPs assume."""
    window = config.get("sliding_window")
    slides = "sliding_attention" in (config.get("layer_types") or ["sliding_attention"])
    if window and slides and config.get("use_sliding_window", True) and window < task.max_length:
        raise UserError(
            f"{folder} attends through a sliding window of {window} tokens, which is not supported for longer examples: give "
            f"task.window={window} or less"
        )


def positions_of(config: dict[str, Any]) -> int | None:
    """Return the largest number of tokens that a model reads by its config.json; None if the config does not tell."""
    positions, family = config.get("max_position_embeddings"), FAMILIES.get(config.get("model_type", ""))
    if type(positions) is not int:
        return None
    if positions and family and family.positions_after_padding:
        padding = config.get("pad_token_id")
        return positions - 1 - (padding if isinstance(padding, int) else 1)  # 1 is the default of these families
    return positions
