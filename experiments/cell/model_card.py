"""The README.md of a saved pruned model."""

from experiments.store.results import Result
from kprune.checkpoint.card import loading_section


def model_card(result: Result, auto_class: str, format: str, command: str) -> str:
    """Scores, FLOPs, latency, how to load it and the command that made it, in Markdown."""
    latency = result.latency
    speed = (
        f"{latency['speedup']:.2f}x faster than the dense model ({latency['dense_ms']:.1f} ms to {latency['pruned_ms']:.1f} ms; "
        f"{latency['device']}, batch {latency['batch_size']}, length {latency['sequence_length']}, {latency['threads']} threads)"
        if latency
        else "not measured"
    )
    how = "with retraining" if "training" in result.details else "without retraining"
    return f"""# {result.model} pruned for {result.task}

Pruned {how} by the method `{result.method}` of kprune.

{loading_section(auto_class, format)}

| | dense | pruned |
|---|---|---|
| {result.metric} ({result.evaluation["split"]}, {result.evaluation["examples"]} examples) | {result.dense_score:.2f} | {result.score:.2f} |
| FLOPs removed | | {100 * result.flops_reduction:.1f} % |
| encoder parameters removed | | {100 * result.params_reduction:.1f} % |

Latency{" of the pruned model, not of this dense copy" if format == "dense" else ""}: {speed}.

Made by

```
{command}
```

at commit {result.commit or "unknown"} of kprune, from a checkpoint with SHA-256 {result.checkpoint["sha256"]}.
"""
