"""The kernels of a GPU for weights of the pattern 2:4."""

import torch
from torch import Tensor, nn

from kprune.errors import UserError
from kprune.models.copies import frozen_copy
from kprune.models.families import family_of
from kprune.models.view import view_of
from kprune.types import Linear, Model

CAPABILITY = 8, 0
"""The compute capability of the first NVIDIA GPUs that have these kernels (Ampere)."""
DTYPES = torch.float16, torch.bfloat16
MULTIPLE = 64
"""Both sizes of a matrix must be multiples of this for torch's kernels, CUTLASS's and cuSPARSELt's."""


def with_sparse_kernels(model: Model) -> Model:
    """Return a copy of a model whose layers multiply by `torch.sparse.to_sparse_semi_structured` weights.

    The copy is to be run: it can be neither trained nor saved. What it gains has not been measured.

    Args:
        model: on a GPU, in float16 or bfloat16; two of each four inputs of every linear module of its layers are zero, as
            sparsity="2:4" makes them.

    Raises:
        UserError: the model's family is not supported, it is not on such a GPU or not in such a precision, or a module does
            not have the pattern or the sizes.
    """
    family_of(model)
    check_gpu(model.device)
    if model.dtype not in DTYPES:
        raise UserError(
            f"kernels for 2:4 multiply float16 or bfloat16, and the model is {model.dtype}: use model.half()"
        )
    view = view_of(frozen_copy(model))
    named = [
        (f"{block.name} ({module.weight.shape[0]} by {module.weight.shape[1]})", module)
        for block in view.blocks
        for module in block.linears
    ]
    for name, module in named:
        check_pattern(name, module)
    for _, module in named:
        weight: Tensor = torch.sparse.to_sparse_semi_structured(module.weight.detach().contiguous())
        module.weight = nn.Parameter(weight, requires_grad=False)
    return view.model


def check_gpu(device: torch.device) -> None:
    """Check that a device has the kernels.

    Raises:
        UserError: the device does not have them.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < CAPABILITY:
        raise UserError(
            f"kernels for 2:4 need an NVIDIA GPU of compute capability {'.'.join(map(str, CAPABILITY))} or above, and the model is "
            f"on {device}: move it to one, or use it as it is"
        )


def check_pattern(name: str, module: Linear) -> None:
    """Check that the kernels can multiply by a module's weights.

    Raises:
        UserError: the module is no torch.nn.Linear, a size is no multiple of `MULTIPLE`, or four inputs have three weights or more.
    """
    weight = module.weight
    if not isinstance(module, nn.Linear):
        raise UserError(
            f"{name} is a {type(module).__name__}, and kernels for 2:4 are those of torch.nn.Linear: use the model as it is"
        )
    if any(size % MULTIPLE for size in weight.shape):
        raise UserError(
            f"{name} has a size that is no multiple of {MULTIPLE}, as kernels for 2:4 need: use the model as it is"
        )
    if ((weight != 0).unflatten(1, (-1, 4)).sum(dim=2) > 2).any():
        raise UserError(
            f"{name} keeps more than two weights of four inputs: prune with sparsity='2:4' (wanda or sparsegpt) first"
        )
