"""`force=true` does all again that a cell depends on but data and the dense checkpoint."""

import pytest
from world import overrides

from experiments.cell.runner import run_cell
from experiments.config.cell import configured
from experiments.inputs import subject
from experiments.scoring import dense
from kprune.training import Training


@pytest.mark.parametrize("method", ["kprune_finetuned", "dynabert_w"])
def test_trainings_and_the_dense_score_are_made_again(world, tmp_path, monkeypatch, method):
    monkeypatch.setenv("KPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KPRUNE_MIRROR", raising=False)
    done, update, predict = [], Training.update, dense.predictions_of
    monkeypatch.setattr(Training, "update", lambda run, batch: done.append("step") or update(run, batch))
    monkeypatch.setattr(dense, "predictions_of", lambda *given: done.append("dense") or predict(*given))
    options = [option for option in overrides(world) if not option.startswith("latency.")]
    options += [f"method={method}", "method.recipe.epochs=1", "flops_reduction=0.4", "latency=null"]
    options += ["save_model=false", f"outputs={tmp_path / 'outputs'}"]

    def run(*more):
        """Run as another process does, which shares nothing but the cache; return what was made."""
        subject._subject.cache_clear()
        done.clear()
        record = run_cell(configured([*options, *more]), "single", "")
        return list(done), record.score

    made, score = run()
    assert made.count("dense") == 1 and "step" in made
    assert run() == ([], score)
    assert run(f"outputs={tmp_path / 'others'}") == ([], score), "states and scores in the cache are found"
    assert run("force=true") == (made, score)
