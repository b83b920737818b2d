"""The families of encoders, as data."""

from kprune.models.family import Family, Rows, Site, attention, ffn, head_size


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
