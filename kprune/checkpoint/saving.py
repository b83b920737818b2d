"""Save a pruned model so that plain transformers loads it where kprune is not installed."""

import copy
import shutil
import tempfile
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from kprune.transformer import adapter_for, modeling_kprune

HEADS = ("ForSequenceClassification", "ForQuestionAnswering")


def save(model: nn.Module, folder: str | Path, tokenizer=None, card: str | None = None) -> Path:
    """Write safetensors, config with the widths, tokenizer, model card and a self-contained modeling file.

    The folder is written under a temporary name and moved, so that it is either whole or not there; one that was there
    is replaced.

    Args:
        card: text of the model card, README.md.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        config = pruned_config(model)
        config.save_pretrained(temporary)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, temporary / "model.safetensors", metadata={"format": "pt"})
        shutil.copy(modeling_kprune.__file__, temporary / "modeling_kprune.py")
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        if card is not None:
            (temporary / "README.md").write_text(card)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


def pruned_config(model: nn.Module):
    """The model's config with `kept_heads` and `kept_neurons` per layer and the classes of the modeling file."""
    adapter = adapter_for(model)
    config = copy.deepcopy(model.config)
    config.kept_heads = [sublayer.units for sublayer in adapter.sublayers[0::2]]
    config.kept_neurons = [sublayer.units for sublayer in adapter.sublayers[1::2]]
    name = type(model).__name__.removeprefix("Pruned")
    base = name
    for head in HEADS:
        base = base.removesuffix(head)
    stem = f"Pruned{base.removesuffix('Model')}"
    config.architectures = [f"Pruned{name}"]
    config.auto_map = {f"AutoModel{head}": f"modeling_kprune.{stem}{head}" for head in HEADS}
    config.auto_map["AutoModel"] = f"modeling_kprune.{stem}Model"
    return config
