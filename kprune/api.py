"""Prune a user's own model on a user's own batches, in one call."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from kprune.batches import calibration_set
from kprune.budgets import Budget, FlopsBudget, Of, ParametersBudget
from kprune.budgets.costs import check_grain
from kprune.budgets.latency import STANDARD, Point
from kprune.checkpoint import become_pruned, check_format, natural_format, python_card, save
from kprune.checkpoint.onnx import Onnx
from kprune.checks import check_class, check_model
from kprune.contract import Job, Method, Outcome, PruningData
from kprune.errors import UserError
from kprune.methods.registry import find_method
from kprune.models import view_of
from kprune.models.flops import flops_reduction as flops_removed
from kprune.models.flops import params_reduction as params_removed
from kprune.models.flops import sparsity as zeros
from kprune.models.inputs import longest_input
from kprune.objectives import Embedding, Objective, objective_of
from kprune.precision import Precision, check_reduced, full_precision
from kprune.speedup import prune_to_speedup
from kprune.target import Target, check_speedup
from kprune.types import Model
from kprune.wrappers import objective_within, rewrapped, unwrapped

DEFAULT_REDUCTION = 0.8


@dataclass
class Pruned(Outcome):
    """What `kprune.prune` and `kprune.prune_vocabulary` give back: an outcome that can be saved.

    Attributes:
        tokenizer: the tokenizer of the kept tokens if the vocabulary was cut; else None.
    """

    tokenizer: Any = None

    def save(
        self,
        folder: str | Path,
        tokenizer: Any = None,
        card: str | None = None,
        format: str | None = None,
        onnx: Onnx = False,
    ) -> Path:
        """Write the model to a folder that plain transformers loads, as `kprune.checkpoint.save` does.

        Args:
            tokenizer: the model's; leave it out if the vocabulary was cut, since `self.tokenizer` is saved then.
            card: text of the model card; if None, one is written from what this outcome knows.
            format: as `kprune.checkpoint.save` has it. If None: "pruned" if units were removed, "dense" if only single weights were
                set to zero, "uniform" if only tokens were removed.

        Raises:
            UserError: the format is unknown, the folder holds something else or can't be written to, or the vocabulary was cut
                and another tokenizer is given.
        """
        if self.tokenizer is not None and tokenizer not in (None, self.tokenizer):
            raise UserError("the vocabulary was cut, and the tokenizer given has other tokens: leave it out")
        if format is None:
            format = natural_format(unwrapped(self.model), self.plan)
        check_format(format, onnx)
        card = card or python_card(self, format)
        return save(
            self.model, folder, self.tokenizer if tokenizer is None else tokenizer, card, format, self.plan, onnx
        )


def prune(
    model: Any,
    batches: Iterable[Mapping[str, Tensor]],
    flops_reduction: float | None = None,
    method: str | Method = "kprune_plus",
    task: str | Objective | None = None,
    speedup: float | None = None,
    speedup_at: Point | None = None,
    params_reduction: float | None = None,
    uniform: bool = False,
    grain: int = 1,
    sparsity: float | str | None = None,
    of: Of = "layers",
    precision: Precision = "full",
) -> Pruned:
    """Prune a fine-tuned model, which is left as it was; about 100,000 tokens of its training texts suffice.

    Args:
        model: a transformers model with a head for sequence classification (of one label or several), regression, multiple choice,
            token classification, question answering, the next token or masked ones, or without one, whose embeddings are kept; or
            a SentenceTransformer or CrossEncoder of sentence-transformers around one.
        batches: such as a DataLoader. Of each, [B, T] `input_ids`, `attention_mask` (ones, then zeros; without it no
            token is padding; left padding is accepted if the model answers the same without it) and `token_type_ids` are
            read; `labels` ([B]; [B, labels] of zeros and ones for several labels; [B, outputs] for regression with several; [B, T]
            for token classification, -100 where there is none; for question answering `start_positions` and `end_positions`) by
            methods that need them alone. Of a masked language model, all methods read the `labels` of transformers'
            DataCollatorForLanguageModeling: what was masked. Of multiple choice, `input_ids`, `attention_mask` and
            `token_type_ids` are [B, C, T], as transformers' DataCollatorForMultipleChoice makes them; an example with fewer
            choices than C has padding alone for the others, zeros in its mask.
        flops_reduction: share of FLOPs to remove, counted at the mean length of the examples; 0.8 if nothing else is asked
            for.
        method: "kprune_plus", "kprune", another method's name, or a Method such as KPrunePlus(refit_epochs=0).
        task: "classification", "multi_label", "regression", "multiple_choice", "token_classification", "span", "causal_lm",
            "masked_lm" or "embedding" (of a bare model the normalised mean of its tokens, of a SentenceTransformer what it makes
            of them), if the model's head does not tell, or an Objective of your own, such as Embedding(pooling="first").
        speedup: in place of `flops_reduction`, how much faster the model is to be, as measured here and now.
        speedup_at: batch size and length to measure the speed-up at, a `kprune.budgets.latency.Point`; if left out, 32 and 128,
            or the model's longest input if that is shorter.
        params_reduction: in place of `flops_reduction`, the share of the parameters to remove, of those that `of` says.
        uniform: keep as many heads, and as many neurons, in every layer, so that `save(format="uniform")` can write a model of
            the stock class. Heads (of grouped queries: groups) all stay if the family's config can't say that there are
            fewer.
        grain: keep a multiple of so many columns in every attention and feed-forward network, such as 32, for the hardware's
            sake, or for a quantised GGUF file.
        sparsity: in place of `flops_reduction`, the share of the layers' weights to set to zero, or a pattern such as "2:4" (two
            of each four stay), with method "sparsegpt" or "wanda". Nothing gets smaller or faster.
        of: whose parameters `params_reduction` is a share of: the "layers", or the whole "model", embeddings included.
        precision: "reduced" multiplies in bfloat16 on a CPU, in TF32 on a GPU, wherever texts pass through the model; what is
            solved stays in full precision. It takes less time; units of nearly the same score can change places.

    Returns:
        `outcome.model` is the pruned model. It has the mode, precision, device and frozen parameters of the dense one, and is
        inside a SentenceTransformer or CrossEncoder if the dense one was. `outcome.save(folder)` writes it. `outcome.details`
        has what was measured: `flops_reduction`, the `sequence_length` it is counted at, `params_reduction`, and with a `speedup`
        the `latency` (within 5 % of what was asked for, unless `latency_budget` says that two corrections did not reach it); with
        a `sparsity` the share of zeros, and `outcome.model` then keeps the class of the dense model.

    Raises:
        UserError: the model, the batches or a setting can't be used; the message says which, and what to do.
    """
    chosen = _method(method)
    _check_request(flops_reduction, speedup, params_reduction, speedup_at, uniform, grain, sparsity, of)
    chosen.check_precision(precision)
    wrapper, model = model, unwrapped(model)
    with full_precision():
        check_class(model)
        dense = view_of(model)
        objective = _objective(task, model, wrapper)
        check_model(model, objective)
        if precision == "reduced":
            check_reduced(model.device, model.dtype)
        if "labels" in chosen.needs and not objective.label_keys:
            raise UserError(
                f"method {chosen.name} needs labels, and task '{objective.name}' has none: use kprune or kprune_plus"
            )
        calibration = calibration_set(model, batches, objective, "labels" in chosen.needs)
        length = calibration.sequence_length
        data = PruningData(calibration, precision=precision)
        found: dict[str, Any] = {}
        if speedup is None:
            asked: Budget | Target
            if sparsity is not None:
                asked = Target.of_sparsity(sparsity)
            elif params_reduction is not None:
                asked = ParametersBudget(params_reduction, grain, uniform, of)
            else:
                asked = FlopsBudget(flops_reduction or DEFAULT_REDUCTION, length, grain, uniform)
            chosen.check(model, asked)
            outcome = chosen.prune(Job(model, objective, data, asked))
        else:
            longest = min(STANDARD.sequence_length, longest_input(model))
            point = speedup_at or replace(STANDARD, sequence_length=longest)
            outcome, found["latency"] = prune_to_speedup(
                chosen, model, objective, data, speedup, length, point, grain, uniform
            )
        if not outcome.count_units:
            pruned = view_of(outcome.model)
            found["flops_reduction"] = flops_removed(dense, pruned, length)
            found["params_reduction"] = params_removed(dense, pruned)
            if outcome.plan.sparsity:
                found["sparsity"] = zeros(pruned)
            else:
                become_pruned(outcome.model)
        _set_as_in(outcome.model, model)
    details = outcome.details | {"sequence_length": length} | found
    wrapped = rewrapped(wrapper, outcome.model)
    return Pruned(wrapped, outcome.plan, outcome.seconds_by_stage, details, outcome.count_units)


def _check_request(
    flops_reduction: float | None,
    speedup: float | None,
    params_reduction: float | None,
    speedup_at: Point | None,
    uniform: bool,
    grain: int,
    sparsity: float | str | None,
    of: Of,
) -> None:
    check_grain(grain)
    if not isinstance(uniform, bool):
        raise UserError(f"uniform={uniform!r} is neither True nor False: give one of them")
    asked = {
        "flops_reduction": flops_reduction,
        "speedup": speedup,
        "params_reduction": params_reduction,
        "sparsity": sparsity,
    }
    given = [name for name, value in asked.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} ask for different things: give one of them")
    if of != "layers" and params_reduction is None:
        raise UserError(f"of={of!r} goes with params_reduction: give params_reduction, or leave of out")
    if speedup_at is not None and speedup is None:
        raise UserError("speedup_at goes with speedup: give a speedup, or leave speedup_at out")
    if speedup_at is not None and not isinstance(speedup_at, Point):
        raise UserError(f"speedup_at={speedup_at!r} is no point: give a kprune.budgets.latency.Point(32, 128)")
    if sparsity is not None:
        Target.of_sparsity(sparsity)
        if uniform or grain != 1:
            name = "uniform=True" if uniform else f"grain={grain}"
            raise UserError(f"{name} is about widths, which a sparsity leaves as they are: leave {name} out")
    elif speedup is not None:
        check_speedup(speedup)
    elif params_reduction is not None:
        ParametersBudget(params_reduction, of=of)
    else:
        FlopsBudget(DEFAULT_REDUCTION if flops_reduction is None else flops_reduction, 1.0)


def _method(method: str | Method) -> Method:
    if not isinstance(method, (str, Method)):
        raise UserError(f"method is a {type(method).__name__}: give the name of a method, or a kprune.Method")
    return find_method(method) if isinstance(method, str) else method


def _objective(task: str | Objective | None, model: Model, wrapper: Any) -> Objective:
    if task in (None, Embedding.name):
        task = objective_within(wrapper) or task
    return objective_of(model, task)


def _set_as_in(pruned: Model, dense: Model) -> None:
    """Set the mode of every module, and whether each parameter requires a gradient, as in the dense model, in place."""
    modes = {name: module.training for name, module in dense.named_modules()}
    for name, module in pruned.named_modules():
        module.training = modes.get(name, dense.training)
    trained = {name: parameter.requires_grad for name, parameter in dense.named_parameters()}
    for name, parameter in pruned.named_parameters():
        parameter.requires_grad_(trained.get(name, True))
