"""ONNX export, with any batch and any length up to the model's positions, and weights of 32 or of eight bits."""

import contextlib
import importlib.util
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch

from kprune.errors import UserError
from kprune.models.inputs import longest_input, needs_token_types
from kprune.objectives import reads_choices
from kprune.types import Model

NAME = "model.onnx"
Onnx = bool | Literal["int8"]
"""Whether a model is written as model.onnx; "int8": with weights of eight bits."""
PACKAGES: dict[Onnx, tuple[str, ...]] = {
    False: (),
    True: ("onnx", "onnxscript"),
    "int8": ("onnx", "onnxscript", "onnxruntime"),
}
"""What each kind of file needs."""
LARGEST = 2**31 - 2**20
"""Bytes of weights that fit into one file, with a mebibyte for the program."""


def check_onnx(onnx: Onnx) -> None:
    """Check that an export can be made.

    Raises:
        UserError: `onnx` is no kind of export, or a package that it needs is not installed.
    """
    if onnx not in tuple(PACKAGES):
        raise UserError(f"onnx={onnx} is unknown: use true, or int8 for weights of eight bits")
    for package in PACKAGES[onnx]:
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


def export_onnx(model: Model, file: str | Path, int8: bool = False) -> Path:
    """Write a model, pruned or not, as one ONNX file; after an error, no part of the file is left.

    Inputs are `input_ids`, `attention_mask` and, for a model that reads them, `token_type_ids`: int64 [batch, length], or of
    multiple choice [batch, choices, length].
    Outputs are named as transformers does: `logits` [batch, labels] or [batch, choices], of a language model [batch, length, vocabulary],
    without a cache; `start_logits` and `end_logits` [batch, length]; of a model without a head, `last_hidden_state` [batch,
    length, d] before any pooling.

    Args:
        file: the .onnx file, or a folder that gets a model.onnx.
        int8: write weights in eight bits, with a scale for each output of a product and one for each table of embeddings; the inputs
            of products are rounded to eight bits while the model runs (onnxruntime's dynamic quantisation). The model's inputs and
            outputs have the same types as without `int8`.

    Raises:
        UserError: a package is not installed, the model is larger than one file can be, or it can't be written.
    """
    check_onnx("int8" if int8 else True)
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if size > LARGEST:
        raise UserError(f"the weights are {size / 1e9:.1f} GB, and one ONNX file holds 2 GB: save without onnx")
    file = Path(file) / NAME if Path(file).is_dir() else Path(file)
    training, cache = model.training, getattr(model.config, "use_cache", None)
    inputs = example_inputs(model)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{file.name}-", dir=file.parent) as temporary, _silent():
            if cache is not None:
                # Runtimes have no cache for layers with different numbers of key/value heads.
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
            whole = Path(temporary) / NAME
            program.save(whole, external_data=False)
            os.replace(_in_eight_bits(whole) if int8 else whole, file)
    except OSError as error:
        raise UserError(f"{file} can't be written ({error}): free the disk or give another folder") from error
    finally:
        model.train(training)
        if cache is not None:
            model.config.use_cache = cache
    return file


def _in_eight_bits(file: Path) -> Path:
    """Write an ONNX file's weights in eight bits into a file beside it."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantised = file.with_name("int8.onnx")
    quantize_dynamic(file, quantised, weight_type=QuantType.QInt8, per_channel=True)
    return quantised


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silence the exporter, which warns of packages that it would use for other models, and onnxruntime, which warns at the root."""
    loggers = [logging.getLogger("torch.onnx"), logging.getLogger()]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
