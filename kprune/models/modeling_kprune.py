"""Transformers whose layers have different widths. Shipped with every pruned checkpoint: needs torch and transformers alone.

The config of a pruned model has an entry `kprune`, whose paths are below the base model:

- `format`: 2;
- `layers`: path of the list of layers;
- `modules`: {path: [inputs, outputs]}, the size of every linear module of a block;
- `emptied`: {path: arguments}, the modules that stand in for those of a block without units;
- `attributes`: {path: value}, module attributes that hold a width;
- `heads`: {path: {argument: heads}}, attentions that get an argument for all heads of the stock model, such as a relative
  position bias [B, heads, T, T], and the indices of the heads that they keep. Left out if there is no such attention.

`PrunedBertForSequenceClassification`, or any other `Pruned` before the name of a transformers class, is made when it is asked
for: the stock class is built first, then its modules get these sizes. A model saved with `save_pretrained`, as the Trainer
does, takes this file along. Every version of transformers from 4.50 on can use it.
"""

import inspect
from typing import Any

import torch
import transformers
from torch import nn

FORMAT = 2
"""The version of the entry `kprune`. It is raised if older code would read a new checkpoint wrongly."""
PREFIX = "Pruned"
MixedIn: Any = object
"""The base of a class that is only used before a stock class, so its `super()` is a model, not an object."""
OLDEST = (4, 50)
"""The oldest version of transformers that this file was tested with."""
OLDEST_OF = {
    "apertus": (5, 2),
    "cohere2": (4, 53),
    "gemma2": (4, 53),
    "gemma3_text": (5, 0),
    "granitemoehybrid": (5, 13),
    "modernbert-decoder": (5, 0),
    "nemotron": (5, 13),
    "opt": (4, 52),
}
"""By family, the oldest version whose modules take their widths from their weights, compute what the newest one's do, and generate."""
OLDEST_WITHOUT_HEADS = {"biogpt": (4, 54), "gpt2": (4, 52), "gptj": (4, 54), "opt": (4, 54), "stablelm": (4, 54)}
"""By family, the oldest version that unpacks no more values from an attention than one without heads returns."""
FLAGS = ("use_bidirectional_attention",)
"""Settings that some versions ignore, and that are off in most models."""
OLDEST_OF_ROTARY = {"yarn": (4, 56), "longrope": (5, 0)}
"""By the kind of rotary positions, the oldest version that reads all of its settings as the newest does."""
IGNORED_BY_SDPA = {
    "attn_logit_softcapping": (None, (5, 23)),
    "scale_attn_weights": (True, (5, 5)),
    "scale_attn_by_inverse_layer_idx": (False, (5, 5)),
}
"""Settings that attentions by sdpa ignore in some versions: the value at which nothing is ignored, and a version without the fault."""
ROPE_THETAS = {
    "full_attention": ("global_rope_theta", "rope_theta"),
    "sliding_attention": ("local_rope_theta", "rope_local_base_freq"),
}
"""By the type of a layer, the names that transformers 4 has, in one family or another, for the base of its rotary positions."""


def version() -> tuple[int, int]:
    """Return the first two numbers of transformers' version."""
    major, minor = transformers.__version__.split(".")[:2]
    return int(major), int(minor)


def check_version(oldest: tuple[int, int], what: str) -> None:
    """Check that this version of transformers is new enough.

    Raises:
        ValueError: it is not.
    """
    if version() < oldest:
        needed = ".".join(map(str, oldest))
        raise ValueError(f"{what} needs transformers {needed} or newer, this is {transformers.__version__}: upgrade it")


check_version(OLDEST, "a model pruned by kprune")


class OutputBias(nn.Module):
    """Stand in for an output projection without inputs: its bias, for all positions alike; 0 if it has none."""

    def __init__(self, bias: torch.Tensor | None):
        super().__init__()
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.new_zeros(()) if self.bias is None else self.bias.expand(*features.shape[:-1], -1)

    def arguments(self) -> dict[str, Any]:
        """Return what config.json says of this module."""
        return {"bias": None if self.bias is None else len(self.bias)}


class Emptied(nn.Module):
    """Stand in for a module of a block without units.

    Args:
        output: name of the output projection inside the module, of which the bias is left; None if there is none inside: then
            the module returns its input.
        bias: the bias of the output projection inside; None if it has none.
        pair: whether the module returns a second value, as an attention does.
        layer: index of an attention's layer, by which a generating model's cache stores keys and values; None of other modules.
        norm: name of a norm inside the module, applied to the sum of the module's input and the bias; None if there is none.
        module: the norm that `norm` names.
    """

    def __init__(
        self,
        output: str | None,
        bias: torch.Tensor | None,
        pair: bool,
        layer: int | None,
        norm: str | None = None,
        module: nn.Module | None = None,
    ):
        super().__init__()
        self.output, self.pair, self.layer, self.norm = output, pair, layer, norm
        if output is not None:
            self.add_module(output, OutputBias(bias))
        if norm is not None:
            self.add_module(norm, module)

    def forward(
        self,
        hidden_states: torch.Tensor | None = None,
        *args: Any,
        query: torch.Tensor | None = None,
        past_key_values: Any = None,
        past_key_value: Any = None,
        layer_past: Any = None,
        **kwargs: Any,
    ) -> Any:
        # Before transformers 4.57, DistilBERT's attention took its input as `query`, and a decoder's its cache as `past_key_value`;
        # GPT-J's and GPT-NeoX's take it as `layer_past`.
        hidden: Any = query if hidden_states is None else hidden_states
        past_key_values = next((c for c in (past_key_values, past_key_value, layer_past) if c is not None), None)
        # The cache of a decoder that could also read an encoder holds two caches.
        past_key_values = getattr(past_key_values, "self_attention_cache", past_key_values)
        if past_key_values is not None and self.layer is not None:
            # The cache counts positions by its first layer, so a layer without heads must not leave it empty.
            nothing = hidden.new_zeros(*hidden.shape[:1], 1, hidden.shape[1], 1)
            past_key_values.update(nothing, nothing, self.layer)
        result = hidden if self.output is None else self.get_submodule(self.output)(hidden)
        result = result if self.norm is None else self.get_submodule(self.norm)(hidden + result)
        return (result, None) if self.pair else result

    def arguments(self) -> dict[str, Any]:
        """Return what config.json says of this module."""
        bias: Any = None if self.output is None else self.get_submodule(self.output)
        left = {} if bias is None else bias.arguments()
        inside = {} if self.norm is None else {"norm": self.norm}
        return {"output": self.output, "pair": self.pair, "layer": self.layer, **left, **inside}


def stand_in(arguments: dict[str, Any], replaced: nn.Module) -> nn.Module:
    """Build the module that stands in for another one, with a bias of zeros until weights are loaded.

    Raises:
        ValueError: the arguments are not those of a stand-in.
    """
    size = arguments.get("bias")
    if size is not None and (not isinstance(size, int) or size < 1):
        raise ValueError(f"an emptied module's bias has size {size}")
    bias = None if size is None else torch.zeros(size)
    if "output" not in arguments:
        return OutputBias(bias)
    output, layer = arguments["output"], arguments.get("layer")
    if layer is not None and type(layer) is not int:
        raise ValueError(f"an emptied module's layer is {layer}")
    if output is not None and not (isinstance(output, str) and output.isidentifier()):
        raise ValueError(f"an emptied module's output is {output}")
    norm = arguments.get("norm")
    inside = None if norm is None else module_at(replaced, norm)
    if inside is not None and not (isinstance(inside, nn.LayerNorm) and str(norm).isidentifier()):
        raise ValueError(f"an emptied module's norm is {norm}")
    return Emptied(output, bias, arguments.get("pair") is True, layer, norm, inside)


def is_transposed(module: Any) -> bool:
    """Tell whether a linear module keeps its weight as [inputs, outputs], as GPT-2's does."""
    return hasattr(module, "nf")


def resize(module: Any, inputs: int, outputs: int) -> None:
    """Give a linear module another size, with new weights of zeros."""
    shape = (inputs, outputs) if is_transposed(module) else (outputs, inputs)
    module.weight = nn.Parameter(module.weight.new_zeros(shape))
    if module.bias is not None:
        module.bias = nn.Parameter(module.bias.new_zeros(outputs))
    set_sizes(module, inputs, outputs)


def set_sizes(module: Any, inputs: int, outputs: int) -> None:
    """Set the attributes of a linear module that tell its size."""
    if is_transposed(module):
        module.nx, module.nf = inputs, outputs
    else:
        module.in_features, module.out_features = inputs, outputs


def sizes(module: Any) -> tuple[int, int]:
    """Return the inputs and outputs of a linear module, by its weight."""
    first, second = module.weight.shape
    return (first, second) if is_transposed(module) else (second, first)


def read_heads(module: Any, argument: str, heads: list[int]) -> None:
    """Let a module read some heads of an argument [B, heads, ...], in this order, whenever it is called.

    Raises:
        ValueError: its forward has no such argument.
    """
    names = list(inspect.signature(module.forward).parameters)
    if argument not in names:
        raise ValueError(f"{type(module).__name__} has no argument {argument}")
    if heads_read(module) is None:
        module.register_forward_pre_hook(select_heads, with_kwargs=True)
    # On the module and not in the hook, so that a copy of the module has its own.
    module.heads_read = {"argument": argument, "position": names.index(argument), "heads": heads}


def heads_read(module: Any) -> list[int] | None:
    """Return the heads that `read_heads` lets a module read; None if it was not called."""
    read = getattr(module, "heads_read", None)
    return None if read is None else list(read["heads"])


def select_heads(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a module's arguments, one of them with the heads that the module reads."""
    argument, position, heads = (module.heads_read[name] for name in ("argument", "position", "heads"))
    if kwargs.get(argument) is not None:
        kwargs = kwargs | {argument: kwargs[argument][:, heads]}
    elif len(args) > position and args[position] is not None:
        args = (*args[:position], args[position][:, heads], *args[position + 1 :])
    return args, kwargs


def reads(config: Any, name: str) -> bool:
    """Tell whether a config's class reads a setting. Any other is kept, and ignored."""
    return name in inspect.signature(type(config).__init__).parameters


def keep_rotary(config: Any) -> None:
    """Set what transformers 4 reads of a config's rotary positions; it ignores `rope_parameters`, in which transformers 5 saves them.

    Raises:
        ValueError: this version has no setting for what the config says.
    """
    rope: Any = getattr(config, "rope_parameters", None)
    nested = [isinstance(value, dict) for value in rope.values()] if isinstance(rope, dict) else []
    if any(nested) and rope.get("rope_theta") is not None:
        # The config's class has one base for all layers, and has added it to those by the type of a layer.
        raise ValueError(
            f"transformers {transformers.__version__} ignores this model's rotary positions by layer type: upgrade it"
        )
    if version() >= (5, 0) or not isinstance(rope, dict):
        return
    by_layer_type = rope if all(nested) else {"": rope}
    for layer_type, found in by_layer_type.items():
        names = [name for name in ROPE_THETAS.get(layer_type, ("rope_theta",)) if hasattr(config, name)]
        scaled = {name: value for name, value in found.items() if name not in ("rope_theta", "partial_rotary_factor")}
        scaling = None if found.get("rope_type", "default") == "default" else scaled
        by_layer = layer_type == "sliding_attention" or (layer_type and not hasattr(config, "rope_scaling"))
        if not names or (scaling and by_layer):
            check_version((5, 0), "the rotary positions of this model")
        # Phi-3 has this setting and computes by it, but takes no factor.
        if "factor" in found or not reads(config, "original_max_position_embeddings"):
            kind = found.get("rope_type", "default")
            check_version(OLDEST_OF_ROTARY.get(kind, OLDEST), f"a model with rotary positions of kind {kind}")
        setattr(config, names[0], found["rope_theta"])
        if layer_type != "sliding_attention":
            config.rope_scaling = scaling
        share = found.get("partial_rotary_factor")
        for name in ("partial_rotary_factor", "rotary_pct"):
            if share is not None and hasattr(config, name):
                setattr(config, name, share)


def keep_windows(config: Any) -> None:
    """Set what earlier versions read of the layers that have a sliding window, if they ignore a config's `layer_types`.

    Raises:
        ValueError: this version has no setting for what the config says.
    """
    types = getattr(config, "layer_types", None)
    if version() >= (5, 0) or not types or reads(config, "layer_types"):
        return
    sliding = [kind == "sliding_attention" for kind in types]
    if hasattr(config, "global_attn_every_n_layers"):
        periods = range(1, len(sliding) + 1)
        found = [n for n in periods if sliding == [layer % n > 0 for layer in range(len(sliding))]]
        if not found:
            check_version((5, 0), "a model with these layer_types")
        config.global_attn_every_n_layers = found[0]
    elif len(set(sliding)) > 1:
        check_version((4, 53), "a model with a sliding window in some layers")


def keep_settings(config: Any) -> None:
    """Make this version of transformers compute what a config says, before a model is built by it.

    Raises:
        ValueError: this version ignores one of the settings.
    """
    keep_rotary(config)
    keep_windows(config)
    for name in FLAGS:
        if getattr(config, name, None) and not reads(config, name):
            raise ValueError(f"transformers {transformers.__version__} ignores {name} of this model: upgrade it")
    if ignored_by_sdpa(config) and getattr(config, "_attn_implementation", None) in (None, "sdpa"):
        config._attn_implementation = "eager"


def ignored_by_sdpa(config: Any) -> str | None:
    """Return a setting of a config that attentions by sdpa ignore in this version of transformers; None if there is none."""
    for name, (value, mended) in IGNORED_BY_SDPA.items():
        if version() < mended and getattr(config, name, value) != value:
            return name
    return None


def entry_of(config: Any) -> dict[str, Any]:
    """Return a config's entry `kprune`.

    Raises:
        ValueError: the config has no such entry, or one that this file can't read.
    """
    entry = getattr(config, "kprune", None)
    if not isinstance(entry, dict):
        raise ValueError("config.json has no entry kprune")
    if entry.get("format") != FORMAT:
        raise ValueError(
            f"config.json has kprune format {entry.get('format')}, this code reads {FORMAT}: another version of kprune saved it"
        )
    for name in ("modules", "emptied", "attributes"):
        if not isinstance(entry.get(name), dict):
            raise ValueError(f"config.json has no table kprune.{name}")
    if not isinstance(entry.get("heads", {}), dict):
        raise ValueError("config.json has a kprune.heads that is no table")
    if not isinstance(entry.get("layers"), str):
        raise ValueError("config.json has no path kprune.layers")
    return entry


def reshape(base: nn.Module) -> None:
    """Give the modules of a freshly built stock model the sizes that its config lists, in place.

    Raises:
        ValueError: the config lists a module, a size or an attribute that the model does not have.
    """
    config: Any = base.config
    entry = entry_of(config)
    check_version(OLDEST_OF.get(config.model_type, OLDEST), f"a pruned {config.model_type}")
    for path, pair in entry["modules"].items():
        module = module_at(base, path)
        if getattr(module, "weight", None) is None or module.weight.dim() != 2:
            raise ValueError(f"config.json lists a size for {path}, which is no linear module")
        whole = [type(size) is int and size > 0 for size in pair] if isinstance(pair, list) else []
        if whole != [True, True] or any(size > most for size, most in zip(pair, sizes(module), strict=True)):
            raise ValueError(f"config.json lists the size {pair} for {path}, of {list(sizes(module))} at most")
        if tuple(pair) != sizes(module):
            resize(module, *pair)
    for path, arguments in entry["emptied"].items():
        put_stand_in(base, path, arguments)
        if arguments.get("pair"):
            check_version(OLDEST_WITHOUT_HEADS.get(config.model_type, OLDEST), "an attention without heads")
    for path, value in entry["attributes"].items():
        owner, _, name = path.rpartition(".")
        module = module_at(base, owner)
        # If a version of transformers has no such attribute, it takes the width from the weights.
        present = getattr(module, name, value)
        if type(value) is not int or type(present) is not int or not 0 < value <= present:
            raise ValueError(f"config.json lists {value} for the attribute {path}, of {present} at most")
        setattr(module, name, value)
    for path, read in entry.get("heads", {}).items():
        module, most = module_at(base, path), config.num_attention_heads
        for argument, heads in read.items() if isinstance(read, dict) else [("", None)]:
            if not isinstance(heads, list) or not all(type(head) is int and 0 <= head < most for head in heads):
                raise ValueError(f"config.json lists the heads {read} for {path}, which has {most}")
            read_heads(module, argument, heads)


def put_stand_in(base: nn.Module, path: str, arguments: Any) -> None:
    """Put the module that stands in for another one in its place.

    Raises:
        ValueError: there is no module at this path, or the arguments do not fit it.
    """
    module = module_at(base, path)
    if not path or not isinstance(arguments, dict):
        raise ValueError(f"config.json lists {arguments} for {path}, which has no units")
    size = arguments.get("bias")
    if size is not None:
        inside = arguments.get("output")
        projection = module if inside is None else module_at(module, inside)
        if getattr(projection, "bias", None) is None or [size] != list(projection.bias.shape):
            raise ValueError(f"config.json lists a bias of size {size} for {path}, which has none of that size")
    owner, _, name = path.rpartition(".")
    setattr(base.get_submodule(owner), name, stand_in(arguments, module))


def module_at(base: nn.Module, path: Any) -> Any:
    """Return the module at a path below the base model.

    Raises:
        ValueError: there is none.
    """
    try:
        return base.get_submodule(path)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"config.json lists the module {path}, which the model does not have") from error


class Pruned(MixedIn):
    """Build a stock model, then give its modules the sizes that its config lists: a mixin that comes before the stock class."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any):
        keep_settings(config)
        super().__init__(config, *args, **kwargs)
        reshape(self.base_model)

    @classmethod
    def from_pretrained(
        cls,
        folder: Any,
        *args: Any,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load the model as transformers loads any other.

        Raises:
            ValueError: weights are missing, left over or of other sizes than the config lists; transformers would draw new weights.
                Or the attention that was asked for ignores a setting of the model.
        """
        model, info = super().from_pretrained(
            folder, *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
        ignored = ignored_by_sdpa(model.config)
        if ignored and kwargs.get("attn_implementation") == "sdpa":
            raise ValueError(
                f"transformers {transformers.__version__} ignores {ignored} of this model with attn_implementation='sdpa': give 'eager'"
            )
        resized = [entry[0] for entry in info["mismatched_keys"]]
        # A class other than the saved one may have another head. In the saved class, a head that is left over has another name in
        # this version, such as GPT-NeoX's.
        saved = cls.__name__ in (model.config.architectures or ())
        part = "" if saved else f"{model.config.kprune['layers']}."
        wrong = [key for key in (*info["missing_keys"], *info["unexpected_keys"], *resized) if part in key]
        wrong += [] if ignore_mismatched_sizes else resized
        if wrong:
            raise ValueError(f"config.json and model.safetensors of {folder} disagree about {min(wrong)}")
        return (model, info) if output_loading_info else model

    def tie_weights(self, *args: Any, **kwargs: Any) -> Any:
        """Give the projection of a head the head's own bias, which is the one in the file.

        Transformers 4.50 gives the head the bias of its projection, which is not in the file.
        """
        for module in self.modules():  # type: ignore[attr-defined]
            bias, decoder = getattr(module, "bias", None), getattr(module, "decoder", None)
            if isinstance(bias, nn.Parameter) and isinstance(decoder, nn.Linear) and decoder.bias is not None:
                decoder.bias = bias
        return super().tie_weights(*args, **kwargs)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Save the model as transformers saves any other, its weights under the names of its modules, by which the config lists them."""
        # By default, families such as NomicBERT are written by names of their first authors' code, and in fused matrices.
        if "save_original_format" in inspect.signature(super().save_pretrained).parameters:
            kwargs = {"save_original_format": False} | kwargs
        return super().save_pretrained(*args, **kwargs)

    @property
    def _auto_class(self) -> str:
        """Return the auto class that the config has for this model: transformers then saves this file with it."""
        names = {path.rpartition(".")[2]: name for name, path in (getattr(self.config, "auto_map", None) or {}).items()}
        return names.get(type(self).__name__, type(self).__name__)


def pruned_class(stock: type) -> type:
    """Return the class of pruned models of a transformers class."""
    name = f"{PREFIX}{stock.__name__}"
    if name not in globals():
        globals()[name] = type(name, (Pruned, stock), {"__module__": __name__, "__qualname__": name})
    return globals()[name]


def __getattr__(name: str) -> type:
    stock = getattr(transformers, name.removeprefix(PREFIX), None) if name.startswith(PREFIX) else None
    if not (isinstance(stock, type) and issubclass(stock, transformers.PreTrainedModel)):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return pruned_class(stock)
