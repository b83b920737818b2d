"""Types of models and linear modules, for the type checker: torch gives their attributes as `Tensor | Module` alone."""

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel as Model
else:
    # transformers takes seconds to import, and whoever has a model has imported it.
    Model = nn.Module

__all__ = ["Linear", "Model"]


class Linear(nn.Module):
    """A linear module: torch's, or GPT-2's Conv1D, which have no class in common. Only annotations use this one."""

    weight: nn.Parameter
    bias: nn.Parameter | None
