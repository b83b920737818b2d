"""GLUE, and any other hub data set of labelled texts or pairs: the columns come from the task's config."""

from functools import cached_property

from datasets import ClassLabel, Dataset

from experiments.tasks.hub_data import HubData
from experiments.tasks.labels import places_of
from experiments.tasks.text import Table, TextTask
from kprune.errors import UserError


class GlueTask(HubData, TextTask):
    """One configuration of a hub data set.

    Args:
        text: one or two columns.
        label: the column of class numbers or values.
        label_names: the classes in the order of the outputs; None takes the data set's own names.
        data_label_names: names of the data's class numbers, if the data set itself does not tell and they are not
            `label_names`, which then gives the same names another order.
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
        """Return the names that a split has for its class numbers; [] if it has none."""
        feature = rows.features[self.label]
        return list(feature.names) if isinstance(feature, ClassLabel) else []
