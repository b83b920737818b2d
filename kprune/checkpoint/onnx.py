"""ONNX export, with any batch and any length up to the model's positions."""

import contextlib
import importlib.util
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from kprune.errors import UserError
from kprune.models.view import longest_input, needs_token_types
from kprune.objectives import reads_choices
from kprune.types import Model

NAME = "model.onnx"
LARGEST = 2**31 - 2**20
"""Bytes of weights that fit into one file, with a mebibyte for the program."""


def require_onnx() -> None:
    """Check that the packages that an export needs are installed.

    Raises:
        UserError: one is not.
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"ONNX export needs {package}: pip install '.[onnx]' in a clone of kprune")


def example_inputs(model: Model) -> dict[str, torch.Tensor]:
    """Return inputs to trace a model with: int64 [2, 8] or, if it reads choices, [2, 3, 8], the last one padded; token types if
    the model reads them."""
    names = ["input_ids", "attention_mask"]
    if needs_token_types(model):
        names.append("token_type_ids")
    shape = (2, 3, 8) if reads_choices(model) else (2, 8)
    inputs = {name: torch.ones(shape, dtype=torch.long, device=model.device) for name in names}
    inputs["attention_mask"][..., -1, 5:] = 0
    return inputs


def dynamic_shapes(model: Model) -> dict[str, dict[int, object]]:
    """Return free dimensions for the batch, its choices and length of every input, shared by all, for `torch.export` and
    `torch.onnx`."""
    before = ("batch", "choices") if reads_choices(model) else ("batch",)
    free = [*map(torch.export.Dim, before), torch.export.Dim("length", max=longest_input(model))]
    return {name: dict(enumerate(free)) for name in example_inputs(model)}


def export_onnx(model: Model, file: str | Path) -> Path:
    """Write a model, pruned or not, as one ONNX file; whole or not there.

    Inputs are `input_ids`, `attention_mask` and, for a model that reads them, `token_type_ids`: int64 [batch, length], or of
    multiple choice [batch, choices, length].
    Outputs are named as transformers does: `logits` [batch, labels] or [batch, choices], of a language model [batch, length, vocabulary],
    without a cache; `start_logits` and `end_logits` [batch, length]; of a model without a head, `last_hidden_state` [batch,
    length, d] before any pooling.

    Args:
        file: the .onnx file, or a folder that gets a model.onnx.

    Raises:
        UserError: onnx or onnxscript is not installed, the model is larger than one file can be, or it can't be written.
    """
    require_onnx()
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if size > LARGEST:
        raise UserError(f"the weights are {size / 1e9:.1f} GB, and one ONNX file holds 2 GB: save without onnx")
    file = Path(file) / NAME if Path(file).is_dir() else Path(file)
    training, cache = model.training, getattr(model.config, "use_cache", None)
    inputs = example_inputs(model)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{file.name}-", dir=file.parent) as temporary, _silent():
            if cache is not None:
                # Of layers with different numbers of key/value heads, runtimes have no cache.
                model.config.use_cache = False
            with torch.no_grad():
                outputs = list(model.eval()(**inputs, return_dict=True))
            program = torch.onnx.export(
                model,
                kwargs=inputs,
                dynamic_shapes=dynamic_shapes(model),
                dynamo=True,
                verbose=False,
                input_names=list(inputs),
                output_names=outputs,
            )
            assert program is not None, "the exporter of torch.export gives a program"
            program.save(Path(temporary) / NAME, external_data=False)
            os.replace(Path(temporary) / NAME, file)
    except OSError as error:
        raise UserError(f"{file} can't be written ({error}): free the disk or give another folder") from error
    finally:
        model.train(training)
        if cache is not None:
            model.config.use_cache = cache
    return file


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silence the exporter, which warns of packages that it would use for other models."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
