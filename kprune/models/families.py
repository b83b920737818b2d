"""All model families that kprune knows. `encoders.py` and `decoders.py` describe them.

To add a family, add an entry to `FAMILIES` (docs/how_to/add_a_family.md).
"""

from dataclasses import replace

from kprune.errors import UserError
from kprune.models import decoders, encoders
from kprune.models.family import Family
from kprune.types import Model

FAMILIES: dict[str, Family] = {
    "bert": encoders.BERT,
    "roberta": encoders.ROBERTA,
    "xlm-roberta": encoders.ROBERTA,
    "camembert": encoders.ROBERTA,
    "xlm-roberta-xl": encoders.XLM_ROBERTA_XL,
    "data2vec-text": encoders.ROBERTA,
    "electra": encoders.BERT,
    "ernie": encoders.BERT,
    "rembert": encoders.REMBERT,
    "roformer": encoders.REMBERT,
    "esm": encoders.ESM,
    "distilbert": encoders.DISTILBERT,
    "albert": encoders.ALBERT,
    "mpnet": encoders.MPNET,
    "deberta-v2": encoders.DEBERTA_V2,
    "modernbert": encoders.MODERNBERT,
    "nomic_bert": encoders.NOMIC_BERT,
    "gte": encoders.NOMIC_BERT,
    "jina_embeddings_v3": encoders.JINA,
    "eurobert": replace(decoders.LLAMA, reads_last_token=False),
    "modernbert-decoder": decoders.MODERNBERT_DECODER,
    "opt": decoders.OPT,
    "biogpt": decoders.BIOGPT,
    "gpt2": decoders.GPT2,
    "gpt_neo": decoders.GPT_NEO,
    "llama": decoders.LLAMA,
    "mistral": decoders.LLAMA,
    "ministral": decoders.LLAMA,
    "ministral3": decoders.LLAMA,
    "qwen2": decoders.LLAMA,
    "qwen3": decoders.LLAMA,
    "smollm3": decoders.LLAMA,
    "gemma": decoders.LLAMA,
    "gemma2": decoders.GEMMA2,
    "gemma3_text": decoders.GEMMA2,
    "vaultgemma": decoders.VAULT_GEMMA,
    "granite": decoders.GRANITE,
    "hyperclovax": decoders.HYPERCLOVAX,
    "olmo": decoders.LLAMA,
    "seed_oss": decoders.LLAMA,
    "hunyuan_v1_dense": decoders.LLAMA,
    "ernie4_5": decoders.LLAMA,
    "cwm": decoders.LLAMA,
    "arcee": decoders.ARCEE,
    "jais2": decoders.ARCEE,
    "nemotron": decoders.ARCEE,
    "glm": decoders.GLM,
    "glm4": decoders.GLM4,
    "exaone4": decoders.EXAONE4,
    "olmo2": decoders.OLMO2,
    "olmo3": decoders.OLMO2,
    "phi3": decoders.PHI3,
    "starcoder2": decoders.STARCODER2,
    "cohere": decoders.COHERE,
    "cohere2": decoders.COHERE2,
    "phi": decoders.PHI,
    "gptj": decoders.GPTJ,
    "gpt_neox": decoders.GPT_NEOX,
    "apertus": decoders.APERTUS,
    "nanochat": decoders.NANOCHAT,
    "helium": decoders.HELIUM,
    "stablelm": decoders.STABLELM,
    "lfm2": decoders.LFM2,
    "qwen3_5_text": decoders.QWEN3_5,
    "granitemoehybrid": decoders.GRANITE_HYBRID,
}
"""Families by `config.model_type`."""


def family_names() -> str:
    """Return the names of all families, for messages."""
    return ", ".join(FAMILIES)


def family_of(model: Model) -> Family:
    """Return what kprune knows of a model's family.

    Raises:
        UserError: the family is not supported.
    """
    family = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if family not in FAMILIES:
        raise UserError(f"model family '{family}' is not supported: use one of {family_names()}")
    return FAMILIES[family]
