"""All methods that a clone of the repository has, as data: kprune's own, then their competitors."""

from collections import ChainMap

from kprune.methods import registry
from kprune.methods.registry import Entry

DYNABERT = "baselines.retrained.dynabert:DynaBERT"

METHODS: ChainMap[str, Entry] = ChainMap(
    {
        "kwon": Entry("Kwon et al.", "retraining-free", "baselines.kwon:Kwon"),
        "kcm": Entry("KCM", "retraining-free", "baselines.kcm:KCM"),
        "wanda_sp": Entry("Wanda-sp", "retraining-free", "baselines.wanda_sp:WandaSP"),
        "flap": Entry("FLAP", "retraining-free", "baselines.flap:FLAP"),
        "llm_pruner": Entry("LLM-Pruner", "retraining-free", "baselines.llm_pruner:LLMPruner"),
        "oscar": Entry("OSSCAR", "retraining-free", "baselines.oscar:Oscar"),
        "shortgpt": Entry("ShortGPT", "retraining-free", "baselines.shortgpt:ShortGPT"),
        "kprune_plus_search": Entry(
            "K-prune+, evolutionary search", "ours", "baselines.kprune_plus_search:KPrunePlusSearch"
        ),
        "sparsegpt": Entry("SparseGPT", "retraining-free", "baselines.sparsegpt:SparseGPT"),
        "wanda": Entry("Wanda", "retraining-free", "baselines.wanda:Wanda"),
        "none": Entry("no pruning", "floor", "baselines.none:Unpruned"),
        "magnitude": Entry("magnitude", "floor", "baselines.magnitude:Magnitude"),
        "random": Entry("random", "floor", "baselines.random:Random"),
        "dynabert_w": Entry("DynaBERT-w", "retrained", DYNABERT, {"depths": (1.0,)}),
        "dynabert_d": Entry("DynaBERT-d", "retrained", DYNABERT),
        "ebert": Entry("EBERT", "retrained", "baselines.retrained.ebert:EBERT"),
        "cofi": Entry("CoFi, hidden size kept", "retrained", "baselines.retrained.cofi:CoFi"),
        "kprune_finetuned": Entry("K-prune, fine-tuned", "retrained", "baselines.retrained.finetuned:FineTuned"),
    },
    registry.METHODS,
)
"""In the order that tables show them in: a ChainMap goes through its last mapping first."""
