"""Save a pruned model so that plain transformers loads it where kprune is not installed."""

import copy
import json
import os
import re
from pathlib import Path
from typing import Any

from kprune.checkpoint.classes import DENSE, UNIFORM, become_pruned, check_saveable, is_pruned
from kprune.checkpoint.dense import densified
from kprune.checkpoint.gguf import NAME as GGUF
from kprune.checkpoint.gguf import PRECISIONS, check_gguf, require_gguf, write_gguf
from kprune.checkpoint.onnx import NAME as ONNX
from kprune.checkpoint.onnx import Onnx, check_onnx, export_onnx
from kprune.checkpoint.rotary import add_older_names
from kprune.checkpoint.uniform import narrow_stock
from kprune.errors import UserError
from kprune.files import check_movable, check_readable, whole_folder
from kprune.plan import Plan
from kprune.quiet import quiet_transformers
from kprune.types import Model
from kprune.wrappers import rewrapped, unwrapped, wrapper_of

FORMATS = ("pruned", "uniform", "dense", *PRECISIONS)
OURS = re.compile(
    r"config\.json|generation_config\.json|modeling_kprune\.py|README\.md|model\.onnx|model\.gguf|"
    r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?|"
    r"modules\.json|(config_)?sentence_\w+\.json|\d+_[A-Z]\w*"
)
"""Files of a saved model that must not outlive it, and what sentence-transformers adds to them."""
TOKENIZERS = re.compile(
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|vocab\.txt|merges\.txt|"
    r"[\w.-]+\.model|chat_template\.(jinja|json)|additional_chat_templates"
)
"""Files of a tokenizer, which must not outlive it when another one is saved."""


def check_format(format: str, onnx: Onnx = False) -> None:
    """Check what `save` would refuse, before a model is pruned.

    Raises:
        UserError: the format, or the kind of ONNX file, is unknown, or a package that it needs is missing.
    """
    if format not in FORMATS:
        raise UserError(f"format={format} is unknown: use {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if format in PRECISIONS:
        require_gguf()
    check_onnx(onnx)


def natural_format(model: Model, plan: Plan) -> str:
    """Return the format to save a model in if none is asked for.

    It is "pruned" for a model of a pruned class; for any other, "dense" if the plan has zeros among the weights, else "uniform".
    """
    if is_pruned(type(model)):
        return "pruned"
    return "dense" if plan.sparsity else "uniform"


def check_kind(model: Model, format: str, tokenizer: Any = None) -> None:
    """Check, before a model is pruned, that the pruned model can be saved in a format.

    Raises:
        UserError: no model of this kind, or with this tokenizer, can be.
    """
    if format in PRECISIONS:
        check_gguf(model, tokenizer)


def save(
    model: Any,
    folder: str | Path,
    tokenizer: Any = None,
    card: str | None = None,
    format: str = "pruned",
    plan: Plan | None = None,
    onnx: Onnx = False,
) -> Path:
    """Write safetensors, config, tokenizer and model card; a folder that plain transformers loads.

    The folder is written under a temporary name and moved, so that it is either whole or not there. A folder that kprune saved
    before is replaced; files in it that do not belong to a saved model, such as a Trainer's checkpoints, stay.

    Args:
        model: of transformers, or one of sentence-transformers around it, which writes its own files and its tokenizer, too.
        card: text of the model card, README.md.
        format: "pruned" (small and fast; the widths in the config and a self-contained modeling file, loaded with
            trust_remote_code=True), "uniform" (the stock class, small and fast, if all layers are alike), "dense" (the stock
            architecture with zeros in place of removed units; no code, no speed-up), "gguf" or "gguf-f32" (model.gguf for
            llama.cpp, its matrices in float16 or float32).
        plan: for "dense", says the place of every unit, as `densified` reads it.
        onnx: write the pruned model as model.onnx, too; "int8": with weights of eight bits.

    Raises:
        UserError: the format is unknown or one that this model can't have, `tokenizer` can't be saved, transformers could not build
            the model again, or the folder holds something else or can't be written to.
    """
    check_format(format, onnx)
    if tokenizer is not None and not hasattr(tokenizer, "save_pretrained"):
        raise UserError(
            f"tokenizer is a {type(tokenizer).__name__}: give one, such as AutoTokenizer.from_pretrained(...)"
        )
    inner = unwrapped(model)
    check_kind(inner, format, tokenizer)
    check_saveable(inner)
    folder = Path(folder)
    if ".." in folder.parts:
        # A folder before `..` need not exist, and is not made.
        folder = Path(os.path.realpath(folder))
    check_replaceable(folder)
    own = re.compile(f"{OURS.pattern}|{TOKENIZERS.pattern}") if tokenizer is not None or wrapper_of(model) else OURS
    with whole_folder(folder, keep=lambda name: not own.fullmatch(name)) as temporary:
        with quiet_transformers():
            _write(model, temporary, tokenizer, format, plan)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        if card is not None:
            (temporary / "README.md").write_text(card, encoding="utf-8")
        if onnx:
            export_onnx(inner, temporary / ONNX, int8=onnx == "int8")
    return folder


def _write(model: Any, folder: Path, tokenizer: Any, format: str, plan: Plan | None) -> None:
    """Write a model's weights and config."""
    inner = unwrapped(model)
    if format in PRECISIONS:
        write_gguf(inner, folder / GGUF, tokenizer, PRECISIONS[format])
        # The config says what the model was pruned to, and that the folder is one of kprune's.
        _as_pruned(inner).config.save_pretrained(folder)
        return
    if format == "uniform":
        written = narrow_stock(inner)
    else:
        written = densified(inner, plan) if format == "dense" else _as_pruned(inner)
    if wrapper_of(model):
        rewrapped(model, written).save_pretrained(str(folder), create_model_card=False)
    else:
        written.save_pretrained(folder)
    if format in ("uniform", "dense"):
        add_older_names(folder / "config.json")


def _as_pruned(model: Model) -> Model:
    """Return the same modules and weights under the modeling file's class; the model passed in stays what it is."""
    shell = copy.copy(model)
    shell.config = copy.deepcopy(model.config)
    return become_pruned(shell)


def check_replaceable(folder: Path) -> None:
    """Check that a folder is free for a pruned model, or holds an earlier one.

    Raises:
        UserError: it is a file or holds something else, or for the reasons that `check_readable` and `check_movable` name.
    """
    if os.path.exists(folder) and not os.path.isdir(folder):  # Path.exists raises if it may not look
        raise UserError(f"{folder} is a file: give a folder")
    check_movable(folder)
    check_readable(folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        ours = any(entry in config for entry in ("kprune", DENSE, UNIFORM, "kprune_format"))
    except (OSError, ValueError, TypeError, RecursionError):
        ours = False
    if not ours:
        raise UserError(f"{folder} holds files that kprune did not save: give another folder or empty it")
