"""Structured pruning of transformers without retraining: `kprune.prune(model, batches, flops_reduction=0.8)`."""

__all__ = ["load", "prune"]


def __getattr__(name: str):
    # torch and transformers are imported when they are used: the analysis and the command line's errors need neither.
    if name == "prune":
        from kprune.api import prune

        return prune
    if name == "load":
        from kprune.checkpoint import load

        return load
    raise AttributeError(f"module 'kprune' has no attribute '{name}'")
