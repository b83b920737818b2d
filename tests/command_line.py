"""The command `kprune` in this process, on texts of made-up words."""

import json
import re
from pathlib import Path

import torch
from tiny import tiny_model
from transformers import AutoTokenizer

from kprune.cli import main

SENTENCES = [" ".join(f"w{(i * 7 + j * 3) % 97}" for j in range(3 + i % 9)) for i in range(80)]


def with_head(world, folder: Path, head: str) -> Path:
    tiny_model(head=head, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(world / "checkpoint").save_pretrained(folder)
    return folder


def number(shown: str, pattern: str) -> float:
    return float(re.search(pattern, shown)[1].replace(",", ""))


def succeeds(*arguments) -> None:
    assert main([*map(str, arguments), "--threads", "1"]) == 0


def fails(capsys, *arguments) -> str:
    """The one line that bad input gives."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith("error: ") and not out
    return line


def edited(**entries):
    def edit(folder: Path):
        config = json.loads((folder / "config.json").read_text()) | entries
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))

    return edit
