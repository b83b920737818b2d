"""The README.md of a saved pruned model."""

from experiments.results import Result


def model_card(result: Result, auto_class: str) -> str:
    """Scores, FLOPs, latency and how to load it, in Markdown."""
    latency = result.latency
    speed = (
        f"{latency['speedup']:.2f}x faster than the dense model ({latency['dense_ms']:.1f} ms to {latency['pruned_ms']:.1f} ms; "
        f"{latency['device']}, batch {latency['batch_size']}, length {latency['sequence_length']}, {latency['threads']} threads)"
        if latency
        else "not measured"
    )
    how = "with retraining" if "training" in result.details else "without retraining"
    return f"""# {result.model} pruned for {result.task}

Pruned {how} by `{result.method}` of kprune, which needs not be installed to load it:

```python
from transformers import {auto_class}

model = {auto_class}.from_pretrained("this folder", trust_remote_code=True)
```

| | dense | pruned |
|---|---|---|
| {result.metric} ({result.evaluation["split"]}, {result.evaluation["examples"]} examples) | {result.dense_score:.2f} | {result.score:.2f} |
| FLOPs removed | | {100 * result.flops_reduction:.1f} % |
| encoder parameters removed | | {100 * result.params_reduction:.1f} % |

Latency: {speed}.

Made by `python run.py task={result.task} model={result.model} method={result.method} \
flops_reduction={result.flops_reduction_requested:g} seed={result.seed}` with the variant {result.variant or "none"},
from a checkpoint with SHA-256 {result.checkpoint["sha256"]}.
"""
