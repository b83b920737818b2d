"""Tiny random masked language models, a tokenizer with a mask token, and texts that it knows the words of."""

import torch
from families import ENCODERS, family_settings
from tiny import SHAPE
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedTokenizerFast

CONFIGS = {family: family_settings(layers=2)[family] for family in ENCODERS}


def tiny_masked_lm(family="bert", dtype=torch.float32):
    torch.manual_seed(0)
    settings = SHAPE | {"num_hidden_layers": 2, "pad_token_id": 1} | CONFIGS[family]
    if family == "distilbert":
        settings = {name: value for name, value in settings.items() if name != "intermediate_size"}
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(family, **settings), attn_implementation="eager")
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms and biases at their initial values hide what they do
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model.to(dtype).eval()


def masking_tokenizer():
    """[CLS] a [SEP], a token for each of w0 to w93."""
    names = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(94))]
    core = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "pad", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=64, **special)


def sentences(count=24):
    generator = torch.Generator().manual_seed(5)
    draw = lambda: torch.randint(94, (5 + int(torch.randint(9, (1,), generator=generator)),), generator=generator)  # noqa: E731
    return [" ".join(f"w{i}" for i in draw().tolist()) for _ in range(count)]
