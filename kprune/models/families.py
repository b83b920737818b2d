"""What kprune knows of each model family, as data: the names of modules, and the rows and columns that units own.

To add a family, add an entry to `FAMILIES` (docs/how_to/add_a_family.md).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Kind = Literal["heads", "neurons"]
Placement = Literal["before", "after"]
Amount = Literal["units", "columns"]


@dataclass(frozen=True)
class Rows:
    """A module whose output rows belong to units.

    The rows are laid out as [parts, units, rows of one unit]: a fused query-key-value projection has three parts, a fused
    gate and up projection two. How many rows a unit owns follows from the weights, so modules of one site may differ:
    grouped-query attention has fewer key than query rows.

    Attributes:
        path: of the module, below the layer.
        parts: how often the rows of all units are repeated.
    """

    path: str
    parts: int = 1


@dataclass(frozen=True)
class Site:
    """One kind of sublayer that every layer of a family has.

    Attributes:
        name: of the sublayer, in block names such as "3.attention".
        kind: what its units are.
        inputs: modules that own rows of the units.
        output: path of the output projection (W_out in the paper), whose columns belong to the units.
        norm: path of the norm before the sublayer or after its residual sum; None if there is neither (OLMo 2).
        output_norm: path of the norm that is applied to the output projection's output before the residual sum (Gemma 2, OLMo
            2); None if there is none.
        core: paths of the modules that turn what the inputs read into the units' features, in the order of their calls. If
            the output projection lies inside one of them, what follows it there is left out.
        width: gives the columns of the output projection that one unit owns, from the model's config.
        attributes: paths of module attributes that hold a width, and whether it counts units or columns.
        settings: settings of the config that count the units of every layer, or a multiple of them; none if the config can't
            have fewer units of the same width, such as BERT's heads, whose width is the hidden size over their number.
        per_head: name of an argument of the core whose second dimension is the heads of the dense model, and which is the same
            for all layers and examples, such as a relative position bias [B, heads, T, T]; None if there is none.
    """

    name: str
    kind: Kind
    inputs: tuple[Rows, ...]
    output: str
    norm: str | None
    core: tuple[str, ...]
    width: Callable[[Any], int]
    attributes: Mapping[str, Amount] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    per_head: str | None = None
    output_norm: str | None = None


@dataclass(frozen=True)
class Family:
    """The layers of a model family.

    Attributes:
        layers: path of the list of layers, below the base model.
        sites: the sublayers of a layer, bottom to top.
        norm_first: whether `Site.norm` comes before the sublayer, and not after its residual sum; or the name of the config's flag
            that says so. True if no norm comes after the sum.
        multiplier: name of the config's setting that holds the factor of every update in the residual sum (Granite); None if the
            family has no such factor.
        reads_last_token: whether a classifier reads the last real token, as a decoder's does, and not the first.
        returns_pair: whether a layer returns a tuple that begins with its output, not the output alone.
        positions_after_padding: whether the first position has the padding token's number plus 1 (RoBERTa), so that fewer tokens
            fit.
        types_are_words: whether token types are looked up among the words, so that to leave them out is not the same as to give
            zeros.
        strangers: paths, below the base model, of modules that some configs add and the sites do not describe: a model that
            has one is refused.
        groups: name of the config's setting that counts the layers with weights of their own, in a family whose layers may share
            weights; None in any other.
        numbered: name of the config's flag that makes a layer's function depend on its number, so that no layer can take
            another's place; None if there is no such flag.
        fixed: settings that transformers ignores, each with the value that it computes by. A model whose config has another value
            is refused, since transformers does not compute what was trained.
    """

    layers: str
    sites: tuple[Site, ...]
    norm_first: bool | str = False
    multiplier: str | None = None
    reads_last_token: bool = False
    returns_pair: bool = False
    positions_after_padding: bool = False
    types_are_words: bool = False
    strangers: tuple[str, ...] = ()
    groups: str | None = None
    numbered: str | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def placement(self, config: Any) -> Placement:
        """Return where the norms of a model with this config are."""
        first = getattr(config, self.norm_first) if isinstance(self.norm_first, str) else self.norm_first
        return "before" if first else "after"

    def scale(self, config: Any) -> float:
        """Return the factor of every update in the residual sum of a model with this config; 1 if the family has none."""
        return float(getattr(config, self.multiplier)) if self.multiplier else 1.0


def head_size(config: Any) -> int:
    """Return the columns of one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def group_size(config: Any) -> int:
    """Return the columns of one key/value head's group of query heads."""
    return head_size(config) * (config.num_attention_heads // config.num_key_value_heads)


def all_heads(config: Any) -> int:
    """Return the columns of all query heads together."""
    return head_size(config) * config.num_attention_heads


def one(config: Any) -> int:
    """Return 1, the columns of a neuron."""
    return 1


def attention(
    paths: tuple[str, ...],
    output: str,
    norm: str | None,
    core: str,
    width: Callable[[Any], int] = head_size,
    **more: Any,
) -> Site:
    """Describe an attention with separate projections."""
    return Site("attention", "heads", tuple(map(Rows, paths)), output, norm, (core,), width, **more)


def ffn(
    first: tuple[str, ...],
    output: str,
    norm: str | None,
    core: tuple[str, ...],
    parts: int = 1,
    setting: str = "intermediate_size",
) -> Site:
    """Describe a feed-forward network; `first` has two modules, or two parts in one, if it is gated."""
    inputs = tuple(Rows(path, parts) for path in first)
    return Site("ffn", "neurons", inputs, output, norm, core, one, settings=(setting,))


def bert_sites(first_norm: str, second_norm: str) -> tuple[Site, Site]:
    """Describe BERT's attention and feed-forward network, whose norms may be elsewhere in the layer."""
    return (
        attention(
            ("attention.self.query", "attention.self.key", "attention.self.value"),
            output="attention.output.dense",
            norm=first_norm,
            core="attention.self",
            attributes={"attention.self.num_attention_heads": "units", "attention.self.all_head_size": "columns"},
        ),
        ffn(("intermediate.dense",), output="output.dense", norm=second_norm, core=("intermediate",)),
    )


BERT = Family(
    layers="encoder.layer",
    sites=bert_sites("attention.output.LayerNorm", "output.LayerNorm"),
    fixed={"position_embedding_type": "absolute"},
)
ROBERTA = Family(BERT.layers, BERT.sites, positions_after_padding=True, fixed=BERT.fixed)
XLM_ROBERTA_XL = Family(
    BERT.layers,
    bert_sites("attention.self_attn_layer_norm", "LayerNorm"),
    norm_first=True,
    positions_after_padding=True,
)
REMBERT = Family(BERT.layers, BERT.sites, returns_pair=True)
ESM = Family(BERT.layers, bert_sites("attention.LayerNorm", "LayerNorm"), norm_first=True, positions_after_padding=True)
DISTILBERT = Family(
    layers="transformer.layer",
    sites=(
        attention(
            ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
            output="attention.out_lin",
            norm="sa_layer_norm",
            core="attention",
            attributes={"attention.n_heads": "units", "attention.dim": "columns"},
        ),
        ffn(("ffn.lin1",), output="ffn.lin2", norm="output_layer_norm", core=("ffn",), setting="hidden_dim"),
    ),
)
ALBERT = Family(
    layers="encoder.albert_layer_groups",
    sites=(
        attention(
            ("albert_layers.0.attention.query", "albert_layers.0.attention.key", "albert_layers.0.attention.value"),
            output="albert_layers.0.attention.dense",
            norm="albert_layers.0.attention.LayerNorm",
            core="albert_layers.0.attention",
            attributes={
                "albert_layers.0.attention.num_attention_heads": "units",
                "albert_layers.0.attention.all_head_size": "columns",
            },
        ),
        ffn(
            ("albert_layers.0.ffn",),
            output="albert_layers.0.ffn_output",
            norm="albert_layers.0.full_layer_layer_norm",
            core=("albert_layers.0.ffn", "albert_layers.0.activation"),
        ),
    ),
    strangers=("encoder.albert_layer_groups.0.albert_layers.1",),
    groups="num_hidden_groups",
    fixed=BERT.fixed,
)
MPNET = Family(
    layers="encoder.layer",
    sites=(
        attention(
            ("attention.attn.q", "attention.attn.k", "attention.attn.v"),
            output="attention.attn.o",
            norm="attention.LayerNorm",
            core="attention.attn",
            attributes={"attention.attn.num_attention_heads": "units", "attention.attn.all_head_size": "columns"},
            per_head="position_bias",
        ),
        BERT.sites[1],
    ),
    returns_pair=True,
    positions_after_padding=True,
    fixed={"pad_token_id": 1},
)
DEBERTA_V2 = Family(
    layers="encoder.layer",
    sites=(
        attention(
            ("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
            output="attention.output.dense",
            norm="attention.output.LayerNorm",
            core="attention.self",
            attributes={"attention.self.num_attention_heads": "units", "attention.self.all_head_size": "columns"},
        ),
        BERT.sites[1],
    ),
    returns_pair=True,
    # A convolution between two layers (`conv_kernel_size`), and separate projections for positions (without `share_att_key`).
    strangers=(
        "encoder.conv",
        "encoder.layer.0.attention.self.pos_key_proj",
        "encoder.layer.0.attention.self.pos_query_proj",
    ),
)
MODERNBERT = Family(
    layers="layers",
    sites=(
        Site(
            "attention",
            "heads",
            (Rows("attn.Wqkv", parts=3),),
            "attn.Wo",
            "attn_norm",
            ("attn",),
            head_size,
            # Of transformers before 5.
            attributes={"attn.num_heads": "units", "attn.all_head_size": "columns"},
        ),
        ffn(("mlp.Wi",), output="mlp.Wo", norm="mlp_norm", core=("mlp",), parts=2),
    ),
    norm_first=True,
)
NOMIC_BERT = Family(
    layers="layers",
    sites=(
        attention(
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            output="self_attn.o_proj",
            norm="post_attention_layernorm",
            core="self_attn",
            settings=("num_attention_heads",),
        ),
        ffn(("mlp.gate_proj", "mlp.up_proj"), output="mlp.down_proj", norm="post_mlp_layernorm", core=("mlp",)),
    ),
)
JINA = Family(
    layers="layers",
    sites=(
        NOMIC_BERT.sites[0],
        ffn(("mlp.fc1",), output="mlp.fc2", norm="post_mlp_layernorm", core=("mlp",)),
    ),
)
OPT = Family(
    layers="decoder.layers",
    sites=(
        attention(
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            output="self_attn.out_proj",
            norm="self_attn_layer_norm",
            core="self_attn",
            attributes={"self_attn.num_heads": "units"},
        ),
        ffn(("fc1",), output="fc2", norm="final_layer_norm", core=("fc1", "activation_fn"), setting="ffn_dim"),
    ),
    norm_first="do_layer_norm_before",
    reads_last_token=True,
)
GPT2 = Family(
    layers="h",
    sites=(
        Site(
            "attention",
            "heads",
            (Rows("attn.c_attn", parts=3),),
            "attn.c_proj",
            "ln_1",
            ("attn",),
            head_size,
            attributes={"attn.num_heads": "units", "attn.split_size": "columns"},
        ),
        ffn(("mlp.c_fc",), output="mlp.c_proj", norm="ln_2", core=("mlp",), setting="n_inner"),
    ),
    norm_first=True,
    reads_last_token=True,
    types_are_words=True,
    numbered="scale_attn_by_inverse_layer_idx",
)
LLAMA = Family(
    layers="layers",
    sites=(
        # A unit is a key/value head with its group of query heads: fewer query heads in a group attend to the wrong keys.
        attention(
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            output="self_attn.o_proj",
            norm="input_layernorm",
            core="self_attn",
            width=group_size,
            settings=("num_attention_heads", "num_key_value_heads"),
        ),
        ffn(
            ("mlp.gate_proj", "mlp.up_proj"),
            output="mlp.down_proj",
            norm="post_attention_layernorm",
            core=("mlp",),
        ),
    ),
    norm_first=True,
    reads_last_token=True,
)
EUROBERT = Family(LLAMA.layers, LLAMA.sites, norm_first=True)
GRANITE = replace(LLAMA, multiplier="residual_multiplier")


def llama_with_ffn(first: str, output: str, parts: int = 1) -> Family:
    """Return Llama with another feed-forward network, of one module before its output projection."""
    network = ffn((first,), output=output, norm=LLAMA.sites[1].norm, core=("mlp",), parts=parts)
    return replace(LLAMA, sites=(LLAMA.sites[0], network))


def with_output_norms(family: Family, before: tuple[str | None, str | None], behind: tuple[str, str]) -> Family:
    """Return a family with other norms before its sublayers, and norms of the updates behind them.

    Args:
        before: for the attention and the feed-forward network, `Site.norm`; None for no norm.
        behind: for both, `Site.output_norm`.
    """
    norms = zip(family.sites, before, behind, strict=True)
    return replace(family, sites=tuple(replace(site, norm=norm, output_norm=last) for site, norm, last in norms))


def whole_attention(family: Family, *inputs: Rows) -> Family:
    """Return a family whose attention is one unit, since its heads can't be removed one by one.

    Args:
        inputs: input modules of the attention; those of `family` if none is given.
    """
    attention, network = family.sites
    attention = replace(attention, inputs=inputs or attention.inputs, width=all_heads, settings=())
    return replace(family, sites=(attention, network))


ARCEE = llama_with_ffn("mlp.up_proj", "mlp.down_proj")
GLM = llama_with_ffn("mlp.gate_up_proj", "mlp.down_proj", parts=2)
GLM4 = with_output_norms(
    GLM,
    before=("input_layernorm", "post_attention_layernorm"),
    behind=("post_self_attn_layernorm", "post_mlp_layernorm"),
)
GEMMA2 = with_output_norms(
    LLAMA,
    before=("input_layernorm", "pre_feedforward_layernorm"),
    behind=("post_attention_layernorm", "post_feedforward_layernorm"),
)
EXAONE4 = with_output_norms(
    LLAMA, before=(None, None), behind=("post_attention_layernorm", "post_feedforward_layernorm")
)
# One norm is taken over the queries of all heads together, and one over the keys.
OLMO2 = whole_attention(EXAONE4)
# A layer splits the rows of its fused module by the number of heads in the config, which is the same for all layers.
PHI3 = whole_attention(GLM, Rows("self_attn.qkv_proj"))
STARCODER2 = llama_with_ffn("mlp.c_fc", "mlp.c_proj")
MODERNBERT_DECODER = replace(
    MODERNBERT,
    sites=(
        attention(
            ("attn.q_proj", "attn.k_proj", "attn.v_proj"),
            output="attn.Wo",
            norm="attn_norm",
            core="attn",
            attributes={"attn.num_heads": "units", "attn.all_head_size": "columns"},
        ),
        MODERNBERT.sites[1],
    ),
    reads_last_token=True,
)
BIOGPT = Family(
    layers="layers",
    sites=(OPT.sites[0], replace(OPT.sites[1], settings=("intermediate_size",))),
    norm_first=True,
    reads_last_token=True,
)
FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "xlm-roberta-xl": XLM_ROBERTA_XL,
    "data2vec-text": ROBERTA,
    "electra": BERT,
    "ernie": BERT,
    "rembert": REMBERT,
    "roformer": REMBERT,
    "esm": ESM,
    "distilbert": DISTILBERT,
    "albert": ALBERT,
    "mpnet": MPNET,
    "deberta-v2": DEBERTA_V2,
    "modernbert": MODERNBERT,
    "nomic_bert": NOMIC_BERT,
    "gte": NOMIC_BERT,
    "jina_embeddings_v3": JINA,
    "eurobert": EUROBERT,
    "modernbert-decoder": MODERNBERT_DECODER,
    "opt": OPT,
    "biogpt": BIOGPT,
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": LLAMA,
    "ministral": LLAMA,
    "ministral3": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "smollm3": LLAMA,
    "gemma": LLAMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA2,
    "granite": GRANITE,
    "olmo": LLAMA,
    "seed_oss": LLAMA,
    "hunyuan_v1_dense": LLAMA,
    "arcee": ARCEE,
    "nemotron": ARCEE,
    "glm": GLM,
    "glm4": GLM4,
    "exaone4": EXAONE4,
    "olmo2": OLMO2,
    "olmo3": OLMO2,
    "phi3": PHI3,
    "starcoder2": STARCODER2,
}
"""Families by `config.model_type`."""
