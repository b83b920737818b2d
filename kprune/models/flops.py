"""FLOPs and parameters. A multiply and an add count as 2; softmax, norm, bias, embeddings and head are left out
(K-prune paper, as Kwon et al. 2022)."""


def head_flops(sequence_length: float, hidden_size: int, head_size: int) -> float:
    """F_head = 8 s d d_h + 4 s² d_h: query, key, value and output projections; attention scores and their product."""
    return 8 * sequence_length * hidden_size * head_size + 4 * sequence_length**2 * head_size


def neuron_flops(sequence_length: float, hidden_size: int) -> float:
    """F_neuron = 4 s d: one row of the first and one column of the second projection."""
    return 4 * sequence_length * hidden_size


def model_flops(adapter, sequence_length: float) -> float:
    """FLOPs of all units present in the model, for one sequence."""
    return sum(sublayer.units * sublayer.unit_flops(sequence_length) for sublayer in adapter.sublayers)


def encoder_parameters(adapter) -> int:
    """Parameters of the encoder's layers (embeddings, pooler and head left out)."""
    return sum(parameter.numel() for parameter in adapter.encoder.parameters())


def flops_reduction(dense, pruned, sequence_length: float) -> float:
    """Share of FLOPs removed, counted on the two adapters' models as they are."""
    return 1 - model_flops(pruned, sequence_length) / model_flops(dense, sequence_length)


def params_reduction(dense, pruned) -> float:
    """Share of the encoder's parameters removed, counted on the two adapters' models as they are."""
    return 1 - encoder_parameters(pruned) / encoder_parameters(dense)
