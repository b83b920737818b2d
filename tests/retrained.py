"""The retrained methods on schedules of seconds, for tiny models."""

from baselines.cofi import CoFi
from baselines.dynabert import DynaBERT
from baselines.ebert import EBERT
from baselines.finetuned import FineTuned
from baselines.training import Recipe
from kprune.algorithm import KPrune

RECIPE = Recipe(epochs=2, lr=1e-3, batch_size=16)
RETRAINED = {
    "dynabert_w": DynaBERT(widths=(0.25, 0.75), depths=(1.0,), recipe=RECIPE),
    "dynabert_d": DynaBERT(widths=(0.25, 0.75), depths=(0.67, 1.0), recipe=RECIPE, final_epochs=1),
    "ebert": EBERT(recipe=RECIPE),
    "cofi": CoFi(recipe=RECIPE, unmasked_epochs=0.5, warmup_epochs=0.5, finetuning_epochs=1),
    "kprune_finetuned": FineTuned(KPrune(), recipe=RECIPE),
}
