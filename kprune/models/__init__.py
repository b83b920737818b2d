"""Which adapter a model takes. To add a family: `docs/adding_a_model.md`."""

from torch import nn

from kprune.checkpoint.modeling_kprune import LAYOUTS
from kprune.errors import UserError
from kprune.models.adapter import Adapter
from kprune.models.bert import BertAttention, BertFFN
from kprune.models.distilbert import DistilBertAttention, DistilBertFFN

SUBLAYERS = {
    "bert": (BertAttention, BertFFN),
    "roberta": (BertAttention, BertFFN),
    "electra": (BertAttention, BertFFN),
    "distilbert": (DistilBertAttention, DistilBertFFN),
}


def adapter_for(model: nn.Module) -> Adapter:
    """The adapter of a transformers model.

    Raises:
        UserError: the family is not supported, or layers share weights.
    """
    family = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if family not in SUBLAYERS:
        raise UserError(f"model family '{family}' is not supported: use one of {', '.join(SUBLAYERS)}")
    adapter = Adapter(model, LAYOUTS[family], *SUBLAYERS[family])
    weights = [p for _, p in adapter.encoder.named_parameters(remove_duplicate=False)]
    if len({id(weight) for weight in weights}) < len(weights):
        raise UserError(
            "layers of the model share weights, and each is pruned on its own: give every layer its own copy"
        )
    return adapter
