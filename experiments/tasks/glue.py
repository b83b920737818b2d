"""GLUE, and any other hub data set of labelled texts or pairs: the columns come from the task's config."""

from functools import cached_property

from datasets import ClassLabel, DatasetDict

from experiments.inputs.hub import find_dataset, split_with_columns
from experiments.tasks.text import Table, TextTask
from kprune.errors import UserError


class GlueTask(TextTask):
    """One configuration of a hub data set.

    Args:
        text: one or two columns.
        label: the column of class numbers or values.
        label_names: the classes; None reads them off the label column, if the data set names them.
    """

    def __init__(
        self,
        name: str,
        hub_id: str,
        config: str,
        evaluation_split: str,
        text: list[str],
        problem: str,
        metric: str,
        max_length: int,
        average_length: float | None,
        batch_size: int,
        train_split: str = "train",
        label: str = "label",
        label_names: list[str] | None = None,
    ):
        super().__init__(name, problem, metric, max_length, average_length, batch_size)
        self.hub_id = hub_id
        self.config = config
        self.train_split = train_split
        self.evaluation_split = evaluation_split
        self.text = text
        self.label = label
        self._label_names = label_names

    @cached_property
    def data(self) -> DatasetDict:
        return find_dataset(self.hub_id, self.config)

    @cached_property
    def label_names(self) -> list[str]:
        if self.regression:
            return ["score"]
        if self._label_names:
            return list(self._label_names)
        feature = self._split(self.train_split).features[self.label]
        if not isinstance(feature, ClassLabel):
            raise UserError(f"{self.hub_id} ({self.config}) does not name its classes: list them in task.label_names")
        return feature.names

    def training_table(self) -> Table:
        return self._table(self.train_split)

    def evaluation_table(self) -> Table:
        return self._table(self.evaluation_split)

    def _split(self, split: str):
        return split_with_columns(self.data, f"{self.hub_id} ({self.config})", split, [*self.text, self.label])

    def _table(self, split: str) -> Table:
        rows = self._split(split)
        texts = [rows[column] for column in self.text]
        return Table(
            f"{self.hub_id} ({self.config}, {split})", [list(column) for column in texts], list(rows[self.label])
        )
