"""The parts of a model card that every pruned model has."""

from kprune.contract import Outcome
from kprune.objectives import OBJECTIVES
from kprune.types import Model
from kprune.wrappers import PACKAGE, WRAPPERS, wrapper_of

NOTES = {
    "pruned": "The layers have the pruned widths: the model is small and fast. `modeling_kprune.py` beside it builds them and "
    "needs torch and transformers alone; kprune need not be installed.",
    "uniform": "Saved as `format=uniform`: every layer has as many heads, and as many neurons, so the stock class is small and "
    "fast, and loads everywhere without trusting code.",
    "dense": "Saved as `format=dense`: the stock architecture with zeros in place of the removed units. It loads everywhere "
    "without trusting code and computes what the pruned model does, but it is **no faster and no smaller** than the dense model; "
    "save with `format=pruned` for that.",
}
"""What a format means for a model that transformers loads."""


def auto_class_of(model: Model) -> str:
    """Return the name of the transformers auto class that loads a model with its head."""
    name = type(model).__name__
    return next((kind.auto_class for kind in OBJECTIVES.values() if name.endswith(kind.class_suffixes)), "AutoModel")


def loading_section(loader: str, format: str) -> str:
    """Return how to load a saved model, and what its format means for its speed, in Markdown.

    Args:
        loader: an auto class of transformers, or a class of sentence-transformers.
    """
    if format.startswith("gguf"):
        return """```
llama-cli -m model.gguf
```

A file for llama.cpp. Its architecture is `llama` if all layers are alike, else `deci`, whose layers have widths of their own."""
    trust = ", trust_remote_code=True" if format == "pruned" else ""
    note = NOTES[format]
    package, call = (PACKAGE, loader) if loader in WRAPPERS else ("transformers", f"{loader}.from_pretrained")
    return f"""```python
from {package} import {loader}

model = {call}("this folder"{trust})
```

{note}"""


def python_card(outcome: Outcome, format: str) -> str:
    """Return the card of an outcome that is saved from Python, where nothing was scored."""
    reduction = outcome.details.get("flops_reduction")
    rows = {
        "FLOPs removed": f"{100 * reduction:.1f} %" if reduction is not None else None,
        "heads kept per layer": _listed(outcome.kept_heads),
        "neurons kept per layer": _listed(outcome.kept_neurons),
        "pruning time": f"{sum(outcome.seconds_by_stage.values()):.0f} s",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items() if value)
    return f"""# {type(outcome.model).__name__}, pruned by kprune

{loading_section(wrapper_of(outcome.model) or auto_class_of(outcome.model), format)}

| | |
|---|---|
{table}

Pruned from Python, so nobody has scored it here: evaluate it before you use it.
"""


def _listed(widths: list[float]) -> str:
    return ", ".join(f"{width:g}" for width in widths)
