"""The families of decoders, as data."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kprune.models.encoders import MODERNBERT
from kprune.models.family import Family, Rows, Site, all_heads, attention, ffn, group_size, head_size

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
GPT_NEO = Family(
    layers="h",
    sites=(
        attention(
            ("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
            output="attn.attention.out_proj",
            norm="ln_1",
            core="attn.attention",
            attributes={"attn.attention.num_heads": "units"},
        ),
        ffn(("mlp.c_fc",), output="mlp.c_proj", norm="ln_2", core=("mlp",)),
    ),
    norm_first=True,
    reads_last_token=True,
    returns_pair=True,
    numbered="attention_types",
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


def with_all_heads(family: Family) -> Family:
    """Return a family whose config can't say fewer heads, since the size of a head is the hidden size over their number."""
    attention, *others = family.sites
    return replace(family, sites=(replace(attention, settings=()), *others))


def in_parallel(family: Family, norm: str) -> Family:
    """Return a family whose layers have one norm, and two sublayers that read what it returns."""
    return replace(family, parallel=True, sites=tuple(replace(site, norm=norm) for site in family.sites))


def mixed(family: Family, mixer: Site) -> Family:
    """Return a family in which some layers have another mixer of tokens in the place of the attention."""
    attention, network = family.sites
    return replace(family, sites=(replace(attention, some_layers=True), mixer, network))


def recurrence(
    core: str, inputs: tuple[str, ...], norm: str, width: Callable[[Any], int], name: str = "recurrence"
) -> Site:
    """Describe a convolution or recurrence: one unit, since its heads or channels can't be removed one by one.

    Args:
        core: path of the module, whose output projection is its `out_proj`.
        inputs: names of the projections inside it that read the residual stream.
    """
    rows = tuple(Rows(f"{core}.{path}") for path in inputs)
    output = f"{core}.out_proj"
    return Site(name, "heads", rows, output, norm, (core,), width, some_layers=True, recurrent=True)


def hidden_size(config: Any) -> int:
    """Return the channels of a convolution over the residual stream."""
    return config.hidden_size


def delta_net_size(config: Any) -> int:
    """Return the columns of all value heads of a gated delta network together."""
    return config.linear_num_value_heads * config.linear_value_head_dim


def mamba_size(config: Any) -> int:
    """Return the columns of all heads of a Mamba 2 mixer together."""
    return config.mamba_n_heads * config.mamba_d_head


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
VAULT_GEMMA = replace(LLAMA, sites=(LLAMA.sites[0], replace(LLAMA.sites[1], norm="pre_feedforward_layernorm")))
HYPERCLOVAX = with_output_norms(
    GRANITE, before=("input_layernorm", "post_attention_layernorm"), behind=("post_norm1", "post_norm2")
)
EXAONE4 = with_output_norms(
    LLAMA, before=(None, None), behind=("post_attention_layernorm", "post_feedforward_layernorm")
)
# One norm is taken over the queries of all heads together, and one over the keys.
OLMO2 = whole_attention(EXAONE4)
# A layer splits the rows of its fused module by the number of heads in the config, which is the same for all layers.
PHI3 = whole_attention(GLM, Rows("self_attn.qkv_proj"))
APERTUS = replace(
    ARCEE,
    sites=(
        replace(ARCEE.sites[0], norm="attention_layernorm"),
        replace(ARCEE.sites[1], norm="feedforward_layernorm"),
    ),
)
NANOCHAT = llama_with_ffn("mlp.fc1", "mlp.fc2")
HELIUM = with_all_heads(LLAMA)
# A layer splits its queries by the number of heads in the config. Its norm of queries and keys, if it has one, has a module for every head.
STABLELM = replace(whole_attention(LLAMA), strangers=("layers.0.self_attn.q_layernorm",))
STARCODER2 = llama_with_ffn("mlp.c_fc", "mlp.c_proj")
# Its norm of queries and keys, if it has one, has weights for every head.
COHERE = replace(in_parallel(LLAMA, "input_layernorm"), strangers=("layers.0.self_attn.q_norm",))
COHERE2 = with_all_heads(COHERE)
PHI = in_parallel(
    replace(
        LLAMA,
        sites=(
            replace(LLAMA.sites[0], output="self_attn.dense"),
            ffn(("mlp.fc1",), output="mlp.fc2", norm=None, core=("mlp",)),
        ),
    ),
    "input_layernorm",
)
GPTJ = in_parallel(
    Family(
        layers="h",
        sites=(
            attention(
                ("attn.q_proj", "attn.k_proj", "attn.v_proj"),
                output="attn.out_proj",
                norm=None,
                core="attn",
                attributes={"attn.num_attention_heads": "units"},
            ),
            ffn(("mlp.fc_in",), output="mlp.fc_out", norm=None, core=("mlp",), setting="n_inner"),
        ),
        norm_first=True,
        reads_last_token=True,
        returns_pair=True,
    ),
    "ln_1",
)
GPT_NEOX = Family(
    layers="layers",
    sites=(
        # The rows of a head's query, key and value follow each other, and those of the next head come after them.
        Site(
            "attention",
            "heads",
            (Rows("attention.query_key_value"),),
            "attention.dense",
            "input_layernorm",
            ("attention",),
            head_size,
        ),
        ffn(("mlp.dense_h_to_4h",), output="mlp.dense_4h_to_h", norm="post_attention_layernorm", core=("mlp",)),
    ),
    norm_first=True,
    parallel="use_parallel_residual",
    reads_last_token=True,
)
# Its config rounds the number of neurons by several settings, so that it can't say any number.
LFM2 = mixed(
    replace(
        LLAMA,
        sites=(
            replace(with_all_heads(LLAMA).sites[0], output="self_attn.out_proj", norm="operator_norm"),
            replace(
                ffn(("feed_forward.w1", "feed_forward.w3"), "feed_forward.w2", "ffn_norm", core=("feed_forward",)),
                settings=(),
            ),
        ),
    ),
    recurrence("conv", ("in_proj",), "operator_norm", hidden_size, name="convolution"),
)
QWEN3_5 = mixed(
    LLAMA,
    recurrence(
        "linear_attn", ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"), "input_layernorm", delta_net_size
    ),
)
# With experts, they are added to what the shared network returns.
GRANITE_HYBRID = replace(
    mixed(
        replace(
            GRANITE,
            sites=(
                GRANITE.sites[0],
                ffn(
                    ("shared_mlp.input_linear",),
                    output="shared_mlp.output_linear",
                    norm="post_attention_layernorm",
                    core=("shared_mlp",),
                    parts=2,
                    setting="shared_intermediate_size",
                ),
            ),
        ),
        recurrence("mamba", ("in_proj",), "input_layernorm", mamba_size),
    ),
    strangers=("layers.0.block_sparse_moe",),
)
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
