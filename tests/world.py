"""The command line on a tiny fine-tuned model and data of one's own, for the tests that run it end to end."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch
from commands import run_python
from tiny import tiny_model, tiny_tokenizer


def make_world(folder: Path) -> Path:
    """A tiny fine-tuned checkpoint and a data file for `task=custom`."""
    model = tiny_model(dtype=torch.float32)
    model.config.id2label = {0: "bad", 1: "fine", 2: "good"}
    model.config.label2id = {"bad": 0, "fine": 1, "good": 2}
    model.save_pretrained(folder / "checkpoint")
    tiny_tokenizer().save_pretrained(folder / "checkpoint")
    generator = torch.Generator().manual_seed(0)
    rows = [" ".join(f"w{i}" for i in torch.randint(97, (8,), generator=generator).tolist()) for _ in range(60)]
    labels = [("bad", "fine", "good")[i % 3] for i in range(60)]
    pd.DataFrame({"review": rows, "stars": labels}).to_csv(folder / "data.csv", index=False)
    return folder


def overrides(world: Path) -> list[str]:
    """The cell's task, model and sizes."""
    return [
        "task=custom",
        f"task.train_file={world / 'data.csv'}",
        "task.text=[review]",
        "task.label=stars",
        "task.max_length=32",
        f"model.checkpoint={world / 'checkpoint'}",
        "calibration.tokens=200",
        "latency.batch_size=2",
        "latency.sequence_length=8",
        "threads=1",
        "tracking=none",
    ]


def environment(world: Path) -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "KPRUNE_MIRROR": "", "KPRUNE_CACHE": str(world / "cache")}


def run(world: Path, *more: str, sweep: bool = False) -> subprocess.CompletedProcess:
    return run_python(["run.py", *(["-m"] if sweep else []), *overrides(world), *more], environment(world))


def grid(world: Path, outputs: Path, *more: str) -> list[str]:
    """The command of K-prune's cells of the accuracy grid in this world."""
    cells = [
        "--models",
        "minilm",
        "--tasks",
        "custom",
        "--methods",
        "kprune",
        "--seeds",
        "0",
        "--outputs",
        str(outputs),
    ]
    return [sys.executable, "-m", "experiments.sweep", "accuracy", *cells, *overrides(world)[1:], *more]


def bad(done, *words):
    """One line on stderr that names the cause and the remedy, exit code 2; several cells say it of theirs as it fails, too."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2, done.stderr
    several = "-m" in done.args
    if several:
        lines = [line for line in lines if not line.startswith("failed: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for word in words:
        assert word in lines[0]
