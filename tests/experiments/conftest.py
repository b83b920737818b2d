"""A tokenizer that spells, and a mirror with a handful of rows."""

from pathlib import Path

import datasets
import pandas as pd
import pytest
from language import make_language_world
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from world import environment, overrides

from experiments.cell.runner import run_cell
from experiments.config.cell import configured
from experiments.inputs import subject

GLUE_ROWS = {
    "sentence1": ["a cat sat", "the dog ran off", "it rains", "snow", "a bird", "we eat"],
    "sentence2": ["the cat sits", "no dog", "it is wet", "sun and snow", "birds", "we ate"],
    "label": [1, 0, 1, 0, 1, 1],
}
CONTEXTS = [
    "The tall tower stands in Paris, near the river Seine. It was built in 1889 by Gustave Eiffel and his men.",
    "Rivers flow to the sea.",
]
SQUAD_ROWS = {
    "id": ["0", "1", "2"],
    "question": ["  Where is it?", "Who built it?", "Where do rivers flow?"],
    "context": [CONTEXTS[0], CONTEXTS[0], CONTEXTS[1]],
    "answers": [
        {"text": ["Paris", "in Paris"], "answer_start": [25, 22]},
        {"text": ["Gustave Eiffel"], "answer_start": [78]},
        {"text": ["to the sea"], "answer_start": [12]},
    ],
}


@pytest.fixture
def tokenizer():
    return make_tokenizer(model_input_names=["input_ids", "token_type_ids", "attention_mask"])


@pytest.fixture
def plain_tokenizer():
    """One whose model has no token types."""
    return make_tokenizer(model_input_names=["input_ids", "attention_mask"])


@pytest.fixture
def folder(tmp_path):
    """That of a cell."""
    folder = tmp_path / "mrpc" / "minilm" / "kprune" / "0.8" / "seed0"
    folder.mkdir(parents=True)
    return folder


def make_tokenizer(**settings) -> PreTrainedTokenizerFast:
    """BERT's pre-tokenisation, then a token for each letter; [CLS] a [SEP] b [SEP]."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,?!'-"
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *("##" + letter for letter in letters)]
    vocabulary = {name: number for number, name in enumerate(names)}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=512,
        **settings,
    )


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror folder with org/pairs (config tiny) and org/squad (config plain), and no cache but its own."""
    folder = tmp_path / "mirror"
    for split in ("train", "validation"):
        _write_split(folder / "org/pairs", "tiny", split, GLUE_ROWS)
        _write_split(folder / "org/squad", "plain", split, SQUAD_ROWS)
    monkeypatch.setenv("KPRUNE_MIRROR", str(folder))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return folder


@pytest.fixture
def write_split(mirror):
    """Write one split of a data set of the mirror: write_split("org/pairs", "tiny", "train", {column: values})."""
    return lambda name, *rest: _write_split(mirror / name, *rest)


def _write_split(folder: Path, config: str, split: str, rows: dict) -> None:
    """One parquet file, and the README that names every split of the config."""
    (folder / config).mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(folder / config / f"{split}.parquet")
    splits = sorted(file.stem for file in (folder / config).glob("*.parquet"))
    files = "".join(f"  - split: {name}\n    path: {config}/{name}.parquet\n" for name in splits)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n")


@pytest.fixture(scope="session")
def language_world(tmp_path_factory):
    return make_language_world(tmp_path_factory.mktemp("language"))


@pytest.fixture
def cached(language_world, monkeypatch):
    monkeypatch.setenv("KPRUNE_CACHE", str(language_world / "cache"))
    monkeypatch.setenv("KPRUNE_MIRROR", "")
    subject._subject.cache_clear()


@pytest.fixture
def own_cell(world, monkeypatch, tmp_path):
    """own_cell("task=...", "model.checkpoint=...", ...) runs a cell of another task than the world's, in this process."""
    for name, value in environment(world).items():
        monkeypatch.setenv(name, value)
    sizes = [setting for setting in overrides(world) if not setting.startswith(("task", "model.checkpoint"))]

    def run(*settings):
        given = [*sizes, "flops_reduction=0.4", *settings, f"outputs={tmp_path / 'outputs'}"]
        return run_cell(configured(given), "single", "python run.py")

    return run
