"""The README.md of a saved pruned model."""

from experiments.store.record import Record
from kprune.checkpoint.card import OWN_TOKENIZER, loading_section


def model_card(record: Record, auto_class: str, format: str, command: str) -> str:
    """Return a model card in Markdown: how to load the model, its scores, sizes and latency, and the command that made it.

    Args:
        record: the record of the cell.
        auto_class: name of transformers' auto class of the model's head.
        format: format of the saved model.
        command: the command that ran the cell.
    """
    latency, masked = record.latency, record.sparsity is not None
    zeros = f"| weights of the layers that are zero | | {100 * (record.sparsity or 0):.1f} % |\n" if masked else ""
    used, size = record.vocabulary, record.size
    tokens = (
        f"| tokens kept | {used.of:,} | {used.kept:,} |\n"
        f"| tokens of the evaluation set that others spell | | {100 * used.missing:.1f} % |\n"
        f"| tokens of the evaluation set, for each before | | {used.growth:.3f} |\n"
        if used
        else ""
    )
    sizes = (
        f"| parameters | {size.parameters_dense:,} | {size.parameters_pruned:,} |\n"
        f"| megabytes of weights, in float32 | {size.megabytes_dense:.1f} | {size.megabytes_pruned:.1f} |\n"
        if size
        else ""
    )
    speed = (
        f"{latency.speedup:.2f}x faster than the dense model ({latency.dense_ms:.1f} ms to {latency.pruned_ms:.1f} ms; "
        f"{latency.device}, batch {latency.batch_size}, length {latency.sequence_length}, {latency.threads} threads)"
        if latency
        else "not measured"
    )
    how = "with retraining" if "training" in record.details else "without retraining"
    return f"""# {record.model} pruned for {record.task}

Pruned {how} by the method `{record.method}` of kprune.

{loading_section(auto_class, format, masked)}

| | dense | pruned |
|---|---|---|
| {record.metric} ({record.evaluation.split}, {record.evaluation.examples} examples) | {record.dense_score:.2f} | {record.score:.2f} |
| FLOPs removed | | {100 * record.flops_reduction:.1f} % |
| the layers' parameters removed | | {100 * record.params_reduction:.1f} % |
{sizes}{tokens}{zeros}{OWN_TOKENIZER if used else ""}
Latency{" of the pruned model, not of this dense copy" if format == "dense" and not masked else ""}: {speed}.

Made by

```
{command}
```

at commit {record.commit or "unknown"} of kprune, from a checkpoint with SHA-256 {record.checkpoint.sha256}.
"""
