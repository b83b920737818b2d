"""FLOPs and parameters of a model's layers. A multiply and an add count as 2; norm, bias, embeddings and head are left out.

Attention is counted in full, s² scores of a head for s tokens, in encoders and decoders alike: a causal mask hides half of
the scores, but transformers' eager attention computes them all. A kernel that leaves the hidden half out (SDPA's on a GPU)
computes up to half of that term; at the lengths of a prompt, projections outweigh it.
"""

from kprune.models.view import ModelView


def model_flops(view: ModelView, sequence_length: float) -> float:
    """Return the FLOPs of all units present in the model, for one sequence."""
    return sum(block.units * block.unit_flops(sequence_length) for block in view.blocks)


def layer_parameters(view: ModelView) -> int:
    """Return the number of parameters of the layers; embeddings, pooler and head are left out."""
    return sum(parameter.numel() for parameter in view.layers.parameters())


def model_parameters(view: ModelView) -> int:
    """Return the number of all parameters of a model; tied ones count once."""
    return sum(parameter.numel() for parameter in view.model.parameters())


def megabytes(view: ModelView) -> float:
    """Return what the weights of a model take on disk, without the file's header; tied ones count once."""
    # A model writes the buffers that its state has, beside its parameters.
    tensors = view.model.state_dict(keep_vars=True).values()
    return sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors}.values()) / 1e6


def flops_reduction(dense: ModelView, pruned: ModelView, sequence_length: float) -> float:
    """Return the share of FLOPs removed, counted on the two models as they are."""
    return 1 - model_flops(pruned, sequence_length) / model_flops(dense, sequence_length)


def params_reduction(dense: ModelView, pruned: ModelView) -> float:
    """Return the share of the layers' parameters removed, counted on the two models as they are."""
    return 1 - layer_parameters(pruned) / layer_parameters(dense)


def sparsity(view: ModelView) -> float:
    """Return the share of zeros among the weights of the layers' linear modules."""
    weights = [module.weight for block in view.blocks for module in block.linears]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return zeros / max(sum(weight.numel() for weight in weights), 1)


def params_reduction_of_model(dense: ModelView, pruned: ModelView) -> float:
    """Return the share of all parameters removed, embeddings and head included."""
    return 1 - model_parameters(pruned) / model_parameters(dense)
