"""The pass over the teacher: the Fisher of every block, and its errors by units kept, whatever the budget."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from kprune import processes
from kprune.clock import Clock
from kprune.memory import release_freed_memory
from kprune.methods.kprune_plus.fisher import OutputFisher, measure_fisher, measure_fisher_by_layer, metric_root
from kprune.methods.kprune_plus.settings import Settings, decided
from kprune.models import Block, ModelView
from kprune.models.surgery import output_weight
from kprune.objectives import Objective
from kprune.solve.allocation import monotone
from kprune.solve.least_squares import LeastSquares, ridged_cholesky
from kprune.solve.removal import Removal, remove_greedily
from kprune.storage import Storage
from kprune.streams import ON_DEVICE, CalibrationState

Item = TypeVar("Item")


class FirstPass(Settings):
    """The part of K-prune+ that does not depend on the budget: Fisher and error curve of every block of the teacher."""

    def first_pass(
        self,
        teacher: ModelView,
        states: Sequence[CalibrationState],
        objective: Objective,
        clock: Clock,
        storage: Storage = ON_DEVICE,
    ) -> tuple[list[OutputFisher], list[Tensor]]:
        """Measure every block of the teacher.

        The Gram matrices take a second walk up the teacher, so that only one of them is in memory at a time.

        Returns:
            per block, its Fisher, and its errors by units kept [units + 1].
        """
        with clock("fisher"):
            fishers = self.fishers(teacher, states, objective, storage)
        curves, inputs = [], [storage.keep(state.teacher) for state in states]
        blocks = self.bar(teacher.blocks_at_work(), "curves", len(fishers))
        for block, fisher in zip(blocks, fishers, strict=True):
            with clock("fisher_gram"):
                squares = self.gram(block, fisher, states, inputs, storage)
            with clock("curves"):
                features = squares.centred()
                del squares
                curves.append(monotone(self.removal(block, fisher, features).errors))
                del features
                processes.broadcast(curves[-1:])
        return fishers, curves

    def fishers(
        self, teacher: ModelView, states: Sequence[CalibrationState], objective: Objective, storage: Storage
    ) -> list[OutputFisher]:
        """Return the Fisher of every block.

        Args:
            states: at the input of the first block.
        """
        if self.small_memory:
            return measure_fisher_by_layer(teacher, states, objective, self.temperature, storage)
        return measure_fisher(teacher, states, objective, self.temperature)

    def gram(
        self,
        block: Block,
        fisher: OutputFisher,
        states: Sequence[CalibrationState],
        inputs: list[Any],
        storage: Storage,
    ) -> LeastSquares:
        """Return the factor A of a block's Fisher A ⊗ S, and replace the block's inputs by its outputs.

        Args:
            inputs: the teacher's input of the block per state, as `Block.run` takes it, in the storage; changed in place.
        """
        squares = LeastSquares.empty(block.columns, 0, states[0].device)
        for index, (state, energies) in enumerate(
            zip(states, fisher.clipped_energies(decided(self.clip)), strict=True)
        ):
            above = self.add_features(squares, block, state, storage.read(inputs[index]), energies)
            inputs[index] = storage.keep(above)
        squares.add_up()
        return squares

    @staticmethod
    def add_features(
        squares: LeastSquares, block: Block, state: CalibrationState, x: Tensor, energies: Tensor
    ) -> Tensor:
        """Add Σ a_t f_t f_tᵀ and Σ a_t f_t of a batch to A, and return what the next block reads.

        Args:
            x: the block's input, as `Block.run` takes it.
            energies: a_t, [B, T].
        """
        above, features = block.run_with_features(x, state.context)
        if features is not None:
            real = features[state.real]
            squares.add(real, real.new_zeros(len(real), 0), energies[state.real])
        return above

    def removal(self, block: Block, fisher: OutputFisher, features: LeastSquares) -> Removal:
        """Remove all units of a block of the teacher one by one; the errors are the expected KL, up to a constant factor.

        Args:
            features: A of the Fisher, as centred sums.
        """
        if features.dead:
            # The block has no unit, its features are constant, or no answer depends on them: removing any costs nothing.
            units = torch.arange(block.units, device=fisher.covariance.device)
            return Removal(units, fisher.covariance.new_zeros(len(units) + 1))
        inverse = torch.cholesky_inverse(ridged_cholesky(features.lower, decided(self.ridge))[0])
        weight = output_weight(block).double()
        root = metric_root(fisher.covariance, self.metric_ridge) @ weight / features.weight**0.5
        return remove_greedily(inverse, root, block.width)

    def bar(self, items: Iterator[Item], description: str, total: int) -> Iterator[Item]:
        """Yield items one by one, with a progress bar that the first process alone shows.

        Memory that was freed during an item is returned to the system, since matrices of other sizes would not fit into it.
        """
        for item in tqdm(items, description, total, unit="block", disable=processes.rank() > 0 or None):
            yield item
            release_freed_memory()
