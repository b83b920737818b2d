"""FLAP: An, Zhao, Yu, Tang, Wang, "Fluctuation-based Adaptive Structured Pruning for Large Language Models" (AAAI 2024,
arXiv 2312.11983)."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from baselines.owned import by_unit
from kprune.budgets import Budget
from kprune.checkpoint.classes import stock_class, stock_config
from kprune.checkpoint.uniform import stock_on_meta
from kprune.clock import Clock
from kprune.contract import Job, Method, Outcome
from kprune.data import CalibrationSet
from kprune.errors import OutOfReach, UserError
from kprune.models import Block, ModelView, view_of
from kprune.models.copies import frozen_copy
from kprune.models.flops import layer_parameters
from kprune.models.inputs import on_device
from kprune.models.modeling_kprune import sizes
from kprune.models.surgery import keep_units, output_weight, unit_columns
from kprune.solve.mask_search import greedy
from kprune.types import Model

BIASES = ("attention_bias", "mlp_bias")
"""Settings of configs that give linear modules biases."""


@dataclass(frozen=True)
class FLAP(Method):
    """Keep the units whose features fluctuate most, and put the mean of what the others add into the output bias.

    A column j of an output projection W scores Var(x_j) ‖W_:j‖²; scores are standardised within each block, a unit has the
    mean of its columns', and one order over all blocks meets the budget. The removed columns R add W_R mean(x_R) to the bias.
    All statistics come from one pass over the dense model.

    As in the authors' code: `squared_heads`. Departures from it: in their code, a head weighs 512/3 neurons, the ratio of the
    parameters of the two if a head has 128 columns and keys of its own; here, a unit (under grouped queries, a whole group) weighs
    what it costs in the budget. Their threshold is the one that comes closest to the share, above it or below; here, a unit that
    no longer fits is passed over. Their variance is updated with a mean that has been overwritten, and leaves the first sequence
    out; here, it is the variance over all tokens.

    A model without output biases gets output biases. If its config then gives other modules biases, too, these stay zero. All
    added biases count as parameters. A model of a family that can't have output biases is refused.

    Attributes:
        squared_heads: the scores of attention's columns are squared before they are standardised, as in the authors' code;
            their paper has no square.
    """

    squared_heads: bool = True
    name: str = "flap"

    def check(self, model: Model, budget: Budget) -> None:
        """Check as for any method, and that the model can have output biases.

        Raises:
            UserError: for the reasons that `Method.check` names, or the model can't have output biases.
        """
        super().check(model, budget)
        stock_with_biases(model)

    def prune(self, job: Job) -> Outcome:
        """Prune a copy of the job's model.

        Raises:
            OutOfReach: the output biases alone take more than the budget leaves.
            UserError: the model's family is not supported or can't have output biases, or its features are not finite.
        """
        clock, view = Clock(), view_of(with_output_biases(frozen_copy(job.model)))

        def measure(clock: Clock) -> list[Fluctuation]:
            with clock("fluctuation"):
                return fluctuations(view, job.data.calibration)

        measured = job.data.once(("flap",), clock, measure)
        with clock("mask_search"):
            limit = job.budget.limit(view_of(job.model))
            if job.budget.measure == "parameters":
                limit -= fixed_parameters(view) - fixed_parameters(view_of(job.model))
            if limit < 0:
                raise OutOfReach("method flap adds output biases, which take more than the budget leaves: ask for less")
            scores = [self.scores(block, of) for block, of in zip(view.blocks, measured, strict=True)]
            masks = greedy(scores, list(job.budget.costs(view).values()), limit)
        with clock("surgery"):
            for block, mask, of in zip(view.blocks, masks, measured, strict=True):
                compensate(block, mask, of.mean)
                keep_units(block, mask.nonzero()[:, 0])
        return Outcome.of(view, [mask.nonzero()[:, 0].tolist() for mask in masks], clock, {})

    def scores(self, block: Block, fluctuation: "Fluctuation") -> Tensor:
        """Return the score of every unit of a block: [units] in float64 (the authors' `prune_flap`, metric WIFV)."""
        if block.units == 0:
            return torch.zeros(0, dtype=torch.float64)
        columns = fluctuation.variance * output_weight(block).double().square().sum(dim=0)
        if self.squared_heads and block.kind == "heads":
            columns = columns.square()
        return by_unit(standardised(columns), block) / block.width


@dataclass
class Fluctuation:
    """Mean and variance of a block's features over all real tokens, each [columns] in float64."""

    mean: Tensor
    variance: Tensor


def standardised(values: Tensor) -> Tensor:
    """Return values less their mean, over their standard deviation; zeros if all are the same."""
    apart = values - values.mean()
    deviation = apart.square().sum().div(max(len(values) - 1, 1)).sqrt()
    return apart / deviation if deviation > 0 else torch.zeros_like(apart)


@torch.no_grad()
def fluctuations(view: ModelView, calibration: CalibrationSet) -> list[Fluctuation]:
    """Return the mean and variance of every block's features, by one pass up the model; of a block without units, [0] each.

    Variances are updated batch by batch about the mean of the batch (Chan, Golub, LeVeque 1979), so that the variance of features
    far from zero is not lost to rounding.

    Raises:
        UserError: a feature is not finite.
    """
    zeros = [torch.zeros(block.columns, dtype=torch.float64, device=view.device) for block in view.blocks]
    found, seen = [Fluctuation(zero, zero) for zero in zeros], 0
    for batch in tqdm(calibration.batches(), desc="FLAP", unit="batch", disable=None):
        batch = on_device(batch, view.device)
        x, context = view.embed(batch)
        real = batch["attention_mask"].bool()
        tokens = int(real.sum())
        for block, of in zip(view.blocks, found, strict=True):
            x, features = block.run_with_features(x, context)
            if features is not None:
                variance, mean = torch.var_mean(features[real].double(), dim=0, correction=0)
                step = mean - of.mean
                share = tokens / (seen + tokens)
                of.variance = of.variance + share * (variance - of.variance + (1 - share) * step.square())
                of.mean = of.mean + share * step
        seen += tokens
    if not all(torch.isfinite(of.variance).all() for of in found):
        raise UserError("features hold NaN or infinity: check the checkpoint's weights")
    return found


@torch.no_grad()
def compensate(block: Block, mask: Tensor, mean: Tensor) -> None:
    """Add to the output bias, in place, W_R mean(x_R) of the units R for which a mask [units] (bool) is False (section 3.4)."""
    removed = (~mask).nonzero()[:, 0]
    if len(removed):
        columns = unit_columns(removed, block.width).to(mean.device)
        bias = block.bias()
        assert bias is not None, "`with_output_biases` gave it one"
        bias.add_((output_weight(block)[:, columns].double() @ mean[columns]).to(bias))


def fixed_parameters(view: ModelView) -> int:
    """Return the number of parameters of the layers that belong to no unit."""
    return layer_parameters(view) - sum(block.units * block.unit_parameters() for block in view.blocks)


def stock_with_biases(model: Model) -> ModelView:
    """Return the view of a stock model like this one in which all output projections have biases, on the meta device.

    Raises:
        UserError: an output projection of the stock model can't have a bias.
    """
    config = copy.deepcopy(stock_config(model.config))
    for name in BIASES:
        if hasattr(config, name):
            setattr(config, name, True)
    view = view_of(stock_on_meta(stock_class(model), config))
    without = [block.site.output for block in view.blocks if block.bias() is None]
    if without:
        raise UserError(
            f"method flap puts what it removes into output biases, and the family {config.model_type} can't have one at {without[0]}: use "
            "wanda_sp or kprune_plus"
        )
    return view


def with_output_biases(model: Model) -> Model:
    """Give every output projection of a model a bias of zeros, in place, and set its config accordingly.

    Raises:
        UserError: for the reason that `stock_with_biases` names.
    """
    stock = stock_with_biases(model)
    for block, whole in zip(view_of(model).blocks, stock.blocks, strict=True):
        if block.units:
            for module, other in zip(block.linears, whole.linears, strict=True):
                if module.bias is None and other.bias is not None:
                    module.bias = nn.Parameter(module.weight.new_zeros(sizes(module)[1]), requires_grad=False)
    for name in BIASES:
        if hasattr(model.config, name):
            setattr(model.config, name, True)
    return model
