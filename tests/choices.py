"""Tiny random models of multiple choice, a case for each family that transformers has one of, and batches for them."""

import torch
from families import ENCODERS, TOKENS, family_settings
from tiny import SHAPE
from transformers import AutoConfig, AutoModelForMultipleChoice

SETTINGS = family_settings(layers=2)
CASES = [family for family in ENCODERS if family not in ("nomic_bert", "esm", "gte", "jina_embeddings_v3", "eurobert")]


def tiny_chooser(case="bert", dtype=torch.float64, **more):
    torch.manual_seed(0)
    settings = SHAPE | {"num_hidden_layers": 2} | TOKENS | SETTINGS[case] | more
    if case == "distilbert":
        settings.pop("intermediate_size")
    config = AutoConfig.for_model(case, **settings)
    model = AutoModelForMultipleChoice.from_config(config, attn_implementation="eager")
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms and biases at their initial values hide what they do
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model.to(dtype).eval()


def choices_batch(seed=0, examples=3, choices=4):
    """Padded choices of different lengths; the last example has two, and two that are padding alone."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 99, (examples, choices, 10), generator=generator)
    lengths = torch.randint(7, 11, (examples, choices), generator=generator)
    lengths[-1, 2:] = 0
    mask = (torch.arange(10) < lengths[..., None]).long()
    labels = torch.randint(2, (examples,), generator=generator)
    return {"input_ids": torch.where(mask.bool(), ids, 1), "attention_mask": mask, "labels": labels}
