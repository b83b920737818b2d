"""Tiny random models of multiple choice, a case for each family that transformers has one of, and batches for them."""

import torch
from generated.shapes import FAMILIES
from transformers import AutoConfig, AutoModelForMultipleChoice

SHAPE = dict(
    vocab_size=99,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=64,
    initializer_range=0.3,
    pad_token_id=1,
    bos_token_id=2,
    eos_token_id=3,
)
CASES = [
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "electra",
    "distilbert",
    "albert",
    "mpnet",
    "deberta-v2",
    "modernbert",
]


def tiny_chooser(case="bert", dtype=torch.float64, **more):
    torch.manual_seed(0)
    settings = SHAPE | FAMILIES[case] | more
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
