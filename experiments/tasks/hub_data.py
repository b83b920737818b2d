"""Data sets of the hub: what tasks on one have in common."""

from functools import cached_property

from datasets import Dataset, DatasetDict

from experiments.inputs.hub import find_dataset, split_with_columns


class HubData:
    """One configuration of a data set of the hub, beside a `Task`."""

    hub_id: str
    config: str

    @property
    def source(self) -> str:
        """Return the data's name, for messages."""
        return f"{self.hub_id} ({self.config})"

    def source_of(self, split: str) -> str:
        """Return the name of a split, for messages."""
        return f"{self.hub_id} ({self.config}, {split})"

    @cached_property
    def data(self) -> DatasetDict:
        """Return all splits, which are read when they are first asked for.

        Raises:
            UserError: the data are not to be had.
        """
        return find_dataset(self.hub_id, self.config)

    def rows(self, split: str, columns: list[str]) -> Dataset:
        """Return a split.

        Raises:
            UserError: there is no such split or column, or the data are not to be had.
        """
        return split_with_columns(self.data, self.source, split, columns)
