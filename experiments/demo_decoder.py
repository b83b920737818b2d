"""Prune the embedded language model by 20 % of its layers' parameters, and show its perplexity, size and speed before and after.

    python -m experiments.demo_decoder [OVERRIDE ...]

The model is SmolLM2-135M-Instruct from the package index. The calibration set are 128 texts, each made of docstrings of one installed
library, and the model is scored on docstrings of other modules; no data are downloaded. Overrides are as for run.py.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from torch import nn

from experiments.cell.identity import folder_of
from experiments.cell.runner import run_cell
from experiments.config.cell import configured
from experiments.inputs.cache import cache_folder
from experiments.inputs.checkpoints import load_model, load_tokenizer
from experiments.inputs.embedded_decoder import embedded_decoder
from experiments.store.record import Record
from experiments.tasks.docstrings import DocstringsTask, digest
from kprune.errors import UserError, command
from kprune.files import write_text

TEXTS, PARAGRAPHS = 128, 8
"""Number of calibration texts, and number of paragraphs in a text, which has about 200 tokens."""
PROMPT, NEW_TOKENS = "The first rule of writing a good program is", 24


def write_texts(task: DocstringsTask, folder: Path) -> tuple[Path, Path]:
    """Write the calibration texts, as JSON lines, and the text to score, and return the paths of both files.

    The text to score is from modules of which no calibration text has a paragraph.
    """
    training, evaluation = task.training_table(), task.evaluation_table()
    texts = []
    for label in sorted(set(training.labels)):
        own = [text for text, of in zip(training.texts[0], training.labels, strict=True) if of == label]
        texts += [" ".join(own[start : start + PARAGRAPHS]) for start in range(0, len(own), PARAGRAPHS)]
    lines = [json.dumps({"text": text}) + "\n" for text in sorted(texts, key=digest)[:TEXTS]]
    calibration, scored = folder / "calibration.jsonl", folder / "evaluation.txt"
    write_text(calibration, "".join(lines))
    write_text(scored, "\n\n".join(evaluation.texts[0]))
    return calibration, scored


def generated(model: nn.Module, tokenizer, device: torch.device) -> str:
    """Return `PROMPT` with the `NEW_TOKENS` tokens that a model adds, each the most probable one."""
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"].to(device)
    with torch.no_grad():
        made = model.to(device).generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
        )
    return " ".join(tokenizer.decode(made[0], skip_special_tokens=True).split())


def summary(record: Record, models: list[nn.Module], sentences: list[str]) -> str:
    """Return a text with a table of the dense and the pruned model and the sentences that they generate.

    Args:
        record: the record of the cell.
        models: the dense and the pruned model.
        sentences: the sentence of each model.
    """
    rows = {
        f"perplexity ({record.evaluation.examples} windows of {record.evaluation.window})": (
            f"{record.dense_score:.2f}",
            f"{record.score:.2f}",
        ),
        "parameters": tuple(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M" for model in models),
    }
    if record.latency:
        prompt, one_more = record.latency.prefill, record.latency.decoding
        rows["prompt, tokens/s"] = f"{prompt.dense:.0f}", f"{prompt.pruned:.0f}"
        rows["generation, tokens/s"] = f"{one_more.dense:.1f}", f"{one_more.pruned:.1f}"
    lines = [f"{'':32}{'dense':>12}{'pruned':>12}"]
    lines += [f"{name:32}{dense:>12}{pruned:>12}" for name, (dense, pruned) in rows.items()]
    lines.append(
        f"{100 * record.params_reduction:.1f} % of the layers' parameters removed, "
        f"{100 * record.params_reduction_of_model:.1f} % of all, in {record.pruning_seconds:.0f} s"
    )
    lines += [f"{name:8}{sentence}" for name, sentence in zip(("dense:", "pruned:"), sentences, strict=True)]
    return "\n".join(lines)


def demo(overrides: list[str]) -> str:
    """Return the summary of the demo's cell, after running it if it is not finished.

    Raises:
        UserError: an override is wrong or would be ignored, the model can't be downloaded, or the cell fails.
    """
    calibration, scored = write_texts(configured([]).task.build(), cache_folder() / "tasks" / "demo-decoder")
    given = {
        "task": "custom_text",
        "task.name": "docstring_texts",
        "task.evaluation_file": scored,
        "task.train_file": calibration,
        "task.window": 512,
        "task.windows": 20,
        "model": "smollm2",
        "method": "kprune_plus_fast",
        "budget": "parameters",
        "params_reduction": 0.2,
        "tracking": "none",
        "outputs": "outputs/demo_decoder",
    }
    settings = [*(f"{name}={value}" for name, value in given.items()), *overrides]
    if not any(setting.startswith("model.checkpoint=") for setting in overrides):
        settings.append(f"model.checkpoint={embedded_decoder()}")
    config = configured(settings)
    if config.evaluate:
        raise UserError(
            f"evaluate={config.evaluate} would be ignored, since the demo prunes: score it by python run.py"
        )
    record = run_cell(config, "demo", " ".join(["python", "-m", "experiments.demo_decoder", *overrides]))
    folders = [Path(config.model.checkpoint), folder_of(config) / "model"]
    models = [load_model(folder, config.task.build()) for folder in folders]
    tokenizer = load_tokenizer(folders[0])
    return summary(record, models, [generated(model, tokenizer, torch.device("cpu")) for model in models])


@command
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.demo_decoder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    print(demo(parser.parse_args().overrides))


if __name__ == "__main__":
    sys.exit(main())
