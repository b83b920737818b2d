import json

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_calibration, tiny_model
from transformers import AutoModel

import kprune
from experiments.inputs import finetuning
from experiments.inputs.checkpoints import load_model, load_pretrained, load_tokenizer
from experiments.inputs.finetuning import bf16_is_faster, finetune, finetuning_run, recipe_of
from experiments.tasks.custom import CustomTask
from kprune import training
from kprune.errors import UserError
from kprune.models import view_of
from kprune.training import Training

SETTINGS = {"epochs": 2, "lr": 1e-3, "batch_size": 8}


@pytest.fixture
def task(tmp_path):
    """Forty spelled-out words in two classes, told apart by their first letter."""
    rows = [(f"{'ab'[i % 2]} {'xyz'[i % 3]} {'cdefg'[: i % 5 + 1]}", "ab"[i % 2]) for i in range(40)]
    file = tmp_path / "rows.csv"
    file.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    made = CustomTask("spelling", str(file), str(file), ["text"], "label", "classification", 32, None, 8)
    made.finetuning = dict(SETTINGS)
    return made


def student():
    torch.manual_seed(0)
    model = tiny_model(dtype=torch.float32)
    model.classifier = torch.nn.Linear(32, 2)
    model.config.num_labels = 2
    model.config.id2label = {0: "a", 1: "b"}
    return model


def test_a_fine_tuned_model_is_whole_and_loads(task, tokenizer, tmp_path):
    folder = tmp_path / "cache" / "checkpoint"
    finetune(student(), tokenizer, task, folder, device="cpu")
    model = load_model(folder, task)
    assert model.config.id2label == {0: "a", 1: "b"}
    assert len(load_tokenizer(folder)) == len(tokenizer)
    record = json.loads((folder / "finetuning.json").read_text())
    assert record["steps"] == 10 and record["lr"] == 1e-3 and record["bf16"] in (True, False)
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("head", ["embedding", "span"])
def test_a_pruned_encoder_is_fine_tuned_at_its_widths(task, tokenizer, tmp_path, head):
    dense = tiny_model(head="span", dtype=torch.float32)
    if head == "embedding":
        dense = AutoModel.from_config(dense.config).eval()
    outcome = kprune.prune(dense, tiny_calibration(24).batches(), 0.6)
    outcome.save(tmp_path / "pruned", tokenizer)
    torch.manual_seed(3)
    model = load_pretrained(tmp_path / "pruned", task)
    units = [block.units for block in view_of(outcome.model).blocks]
    assert [block.units for block in view_of(model).blocks] == units and sum(units) < 3 * (4 + 48)
    for name, weight in outcome.model.base_model.state_dict().items():
        assert torch.equal(weight, model.base_model.state_dict()[name]), name
    before = model.base_model.encoder.layer[0].output.dense.weight.clone()
    finetune(model, tokenizer, task, tmp_path / "checkpoint", device="cpu")
    tuned = load_model(tmp_path / "checkpoint", task)
    assert [block.units for block in view_of(tuned).blocks] == units and tuned.config.id2label == {0: "a", 1: "b"}
    assert not torch.equal(tuned.base_model.encoder.layer[0].output.dense.weight, before)
    assert (tmp_path / "checkpoint" / "modeling_kprune.py").is_file()


def test_it_learns(task, tokenizer, tmp_path):
    task.finetuning = SETTINGS | {"epochs": 12}
    finetune(student(), tokenizer, task, tmp_path / "checkpoint", device="cpu")
    model, examples = load_model(tmp_path / "checkpoint", task), task.training(tokenizer)
    right = sum(model(input_ids=torch.tensor([e["input_ids"]])).logits.argmax().item() == e["label"] for e in examples)
    assert right >= 36


@pytest.mark.parametrize("killed_at", [3, 5, 8])
def test_a_killed_run_goes_on_to_the_same_weights(task, tokenizer, tmp_path, monkeypatch, killed_at, capsys):
    monkeypatch.setattr(finetuning, "bf16_is_faster", lambda run: False)
    finetune(student(), tokenizer, task, tmp_path / "whole", device="cpu")

    monkeypatch.setattr(training, "SAVE_SECONDS", -1.0)  # the state is kept after every step
    monkeypatch.setattr(Training, "save", without_slowing(Training.save))
    update = Training.update

    def killed(run, batch):
        if run.step == killed_at:
            raise KeyboardInterrupt
        return update(run, batch)

    monkeypatch.setattr(Training, "update", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune(student(), tokenizer, task, tmp_path / "parts", device="cpu")
    assert not (tmp_path / "parts").exists()
    monkeypatch.setattr(Training, "update", update)
    finetune(student(), tokenizer, task, tmp_path / "parts", device="cpu")
    assert f"from step {killed_at} of 10" in capsys.readouterr().out
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert not list(tmp_path.glob(".*.state"))


def without_slowing(save):
    return lambda run, path, pause: (pause, save(run, path, 0.0)[1])


def test_a_damaged_state_is_named(task, tokenizer, tmp_path):
    (tmp_path / ".checkpoint.state").write_bytes(b"half")
    with pytest.raises(UserError, match=r"\.checkpoint\.state.*remove it"):
        finetune(student(), tokenizer, task, tmp_path / "checkpoint", device="cpu")


def test_measuring_the_precision_changes_nothing(task, tokenizer, tmp_path):
    model = student()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    run = finetuning_run(model, task.objective, task.training(tokenizer), 0, recipe_of(task), 0)
    random = torch.get_rng_state()
    assert bf16_is_faster(run) in (True, False)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_loss_that_is_not_finite_stops_it(task, tokenizer, tmp_path):
    model = student()
    torch.nn.init.constant_(model.classifier.weight, float("nan"))
    with pytest.raises(UserError, match="the loss is nan at step 0"):
        finetune(model, tokenizer, task, tmp_path / "checkpoint", device="cpu")
    assert not (tmp_path / "checkpoint").exists()


def test_unknown_settings_are_refused(task):
    task.finetuning = {"epoch": 3}
    with pytest.raises(UserError, match="task.finetuning.epoch is unknown"):
        recipe_of(task)
