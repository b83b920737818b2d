"""Saved folders under the oldest and the newest transformers, each in an environment of its own without kprune."""

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import DISTIL_SHAPE, KEPT_UNITS, SHAPE
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    DynamicCache,
)

from kprune.checkpoint import become_pruned, save
from kprune.models import view_of
from kprune.models.modeling_kprune import Emptied
from kprune.models.surgery import keep_units

VERSIONS = ("==4.50.0", "")
FAMILIES = {
    "bert": SHAPE,
    "roberta": SHAPE,
    "xlm-roberta": SHAPE,
    "camembert": SHAPE,
    "albert": SHAPE | {"embedding_size": 16, "num_hidden_groups": 3},
    "mpnet": SHAPE | {"bos_token_id": 2, "eos_token_id": 3},
    "electra": SHAPE | {"embedding_size": 16},
    "distilbert": DISTIL_SHAPE,
}
HEADS = {"classification": AutoModelForSequenceClassification, "span": AutoModelForQuestionAnswering}
ROTARY = {"rope_type": "default", "rope_theta": 20000.0}
LINEAR = {"rope_type": "linear", "rope_theta": 20000.0, "factor": 4.0}
LANGUAGE = {
    "llama": SHAPE | {"rope_parameters": ROTARY},
    "qwen2": SHAPE | {"num_key_value_heads": 4, "rope_parameters": LINEAR},
    "phi": SHAPE | {"rope_parameters": ROTARY | {"partial_rotary_factor": 0.75}},
    "cohere": SHAPE | {"rope_parameters": ROTARY},
}
SCRIPT = """
import importlib.util, torch, transformers
from pathlib import Path

assert importlib.util.find_spec("kprune") is None
batch, expected = torch.load("batch", weights_only=True), torch.load("expected", weights_only=True)
checked = []


def check(folder, auto, attention, logits):
    try:
        model = auto.from_pretrained(folder, trust_remote_code=True, attn_implementation=attention)
    except ValueError as error:
        if "does not support" in str(error):  # ELECTRA has eager attention alone in older versions
            return None
        raise
    for ours, theirs in zip(model(**batch, return_dict=False), logits):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    model(**batch, output_hidden_states=True, output_attentions=attention == "eager")
    checked.append((folder.name, attention))
    return model


for folder in sorted(Path("models").iterdir()):
    auto = getattr(transformers, "AutoModelFor" + {
        "span": "QuestionAnswering", "classification": "SequenceClassification", "language": "CausalLM"
    }[folder.name.rpartition("-")[2]])
    logits = expected[folder.name]
    check(folder, auto, "sdpa", logits)
    model = check(folder, auto, "eager", logits)
    base = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
    hidden = model.base_model(**batch)[0]
    torch.testing.assert_close(base(**batch)[0], hidden, rtol=1e-5, atol=1e-5)
    model.save_pretrained(Path("again") / folder.name)
    check(Path("again") / folder.name, auto, "eager", logits)
    model.train()(**batch)[0].sum().backward()
arguments = transformers.TrainingArguments("run", max_steps=2, report_to=[], use_cpu=True, save_steps=1)
rows = [{"input_ids": torch.full((8,), 5 + i % 3), "labels": i % 3} for i in range(4)]
model = transformers.AutoModelForSequenceClassification.from_pretrained("models/bert-pruned-classification", trust_remote_code=True)
transformers.Trainer(model, arguments, train_dataset=rows).train()
check(Path("run/checkpoint-2"), transformers.AutoModelForSequenceClassification, "eager", [model.eval()(**batch)[0]])
torch.save({"version": transformers.__version__, "checked": checked}, "out")
"""


def pruned(family, head):
    torch.manual_seed(0)
    if head == "language":
        config = AutoConfig.for_model(family, **LANGUAGE[family], bos_token_id=2, eos_token_id=3, pad_token_id=1)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    else:
        config = AutoConfig.for_model(family, **FAMILIES[family], num_labels=2 if head == "span" else 3)
        model = HEADS[head].from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # at their initial values they hide what they do
            torch.nn.init.normal_(parameter, std=0.3)
    for block, units in zip(view_of(model).blocks, KEPT_UNITS, strict=True):
        keep_units(block, torch.tensor(units, dtype=torch.long))
    return become_pruned(model.eval())


def environment(folder, version):
    """Make an environment with this transformers; torch and what it needs are those of this one."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin/python"
    for packages in ([f"transformers{version}"], ["--no-deps", "accelerate", "psutil"]):
        done = subprocess.run(
            [python, "-m", "pip", "install", "-q", *packages], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"{packages} can't be installed here: {done.stderr[-300:]}")
    (site,) = folder.glob("lib/python*/site-packages")
    (folder / "torch").mkdir()
    for path in files_of("torch", set()):
        (folder / "torch" / path.name).symlink_to(path)
    # Behind its own packages, which therefore win.
    (site / "torch_of_the_tests.pth").write_text(str(folder / "torch"))
    return python


def files_of(package, seen):
    """Return the files and folders of a package and of all that it needs, as they lie in this environment."""
    seen.add(package)
    try:
        found = distribution(package)
    except PackageNotFoundError:  # of another platform
        return set()
    paths = {found.locate_file(file.parts[0]) for file in found.files if file.parts[0] not in ("..", "__pycache__")}
    for requirement in found.requires or []:
        name = re.match(r"[\w.-]+", requirement)[0]
        if "extra ==" not in requirement and name not in seen:
            paths |= files_of(name, seen)
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_a_folder_works_under_other_versions_of_transformers(version, tmp_path):
    python = environment(tmp_path / "environment", version)
    ids = torch.randint(5, 99, (4, 9), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(9) < torch.tensor([9, 7, 3, 9])[:, None]).long()
    batch, expected = {"input_ids": ids.where(mask.bool(), 1), "attention_mask": mask}, {}
    cases = [(family, head) for family in FAMILIES for head in HEADS] + [(family, "language") for family in LANGUAGE]
    for family, head in cases:
        model = pruned(family, head)
        # Caches differ between versions.
        output = model(**batch, use_cache=False) if head == "language" else model(**batch)
        for format in ("pruned", "dense") if head == "language" else ("pruned",):
            save(model, tmp_path / f"models/{family}-{format}-{head}", format=format)
            expected[f"{family}-{format}-{head}"] = [value.detach() for value in output.to_tuple()]
    torch.save(batch, tmp_path / "batch")
    torch.save(expected, tmp_path / "expected")
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    surroundings |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, env=surroundings, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    out = torch.load(tmp_path / "out", weights_only=True)
    assert out["version"] == version.removeprefix("==") or not version
    seen = {name for name, _ in out["checked"]}
    assert seen == {*expected, "checkpoint-2"}
    assert ("bert-pruned-span", "sdpa") in out["checked"] and ("distilbert-pruned-span", "eager") in out["checked"]


def test_an_older_version_is_one_line(tmp_path, monkeypatch):
    folder = save(pruned("bert", "classification"), tmp_path / "model")
    monkeypatch.setattr("transformers.__version__", "4.49.2")
    with pytest.raises(ValueError, match="needs transformers 4.50 or newer, this is 4.49.2"):
        exec(compile((folder / "modeling_kprune.py").read_text(), "modeling_kprune.py", "exec"), {"__name__": "old"})


def test_a_family_whose_earlier_versions_unpack_more_is_one_line(monkeypatch):
    config = AutoConfig.for_model("opt", **SHAPE | {"ffn_dim": 48, "word_embed_proj_dim": 32, "num_labels": 2})
    model = AutoModelForSequenceClassification.from_config(config)
    keep_units(view_of(model).named("1.attention"), torch.arange(0))
    kind = type(become_pruned(model))
    kind(model.config)
    monkeypatch.setattr("transformers.__version__", "4.53.3")
    with pytest.raises(ValueError, match="without heads needs transformers 4.54 or newer, this is 4.53.3"):
        kind(model.config)


def test_a_family_whose_earlier_versions_split_by_other_widths_is_one_line(monkeypatch):
    config = AutoConfig.for_model("opt", **SHAPE | {"ffn_dim": 48, "word_embed_proj_dim": 32, "num_labels": 2})
    kind = type(become_pruned(AutoModelForSequenceClassification.from_config(config)))
    monkeypatch.setattr("transformers.__version__", "4.51.3")
    with pytest.raises(ValueError, match="a pruned opt needs transformers 4.52 or newer, this is 4.51.3"):
        kind(config)


def test_a_head_that_another_version_names_otherwise_is_one_line(tmp_path):
    """In transformers 5.12, GPT-NeoX's head is called embed_out; a new one would be drawn."""
    folder = save(pruned("llama", "language"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["embed_out.weight"] = weights.pop("lm_head.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="disagree about embed_out.weight"):
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)


@pytest.mark.parametrize("name", ["past_key_values", "past_key_value", "layer_past"])
def test_the_cache_of_every_version_counts_positions_past_a_layer_without_heads(name):
    cache, x = DynamicCache(), torch.zeros(2, 5, 8)
    Emptied(None, None, True, 0)(x, **{name: cache})
    assert cache.get_seq_length() == 5
    result, nothing = Emptied("out_lin", torch.ones(8), True, None)(query=x, key=x, value=x, mask=None)
    assert torch.equal(result, torch.ones(2, 5, 8)) and nothing is None
