"""Families, their settings and heads: small, and without data of their own."""

from families import ENCODERS, family_settings

FAMILIES = family_settings(layers=2)


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
    "albert": ({"chunk_size_feed_forward": 1}, {"hidden_act": "gelu"}),
    "mpnet": ({"relative_attention_num_buckets": 40}, {"num_attention_heads": 2}),
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
    "nomic_bert": ({"head_dim": 4}, {"hidden_act": "gelu"}),
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
    "esm": ({"position_embedding_type": "absolute"}, {"token_dropout": False}, {"emb_layer_norm_before": True}),
    "roformer": ({"rotary_value": True},),
    "gte": ({"head_dim": 4},),
    "eurobert": ({"classifier_pooling": "bos"}, {"classifier_pooling": "mean"}, {"num_key_value_heads": 4}),
    "modernbert-decoder": ({"layer_types": ["full_attention", "sliding_attention"]}, {"norm_bias": True, **BIASED}),
    "biogpt": ({"scale_embedding": False}, {"hidden_act": "relu"}),
    "olmo": ({"clip_qkv": None}, {"attention_bias": True}),
    "arcee": ({"hidden_act": "gelu"}, BIASED),
    "glm": ({"attention_bias": True}, {"rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 1.0}}),
    "starcoder2": ({"sliding_window": 4}, {"use_bias": False}),
    "gemma2": (
        {"layer_types": ["full_attention"] * 2},
        {"attention_bias": True},
        {"use_bidirectional_attention": True},
    ),
    "gemma3_text": ({"layer_types": ["full_attention"] * 2}, {"attention_bias": True}),
    "granite": ({"logits_scaling": 8.0}, {"attention_bias": True}, BIASED),
    "glm4": ({"attention_bias": True},),
    "exaone4": ({"sliding_window": None, "layer_types": ["full_attention"] * 2},),
    "olmo2": ({"num_key_value_heads": 4}, {"attention_bias": True}),
    "olmo3": ({"num_key_value_heads": 2}, {"layer_types": ["full_attention"] * 2}),
    "phi3": ({"num_key_value_heads": 4}, {"sliding_window": 4}, {"partial_rotary_factor": 1.0}),
    "gpt_neo": ({"attention_types": [[["local", "global"], 1]]}, {"activation_function": "relu"}),
    "hyperclovax": ({"use_post_norm": False}, {"logits_scaling": 8.0}),
    "ernie4_5": ({"use_bias": True}, {"head_dim": 16}),
    "cohere": ({"attention_bias": True}, {"num_key_value_heads": 4}, {"logit_scale": 0.5}),
    "cohere2": ({"layer_types": ["full_attention"] * 2}, {"attention_bias": True}),
    "phi": ({"num_key_value_heads": 4}, {"qk_layernorm": True}, {"partial_rotary_factor": 1.0}),
    "gptj": ({"rotary_dim": 8}, {"n_head": 1}),
    "gpt_neox": (
        {"use_parallel_residual": False},
        {"attention_bias": False},
        {"rotary_pct": 1.0},
        {"hidden_act": "relu"},
    ),
    "lfm2": ({"conv_bias": True}, {"conv_L_cache": 4}, {"layer_types": ["full_attention", "conv"]}),
    "qwen3_5_text": ({"num_key_value_heads": 4}, {"attention_bias": True}, {"linear_num_key_heads": 4}),
    "granitemoehybrid": ({"mamba_proj_bias": True}, {"position_embedding_type": "rope"}, {"attention_bias": True}),
    "gemma": ({"hidden_activation": "silu"}, {"num_key_value_heads": 1}, {"attention_bias": True}),
}


DECODERS = tuple(family for family in FAMILIES if family not in ENCODERS)


HEADS = {
    "two classes": ("AutoModelForSequenceClassification", {"num_labels": 2}),
    "five classes": ("AutoModelForSequenceClassification", {"num_labels": 5}),
    "regression": ("AutoModelForSequenceClassification", {"num_labels": 1, "problem_type": "regression"}),
    "one output": ("AutoModelForSequenceClassification", {"num_labels": 1}),
    "several labels": (
        "AutoModelForSequenceClassification",
        {"num_labels": 3, "problem_type": "multi_label_classification"},
    ),
    "tokens": ("AutoModelForTokenClassification", {"num_labels": 5}),
    "span": ("AutoModelForQuestionAnswering", {}),
    "next token": ("AutoModelForCausalLM", {}),
    "embedding": ("AutoModel", {}),
}


REFUSED_HEADS = {
    "masked words": ("AutoModelForMaskedLM", {}),
    "choices": ("AutoModelForMultipleChoice", {}),
}
