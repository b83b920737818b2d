"""Load a pruned model that `save` wrote. Nothing that a folder's config says is trusted before the weights agree with it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import GenerationConfig

from kprune.checkpoint import format_1
from kprune.checkpoint.classes import auto_map, check_units, pruned_entries, stock_config
from kprune.checkpoint.gguf import NAME as GGUF
from kprune.errors import UserError, one_line
from kprune.files import check_readable
from kprune.models import view_of
from kprune.models.config import config_from
from kprune.models.families import FAMILIES, family_names
from kprune.models.modeling_kprune import PREFIX, pruned_class
from kprune.quiet import quiet_transformers
from kprune.types import Model

CONFIG, WEIGHTS, GENERATION = "config.json", "model.safetensors", "generation_config.json"
SHARDS = f"{WEIGHTS}.index.json"
LARGEST = 2**24
"""The largest whole number that is accepted in a setting that may be a size."""
THETA = "rope_theta"
"""A setting that is no size: the base of rotary positions' frequencies."""
AUTO_MAP = re.compile(rf"([\w.-]+/[\w.-]+--)?modeling_kprune\.{PREFIX}\w+")
"""The classes that a config may name: of the shipped file, in the folder or in a repository of the hub. None is imported."""
ATTENTION = (None, "eager", "sdpa")
"""The implementations of attention that are transformers' own; another one is a package or a kernel to be fetched."""
SIZES = ("vocab_size", "hidden_size", "embedding_size", "type_vocab_size")
"""Settings that are a dimension of some weight. They are checked first, since building a model allocates memory by some of them."""
FLOATS = ("F64", "F32", "F16", "BF16")
NOT_SETTINGS = ("dtype", "torch_dtype", "auto_map", "name_or_path")
"""Entries that say how to load, which is decided here."""


def load(folder: str | Path) -> Model:
    """Return the pruned model in a folder, float32, in evaluation mode.

    The class comes from the installed kprune, so no code in the folder is run; of its files, config.json, the weights and
    generation_config.json are read. Sizes in the config are compared with the weights' before either is built or read.

    Raises:
        UserError: a file is missing or damaged, the folder may not be read, the config is not as kprune writes it, or its widths
            are not those of the weights.
    """
    folder = Path(folder)
    check_readable(folder)
    _check_files(folder)
    values = _read_json(folder / CONFIG)
    stock = _stock_class_of(folder, values)
    try:
        with quiet_transformers():
            model = _load(folder / WEIGHTS, values, stock)
            if model.can_generate() and (folder / GENERATION).is_file():
                model.generation_config = _generation_config(_read_json(folder / GENERATION))
            return model
    except UserError:
        raise
    # Whatever transformers, torch or safetensors make of files that kprune did not write.
    except Exception as error:
        raise UserError(f"{folder} does not load ({one_line(error, 300)}): save it again with this kprune") from error


def _check_files(folder: Path) -> None:
    """Check that a folder has the files that are read.

    Raises:
        UserError: one is missing.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            if (folder / GGUF).is_file():
                raise UserError(f"{folder} holds {GGUF}, for llama.cpp: save with format='pruned' to load it")
            if (folder / SHARDS).is_file():
                raise UserError(
                    f"{folder} has its weights in several files, and kprune reads one: load it with from_pretrained(..., "
                    "trust_remote_code=True), and save it with a larger max_shard_size"
                )
            raise UserError(f"{folder} has no {name}: give a folder that kprune saved")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"a {type(values).__name__} in place of settings")
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({one_line(error)}): save the model again") from error
    return values


def _stock_class_of(folder: Path, values: dict[str, Any]) -> Any:
    """Return the transformers class that the model in a folder was pruned from.

    Raises:
        UserError: the folder holds something else.
    """
    names, family = values.get("architectures"), values.get("model_type")
    name = names[0] if isinstance(names, list) and names else names
    if not isinstance(name, str) or not re.fullmatch(rf"{PREFIX}\w+", name):
        raise UserError(f"{folder} holds {one_line_of(name)}, not a pruned model: load it with transformers")
    if not isinstance(family, str) or family not in FAMILIES:
        raise UserError(f"{folder} is of the family {one_line_of(family)}: this kprune knows {family_names()}")
    stock: Any = getattr(transformers, name.removeprefix(PREFIX), None)
    known = isinstance(stock, type) and issubclass(stock, transformers.PreTrainedModel)
    if not known or getattr(stock.config_class, "model_type", None) != family:
        raise UserError(f"{folder} holds '{name}', and {family} has no such model: save it again")
    return stock


def one_line_of(value: Any) -> str:
    """Return a value of a config as a message shows it."""
    return "nothing" if value is None else f"'{' '.join(str(value).split())[:80]}'"


def _load(weights: Path, values: dict[str, Any], stock: Any) -> Model:
    kind: Any = pruned_class(stock)
    shapes = _shapes(weights)
    longest = max((size for shape in shapes.values() for size in shape), default=0)
    config = _checked_config(values, stock, longest)
    _compare_sizes(config, shapes, longest)
    # Without memory: not all settings have been compared with the weights yet.
    with torch.device("meta"):
        skeleton = kind(config)
        plain = stock(stock_config(config))
    _compare_entries(config, skeleton, stock)
    _compare_shapes(skeleton, shapes)
    check_units(view_of(skeleton), view_of(plain))
    # By its weights, not by its folder: transformers would read other files there, such as an adapter's config or an index.
    model, info = kind.from_pretrained(
        None,
        config=config,
        state_dict=load_file(weights),
        dtype="float32",
        local_files_only=True,
        output_loading_info=True,
    )
    wrong = [*info["missing_keys"], *info["unexpected_keys"]]
    if wrong:
        raise ValueError(f"config.json and model.safetensors disagree about {min(wrong)}")
    return model.eval()


def _checked_config(values: dict[str, Any], stock: Any, longest: int) -> Any:
    """Return the config of a pruned model, in format 2.

    Args:
        longest: the largest dimension of a weight.

    Raises:
        ValueError: an entry is not one that kprune writes, or asks for code or files from elsewhere.
    """
    for name, value in values.items():
        if "attn_implementation" in name and not isinstance(value, bool) and value not in ATTENTION:
            raise ValueError(f"config.json asks for {name}={one_line_of(value)}, which is none of transformers' own")
        if name == "quantization_config" and value is not None:
            raise ValueError("config.json has a quantization_config, and pruned models are not quantized")
    own = stock.config_class().to_dict()
    # Settings that the class does not have, such as a user's own, are read by nobody.
    _check_numbers(
        {name: values[name] for name in ("kprune", *own, *stock.config_class.attribute_map) if name in values}
    )
    classes = values.get("auto_map") or {}
    if not isinstance(classes, dict) or not all(AUTO_MAP.fullmatch(str(name)) for name in classes.values()):
        raise ValueError("config.json has an auto_map to code that is not kprune's")
    settings = {name: value for name, value in values.items() if name[:1] != "_" and name not in NOT_SETTINGS}
    for name in settings:
        # What a config can do is not overwritten by what it holds.
        if not name.isidentifier() or (name not in own and callable(getattr(stock.config_class, name, None))):
            raise ValueError(f"config.json has an entry {one_line_of(name)}, which is no setting")
    labels = settings.get("num_labels", 1)
    if type(labels) is not int or not 0 < labels <= longest:  # a config makes a name for every one
        raise ValueError(f"config.json says num_labels={one_line_of(labels)}, and the weights have {longest} at most")
    config = config_from(stock.config_class, settings)
    format_1.convert(config)
    config.auto_map = auto_map(config, stock)
    return config


def _generation_config(values: dict[str, Any]) -> GenerationConfig:
    """Return the settings of generation that a file has, those that transformers knows alone."""
    known = GenerationConfig().to_dict()
    return GenerationConfig.from_dict({name: value for name, value in values.items() if name in known})


def _check_numbers(values: dict[str, Any]) -> None:
    for number in _whole_numbers(values):
        if abs(number) > LARGEST:
            raise ValueError(f"config.json has the number {str(number)[:20]}, which is no size of a model")


def _whole_numbers(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name != THETA:
                yield from _whole_numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _whole_numbers(inner)


def _shapes(weights: Path) -> dict[str, list[int]]:
    """Return the shape of every weight, from the file's header alone.

    Raises:
        ValueError: the weights are of a type that kprune does not write.
    """
    shapes = {}
    with safe_open(weights, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (not a dict)
            piece = file.get_slice(name)
            if piece.get_dtype() not in FLOATS:
                raise ValueError(f"{name} is {piece.get_dtype()}, and weights are {', '.join(FLOATS)}")
            shapes[name] = piece.get_shape()
    return shapes


def _compare_sizes(config: Any, shapes: dict[str, list[int]], longest: int) -> None:
    """Check that a config's sizes are some that the weights have.

    Raises:
        ValueError: one is larger than any weight's, or the numbers of layers differ.
    """
    # DistilBERT computes this table, if it is no weight, while it is built.
    computed = ("max_position_embeddings",) if getattr(config, "sinusoidal_pos_embds", False) else ()
    for name in (*SIZES, *computed):
        size = getattr(config, name, None)
        if size is not None and (type(size) is not int or not 0 <= size <= longest):
            raise ValueError(f"config.json says {name}={one_line_of(size)}, and the weights have {longest} at most")
    path = re.escape(FAMILIES[config.model_type].layers)
    numbers = [re.search(rf"(?:^|\.){path}\.(\d{{1,6}})\.", name) for name in shapes]
    layers = 1 + max((int(number[1]) for number in numbers if number), default=-1)
    if config.num_hidden_layers != layers:
        raise ValueError(f"config.json lists {one_line_of(config.num_hidden_layers)} layers, the weights have {layers}")


def _compare_entries(config: Any, model: Model, stock: Any) -> None:
    """Check that a config lists what `save` would list of the model that is built by it.

    Raises:
        ValueError: it lists something else.
    """
    written, read = pruned_entries(view_of(model), stock)["kprune"], config.kprune
    for table in ("modules", "emptied", "heads"):
        ours, theirs = written.get(table, {}), read.get(table, {})
        wrong = {path for path in ours | theirs if ours.get(path) != theirs.get(path)}
        if wrong:
            raise ValueError(f"config.json lists {min(wrong)} among kprune.{table}, and its family has no such module")
    if read["layers"] != written["layers"] or not read["attributes"].items() <= written["attributes"].items():
        raise ValueError("config.json lists attributes or layers that its family does not have")


def _compare_shapes(model: nn.Module, shapes: dict[str, list[int]]) -> None:
    """Check that a model's weights are those of a file, in which tied weights have one name.

    Raises:
        ValueError: a name or a shape differs.
    """
    built = model.state_dict(keep_vars=True)
    there = {id(weight) for name, weight in built.items() if name in shapes}
    wrong = [name for name, weight in built.items() if id(weight) not in there]
    wrong += [name for name, shape in shapes.items() if name not in built or list(built[name].shape) != shape]
    if wrong:
        raise ValueError(f"config.json and model.safetensors disagree about {min(wrong)}")
