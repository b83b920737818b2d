"""A language model from the command line, end to end on a tiny Llama: records, tables, and one line for bad input."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch
from commands import ROOT
from language import make_language_world, overrides, run, word_tokenizer, words
from transformers import AutoModelForCausalLM
from world import bad

from analysis.aggregate import aggregate
from analysis.records import load
from analysis.tables import TABLES, notes
from experiments.store.record import Record
from kprune.errors import UserError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_language_world(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    """WikiText-2 and C4 of a few words; the pretrained model is given by its folder."""
    folder = tmp_path_factory.mktemp("mirror")
    for name, config, split, texts in (
        ("Salesforce/wikitext", "wikitext-2-v1", "test", [words(9, seed=i) for i in range(20)]),
        ("allenai/c4", "en", "train", [words(30, seed=i) for i in range(50, 70)]),
    ):
        (folder / name / config).mkdir(parents=True)
        pd.DataFrame({"text": texts}).to_parquet(folder / name / config / f"{split}.parquet")
        files = f"  - split: {split}\n    path: {config}/{split}.parquet\n"
        (folder / name / "README.md").write_text(f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n")
    return folder


@pytest.fixture(scope="module")
def cell(world):
    done = run(world, f"outputs={world / 'outputs'}", "method=kprune_plus_fast")
    assert done.returncode == 0, done.stderr
    return world / "outputs/custom_text/smollm2/kprune_plus_fast+examples=8/p0.2/seed0"


def test_the_record_of_a_perplexity(world, cell):
    record = Record.read(cell / "result.json")
    assert record.metric == "perplexity" and not record.higher_is_better and record.score > 1
    evaluation = record.evaluation
    assert (evaluation.examples, evaluation.window, evaluation.first_token) == (13, 16, "none")
    assert evaluation.data == str(world / "evaluation.txt")
    calibration = record.calibration
    assert (calibration.examples, calibration.tokens, calibration.texts, calibration.window) == (8, 128, 20, 16)
    assert calibration.data == str(world / "calibration.jsonl") and calibration.draw == "windows"
    assert record.details["sequence_length"] == 16
    assert set(record.config["contents"]) >= {"task.train_file", "task.evaluation_file", "model.checkpoint"}


def test_both_shares_and_both_speeds_are_in_the_record(world, cell):
    record = Record.read(cell / "result.json")
    dense = AutoModelForCausalLM.from_pretrained(world / "checkpoint")
    layers = sum(p.numel() for p in dense.model.layers.parameters())
    everything = sum(p.numel() for p in dense.parameters())
    assert 0.2 <= record.params_reduction < 0.3
    assert record.params_reduction_of_model == pytest.approx(record.params_reduction * layers / everything)
    latency = record.latency
    assert (latency.batch_size, latency.sequence_length) == (1, 8)
    for speed in (latency.prefill, latency.decoding):
        assert speed.dense > 0 and speed.pruned > 0


def test_the_saved_model_generates_and_scores_the_same(world, cell):
    model = AutoModelForCausalLM.from_pretrained(cell / "model", trust_remote_code=True)
    ids = torch.tensor([word_tokenizer()("w3 w4 w5")["input_ids"]])
    assert model.generate(ids, max_new_tokens=4, do_sample=False).shape == (1, 7)
    done = run(world, f"evaluate={cell / 'model'}")
    assert done.returncode == 0, done.stderr
    assert f"perplexity {Record.read(cell / 'result.json').score:.2f}" in done.stdout


def test_a_share_of_the_whole_model(world, tmp_path):
    done = run(world, f"outputs={tmp_path}", "method=magnitude", "of=model", "params_reduction=0.3", "save_model=false")
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.rglob("result.json")
    assert path.parts[-4:-1] == ("magnitude+examples=8,of=model", "p0.3", "seed0")
    record = Record.read(path)
    assert 0.3 <= record.params_reduction_of_model < record.params_reduction
    assert record.config["of"] == "model"


def test_the_path_and_the_record_of_wikitext2(world, mirror, tmp_path):
    more = ("method=kprune_plus", "task.config=wikitext-2-v1", f"outputs={tmp_path}")
    done = run(world, "task=wikitext2", *more, mirror=mirror)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "wikitext2/smollm2/kprune_plus/p0.2/seed0/result.json").read_text())
    assert record["metric"] == "perplexity" and record["target"] == "p0.2" and record["checkpoint"]["source"] == "given"
    assert record["evaluation"]["data"] == "Salesforce/wikitext (wikitext-2-v1, test)"
    assert record["calibration"]["data"] == "allenai/c4 (en, train)" and record["calibration"]["examples"] == 20


def test_a_configuration_that_the_mirror_lacks(world, mirror, tmp_path):
    done = run(world, "task=wikitext2", f"outputs={tmp_path}", mirror=mirror)
    bad(done, "no configuration wikitext-2-raw-v1", "task.config=wikitext-2-v1")


def test_tables_have_the_window_in_their_head_and_mix_none(world, cell, tmp_path):
    cells = load(world / "outputs")
    assert "13 disjoint windows of 16 tokens of" in notes(cells) and "no first token" in notes(cells)
    table = TABLES["accuracy"].make(aggregate(cells))
    assert table.loc[0, "Task"] == "custom_text (perplexity of 16 tokens)"
    speeds = TABLES["latency"].make(aggregate(cells)).loc[0, "Generation, tokens/s"]
    assert " to " in speeds
    other = cells.assign(evaluation_window=32.0, task="c4")
    with pytest.raises(UserError, match="two windows of a perplexity, 16 .* and 32 "):
        aggregate(pd.concat([cells, other], ignore_index=True))
    other = cells.assign(evaluation_data="another text", model="other")
    with pytest.raises(UserError, match="two data sets"):
        aggregate(pd.concat([cells, other], ignore_index=True))


def test_two_processes_write_what_one_writes(world, cell):
    """As torchrun starts them: the same units, a score that is the same but for rounding, and no file of the second one's."""
    outputs = world / "several"
    arguments = ["run.py", *overrides(world), f"outputs={outputs}", "method=kprune_plus_fast"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "KPRUNE_MIRROR": "", "KPRUNE_CACHE": str(world / "cache")}
    done = subprocess.run([*torchrun, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("results: ") == 1
    folder = outputs / cell.relative_to(world / "outputs")
    one, two = (Record.read(each / "result.json") for each in (cell, folder))
    assert two.plan == one.plan and two.config == one.config
    assert two.score == pytest.approx(one.score, rel=1e-4)
    files = [sorted(path.relative_to(each) for path in each.rglob("*")) for each in (cell, folder)]
    assert files[0] == files[1]
    refused = subprocess.run(
        [*torchrun, *arguments[:-1], "method=kprune"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert refused.returncode and refused.stderr.count("error: method kprune runs in one process") == 1
