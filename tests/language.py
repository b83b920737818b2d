"""A tiny random Llama saved with a tokenizer made offline, and texts it knows the words of."""

import json
import os
import subprocess
from pathlib import Path

import torch
from commands import run_python
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.config.cell import CellConfig, configured
from experiments.inputs.texts import Texts

WORDS = 60
POSITIONS = 64


def tiny_llama(**changes) -> LlamaForCausalLM:
    """Three layers of 2 key/value groups of 2 heads, and 48 neurons; tied embeddings."""
    torch.manual_seed(0)
    settings = dict(
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=POSITIONS,
        initializer_range=0.3,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    return LlamaForCausalLM(LlamaConfig(**settings | changes)).eval()


def texts(seed=0, examples=8) -> dict[str, torch.Tensor]:
    """A batch of random words, padded where its first text ends."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 60, (examples, 10), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 7:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def word_tokenizer(words: int = WORDS, first: bool = False) -> PreTrainedTokenizerFast:
    """A token a word, w3 to w59; `first` puts <s> before a text."""
    vocabulary = {"<pad>": 0, "<unk>": 1, "<s>": 2} | {f"w{number}": number for number in range(3, words)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if first:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", pad_token="<pad>", bos_token="<s>")


def words(count: int, seed: int = 0) -> str:
    """A text of so many random words."""
    generator = torch.Generator().manual_seed(seed)
    return " ".join(f"w{number}" for number in torch.randint(3, WORDS, (count,), generator=generator).tolist())


def write_lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def make_language_world(folder: Path) -> Path:
    """The checkpoint, a text to score and 20 documents to calibrate on."""
    tiny_llama().save_pretrained(folder / "checkpoint")
    word_tokenizer().save_pretrained(folder / "checkpoint")
    (folder / "evaluation.txt").write_text(words(210))
    write_lines(folder / "calibration.jsonl", [words(40, seed=i) for i in range(1, 21)])
    return folder


def overrides(world: Path) -> list[str]:
    return [
        "task=custom_text",
        f"task.evaluation_file={world / 'evaluation.txt'}",
        f"task.train_file={world / 'calibration.jsonl'}",
        "calibration.examples=8",
        *cell(world),
    ]


def cell(world: Path) -> list[str]:
    """The settings of a cell on whatever text."""
    return [
        "task.window=16",
        "model=smollm2",
        f"model.checkpoint={world / 'checkpoint'}",
        "latency.sequence_length=8",
        "threads=1",
        "tracking=none",
        "budget=parameters",
        "params_reduction=0.2",
    ]


def run(world: Path, *more: str, mirror: Path | str = "") -> subprocess.CompletedProcess:
    """Run a cell on the world's own texts, or on those of a mirror if one is given."""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "KPRUNE_MIRROR": str(mirror),
        "KPRUNE_CACHE": str(world / "cache"),
    }
    own = {setting.partition("=")[0] for setting in more}
    given = [setting for setting in (cell if mirror else overrides)(world) if setting.partition("=")[0] not in own]
    return run_python(["run.py", *given, *more], environment)


def language(world: Path, *more: str) -> CellConfig:
    """The config of a cell, some settings in place of `overrides`."""
    own = {entry.partition("=")[0] for entry in more}
    return configured([*(entry for entry in overrides(world) if entry.partition("=")[0] not in own), *more])


def texts_of(lengths: list[int]) -> Texts:
    """Documents of so many words."""
    return Texts("made-up", [words(length, seed=i) for i, length in enumerate(lengths)])


def ids_of(texts: Texts) -> list[list[int]]:
    """The tokens of every document."""
    return word_tokenizer()(list(texts.documents))["input_ids"]
