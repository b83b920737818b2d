"""The settings of K-prune+, some of which depend on where a model's norms are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, TypeVar

from kprune.contract import Method
from kprune.errors import UserError
from kprune.models import ModelView
from kprune.models.family import Kind
from kprune.settings_checks import check_kinds, check_not_negative, check_positive, check_whole
from kprune.storage import Where

Setting = TypeVar("Setting")


def decided(setting: Setting | Literal["auto"]) -> Setting:
    """Return a setting that `Settings.resolved` has replaced if it was "auto"."""
    assert setting != "auto"
    return setting


@dataclass(frozen=True)
class Settings(Method):
    """The settings of K-prune+.

    Attributes:
        temperature: γ of the KL (eq. 4 of the K-prune paper) whose Fisher is measured, above 0.
        ridge: of the least squares, relative to the mean of the Gram matrix's diagonal.
        metric_ridge: what is added to the diagonal of the Fisher's covariance S, relative to the diagonal's mean.
        floor: ρ; the weight of a token is its energy over the mean energy, plus ρ.
        input_ridge: ridge of the map that `fold_map` folds into the input weights, relative like `ridge`.
        refit_epochs: passes of the refit of each block's own weights; 0 for none, all in closed form.
        refit_lr: learning rate of the refit's first step, above 0.
        repair: share, from 0 to 1, of the error of the residual stream that a block is asked to make up for; the rest of its
            target is what its own dense weights add on the student's stream.
        clip: a token whose features have more energy than this multiple of the median counts as if it had just this multiple; None
            for no limit.
        ridge_around: the weights that the ridge draws to: 0, or the dense ones.
        map_input: whether the map from the student's to the teacher's reading is folded into the input weights.
        tune: whether blocks that lose no unit are fitted, too, as soon as a block below them has lost one.
        kinds: units that may go, "heads" and "neurons"; "auto": as `allocation.prunable_kinds` says.
        states: where hidden states and the blocks' Fishers lie while nothing works on them: on the "device", in memory of the
            "cpu", or on "disk".
        layers_on: device that one layer at a time is moved to while it is worked on, such as "cuda", for a model on the CPU that
            does not fit there; None: layers are worked on where the model is.

    `ridge`, `refit_lr` and the settings from `repair` to `tune` are "auto" by default, and then depend on where the norms are. If
    norms come after the residual sum, every block's output is scaled anew: all of the error is repaired, by every block, and no
    token is clipped. Otherwise the stream carries its error on, drifted features would shrink the weights, and a few tokens have
    most of the energy: half of the error is repaired, on top of what the dense weights add on the student's features, the ridge is
    larger, and blocks that lose no unit are fitted only if there is a refit.
    """

    temperature: float = 2.0
    ridge: float | Literal["auto"] = "auto"
    metric_ridge: float = 1.0
    floor: float = 1.0
    input_ridge: float = 1e-2
    refit_epochs: int = 10
    refit_lr: float | Literal["auto"] = "auto"
    repair: float | Literal["auto"] = "auto"
    clip: float | Literal["auto"] | None = "auto"
    ridge_around: Literal["zero", "dense", "auto"] = "auto"
    map_input: bool | Literal["auto"] = "auto"
    tune: bool | Literal["auto"] = "auto"
    kinds: Sequence[Kind] | Literal["auto"] = "auto"
    states: Where = "device"
    layers_on: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(temperature=self.temperature)
        check_whole(refit_epochs=self.refit_epochs)
        if self.repair != "auto" and not 0 <= self.repair <= 1:
            raise UserError(f"repair={self.repair} is out of range: give a share from 0 to 1, or auto")
        for name in ("clip", "refit_lr"):
            value = getattr(self, name)
            if value not in ("auto", None):
                check_positive(**{name: value})
        check_kinds(self.kinds)
        if self.ridge != "auto":
            check_not_negative(ridge=self.ridge)
        check_not_negative(metric_ridge=self.metric_ridge, floor=self.floor, input_ridge=self.input_ridge)

    @property
    def small_memory(self) -> bool:
        """Tell whether the first pass goes down layer by layer: one more forward pass, for the graph of one layer at a time."""
        return self.states != "device" or self.layers_on is not None

    @property
    def follows_teacher(self) -> bool:
        """Tell whether the walk needs the teacher's stream: to make up for the student's error, or to map the student's inputs to it."""
        return bool(self.repair or self.map_input)

    def resolved(self, view: ModelView) -> Self:
        """Return these settings, each "auto" but that of `kinds` replaced by the value for a model with its norms in this place."""
        last = all(block.placement == "after" for block in view.blocks)
        auto: dict[str, Any] = {
            "ridge": 1e-2,
            "repair": 1.0,
            "clip": None,
            "ridge_around": "zero",
            "map_input": True,
            "tune": True,
            "refit_lr": 5e-4,
        }
        if not last:
            auto = {
                "ridge": 0.1,
                "repair": 0.5,
                "clip": 10.0,
                "ridge_around": "dense",
                "map_input": False,
                "refit_lr": 1e-3,
            }
            # Without a refit, solving for the projection of a block that loses nothing only overfits the calibration set.
            auto["tune"] = self.refit_epochs > 0
        return replace(self, **{name: value for name, value in auto.items() if getattr(self, name) == "auto"})
