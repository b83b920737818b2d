"""Tiny random language models in float64, and what a pruned one must be."""

import torch
from families import GROUPED, TOKENS, family_settings
from tiny import SHAPE as SHAPE_OF_ALL
from tiny import tiny_calibration
from transformers import AutoConfig, AutoModelForCausalLM

from kprune.contract import Job, Outcome, PruningData
from kprune.data import CalibrationSet
from kprune.methods.registry import build
from kprune.models import view_of
from kprune.models.masks import masked
from kprune.objectives import objective_of

SHAPE = SHAPE_OF_ALL | TOKENS
CONFIGS = {
    "llama": GROUPED,
    "mistral": GROUPED,
    "qwen2": GROUPED,
    "smollm3": GROUPED,
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.3},
    "gpt2": {"n_inner": 48},
    "gemma2": GROUPED | {"head_dim": 8, "sliding_window": 12},
    "granite": GROUPED | {"residual_multiplier": 0.3},
    "gpt_neox": {},
    "phi": GROUPED,
    "lfm2": family_settings(3)["lfm2"],
    "qwen3_5_text": family_settings(3)["qwen3_5_text"],
}


def tiny_decoder(family: str = "llama", **changes):
    """Three layers of four heads, of a Llama's kind in two groups, and 48 neurons; every bias has a value."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(SHAPE | CONFIGS[family] | changes))
    model = AutoModelForCausalLM.from_config(config).double()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def prune(name, model, budget, calibration: CalibrationSet | None = None, data: PruningData | None = None, **settings):
    """Prune by a method's name, on twelve texts."""
    method = build(name, settings)
    method.check(model, budget)
    data = data or PruningData(calibration or tiny_calibration())
    return method.prune(Job(model, objective_of(model), data, budget))


@torch.no_grad()
def outputs(model, batch):
    """The logits at real tokens."""
    return model(**batch)[0][batch["attention_mask"].bool()]


@torch.no_grad()
def masked_outputs(model, outcome: Outcome, batch):
    """The logits of a model at real tokens with zeros for the features of what was pruned."""
    view = view_of(model)
    masks = [torch.zeros(block.units, dtype=torch.float64) for block in view.blocks]
    for block, mask in zip(view.blocks, masks, strict=True):
        mask[list(outcome.plan.kept[block.name])] = 1
    with masked(view, masks):
        return outputs(model, batch)


@torch.no_grad()
def block_features(model, kept, index, batches):
    """The features of a block at real tokens, with other units than those kept in the blocks below masked: [N, columns]."""
    view, found = view_of(model), []
    masks = [torch.ones(block.units, dtype=torch.float64) for block in view.blocks]
    for units, mask in zip(kept, masks[:index], strict=False):
        mask.zero_()[list(units)] = 1
    for batch in batches:
        seen = []
        with masked(view, masks):
            handle = view.blocks[index].output.register_forward_pre_hook(
                lambda module, inputs, seen=seen: seen.append(inputs[0])
            )
            model(**batch)
            handle.remove()
        found.append(seen[0].reshape(-1, seen[0].shape[-1])[batch["attention_mask"].flatten().bool()])
    return torch.cat(found)
