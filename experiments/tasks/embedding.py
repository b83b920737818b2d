"""The base class of tasks on the embeddings of a pretrained encoder without a head."""

from experiments.tasks.base import Task
from experiments.tasks.hub_data import HubData
from kprune.objectives import Embedding


class EmbeddingTask(HubData, Task):
    """A task on embeddings of texts of a hub data set; the pretrained encoder is pruned without fine-tuning and without labels.

    Args:
        pooling, normalise: how the encoder computes its embeddings, as in `kprune.objectives.Embedding`.
    """

    label_names = None
    fine_tuned = False
    wanted_model = "an encoder, such as model=minilm"
    labelled = False

    def __init__(
        self,
        name: str,
        hub_id: str,
        config: str,
        evaluation_split: str,
        pooling: str,
        normalise: bool,
        max_length: int,
        average_length: float | None,
        batch_size: int,
        train_split: str,
    ):
        super().__init__()
        self.name, self.hub_id, self.config = name, hub_id, config
        self.train_split, self.evaluation_split = train_split, evaluation_split
        self.max_length, self.average_length, self.batch_size = max_length, average_length, batch_size
        self.pooling, self.normalise = pooling, normalise
        self.objective = Embedding(pooling, normalise)

    @property
    def architectures(self) -> tuple[str, ...]:
        # The config of a pretrained encoder names the class that it was pretrained with.
        return (*super().architectures, "ForMaskedLM", "ForPreTraining")
