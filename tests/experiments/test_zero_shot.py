"""Zero-shot accuracy by lm-evaluation-harness, on a task of local data."""

import json
import subprocess
import sys

import pytest
import torch
from commands import ROOT
from language import make_language_world, tiny_llama, word_tokenizer

import kprune
from experiments import zero_shot as module
from experiments.zero_shot import zero_shot
from kprune.errors import UserError

TASK = """\
task: next_word
dataset_path: json
dataset_kwargs: {data_files: {test: "FILE"}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{start}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
metadata: {version: 3.0}
"""
ROWS = [{"start": f"w{i} w{i + 1}", "choices": [f"w{i + 2}", f"w{2 * i + 3}"], "answer": i % 2} for i in range(3, 15)]


def needs_harness():
    return pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install -e '.[lm-eval]'")


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "next_word.yaml").write_text(TASK.replace("FILE", str(tmp_path / "rows.jsonl")))
    return folder


def accuracy(model):
    """The share of rows whose right answer is the more probable one; all answers are one token."""
    tokenizer, right = word_tokenizer(), 0
    for row in ROWS:
        ids = torch.tensor([tokenizer(row["start"])["input_ids"]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, -1]
        choices = [logits[tokenizer(choice)["input_ids"][0]] for choice in row["choices"]]
        right += int(torch.stack(choices).argmax()) == row["answer"]
    return 100 * right / len(ROWS)


def test_a_model_in_memory_scores_what_its_logits_say(task):
    needs_harness()
    ids = torch.randint(3, 60, (4, 16), generator=torch.Generator().manual_seed(0))
    dense = tiny_llama()
    pruned = kprune.prune(dense, [{"input_ids": ids}], params_reduction=0.3, method="kprune_plus_fast").model
    for model in (dense, pruned):
        found = zero_shot(model, word_tokenizer(), ["next_word"], task)["next_word"]
        assert found["acc"] == pytest.approx(accuracy(model)) and "acc_norm" in found
        assert found["version"] == 3.0 and found["examples"] == len(ROWS)


def test_the_command_writes_a_file(task, tmp_path):
    needs_harness()
    world = make_language_world(tmp_path)
    command = [sys.executable, "-m", "experiments.zero_shot", str(world / "checkpoint"), "--tasks", "next_word"]
    more = ["--tasks-folder", str(task), "--output", str(tmp_path / "scores.json"), "--limit", "6", "--device", "cpu"]
    done = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "scores.json").read_text())
    assert record["harness"] and record["limit"] == 6 and record["tasks"]["next_word"]["examples"] == 6
    assert 0 <= record["tasks"]["next_word"]["acc"] <= 100


def test_an_unknown_task_is_one_line(task):
    needs_harness()
    with pytest.raises(UserError, match="no task no_such_task"):
        zero_shot(tiny_llama(), word_tokenizer(), ["no_such_task"], task)


@pytest.mark.parametrize(
    "given", [["--limit", "0"], ["--batch-size", "-1"], ["--tasks-folder", "nowhere"]], ids=lambda given: given[0]
)
def test_what_is_refused_before_the_model_is_loaded(given, monkeypatch, capsys):
    monkeypatch.setattr(module, "load_model", lambda *_: pytest.fail("the model was loaded"))
    monkeypatch.setattr("sys.argv", ["zero_shot", "nowhere", "--tasks", "any", *given])
    assert module.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {' '.join(given)} is no ")


def test_a_file_that_cannot_be_written_is_told_before_the_model_is_loaded(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(module, "require_harness", lambda: None)
    monkeypatch.setattr(module, "load_model", lambda *_: pytest.fail("the model was loaded"))
    monkeypatch.setattr("sys.argv", ["zero_shot", str(tmp_path), "--tasks", "any", "--output", str(tmp_path)])
    assert module.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path} can't be written (it is a folder)")


def test_without_the_harness_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[lm-eval\]'"):
        zero_shot(tiny_llama(), word_tokenizer(), ["arc_easy"])
