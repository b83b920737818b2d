"""Which adapter a model takes. To add a family: `docs/adding_a_model.md`."""

from torch import nn

from kprune.errors import UserError
from kprune.transformer.adapter import Adapter
from kprune.transformer.bert import BertAttention, BertFFN
from kprune.transformer.distilbert import DistilBertAttention, DistilBertFFN
from kprune.transformer.modeling_kprune import LAYOUTS

SUBLAYERS = {
    "bert": (BertAttention, BertFFN),
    "roberta": (BertAttention, BertFFN),
    "electra": (BertAttention, BertFFN),
    "distilbert": (DistilBertAttention, DistilBertFFN),
}


def adapter_for(model: nn.Module) -> Adapter:
    """The adapter of a transformers model.

    Raises:
        UserError: the family is not supported.
    """
    family = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if family not in SUBLAYERS:
        raise UserError(f"model family '{family}' is not supported: use one of {', '.join(SUBLAYERS)}")
    return Adapter(model, LAYOUTS[family], *SUBLAYERS[family])
