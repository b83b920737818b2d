"""Masked language modelling in the laboratory: what is masked, what is scored, what is drawn."""

import math

import pytest
import torch
from masked_lm import masking_tokenizer, tiny_masked_lm
from tiny import tiny_model

from experiments.cell.runner import run_cell
from experiments.config.cell import configured
from experiments.inputs import subject
from experiments.inputs.calibration import draw_calibration, read_calibration
from experiments.inputs.checkpoints import load_model, load_tokenizer
from experiments.scoring.evaluation import evaluate
from experiments.tasks.masked import special_tokens
from kprune.errors import UserError
from kprune.masked_tokens import mask_tokens

MASK = 4


def words(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return " ".join(f"w{i}" for i in torch.randint(94, (count,), generator=generator).tolist())


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("KPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KPRUNE_MIRROR", "")
    subject._subject.cache_clear()
    tiny_masked_lm().save_pretrained(tmp_path / "encoder")
    masking_tokenizer().save_pretrained(tmp_path / "encoder")
    (tmp_path / "evaluation.txt").write_text(words(205))
    lines = [f'{{"text": "{words(30, seed)}"}}\n' for seed in range(1, 21)]
    (tmp_path / "train.jsonl").write_text("".join(lines))
    return tmp_path


def config(world, *settings, encoder="encoder"):
    own = {setting.partition("=")[0] for setting in settings}
    given = [
        "task=custom_masked",
        f"task.evaluation_file={world / 'evaluation.txt'}",
        f"task.train_file={world / 'train.jsonl'}",
        "task.window=16",
        "calibration.examples=8",
        f"model.checkpoint={world / encoder}",
        "latency.batch_size=2",
        "latency.sequence_length=8",
        "threads=1",
        "tracking=none",
        f"outputs={world / 'outputs'}",
        "flops_reduction=0.4",
    ]
    return configured([*(entry for entry in given if entry.partition("=")[0] not in own), *settings])


def run(world, *settings, **more):
    return run_cell(config(world, *settings, **more), "single", "run.py")


def test_the_perplexity_is_that_of_the_masked_tokens_of_each_window(world):
    """Windows of 14 words between [CLS] and [SEP], the rest dropped; every window's mean loss counted alike."""
    task, model, tokenizer = config(world).task.build(), tiny_masked_lm(), masking_tokenizer()
    ids = tokenizer(words(205), add_special_tokens=False)["input_ids"]
    losses = []
    for start in range(0, 196, 14):
        window = [2, *ids[start : start + 14], 3]
        inputs = mask_tokens({"input_ids": window}, tokenizer)["input_ids"]
        places = [place for place, token in enumerate(inputs) if token == MASK]
        assert len(places) == 2
        with torch.no_grad():
            logs = model(input_ids=torch.tensor([inputs])).logits[0].log_softmax(-1)
        losses.append(-sum(logs[place, window[place]].item() for place in places) / 2)
    assert len(losses) == 14
    assert evaluate(model, task, tokenizer) == pytest.approx(math.exp(sum(losses) / 14), rel=1e-5)
    evaluation = task.evaluation(tokenizer)
    assert (evaluation.size, evaluation.window, evaluation.first_token) == (14, 16, "each")
    assert evaluation.data.endswith("evaluation.txt, 15 % masked")


def test_windows_are_drawn_masked_between_special_tokens(world):
    cell = config(world)
    drawn = draw_calibration(cell.task.build(), masking_tokenizer(), cell.calibration, 0, labels=False)
    assert (drawn.draw, len(drawn.examples), drawn.tokens) == ("windows", 8, 8 * 16)
    for example in drawn.examples:
        ids, label = example["input_ids"], example["label"]
        assert (ids[0], ids[-1], ids.count(MASK)) == (2, 3, 2)
        assert [place for place, each in enumerate(label) if each != -100] == [
            place for place, each in enumerate(ids) if each == MASK
        ]
    fewer = config(world, "calibration.tokens=60", "calibration.examples=null")
    assert draw_calibration(fewer.task.build(), masking_tokenizer(), fewer.calibration, 0, False).tokens == 48


def test_special_tokens_are_told_by_the_tokenizer():
    assert special_tokens(masking_tokenizer()) == special_tokens(masking_tokenizer())
    assert special_tokens(masking_tokenizer()).put([7, 8]) == masking_tokenizer()("w2 w3")["input_ids"]


@pytest.mark.parametrize("method", ["kprune", "kprune_plus_fast", "random"])
def test_a_cell_prunes_an_encoder_as_pretrained(world, method):
    record = run(world, f"method={method}")
    assert (record.metric, record.higher_is_better, record.evaluation.examples) == ("masked_perplexity", False, 14)
    assert record.flops_reduction >= 0.4 - 1e-9 and record.calibration.draw == "windows"
    (folder,) = world.glob("outputs/**/model")
    task = config(world).task.build()
    assert evaluate(load_model(folder, task), task, load_tokenizer(folder)) == pytest.approx(record.score, rel=1e-3)


def test_examples_of_a_file_say_what_was_masked(world):
    task, model = config(world).task.build(), tiny_masked_lm()
    file = world / "examples.json"
    file.write_text('{"examples": [{"input_ids": [2, 4, 9, 3], "label": [-100, 7, -100, -100]}]}')
    read = read_calibration(str(file), task, masking_tokenizer(), model, labels=False)
    assert read.examples[0]["label"] == [-100, 7, -100, -100]
    for label in ("", ', "label": [7]', ', "label": [-100, 99, -100, -100]'):
        file.write_text(f'{{"examples": [{{"input_ids": [2, 4, 9, 3]{label}}}]}}')
        with pytest.raises(UserError, match="without a label|not a list of 4 numbers from -100 to 98"):
            read_calibration(str(file), task, masking_tokenizer(), model, labels=False)


@pytest.mark.parametrize(
    "settings, words",
    [
        (["task.window=2"], "task.window=2 leaves no room for a text beside 2 special tokens"),
        (["task.window=400"], "less than a window of 398|reads 64 tokens"),
        (["method=cofi"], "method cofi reads labels, and custom_masked has none"),
        (["method=kwon"], "method kwon reads labels, and custom_masked has none"),
    ],
)
def test_mistakes_are_one_line(world, settings, words):
    with pytest.raises(UserError, match=words) as error:
        run(world, *settings)
    assert "\n" not in str(error.value)


def test_a_model_with_another_head_is_refused(world):
    tiny_model(dtype=torch.float32).save_pretrained(world / "classifier")
    masking_tokenizer().save_pretrained(world / "classifier")
    with pytest.raises(UserError, match="needs one ForMaskedLM: give a pretrained encoder that still has its head"):
        run(world, encoder="classifier")


def test_a_tokenizer_without_a_mask_token_is_refused(world):
    tokenizer = masking_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(UserError, match="no mask token"):
        config(world).task.build().evaluation(tokenizer)
