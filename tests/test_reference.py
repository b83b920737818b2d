"""Real data: the reference batches of MRPC, on which what the authors' code kept and scored is on record."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.scoring.held_out import measure

ROOT = Path(__file__).parents[1]
REFERENCE = Path(os.environ.get("KPRUNE_MIRROR", ""), "kprune-reference", "mrpc_80")


def prune(method, tmp_path):
    command = [sys.executable, "run.py", "task=mrpc", "model=minilm", f"method={method}", "flops_reduction=0.8"]
    command += [f"calibration.file={REFERENCE / 'calibration.json'}", f"outputs={tmp_path}", "tracking=none"]
    subprocess.run(command, check=True, cwd=ROOT)
    return json.loads(next(tmp_path.rglob("result.json")).read_text())


def official():
    return json.loads((REFERENCE / "official.json").read_text())


@pytest.mark.real_data
@pytest.mark.slow
def test_kprune_official_keeps_what_the_authors_code_keeps(tmp_path):
    authors, result = official(), prune("kprune_official", tmp_path)
    heads, common = 0, 0
    for layer, (their_heads, their_neurons) in enumerate(
        zip(authors["kept_heads"], authors["kept_neurons"], strict=True)
    ):
        heads += len(set(result["plan"][f"{layer}.attention"]) ^ set(their_heads))
        common += len(set(result["plan"][f"{layer}.ffn"]) & set(their_neurons))
    assert heads <= 1
    assert common >= 0.95 * sum(authors["kept_neurons_per_layer"])
    for ours, theirs in zip(result["kept_neurons"], authors["kept_neurons_per_layer"], strict=True):
        assert abs(ours - theirs) <= 3
    assert result["dense_score"] == pytest.approx(authors["dense_accuracy"], abs=0.01)
    assert result["score"] == pytest.approx(authors["pruned_accuracy"], abs=1.5)


@pytest.mark.real_data
@pytest.mark.slow
def test_kprune_plus_is_closer_to_the_teacher_than_kprune():
    """On training examples that neither has seen; the evaluation set gates nothing, and no score bounds another's."""
    rows = measure("gate", "mrpc", ["kprune", "kprune_plus"], 0.8, ["model=minilm", "calibration.tokens=20000"])
    kprune, plus = (row["held_out_divergence"] for row in rows)
    assert plus < 0.7 * kprune
