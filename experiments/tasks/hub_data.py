"""The part that all tasks on a data set of the hub share."""

from functools import cached_property

from datasets import Dataset, DatasetDict

from experiments.inputs.hub import find_dataset, split_with_columns


class HubData:
    """Reading one configuration of a hub data set; a base class beside `Task`."""

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
        """Return all splits; they are read at the first use.

        Raises:
            UserError: the data can't be found or read.
        """
        return find_dataset(self.hub_id, self.config)

    def rows(self, split: str, columns: list[str]) -> Dataset:
        """Return the rows of a split.

        Raises:
            UserError: the split or one of `columns` does not exist, or the data can't be found or read.
        """
        return split_with_columns(self.data, self.source, split, columns)
