"""The Fisher of every block's output, from one pass over the teacher."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from kprune import processes
from kprune.memory import release_freed_memory
from kprune.models import Block, ModelView
from kprune.models.masks import gradients as gradients_of
from kprune.models.masks import projection_tensors
from kprune.objectives import Objective
from kprune.solve.least_squares import ridged_cholesky
from kprune.storage import Storage
from kprune.streams import ON_DEVICE, CalibrationState

GROUP = 8192
"""Tokens whose inputs of all layers are kept at once, if the pass goes down layer by layer."""


class OutputFisher:
    """The Fisher of the tempered KL with respect to one block's output projection, A ⊗ S, without A (`FirstPass.gram`).

    g_t is the gradient of a root of the Fisher (`Objective.fisher_roots`) at the projection's output for token t.

    Attributes:
        energies: a_t = ‖g_t‖² per calibration batch, [B, T]; zero at padding.
        features: ‖f_t‖² of the projection's input per calibration batch, [B, T]; zero at padding.
        energy: Σ a_t over all tokens, `tokens` of them; 0 for a block without units.
    """

    def __init__(
        self,
        covariance: Tensor,
        energies: list[Tensor],
        features: list[Tensor],
        energy: float = 0.0,
        tokens: int = 0,
        storage: Storage = ON_DEVICE,
    ):
        self._storage = storage
        self.covariance = covariance
        self.energies, self.features, self.energy, self.tokens = energies, features, energy, tokens

    @property
    def covariance(self) -> Tensor:
        """Return S = E_x Σ_t g_t g_tᵀ, [d, d] float64."""
        return self._storage.read(self._covariance)

    @covariance.setter
    def covariance(self, value: Tensor) -> None:
        self._covariance = self._storage.keep(value)

    def add(
        self, covariance: Tensor, features: Tensor, gradients: Sequence[Tensor], real: Tensor, examples: int
    ) -> None:
        """Add a batch to the energies, and to S.

        Args:
            covariance: S, changed in place.
            features: ‖f_t‖² [B, T].
            gradients: g_t [B, T, d] per root; none for a block without units.
            real: [B, T] bool, False at padding.
            examples: number of examples in all batches.
        """
        energies = torch.zeros_like(features)
        for g in gradients:
            energies += g.square().sum(dim=-1) * real
            covariance += (g[real].T @ g[real]).double() / examples
        self.features.append(features * real)
        self.energies.append(energies)
        self.energy += energies[real].sum().item()
        self.tokens += int(real.sum())

    def add_up(self) -> None:
        """Add up S, Σ a_t and the token count over all processes; the numbers per token stay each process's own."""
        if processes.count() > 1:
            covariance = self.covariance
            processes.add_up([covariance])
            self.covariance = covariance
            self.energy, self.tokens = processes.total(self.energy), round(processes.total(self.tokens))

    def token_weights(self, floor: float, clip: float | None) -> list[Tensor]:
        """Return the weight of every token, per batch [B, T]: (a_t / mean of a + floor) times its clip factor.

        If no token has energy, all weights are 1.

        Args:
            clip: as in `clip_factors`.
        """
        if not self.energy:
            return [torch.ones_like(e) for e in self.energies]
        mean = self.energy / self.tokens
        return [(e / mean + floor) * f for e, f in zip(self.energies, self.clip_factors(clip), strict=True)]

    def clipped_energies(self, clip: float | None) -> list[Tensor]:
        """Return a_t per batch [B, T], times the factors that `clip_factors` returns for `clip`."""
        return [e * f for e, f in zip(self.energies, self.clip_factors(clip), strict=True)]

    def clip_factors(self, clip: float | None) -> list[Tensor | float]:
        """Return the factor, at most 1, by which each token's weight is clipped, per batch [B, T].

        Args:
            clip: the largest energy of a token's features that counts in full, as a multiple of the median over all tokens; None
                for no limit. A few tokens of a decoder, its attention sinks, have 10⁵ times the median, and would outweigh all
                others.
        """
        if clip is None or not self.energy:
            return [1.0] * len(self.energies)
        present = processes.gathered(torch.cat([f[f > 0] for f in self.features]))
        if not len(present):  # a feed-forward network whose units are all dead
            return [1.0] * len(self.energies)
        most = clip * present.median()
        return [(most / f).clamp(max=1.0) for f in self.features]


@torch.no_grad()
def measure_fisher(
    view: ModelView, states: Sequence[CalibrationState], objective: Objective, temperature: float
) -> list[OutputFisher]:
    """Measure the Fisher of every block by one forward pass and a backward pass per root, with gradients of activations alone.

    Args:
        states: at the input of the first block.

    Returns:
        per block, S and the energies of each token; the features are not kept.
    """
    fishers = empty_fishers(view, states, ON_DEVICE)
    examples = round(processes.total(sum(state.examples for state in states)))
    for state in states:
        features, gradients = output_gradients(view, state, objective, temperature)
        measured = zip(features, gradients, strict=True)
        nothing = torch.zeros_like(state.real, dtype=state.teacher.dtype), ()
        for fisher, block in zip(fishers, view.blocks, strict=True):
            fisher.add(fisher.covariance, *(next(measured) if block.units else nothing), state.real, examples)
        del features, gradients, measured
        release_freed_memory()
    for fisher in fishers:
        fisher.add_up()
    return fishers


@torch.no_grad()
def measure_fisher_by_layer(
    view: ModelView,
    states: Sequence[CalibrationState],
    objective: Objective,
    temperature: float,
    storage: Storage,
) -> list[OutputFisher]:
    """Measure the Fisher of every block with the graph of one layer at a time, at the cost of one more forward pass.

    The result is that of `measure_fisher`. For one group of states at a time, the inputs of all layers are kept; then every layer
    is run once more, from the top down, and the gradients at its output are carried on to its input.
    """
    fishers = empty_fishers(view, states, storage)
    examples = round(processes.total(sum(state.examples for state in states)))
    for group in grouped(states, GROUP):
        inputs = [[storage.keep(state.teacher) for state in group]]
        for layer, blocks in enumerate(view.by_layer()):
            with view.at_work(layer):
                inputs.append(
                    [storage.keep(run_blocks(blocks, x, s)) for x, s in with_states(inputs[layer], group, storage)]
                )
        stream_gradients = []
        with view.ends_at_work():
            for x, state in with_states(inputs.pop(), group, storage):
                stream_gradients.append(
                    storage.keep(torch.stack(head_gradients(view, x, state, objective, temperature)))
                )
                release_freed_memory()
        measured = list(zip(view.blocks, fishers, strict=True))
        for layer, blocks in reversed(list(enumerate(view.by_layer()))):
            own = [fisher for block, fisher in measured if block.layer == layer]
            covariances = [fisher.covariance for fisher in own]
            with view.at_work(layer):
                for index, (x, state) in enumerate(with_states(inputs.pop(), group, storage)):
                    below, per_block = layer_gradients(blocks, x, state, storage.read(stream_gradients[index]))
                    stream_gradients[index] = storage.keep(below)
                    for fisher, covariance, (features, gradients) in zip(own, covariances, per_block, strict=True):
                        fisher.add(covariance, features, gradients, state.real, examples)
            for fisher, covariance in zip(own, covariances, strict=True):
                fisher.covariance = covariance
            release_freed_memory()
    for fisher in fishers:
        fisher.add_up()
    return fishers


def empty_fishers(view: ModelView, states: Sequence[CalibrationState], storage: Storage) -> list[OutputFisher]:
    """Return a Fisher for each block, of no batch yet."""
    d = states[0].teacher.shape[-1]
    # Each is handed to the storage before the next is made: together they would take a third of the model's memory.
    return [
        OutputFisher(torch.zeros(d, d, dtype=torch.float64, device=view.device), [], [], storage=storage)
        for _ in view.blocks
    ]


def grouped(states: Sequence[CalibrationState], tokens: int) -> list[list[CalibrationState]]:
    """Return the states in groups of at most `tokens` tokens, padding counted, with at least one state in each."""
    found: list[list[CalibrationState]] = [[]]
    room = tokens
    for state in states:
        size = state.real.numel()
        if found[-1] and size > room:
            found.append([])
            room = tokens
        found[-1].append(state)
        room -= size
    return found


def with_states(
    kept: Sequence[Any], states: Sequence[CalibrationState], storage: Storage
) -> Iterator[tuple[Tensor, CalibrationState]]:
    """Yield pairs of a kept layer input, [B, T, d], read from the storage, and the state that it belongs to."""
    for each, state in zip(kept, states, strict=True):
        yield storage.read(each), state


def run_blocks(blocks: Sequence[Block], x: Tensor, state: CalibrationState) -> Tensor:
    """Return the output of blocks that are run one after the other on an input x [B, T, d]."""
    for block in blocks:
        x = block.run(x, state.context)
    return x


@contextmanager
def feature_energies(blocks: Sequence[Block]) -> Iterator[list[Tensor]]:
    """Collect ‖f_t‖² [B, T] of the output projections' inputs while the context is open."""
    energies: list[Tensor] = []
    hooks = [
        block.output.register_forward_pre_hook(
            lambda _, inputs: energies.append(inputs[0].detach().square().sum(dim=-1))
        )
        for block in blocks
    ]
    try:
        yield energies
    finally:
        for hook in hooks:
            hook.remove()


def output_gradients(
    view: ModelView, state: CalibrationState, objective: Objective, temperature: float
) -> tuple[list[Tensor], list[tuple[Tensor, ...]]]:
    """Return, for every block with units, ‖f_t‖² [B, T] and a gradient [B, T, d] per root of the Fisher."""
    blocks = [block for block in view.blocks if block.units]
    with torch.enable_grad(), feature_energies(blocks) as energies, projection_tensors(blocks, "output") as outputs:
        output = view.run(0, state.teacher, state.context, state.batch)
        summed = summed_roots(output, state, objective, temperature)
    return energies, gradients_of(summed, outputs)


def head_gradients(
    view: ModelView, x: Tensor, state: CalibrationState, objective: Objective, temperature: float
) -> list[Tensor]:
    """Return the gradient of every root of the Fisher with respect to the last block's output x, [B, T, d]."""
    with torch.enable_grad():
        node = x.detach().requires_grad_()
        summed = summed_roots(view.apply_head(node, state.batch), state, objective, temperature)
    return [gradient for (gradient,) in zip(*gradients_of(summed, [node]), strict=True)]


def layer_gradients(
    blocks: Sequence[Block], x: Tensor, state: CalibrationState, above: Tensor
) -> tuple[Tensor, list[tuple[Tensor, tuple[Tensor, ...]]]]:
    """Propagate gradients with respect to the output of a layer to its input.

    Args:
        blocks: of the layer. x: its input, [B, T, d].
        above: gradients of every root with respect to the layer's output, [roots, B, T, d].

    Returns:
        the gradients with respect to x, [roots, B, T, d]; and per block, ‖f_t‖² [B, T] and a gradient [B, T, d] per root
        with respect to its projection's output.
    """
    present = [block for block in blocks if block.units]
    with torch.enable_grad(), feature_energies(present) as energies, projection_tensors(present, "output") as outputs:
        node = x.detach().requires_grad_()
        output = run_blocks(blocks, node, state)
        products = [(output * gradient).sum() for gradient in above]
    below, *gradients = gradients_of(products, [node, *outputs])
    measured = zip(energies, gradients, strict=True)
    nothing = torch.zeros_like(state.real, dtype=x.dtype), ()
    return torch.stack(below), [next(measured) if block.units else nothing for block in blocks]


def summed_roots(output: Any, state: CalibrationState, objective: Objective, temperature: float) -> list[Tensor]:
    """Return the roots of the Fisher for a model's output, each summed over the batch."""
    logits = objective.answers(output, state.batch)
    return [root.sum() for root in objective.fisher_roots(logits, temperature, state.keys)]


def metric_root(covariance: Tensor, ridge: float) -> Tensor:
    """Return R [d, d] with RᵀR = S + ridge · mean(diag S) · I; I if S is zero, since no answer depends on the output.

    The rank of S is at most the number of roots times that of tokens. A ridge that is too small is raised (`ridged_cholesky`).
    """
    return ridged_cholesky(covariance, ridge)[0].T
