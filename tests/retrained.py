"""The retrained methods on schedules of seconds, for tiny models."""

from baselines.retrained.cofi import CoFi
from baselines.retrained.dynabert import DynaBERT
from baselines.retrained.ebert import EBERT
from baselines.retrained.finetuned import FineTuned
from kprune import training
from kprune.methods.kprune.algorithm import KPrune
from kprune.training import Recipe, Training

RECIPE = Recipe(epochs=2, lr=1e-3, batch_size=16)
RETRAINED = {
    "dynabert_w": DynaBERT(widths=(0.25, 0.75), depths=(1.0,), recipe=RECIPE),
    "dynabert_d": DynaBERT(widths=(0.25, 0.75), depths=(0.67, 1.0), recipe=RECIPE, final_epochs=1),
    "ebert": EBERT(recipe=RECIPE),
    "cofi": CoFi(recipe=RECIPE, unmasked_epochs=0.5, warmup_epochs=0.5, finetuning_epochs=1),
    "kprune_finetuned": FineTuned(KPrune(), recipe=RECIPE),
}


def kill_before(steps, monkeypatch):
    """Whoever trains is interrupted before each of these updates, counted over all trainings; the state is kept after every step."""
    monkeypatch.setattr(training, "SAVE_SECONDS", -1.0)
    save, update, calls = Training.save, Training.update, iter(range(1, 1000))
    monkeypatch.setattr(Training, "save", lambda run, path, pause=0.0: (-1.0, save(run, path)[1]))

    def killed(run, batch):
        if next(calls) in steps:
            raise KeyboardInterrupt
        return update(run, batch)

    monkeypatch.setattr(Training, "update", killed)
