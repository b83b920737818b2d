"""A checkpoint's model and tokenizer, and the device they run on."""

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import kprune
from kprune.checks import check_layers
from kprune.cli.folders import Checkpoint
from kprune.errors import UserError, one_line
from kprune.objectives import OBJECTIVES, auto_class_for
from kprune.precision import computes_in_float64
from kprune.quiet import quiet_transformers

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")


def pick_device(name: str) -> torch.device:
    """Return a device by its name; "auto" is a GPU if there is one.

    Raises:
        UserError: the device is unknown, not there, or without float64.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not computes_in_float64(name):
        raise UserError(f"--device {name} is not to be had here, or has no float64: leave it out, or give cpu")
    return torch.device(name)


def convert_to_stored(model: Any, checkpoint: Checkpoint) -> None:
    """Convert a model's weights to the type that a checkpoint's are stored in."""
    name = checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")  # as transformers 4 calls it
    model.to({"float16": torch.float16, "bfloat16": torch.bfloat16}.get(str(name), torch.float32))


def load_model(checkpoint: Checkpoint, device: torch.device) -> PreTrainedModel:
    """Return the model in float32, in evaluation mode.

    Raises:
        UserError: kprune supports no model of this kind, or it does not load whole: weights are missing, or layers left out.
    """
    folder, architecture = checkpoint.folder, checkpoint.architecture
    if architecture.startswith("Pruned"):
        pruned: Any = kprune.load(folder)
        return pruned.to(device)
    auto = auto_class_for(architecture)
    if auto is None:
        suffixes = sorted({f"...{kind.class_suffixes[0]}" for kind in OBJECTIVES.values()})
        raise UserError(
            f"{folder} holds a {architecture}, which has no head that kprune can compare: give a "
            f"{' or '.join(suffixes)} checkpoint{text_model_hint(checkpoint)}"
        )
    try:
        with quiet_transformers():
            model, info = getattr(transformers, auto).from_pretrained(
                folder, dtype="float32", trust_remote_code=False, local_files_only=True, output_loading_info=True
            )
    except Exception as error:  # transformers and what it reads files with raise many types
        raise UserError(f"{folder} does not load ({one_line(error, 300)}): save the checkpoint again") from error
    if info["missing_keys"]:
        raise UserError(
            f"{folder} has no weights of {min(info['missing_keys'])}, a part of {architecture}: give a fine-tuned checkpoint"
        )
    check_layers(folder, model, info["unexpected_keys"])
    return model.to(device).eval()


def text_model_hint(checkpoint: Checkpoint) -> str:
    """Return how to get the language model out of a checkpoint that has an image encoder, too; nothing if it is none of these."""
    text = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(str(checkpoint.config.get("model_type")), "")
    if not (checkpoint.architecture.endswith("ForConditionalGeneration") and text.endswith("ForCausalLM")):
        return ""
    return (
        f". AutoModelForCausalLM.from_pretrained('{checkpoint.folder}').save_pretrained('text') writes its language model, a {text}, to "
        "another folder: add the tokenizer there, and give that folder"
    )


def load_tokenizer(checkpoint: Checkpoint, model: PreTrainedModel) -> Any:
    """Return the tokenizer beside a checkpoint's model.

    Raises:
        UserError: there is none, it does not load, or it has a token for which the model has no embedding.
    """
    folder = checkpoint.folder
    # Without its files, transformers makes up a tokenizer that knows no word.
    if not any(file for pattern in TOKENIZER_FILES for file in folder.glob(pattern)):
        raise UserError(f"{folder} has no tokenizer: save it there, too (tokenizer.save_pretrained)")
    try:
        with quiet_transformers():
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
    except Exception as error:  # as above
        raise UserError(f"the tokenizer in {folder} does not load ({one_line(error, 300)}): save it again") from error
    embeddings: Any = model.get_input_embeddings()
    rows = len(embeddings.weight)
    token, number = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1], default=("", -1))
    if number >= rows:
        raise UserError(
            f"the tokenizer in {folder} has {token!r} as token {number}, and the model has {rows:,} embeddings, counted from 0: save "
            "the model's own tokenizer there, or give the model a row for each token (model.resize_token_embeddings(len(tokenizer)))"
        )
    return tokenizer
