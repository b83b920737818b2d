"""Cases of a user's own model and batches, drawn from the cross product of what users bring, and what must become of each.

Every dimension has options that end in a right result and options that are refused. A case takes one option of each dimension,
and at most one that is refused. Options are dealt like cards, so a hundred cases see nearly all.
"""

import contextlib
import copy
import itertools
import random
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from accelerate.hooks import ModelHook, add_hook_to_module
from tiny import SHAPE
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm
from transformers import AutoConfig, BatchEncoding

from kprune.checkpoint import become_pruned
from kprune.models import view_of
from kprune.models.surgery import keep_units

TOKENS = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
GROUPED = {"num_key_value_heads": 2}
FAMILIES = {
    "bert": {},
    "roberta": {},
    "xlm-roberta": {},
    "camembert": {},
    "electra": {"embedding_size": 16},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "share_att_key": True,
    },
    "modernbert": {"local_attention": 6, "global_attn_every_n_layers": 2, "cls_token_id": 2, "sep_token_id": 3},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.3},
    "gpt2": {"n_inner": 48},
    "llama": GROUPED,
    "mistral": GROUPED | {"sliding_window": 5},
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 16},
    "smollm3": GROUPED,
    "gemma": GROUPED | {"head_dim": 16},
}
ROPE = (
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 2.0},
)
ROTARY = tuple({"rope_parameters": {"rope_theta": 10000.0, **rope}} for rope in ROPE)
BIASED = {"attention_bias": True, "mlp_bias": True}
VARIANTS = {
    "bert": (
        {"hidden_act": "relu"},
        {"is_decoder": True, "add_cross_attention": True},
        {"num_attention_heads": 1},
        {"num_hidden_layers": 1},
    ),
    "roberta": ({"is_decoder": True, "add_cross_attention": True}, {"type_vocab_size": 1}, {"hidden_act": "gelu_new"}),
    "xlm-roberta": ({"num_hidden_layers": 1},),
    "camembert": ({"pad_token_id": 5},),
    "electra": ({"embedding_size": 32}, {"summary_type": "mean"}),
    "distilbert": ({"sinusoidal_pos_embds": True}, {"activation": "relu"}, {"n_heads": 1}),
    "deberta-v2": (
        {"pos_att_type": ["c2p"]},
        {"norm_rel_ebd": "layer_norm", "position_biased_input": False},
        {"relative_attention": False},
        {"type_vocab_size": 2},
    ),
    "modernbert": (
        {"classifier_pooling": "mean"},
        {"norm_bias": True, **BIASED},
        {"local_attention": 128},
        {"layer_types": ["sliding_attention", "sliding_attention"]},
    ),
    "opt": (
        {"do_layer_norm_before": False, "word_embed_proj_dim": 16},
        {"enable_bias": False},
        {"layer_norm_elementwise_affine": False},
        {"layerdrop": 0.5},
        {"activation_function": "gelu"},
    ),
    "gpt2": (
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False},
        {"add_cross_attention": True},
        {"n_head": 1},
    ),
    "llama": (*ROTARY, BIASED, {"num_key_value_heads": 4}, {"num_key_value_heads": 1}, {"head_dim": 16}),
    "mistral": ({"sliding_window": None}, {"head_dim": 4}, {"num_key_value_heads": 4}),
    "qwen2": (*ROTARY, {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ({"attention_bias": True}, {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "smollm3": ({"no_rope_layers": [0, 1]}, {"attention_bias": True}),
    "gemma": ({"hidden_activation": "silu"}, {"num_key_value_heads": 1}, {"attention_bias": True}),
}
DECODERS = ("opt", "gpt2", "llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma")
HEADS = {
    "two classes": ("AutoModelForSequenceClassification", {"num_labels": 2}),
    "five classes": ("AutoModelForSequenceClassification", {"num_labels": 5}),
    "regression": ("AutoModelForSequenceClassification", {"num_labels": 1, "problem_type": "regression"}),
    "one output": ("AutoModelForSequenceClassification", {"num_labels": 1}),
    "span": ("AutoModelForQuestionAnswering", {}),
    "next token": ("AutoModelForCausalLM", {}),
}
REFUSED_HEADS = {
    "several labels": (
        "AutoModelForSequenceClassification",
        {"num_labels": 3, "problem_type": "multi_label_classification"},
    ),
    "tokens": ("AutoModelForTokenClassification", {}),
    "masked words": ("AutoModelForMaskedLM", {}),
    "choices": ("AutoModelForMultipleChoice", {}),
    "none": ("AutoModel", {}),
}


@dataclass(frozen=True)
class Option:
    """One option of a dimension.

    Attributes:
        apply: what it does; its arguments hang on the dimension.
        refused: matches the one line that it ends in; None if it ends in a right result.
        may: matches the one line that it may end in, if that hangs on the model.
        fits: whether a case of this family and auto class can have it.
    """

    name: str
    apply: Callable[..., Any]
    refused: str | None = None
    may: str | None = None
    fits: Callable[[str, str], bool] = lambda family, auto: True


@dataclass(frozen=True)
class Case:
    """A model, batches, and how they are pruned; `options` by dimension."""

    seed: int
    family: str
    variant: Mapping[str, Any]
    head: str
    options: Mapping[str, Option]

    @property
    def name(self) -> str:
        return ", ".join(
            [
                str(self.seed),
                self.family,
                *(f"{n}={v}" for n, v in self.variant.items()),
                self.head,
                *(o.name for o in self.options.values() if o.name),
            ]
        )

    @property
    def auto_class(self) -> str:
        return (HEADS | REFUSED_HEADS)[self.head][0]

    @property
    def refused(self) -> str | None:
        if self.head in REFUSED_HEADS:
            return "has no head|multi_label_classification"
        return next((option.refused for option in self.options.values() if option.refused), None)

    @property
    def may(self) -> str | None:
        return "|".join(option.may for option in self.options.values() if option.may)

    def model(self) -> Any:
        settings = (
            SHAPE | {"num_hidden_layers": 2} | TOKENS | FAMILIES[self.family] | (HEADS | REFUSED_HEADS)[self.head][1]
        )
        settings |= self.variant
        if self.family == "distilbert":
            del settings["intermediate_size"], settings["num_hidden_layers"]
        torch.manual_seed(self.seed)
        config = AutoConfig.for_model(self.family, **settings)
        self.options["setting"].apply(config)
        attention = "eager" if self.family == "deberta-v2" else self.options["attention"].name
        model = getattr(transformers, self.auto_class).from_config(config, attn_implementation=attention)
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases at their initial values hide what they do
                parameter.data.add_(0.3 * torch.randn_like(parameter))
        for dimension in ("dtype", "frozen", "mode", "change"):
            changed = self.options[dimension].apply(model)
            model = model if changed is None else changed
        return model

    def batches(self, vocabulary: int, token_types: int) -> Any:
        """Return what is given as `batches`, and the plain list of dicts of tensors that it is."""
        generator = torch.Generator().manual_seed(self.seed)
        plain = []
        for size in (3, 4, 1 + self.seed % 3):  # ragged
            # Little padding: beyond a local attention's window, transformers' own eager attention gives NaN.
            lengths = torch.randint(7, 11, (size,), generator=generator)
            places = torch.arange(int(lengths.max()))
            mask = (places < lengths[:, None]).long()
            ids = torch.randint(5, vocabulary, mask.shape, generator=generator)
            batch = {"input_ids": torch.where(mask.bool(), ids, 1), "attention_mask": mask}
            if token_types:
                types = torch.randint(token_types, mask.shape, generator=generator)
                batch["token_type_ids"] = types * mask
            plain.append(batch)
        for dimension in ("columns", "batches"):
            plain = self.options[dimension].apply(plain)
        return plain


def set_config(**settings: Any) -> Callable[[Any], None]:
    def apply(config: Any) -> None:
        for name, value in settings.items():
            if name in ("is_decoder", "type_vocab_size") or hasattr(config, name):
                setattr(config, name, value)

    return apply


def same(model: Any) -> None:
    pass


def first_linear(model: Any) -> Any:
    """Return the owner and the name of a linear module in the first layer, and the module."""
    view = view_of(model)
    path = view.blocks[0].site.output
    owner, _, name = path.rpartition(".")
    parent = view.layers[0].get_submodule(owner)
    return parent, name, getattr(parent, name)


def encoder(family: str, auto: str) -> bool:
    return family not in DECODERS


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
    first, second = view_of(model).layers[0], view_of(model).layers[1]
    a, b = view_of(model).family.sites[1].norm, view_of(model).family.sites[0].norm
    first.get_submodule(a).weight = second.get_submodule(b).weight


def tie_in_head(model: Any) -> None:
    model.base_model.own = nn.Parameter(torch.zeros(3))


def odd_attribute(model: Any) -> None:
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
    view_of(model).layers[1].to("meta")


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
    for block in view_of(model).blocks[:2]:
        keep_units(block, torch.arange(block.units // 2 * (block.site.kind == "neurons")))
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
    first_linear(model)[2].double()


def from_folder(model: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = type(model).from_pretrained(folder, attn_implementation=model.config._attn_implementation)
    return again.to(model.dtype).train(model.training)


def in_inference_mode(model: Any) -> Any:
    with torch.inference_mode():
        return copy.deepcopy(model)


@contextlib.contextmanager
def default_dtype() -> Any:
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def coarse() -> Any:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


def options(*entries: Option) -> tuple[Option, ...]:
    return entries


def each(change: Callable[[dict[str, Any]], Any]) -> Callable[[list[Any]], list[Any]]:
    return lambda batches: [change(batch) for batch in batches]


def some_without_types(batches: list[dict]) -> list[dict]:
    return [{k: v for k, v in b.items() if i or k != "token_type_ids"} for i, b in enumerate(batches)]


def without_mask(batches: list[dict]) -> list[dict]:
    return [{name: value for name, value in batch.items() if name != "attention_mask"} for batch in batches]


def with_hole(batch: dict) -> dict:
    mask = batch["attention_mask"].clone()
    mask[:, 2] = 0
    return batch | {"attention_mask": mask}


def one_token(batches: list[dict]) -> list[dict]:
    return [{name: value[:1, :1] for name, value in batch.items()} for batch in batches[:1]]


def loadable(batches: list[dict]) -> bool:
    same = all(batch.keys() == batches[0].keys() for batch in batches)
    return (
        same
        and all(isinstance(v, torch.Tensor) and v.dim() == 2 for v in batches[0].values())
        and "input_ids" in batches[0]
    )


def on_the_left(batch: dict) -> dict:
    """Roll each example to the end of its row."""
    shifts = batch["input_ids"].shape[1] - batch["attention_mask"].sum(dim=1)
    return {n: torch.stack([r.roll(int(s)) for r, s in zip(v, shifts, strict=True)]) for n, v in batch.items()}


def loaded(batches: list[dict]) -> Any:
    rows = [
        {name: value[i] for name, value in batch.items()} for batch in batches for i in range(len(batch["input_ids"]))
    ]

    def pad(examples):
        return {
            name: nn.utils.rnn.pad_sequence([e[name] for e in examples], True, float(name == "input_ids"))
            for name in rows[0]
        }

    # Its own generator: without one, it draws of the caller's random numbers.
    return torch.utils.data.DataLoader(rows, batch_size=3, collate_fn=pad, generator=torch.Generator())


DIMENSIONS: dict[str, tuple[Option, ...]] = {
    "dtype": options(
        Option("", same),
        Option("", same),
        Option("float64", lambda model: model.double()),
        Option("bfloat16", lambda model: model.bfloat16(), "is torch.bfloat16, too coarse"),
        Option("float16", lambda model: model.half(), "is torch.float16, too coarse"),
        Option("two types", set_dtype_of_one, "float32 and in float64"),
    ),
    "mode": options(
        Option("", lambda model: model.eval()),
        Option("train", lambda model: model.train()),
        Option("mixed modes", mixed_mode),
    ),
    "frozen": options(
        Option("", same),
        Option("frozen", lambda model: model.requires_grad_(False)),
        Option("half frozen", half_frozen),
    ),
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
        Option("no padding token", set_config(pad_token_id=None), may="pad_token_id"),
        Option("padding is the first", set_config(pad_token_id=0)),
        Option("padding outside", set_config(pad_token_id=-1), may="pad_token_id"),
    ),
    "change": options(
        Option("", same),
        Option("", same),
        Option("gradient checkpointing", lambda model: model.gradient_checkpointing_enable()),
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
        Option("own parameter", tie_in_head, "own"),
        Option("own tie", tie_own, "share weights"),
        Option("no copy", odd_attribute, "copied"),
        Option("damaged", damage, "NaN or infinite"),
        Option("meta", lambda model: model.to("meta"), "meta"),
        Option("partly meta", to_meta, "meta"),
        Option("flex", lambda model: setattr(model.config, "_attn_implementation", "flex_attention"), "flex_attention"),
    ),
    "columns": options(
        Option("", lambda batches: batches),
        Option("no types", each(lambda b: {k: v for k, v in b.items() if k != "token_type_ids"})),
        Option("some types", some_without_types),
        Option("no mask", without_mask),
        Option("bool mask", each(lambda b: b | {"attention_mask": b["attention_mask"].bool()})),
        Option("float mask", each(lambda b: b | {"attention_mask": b["attention_mask"].float()})),
        Option("int32", each(lambda b: {name: value.int() for name, value in b.items()})),
        Option("one token", one_token),
        Option("on the left", each(on_the_left), may="padded on the left"),
        Option(
            "more columns", each(lambda b: b | {"labels": torch.zeros(len(b["input_ids"])), "text": "a", "n": None})
        ),
        Option("no tokens", each(lambda b: {"inputs_embeds": torch.zeros(2, 3, 32)}), "no tensor input_ids"),
        Option("a hole", each(with_hole), "padding between tokens"),
        Option("one dimension", each(lambda b: {n: v[0] for n, v in b.items()}), "batch, length"),
        Option("float ids", each(lambda b: b | {"input_ids": b["input_ids"].float()}), "give integers"),
        Option("bool ids", each(lambda b: b | {"input_ids": b["input_ids"].bool()}), "give integers"),
        Option("short mask", each(lambda b: b | {"attention_mask": b["attention_mask"][:, 1:]}), "one shape"),
        Option("numbered mask", each(lambda b: b | {"attention_mask": b["attention_mask"] * 2}), "attention_mask"),
        Option(
            "NaN mask", each(lambda b: b | {"attention_mask": b["attention_mask"] * float("nan")}), "attention_mask"
        ),
        Option("strange token", each(lambda b: b | {"input_ids": b["input_ids"] + 999}), "vocabulary is"),
        Option("negative token", each(lambda b: b | {"input_ids": b["input_ids"] - 99}), "has token -"),
        Option("padding alone", each(lambda b: b | {"attention_mask": b["attention_mask"] * 0}), "padding alone"),
        Option("too long", each(lambda b: {n: v.repeat(1, 20) for n, v in b.items() if n == "input_ids"}), "truncate"),
        Option("on meta", each(lambda b: {name: value.to("meta") for name, value in b.items()}), "meta"),
        Option("lists", each(lambda b: {name: value.tolist() for name, value in b.items()}), "no tensor input_ids"),
        Option("numpy", each(lambda b: {name: value.numpy() for name, value in b.items()}), "no tensor input_ids"),
    ),
    "batches": options(
        Option("", lambda batches: batches),
        Option("BatchEncoding", each(BatchEncoding)),
        Option("generator", lambda batches: (batch for batch in batches)),
        Option("tuple of batches", tuple),
        Option("DataLoader", lambda b: loaded(b) if loadable(b) else b),
        Option("tuples", each(lambda b: tuple(b.values())), "is a tuple: give dicts"),
        Option("tensors", each(lambda b: b["input_ids"]), "is a Tensor: give dicts"),
        Option("one batch", lambda batches: batches[0], "one batch|is a str"),
        Option("no batch", lambda batches: [], "batches is empty"),
        Option(
            "no example",
            each(lambda b: {n: v[:0] if isinstance(v, torch.Tensor) else v for n, v in b.items()}),
            "is empty",
        ),
        Option("None", lambda batches: None, "give an iterable"),
    ),
    "ask": options(
        Option("", {"flops_reduction": 0.5}),
        Option("0.3", {"flops_reduction": 0.3}),
        Option("0.9", {"flops_reduction": 0.9}),
        Option("parameters", {"params_reduction": 0.4}),
    ),
    "method": options(
        Option("magnitude", False),
        Option("random", False),
        Option("magnitude", False),
        Option("random", False),
        Option("kprune", True),
        Option("kprune_plus", True),
    ),
    "around": options(
        Option("", None),
        Option("no_grad", torch.no_grad),
        Option("inference_mode", torch.inference_mode),
        Option("autocast", lambda: torch.autocast("cpu", torch.bfloat16)),
        Option("default dtype", default_dtype),
        Option("coarse products", coarse),
        Option("default device", lambda: torch.device("meta")),
    ),
}


def cases(count: int, first: int = 0) -> list[Case]:
    """Return cases number `first` up; a third of them have an option that is refused."""
    deals: dict[Any, Any] = {}

    def deal(key: Any, cards: Any) -> Any:
        """Return the next card of a deck that is shuffled each time it is used up."""
        if key not in deals:
            generator = random.Random(f"{first} {key}")
            deals[key] = itertools.chain.from_iterable(
                generator.sample(list(cards), len(cards)) for _ in itertools.count()
            )
        return next(deals[key])

    refused = [(name, option) for name, all_of in DIMENSIONS.items() for option in all_of if option.refused]
    refused += [("head", head) for head in REFUSED_HEADS]
    found: list[Case] = []
    while len(found) < count:
        family, head = deal("family", FAMILIES), deal("head", HEADS)
        variant = deal(("variant", family), ({}, *VARIANTS[family]))
        chosen = {name: deal(name, [o for o in all_of if not o.refused]) for name, all_of in DIMENSIONS.items()}
        if len(found) % 3 == 2:
            dimension, option = deal("refused", refused)
            if dimension == "head":
                head = option
            else:
                chosen[dimension] = option
        case = Case(first + len(found), family, variant, head, chosen)
        auto, config = getattr(transformers, case.auto_class), transformers.CONFIG_MAPPING[family]
        fits = all(option.fits(family, case.auto_class) for option in chosen.values())
        if fits and config in auto._model_mapping.keys():
            found.append(case)
    return found
