"""GGUF files, which llama.cpp runs: architecture `llama` if all layers are alike, else `deci`, whose layers have widths of their own."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from kprune.checkpoint.gguf_tokenizer import Tokens, tokens_of
from kprune.errors import UserError
from kprune.models import Block, ModelView, view_of
from kprune.models.family import group_size, head_size
from kprune.types import Model

NAME = "model.gguf"
PRECISIONS = {"gguf": "F16", "gguf-f32": "F32"}
"""The precision of matrices, by format; vectors are float32 in both."""
FAMILIES = ("llama", "mistral", "qwen2")
"""Families that both architectures compute: gated SiLU, RMSNorm, rotary positions of whole heads, no norms of queries and keys."""
ROTARY = ("default", "linear", "llama3")
"""Kinds of rotary positions that are a constant factor per frequency."""
ZERO_NEURONS = 32
"""Neurons of zeros that stand for none: `deci` skips the attention of a layer without neurons, and rows are quantised by 32."""
INPUTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
}
OUTPUTS = {"attention": "attn_output", "ffn": "ffn_down"}
NORMS = {"attention": "attn_norm", "ffn": "ffn_norm"}
ROTATED = ("attn_q", "attn_k")


def require_gguf() -> None:
    """Check that the package that writes the files is installed.

    Raises:
        UserError: it is not.
    """
    if importlib.util.find_spec("gguf") is None:
        raise UserError("format='gguf' needs gguf: pip install '.[gguf]' in a clone of kprune")


def check_gguf(model: Model, tokenizer: Any = None) -> None:
    """Check that llama.cpp has an architecture that computes what a model does, at any widths, and its tokenizer.

    Raises:
        UserError: llama.cpp has no such architecture or tokenizer, or one that kprune does not write.
    """
    config = model.config
    name = type(model).__name__
    if config.model_type not in FAMILIES or not name.endswith("ForCausalLM"):
        raise UserError(
            f"format='gguf' is for language models of {', '.join(FAMILIES)}, this is a {name}: save with another format"
        )
    if config.hidden_act not in ("silu", "swish"):
        raise UserError(f"llama.cpp has SiLU alone for this model, not {config.hidden_act}: save with another format")
    kind = rotary(config).get("rope_type", "default")
    if kind not in ROTARY or rotary(config).get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(
            f"rotary positions of kind '{kind}' do not go into a GGUF file here, {', '.join(ROTARY)} of whole heads do: save "
            "with another format"
        )
    if tokenizer is not None:
        tokens_of(tokenizer, config.vocab_size)


def rotary(config: Any) -> dict[str, Any]:
    """Return what a config says of rotary positions."""
    return getattr(config, "rope_parameters", None) or {"rope_theta": config.rope_theta, **(config.rope_scaling or {})}


def write_gguf(model: Model, file: Path, tokenizer: Any = None, precision: str = "F16") -> None:
    """Write a language model, pruned or not, for llama.cpp.

    Args:
        tokenizer: without one, the file takes and gives numbers of tokens alone.
        precision: of the matrices, "F16" or "F32".

    Raises:
        UserError: llama.cpp has no architecture, or no tokenizer, that computes the same; or a weight is too large for float16.
    """
    from gguf import GGUFWriter, LlamaFileType

    check_gguf(model)
    tokens = tokens_of(tokenizer, model.config.vocab_size) if tokenizer is not None else None
    view = view_of(model)
    widths = layer_widths(view)
    alike = all(len(set(counts)) == 1 for counts in widths.values())
    writer = GGUFWriter(file, "llama" if alike else "deci")
    add_settings(writer, view, {name: counts[0] if alike else counts for name, counts in widths.items()})
    writer.add_file_type(LlamaFileType.ALL_F32 if precision == "F32" else LlamaFileType.MOSTLY_F16)
    (tokens or Tokens.none()).add_to(writer)
    for name, tensor in tensors_of(view):
        writer.add_tensor(name, rounded(name, tensor.detach().cpu().float(), precision).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rounded(name: str, tensor: Tensor, precision: str) -> Tensor:
    """Return a float32 tensor as a file has it: a matrix in the file's precision, all others as they are.

    Raises:
        UserError: a weight is too large for float16.
    """
    if precision == "F32" or tensor.dim() < 2:
        return tensor
    largest, most = tensor.abs().max().item() if tensor.numel() else 0.0, torch.finfo(torch.float16).max
    if largest > most:
        raise UserError(
            f"{name} has a weight of {largest:.3g}, and float16 ends at {most:.0f}: save with format='gguf-f32'"
        )
    return tensor.half()


def add_settings(writer: Any, view: ModelView, widths: dict[str, Any]) -> None:
    """Write what llama.cpp reads of the model before its weights."""
    config = view.model.config
    head = head_size(config)
    writer.add_name(getattr(config, "name_or_path", "") or config.model_type)
    writer.add_vocab_size(config.vocab_size)
    # Neither architecture has sliding windows: up to the window's length they are the whole attention.
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    writer.add_context_length(min(config.max_position_embeddings, window or config.max_position_embeddings))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(len(view.layers))
    writer.add_head_count(widths["query heads"])
    writer.add_head_count_kv(widths["key/value heads"])
    writer.add_feed_forward_length(widths["neurons"])
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(rotary(config)["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def layer_widths(view: ModelView) -> dict[str, list[int]]:
    """Return the widths of every layer, bottom to top, as they are written."""
    groups = [units_written(block) for block in view.of_kind("heads")]
    per_group = group_size(view.model.config) // head_size(view.model.config)
    return {
        "query heads": [units * per_group for units in groups],
        "key/value heads": groups,
        "neurons": [units_written(block) for block in view.of_kind("neurons")],
    }


def units_written(block: Block) -> int:
    """Return the units of a block in the file.

    Units of zeros stand for none: `ZERO_NEURONS` in a feed-forward network; one in an attention that has an output bias, or is the
    lowest, from which llama.cpp reads the size of a head. Any other attention without units is left out.
    """
    if block.units:
        return block.units
    if block.kind == "neurons":
        return ZERO_NEURONS
    return int(block.bias() is not None or block.layer == 0)


def tensors_of(view: ModelView) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and weights of a file, one after the other."""
    base: Any = view.model.base_model
    head: Any = view.model.get_output_embeddings()
    yield "token_embd.weight", base.embed_tokens.weight
    yield "output_norm.weight", base.norm.weight
    if head.weight is not base.embed_tokens.weight:
        yield "output.weight", head.weight
    factors = rotary_factors(view)
    if not torch.equal(factors, torch.ones_like(factors)):
        yield "rope_freqs.weight", factors
    for block in view.blocks:
        if units_written(block):
            yield from block_tensors(block, view.model.config)


def rotary_factors(view: ModelView) -> Tensor:
    """Return what llama.cpp divides the frequency of each pair of columns by: [head size / 2]."""
    config = view.model.config
    base: Any = view.model.base_model
    # The model's own buffer may have been rounded with its weights.
    frequencies = type(base.rotary_emb)(config).inv_freq
    columns = torch.arange(0, head_size(config), 2, dtype=torch.int64).float()
    return (1.0 / rotary(config)["rope_theta"] ** (columns / head_size(config))) / frequencies


def block_tensors(block: Block, config: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and weights of one block; zeros if it has no units."""
    prefix, site, head = f"blk.{block.layer}", block.site, head_size(config)
    norm = cast(Tensor, cast(Any, block.norm).weight)
    yield f"{prefix}.{NORMS[site.name]}.weight", norm
    output = f"{prefix}.{OUTPUTS[site.name]}"
    bias = block.bias()
    if bias is not None:
        yield f"{output}.bias", bias
    if not block.units:
        units, d = units_written(block), config.hidden_size
        yield f"{output}.weight", norm.new_zeros(d, units * block.width)
        for rows in site.inputs:
            width = head if INPUTS[rows.path] in ("attn_k", "attn_v") else block.width
            yield f"{prefix}.{INPUTS[rows.path]}.weight", norm.new_zeros(units * width, d)
        return
    yield f"{output}.weight", block.output.weight
    for rows, module in zip(site.inputs, block.inputs, strict=True):
        name = INPUTS[rows.path]
        for what, tensor in module.named_parameters():
            yield f"{prefix}.{name}.{what}", interleaved(tensor, head) if name in ROTATED else tensor


def interleaved(tensor: Tensor, head: int) -> Tensor:
    """Return the rows of queries or keys, whose pairs of rotary columns are half a head apart, with each pair side by side."""
    return tensor.unflatten(0, (-1, 2, head // 2)).transpose(1, 2).flatten(0, 2)
