"""Every family: settings of a tiny model of it, and a tiny random model."""

import torch
from tiny import SHAPE
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)

TOKENS = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
GROUPED = {"num_key_value_heads": 2}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
ENCODERS = (
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "electra",
    "distilbert",
    "albert",
    "mpnet",
    "deberta-v2",
    "modernbert",
    "nomic_bert",
    "xlm-roberta-xl",
    "data2vec-text",
    "ernie",
    "rembert",
    "roformer",
    "esm",
    "gte",
    "jina_embeddings_v3",
    "eurobert",
)


def family_settings(layers: int) -> dict:
    """Return, by family, what its config has beside `tiny.SHAPE`."""
    return {
        "bert": {},
        "roberta": {},
        "xlm-roberta": {},
        "camembert": {},
        "electra": {"embedding_size": 16},
        "distilbert": {"dim": 32, "n_layers": layers, "n_heads": 4, "hidden_dim": 48},
        "albert": {"embedding_size": 16, "num_hidden_groups": layers},
        "mpnet": {},
        "deberta-v2": {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
            "share_att_key": True,
        },
        "modernbert": {"local_attention": 6, "global_attn_every_n_layers": 2, "cls_token_id": 2, "sep_token_id": 3},
        "nomic_bert": {},
        "xlm-roberta-xl": {},
        "data2vec-text": {},
        "ernie": {},
        "rembert": {"input_embedding_size": 16, "output_embedding_size": 16},
        "roformer": {"embedding_size": 16},
        "esm": {"position_embedding_type": "rotary", "token_dropout": True, "mask_token_id": 4},
        "gte": {},
        "jina_embeddings_v3": {},
        "eurobert": GROUPED,
        "modernbert-decoder": {"local_attention": 12, "global_attn_every_n_layers": 2},
        "biogpt": {},
        "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.3},
        "gpt2": {"n_inner": 48},
        "llama": GROUPED,
        "mistral": GROUPED | {"sliding_window": 5},
        "qwen2": GROUPED,
        "qwen3": GROUPED | {"head_dim": 16},
        "smollm3": GROUPED,
        "gemma": GROUPED | {"head_dim": 16},
        "gemma2": GROUPED | {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
        "gemma3_text": GROUPED | {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
        "granite": GROUPED | {"residual_multiplier": 0.3, "attention_multiplier": 0.4, "embedding_multiplier": 6.0},
        "ministral": GROUPED | {"head_dim": 8, "sliding_window": 5},
        "ministral3": GROUPED | {"head_dim": 8},
        "olmo": GROUPED | {"clip_qkv": 4.0},
        "seed_oss": GROUPED | {"head_dim": 16},
        "hunyuan_v1_dense": GROUPED | {"head_dim": 16},
        "arcee": GROUPED,
        "nemotron": GROUPED | {"head_dim": 16},
        "glm": GROUPED | {"head_dim": 16},
        "exaone4": GROUPED | {"head_dim": 16, "sliding_window": 8, "sliding_window_pattern": 2},
        "olmo2": GROUPED,
        "olmo3": {"sliding_window": 8},
        "phi3": GROUPED | {"partial_rotary_factor": 0.5},
        "glm4": GROUPED | {"head_dim": 16},
        "starcoder2": GROUPED,
        "gpt_neo": {"attention_types": [[["global"], layers - 1], [["local"], 1]], "window_size": 6},
        "vaultgemma": GROUPED | {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
        "hyperclovax": GROUPED | {"residual_multiplier": 0.3, "use_post_norm": True},
        "ernie4_5": GROUPED | {"head_dim": 16},
        "cwm": GROUPED | {"head_dim": 16, "sliding_window": 8},
        "jais2": GROUPED,
        "cohere": GROUPED,
        "cohere2": GROUPED | {"sliding_window": 8, "sliding_window_pattern": 2},
        "phi": GROUPED,
        "gptj": {"n_inner": 48, "rotary_dim": 4},
        "gpt_neox": {},
        "apertus": GROUPED,
        "nanochat": GROUPED,
        "helium": GROUPED | {"head_dim": 8},
        "stablelm": GROUPED | {"use_qkv_bias": True},
        "lfm2": GROUPED | {"block_auto_adjust_ff_dim": False, "layer_types": alternating("conv", layers)},
        "qwen3_5_text": GROUPED
        | {
            "head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 4,
            "layer_types": alternating("linear_attention", layers),
        },
        "granitemoehybrid": GROUPED
        | MAMBA
        | {
            "num_local_experts": 0,
            "shared_intermediate_size": 48,
            "layer_types": alternating("linear_attention", layers),
            "residual_multiplier": 0.3,
        },
    }


def alternating(mixer: str, layers: int) -> list[str]:
    """Types of layers: another mixer than attention in every other one, the first included."""
    return [("full_attention" if layer % 2 else mixer) for layer in range(layers)]


EAGER_ALONE = ("mpnet", "deberta-v2", "rembert", "roformer", "gemma2", "gptj", "gpt_neo", "vaultgemma")
"""Families without sdpa: transformers has none of them, or none for the settings above."""
MODELS = family_settings(layers=3)
MODELS["opt, norm last"] = MODELS["opt"] | {"word_embed_proj_dim": 16, "do_layer_norm_before": False}
MODELS["hyperclovax, norms first alone"] = MODELS["hyperclovax"] | {"use_post_norm": False}
MODELS["gpt_neox, in sequence"] = {"use_parallel_residual": False}


def has_classifier(case: str) -> bool:
    """Tell whether transformers has a classifier of the family of a case of `MODELS`."""
    return CONFIG_MAPPING[case.partition(",")[0]] in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.keys()


CLASSIFIERS = [case for case in MODELS if has_classifier(case)]


def tiny_of(case: str, dtype: torch.dtype = torch.float64, attention: str | None = None):
    """A model of three layers, of a case of `MODELS`: a classifier of three classes if there is one, else a language model."""
    torch.manual_seed(0)
    settings = SHAPE | TOKENS | {"num_labels": 3} | MODELS[case]
    if case == "distilbert":
        settings.pop("intermediate_size")
    config = AutoConfig.for_model(case.partition(",")[0], **settings)
    kind = AutoModelForSequenceClassification if has_classifier(case) else AutoModelForCausalLM
    model = kind.from_config(config, attn_implementation=attention)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms and biases at their initial values hide what they do
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model.to(dtype).eval()
