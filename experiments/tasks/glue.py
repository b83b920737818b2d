"""GLUE and other hub data sets of labelled texts or pairs; the config of the task names the columns."""

from functools import cached_property

from datasets import ClassLabel, Dataset

from experiments.tasks.hub_data import HubData
from experiments.tasks.labels import places_of
from experiments.tasks.text import Table, TextTask
from kprune.errors import UserError


class GlueTask(HubData, TextTask):
    """Classification or regression on one configuration of a hub data set.

    Args:
        text: the column of texts, or two columns for pairs.
        label: the column of class numbers or values.
        label_names: the classes in the order of the model's outputs; None takes the names in the data set.
        data_label_names: the names of the data's class numbers, if the data set does not name its classes and numbers them in
            another order than `label_names`; None if the order is the same.
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
        data_label_names: list[str] | None = None,
    ):
        super().__init__(name, problem, metric, max_length, average_length, batch_size)
        self.hub_id = hub_id
        self.config = config
        self.train_split = train_split
        self.evaluation_split = evaluation_split
        self.text = text
        self.label = label
        self._label_names, self.data_label_names = label_names, data_label_names

    @cached_property
    def label_names(self) -> list[str]:
        if self.regression:
            return ["score"]
        if self._label_names:
            return list(map(str, self._label_names))
        names = self._names_in(self._rows(self.train_split))
        if not names:
            raise UserError(f"{self.source} does not name its classes: list them in task.label_names")
        return names

    def training_table(self) -> Table:
        return self._table(self.train_split)

    def evaluation_table(self) -> Table:
        return self._table(self.evaluation_split)

    def _rows(self, split: str) -> Dataset:
        return self.rows(split, [*self.text, self.label])

    def _table(self, split: str) -> Table:
        rows = self._rows(split)
        labels, names = list(rows[self.label]), self._names_in(rows) or self.data_label_names
        places = None if self.regression or not names else places_of(names, self.label_names)
        if places:
            labels = [places[label] if label in range(len(places)) else label for label in labels]
        return Table(self.source_of(split), [list(rows[column]) for column in self.text], labels)

    def _names_in(self, rows) -> list[str]:
        """Return the names of the class numbers in a split's own description; [] if it does not name them."""
        feature = rows.features[self.label]
        return list(feature.names) if isinstance(feature, ClassLabel) else []
