"""`kprune_official` against what the authors' code kept and scored on the same batches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REFERENCE = Path(os.environ.get("KPRUNE_MIRROR", ""), "kprune-reference", "mrpc_80")


@pytest.mark.real_data
@pytest.mark.slow
def test_kprune_official_keeps_what_the_authors_code_keeps(tmp_path):
    official = json.loads((REFERENCE / "official.json").read_text())
    command = [sys.executable, "run.py", "task=mrpc", "model=minilm", "method=kprune_official", "flops_reduction=0.8"]
    command += [f"calibration.file={REFERENCE / 'calibration.json'}", f"outputs={tmp_path}", "tracking=none"]
    subprocess.run(command, check=True, cwd=ROOT)
    result = json.loads(next(tmp_path.rglob("result.json")).read_text())
    kept = result["details"]["kept_units"]
    heads = sum(len(set(ours) ^ set(theirs)) for ours, theirs in zip(kept[0::2], official["kept_heads"], strict=True))
    common = sum(
        len(set(ours) & set(theirs)) for ours, theirs in zip(kept[1::2], official["kept_neurons"], strict=True)
    )
    assert heads <= 1
    assert common >= 0.95 * sum(official["kept_neurons_per_layer"])
    for ours, theirs in zip(result["kept_neurons"], official["kept_neurons_per_layer"], strict=True):
        assert abs(ours - theirs) <= 3
    assert result["dense_score"] == pytest.approx(official["dense_accuracy"], abs=0.01)
    assert result["score"] == pytest.approx(official["pruned_accuracy"], abs=1.5)
