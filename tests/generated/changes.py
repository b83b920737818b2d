"""What users do to a model before they prune it."""

import copy
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

from generated.option import Option, options, same
from kprune.checkpoint import become_pruned
from kprune.models import view_of
from kprune.models.families import FAMILIES
from kprune.models.surgery import keep_units


def set_config(**settings: Any) -> Callable[[Any], None]:
    def apply(config: Any) -> None:
        for name, value in settings.items():
            if name in ("is_decoder", "type_vocab_size") or hasattr(config, name):
                setattr(config, name, value)

    return apply


def first_linear(model: Any) -> Any:
    """Return the owner and the name of a linear module in the first layer, and the module."""
    view = view_of(model)
    path = view.blocks[0].site.output
    owner, _, name = path.rpartition(".")
    parent = view.layers[0].get_submodule(owner)
    return parent, name, getattr(parent, name)


def linear(family: str, auto: str) -> bool:
    return family != "gpt2"  # whose projections are Conv1D


class LowRank(nn.Module):
    """A layer as adapters wrap it."""

    def __init__(self, base_layer: nn.Module, rank: int = 2):
        super().__init__()
        self.base_layer = base_layer
        outputs, inputs = base_layer.weight.shape
        self.down, self.up = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)
        self.to(base_layer.weight)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


def replace(make: Callable[[nn.Module], nn.Module]) -> Callable[[Any], None]:
    def apply(model: Any) -> None:
        parent, name, module = first_linear(model)
        setattr(parent, name, make(module))

    return apply


def subclass(name: str | None) -> Callable[[Any], None]:
    def apply(model: Any) -> None:
        stock = type(model)

        def forward(self, *args, **kwargs):
            output = stock.forward(self, *args, **kwargs)
            output[next(iter(output))].neg_()
            return output

        model.__class__ = type(name or stock.__name__, (stock,), {"forward": forward})

    return apply


def give_gradients(model: Any) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)


def non_contiguous(model: Any) -> None:
    parent, name, module = first_linear(model)
    weight = module.weight
    module.weight = nn.Parameter(weight.detach().t().contiguous().t(), weight.requires_grad)


def tie_own(model: Any) -> None:
    first, second = view_of(model).blocks[-2:]
    if first.bias() is None:
        # Those of OLMo 2 have no norm in front of them.
        names = "norm" if first.norm else "output_norm"
        getattr(second, names).weight = getattr(first, names).weight
    else:
        second.output.bias = first.output.bias


def own_parameter(model: Any) -> None:
    model.base_model.own = nn.Parameter(torch.zeros(3, dtype=model.dtype))


def keep_lock(model: Any) -> None:
    model.base_model.lock = threading.Lock()


def halve_epsilon(model: Any) -> None:
    norm = view_of(model).blocks[1].norm
    name = "variance_epsilon" if hasattr(norm, "variance_epsilon") else "eps"
    setattr(norm, name, 0.5)


def drop_layer(model: Any) -> None:
    del view_of(model).layers[-1]


def double_positions(model: Any) -> None:
    model.config.max_position_embeddings *= 2


def own_buffer(model: Any) -> None:
    model.base_model.register_buffer("counts", torch.zeros(3))


def damage(model: Any) -> None:
    first_linear(model)[2].weight.data[0, 0] = float("inf")


def hook_output(model: Any) -> None:
    first_linear(model)[2].register_forward_hook(lambda module, inputs, output: -output)


def hook_input(model: Any) -> None:
    model.register_forward_pre_hook(lambda module, inputs: None)


def accelerate_layers(model: Any) -> None:
    for layer in view_of(model).layers:
        add_hook_to_module(layer, ModelHook())


def to_meta(model: Any) -> None:
    view_of(model).layers[-1].to("meta")


def half_frozen(model: Any) -> None:
    model.get_input_embeddings().requires_grad_(False)
    view_of(model).layers[0].requires_grad_(False)


def mixed_mode(model: Any) -> None:
    model.train()
    view_of(model).layers[0].eval()


def grown(model: Any) -> None:
    model.resize_token_embeddings(104, mean_resizing=False)


def wrapped_in_adapters(model: Any) -> Any:
    """Wrap a model as PEFT does: two modules around it, which hand on its attributes."""

    class Adapters(nn.Module):
        def __init__(self, inner, name):
            super().__init__()
            self.add_module(name, inner)
            self.config = inner.config

    return Adapters(Adapters(model, "model"), "base_model")


def pruned_before(model: Any) -> None:
    """Leave no head in the first layer, and the upper half of the units of each other block."""
    for number, block in enumerate(view_of(model).blocks):
        keep_units(block, torch.arange(block.units)[block.units // 2 if number else block.units :])
    become_pruned(model)


def untie(model: Any) -> None:
    head = model.get_output_embeddings()
    if head is None:
        return tie_own(model)
    if head.weight is model.get_input_embeddings().weight:
        head.weight = nn.Parameter(head.weight.detach().clone())
    else:
        head.weight = model.get_input_embeddings().weight


def contradict(model: Any) -> None:
    if model.can_generate():
        model.generation_config.temperature, model.generation_config.do_sample = 0.5, False
    else:
        model.config.own = {1, 2}


def set_generation(model: Any) -> None:
    if model.can_generate():
        model.generation_config.max_new_tokens = 7


def set_dtype_of_one(model: Any) -> None:
    first_linear(model)[2].to(torch.float64 if model.dtype == torch.float32 else torch.float32)


def from_folder(model: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = type(model).from_pretrained(folder, attn_implementation=model.config._attn_implementation)
    return again.to(model.dtype).train(model.training)


def in_inference_mode(model: Any) -> Any:
    with torch.inference_mode():
        return copy.deepcopy(model)


CHANGES: dict[str, tuple[Option, ...]] = {
    "dtype": options(
        Option("", same),
        Option("", same),
        Option("float64", lambda model: model.double()),
        Option("bfloat16", lambda model: model.bfloat16(), "is torch.bfloat16, too coarse"),
        Option("float16", lambda model: model.half(), "is torch.float16, too coarse"),
    ),
    "frozen": options(
        Option("", same),
        Option("frozen", lambda model: model.requires_grad_(False)),
        Option("half frozen", half_frozen),
    ),
    "mode": options(
        Option("", lambda model: model.eval()),
        Option("train", lambda model: model.train()),
        Option("mixed modes", mixed_mode),
    ),
    "change": options(
        Option("", same),
        Option("", same),
        Option(
            "gradient checkpointing",
            lambda model: model.gradient_checkpointing_enable(),
            fits=lambda family, auto: family not in ("albert", "mpnet"),  # which transformers has without it
        ),
        Option("inputs with gradients", lambda model: model.enable_input_require_grads()),
        Option("compiled in place", lambda model: model.compile()),
        Option("gradients", give_gradients),
        Option("accelerate", accelerate_layers),
        Option("non-contiguous", non_contiguous),
        Option("generation", set_generation),
        Option("grown", grown),
        Option("pruned before", pruned_before),
        Option("from a folder", from_folder),
        Option("inference tensors", in_inference_mode),
        Option("own setting", lambda model: setattr(model.config, "own", {"a": [1, "b"]})),
        Option("adapters around", wrapped_in_adapters, "not supported|wrapped"),
        Option("another tie", untie, "shared? with another|share weights"),
        Option("contradiction", contradict, "can't be saved"),
        Option("DataParallel", nn.DataParallel, r"model\.module"),
        Option("torch.compile", lambda model: torch.compile(model), "_orig_mod"),
        Option(
            "own forward",
            subclass("OwnForSequenceClassification"),
            "is not a class of transformers|is for a|has no head",
        ),
        Option("stock name", subclass(None), "is not a class of transformers"),
        Option("parametrized", replace(parametrizations.weight_norm), "ParametrizedLinear|ParametrizedConv1D"),
        Option("weight norm", replace(lambda module: weight_norm(module)), "weight_g"),
        Option("prune mask", replace(lambda m: prune.l1_unstructured(m, "weight", 0.5)), "weight_orig"),
        Option("adapter", replace(LowRank), "LowRank", fits=linear),
        Option(
            "int8",
            lambda model: torch.ao.quantization.quantize_dynamic(model.eval(), {nn.Linear}),
            "not a|quantized",
            fits=linear,
        ),
        Option("forward hook", hook_output, "hook"),
        Option("pre hook", hook_input, "hook"),
        Option("another epsilon", halve_epsilon, "eps"),
        Option("own buffer", own_buffer, "counts"),
        Option("a layer less", drop_layer, "is missing"),
        Option("another number of classes", lambda m: setattr(m.config, "num_labels", 7), may="not what|is not built"),
        Option("more positions", double_positions, may="not what"),
        Option("own parameter", own_parameter, "own"),
        Option("own tie", tie_own, "share weights"),
        Option("no copy", keep_lock, "copied"),
        Option("two types", set_dtype_of_one, "float32 and in float64"),
        Option("damaged", damage, "NaN or infinite"),
        Option("meta", lambda model: model.to("meta"), "meta"),
        Option("partly meta", to_meta, "meta"),
        Option("flex", lambda model: setattr(model.config, "_attn_implementation", "flex_attention"), "flex_attention"),
    ),
}
"""What is done to a model, in this order."""

PADDING_FIXED = [name for name, family in FAMILIES.items() if "pad_token_id" in family.fixed]
"""Families of which another padding token is refused."""
SETTINGS: dict[str, tuple[Option, ...]] = {
    "attention": options(Option("sdpa", same), Option("eager", same)),
    "setting": options(
        Option("", same),
        Option("tuples", set_config(return_dict=False)),
        Option("hidden states", set_config(output_hidden_states=True)),
        Option("a cache", set_config(use_cache=True)),
        Option("no cache", set_config(use_cache=False)),
        Option("dropout", set_config(hidden_dropout_prob=0.5, dropout=0.5, attention_dropout=0.5, resid_pdrop=0.5)),
        Option("tied", set_config(tie_word_embeddings=True)),
        Option("untied", set_config(tie_word_embeddings=False)),
        Option(
            "is_decoder",
            set_config(is_decoder=True),
            fits=lambda family, auto: family in ("bert", "roberta", "electra"),
        ),
        Option("chunks", set_config(chunk_size_feed_forward=1)),
        Option("four types", set_config(type_vocab_size=4)),
        Option(
            "no padding token",
            set_config(pad_token_id=None),
            may="pad_token_id",
            # The config classes of these do not take it.
            fits=lambda family, auto: family not in (*PADDING_FIXED, "nomic_bert", "modernbert-decoder"),
        ),
        Option(
            "padding is the first",
            set_config(pad_token_id=0),
            fits=lambda family, auto: family not in PADDING_FIXED,
        ),
        Option(
            "padding outside",
            set_config(pad_token_id=-1),
            may="pad_token_id",
            fits=lambda family, auto: family not in PADDING_FIXED,
        ),
    ),
}
"""What it is built with."""
