"""The parts of a model card that every pruned model has."""

from kprune.contract import Outcome
from kprune.objectives import auto_class_for
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
WITH_ZEROS = (
    "The stock architecture with zeros among the weights of its layers. It loads everywhere without trusting code, and it has "
    "**as many parameters as the dense model and is no faster**: what makes use of the zeros, such as a GPU's kernels for 2:4, "
    "was not measured."
)
"""What `format=dense` means for a model of which single weights were set to zero."""
OWN_TOKENIZER = """
The tokenizer in this folder belongs to the model: its tokens have other numbers than the dense model's. A word of tokens that were
not kept is spelled by several others.
"""


def auto_class_of(model: Model) -> str:
    """Return the name of the transformers auto class that loads a model with its head."""
    return auto_class_for(type(model).__name__) or "AutoModel"


def loading_section(loader: str, format: str, zeros: bool) -> str:
    """Return how to load a saved model, and what its format means for its speed, in Markdown.

    Args:
        loader: an auto class of transformers, or a class of sentence-transformers.
        zeros: whether single weights were set to zero, and no unit was removed.
    """
    if format.startswith("gguf"):
        return """```
llama-cli -m model.gguf
```

A file for llama.cpp. Its architecture is `llama` if all layers are alike, else `deci`, whose layers have widths of their own."""
    trust = ", trust_remote_code=True" if format == "pruned" else ""
    note = WITH_ZEROS if zeros and format == "dense" else NOTES[format]
    package, call = (PACKAGE, loader) if loader in WRAPPERS else ("transformers", f"{loader}.from_pretrained")
    return f"""```python
from {package} import {loader}

model = {call}("this folder"{trust})
```

{note}"""


def python_card(outcome: Outcome, format: str) -> str:
    """Return the card of an outcome that is saved from Python or by the command `kprune`, where nothing was scored."""
    measures = "flops_reduction", "params_reduction", "sparsity", "vocabulary"
    flops, parameters, zeros, cut = (outcome.details.get(name) for name in measures)
    rows = {
        "weights of the layers that are zero": _percent(zeros),
        "FLOPs removed": _percent(flops),
        "parameters of the layers removed": _percent(parameters),
        "heads kept per layer": _listed(outcome.kept_heads),
        "neurons kept per layer": _listed(outcome.kept_neurons),
        "tokens kept": None if cut is None else f"{cut['kept']:,} of {cut['of']:,}",
        "tokens of held-out texts that others spell": _percent(cut and cut.get("missing")),
        "tokens of these, for each before": f"{cut['growth']:.3f}" if cut and "growth" in cut else None,
        "pruning time": f"{sum(outcome.seconds_by_stage.values()):.0f} s",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items() if value)
    return f"""# {type(outcome.model).__name__}, pruned by kprune

{loading_section(wrapper_of(outcome.model) or auto_class_of(outcome.model), format, outcome.plan.sparsity is not None)}

| | |
|---|---|
{table}
{"" if cut is None else OWN_TOKENIZER}
No score of this model was measured: evaluate it before you use it.
"""


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"


def _listed(widths: list[float]) -> str:
    return ", ".join(f"{width:g}" for width in widths)
