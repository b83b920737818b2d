"""`kprune prune` and `kprune compare`: what is saved, and what is said of it."""

import json
import re
from pathlib import Path

import pytest
import torch
from choices import tiny_chooser
from command_line import SENTENCES, edited, fails, number, succeeds, with_head
from safetensors.torch import load_file
from spellers import lines, wordpiece
from tiny import tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import kprune
import kprune.checkpoint
from kprune.cli import main
from kprune.cli.options import FORMATS
from kprune.models import view_of
from kprune.models.flops import params_reduction
from kprune.precision import PRECISIONS

ROOT = Path(__file__).parents[3]


def test_zeros_among_the_weights_are_saved_in_the_stock_class_and_save_no_time(checkpoint, texts, tmp_path, capsys):
    given = (checkpoint, texts, "--output", tmp_path / "masked", "--sparsity")
    succeeds("prune", *given, "2:4", "--method", "wanda")
    out, _ = capsys.readouterr()
    assert "zero: 50.0 % of the weights of the layers, which makes the model no smaller and no faster" in out
    assert "ms a forward pass" not in out and "trust_remote_code" not in out
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "masked")
    weight = loaded.bert.encoder.layer[2].attention.self.key.weight
    assert ((weight == 0).unflatten(1, (-1, 4)).sum(dim=2) == 2).all()
    assert "kprune_plus removes whole heads and neurons" in fails(capsys, "prune", *given, "0.5")
    assert "wanda sets single weights to zero" in fails(capsys, "prune", *given[:-1], "--method", "wanda")
    for wrong in ("half", "1.5", "4:4"):
        assert f"{wrong} is neither a share of the weights" in fails(
            capsys, "prune", *given, wrong, "--method", "wanda"
        )


def test_prune_says_what_it_saved(checkpoint, texts, tmp_path, capsys):
    before = {file: file.read_bytes() for file in checkpoint.iterdir()}
    succeeds("prune", checkpoint, texts, "--output", tmp_path / "small", "--flops-reduction", "0.6")
    out, err = capsys.readouterr()
    dense = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    pruned = kprune.load(tmp_path / "small")
    counts = [sum(weight.numel() for weight in model.parameters()) for model in (dense, pruned)]
    assert counts[1] < counts[0]
    assert re.search(rf"parameters +{counts[0]:,} +{counts[1]:,}", out)
    assert number(out, r"removed: ([\d.]+) % of the layers' FLOPs") >= 60
    parameters = params_reduction(view_of(dense), view_of(pruned))
    assert number(out, r"and ([\d.]+) % of their parameters, in") == pytest.approx(100 * parameters, abs=0.05)
    assert (
        f"| parameters of the layers removed | {100 * parameters:.1f} %" in (tmp_path / "small/README.md").read_text()
    )
    weights = (tmp_path / "small/model.safetensors").stat().st_size
    assert number(out, r"megabytes on disk +[\d.]+ +([\d.]+)") == pytest.approx(weights / 1e6, abs=0.05)
    assert "has 80 texts; pruning" in err and "on 72 texts" in err
    assert "mean over 8 held-out texts" in out and "the predicted class is the same for" in out
    assert f'AutoModelForSequenceClassification.from_pretrained("{tmp_path / "small"}", trust_remote_code=True)' in out
    assert AutoTokenizer.from_pretrained(tmp_path / "small").get_vocab()["w3"] == 5
    assert {file: file.read_bytes() for file in checkpoint.iterdir()} == before


def test_compare_measures_what_it_says(checkpoint, texts, tmp_path, capsys):
    succeeds("prune", checkpoint, texts, "--output", tmp_path / "small", "--method", "kprune")
    capsys.readouterr()
    succeeds("compare", checkpoint, tmp_path / "small", texts)
    out, _ = capsys.readouterr()
    models = AutoModelForSequenceClassification.from_pretrained(checkpoint), kprune.load(tmp_path / "small")
    tokenizer, divergence, same = AutoTokenizer.from_pretrained(checkpoint), 0.0, 0
    for text in SENTENCES:
        inputs = tokenizer(text, return_tensors="pt")
        p, q = (model.eval()(**inputs).logits[0].detach().log_softmax(-1) for model in models)
        divergence += (q.exp() * (q - p)).sum().item() / len(SENTENCES)
        same += int(p.argmax() == q.argmax())
    assert divergence > 0
    assert number(out, r"dense model: ([\d.e-]+) nats") == pytest.approx(divergence, rel=1e-3)
    assert number(out, r"the same for ([\d.]+) %") == pytest.approx(100 * same / len(SENTENCES), abs=0.05)
    assert number(out, r"ms a forward pass.* ([\d.]+)x as fast") > 0
    succeeds("compare", checkpoint, checkpoint, texts)
    out, _ = capsys.readouterr()
    assert abs(number(out, r"dense model: (-?[\d.e-]+) nats")) < 1e-6 and "the same for 100.0 %" in out


def test_compare_cuts_texts_at_what_both_models_read(checkpoint, texts, tmp_path, capsys):
    short = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, max_position_embeddings=8, ignore_mismatched_sizes=True
    )
    short.save_pretrained(tmp_path / "short")
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path / "short")
    tokens = sum(min(len(text.split()), 8) for text in SENTENCES)
    for pair in ((checkpoint, tmp_path / "short"), (tmp_path / "short", checkpoint)):
        succeeds("compare", *pair, texts)
        assert f"mean over 80 texts ({tokens} tokens)" in capsys.readouterr().out
    assert "give at most 8" in fails(capsys, "compare", checkpoint, tmp_path / "short", texts, "--max-length", 9)


@pytest.mark.parametrize("head, shown", [("regression", "squared difference"), ("span", "nats")])
def test_heads_without_classes(world, tmp_path, capsys, head, shown):
    folder = with_head(world, tmp_path / "checkpoint", head)
    rows = [
        {"question": text, "context": " ".join(reversed(SENTENCES[:2])), "id": f"a{i}"}
        for i, text in enumerate(SENTENCES)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    succeeds("prune", folder, tmp_path / "pairs.jsonl", "--output", tmp_path / "small", "--flops-reduction", "0.5")
    out, err = capsys.readouterr()
    assert shown in out and "predicted class" not in out
    assert "in question and context" in err
    assert kprune.load(tmp_path / "small")


def test_multiple_choice(world, texts, tmp_path, capsys):
    folder = tmp_path / "chooser"
    tokenizer, sentences = wordpiece(), lines(60)
    tiny_chooser(dtype=torch.float32, vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rows = [
        {"question": a, "choices": [b, c, a][: 2 + k % 2]}
        for k, (a, b, c) in enumerate(zip(sentences, sentences[1:], sentences[2:], strict=False))
    ]
    file = tmp_path / "choices.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    small = tmp_path / "small"
    succeeds(
        "prune",
        folder,
        file,
        "--output",
        small,
        "--tokens",
        800,
        "--flops-reduction",
        0.5,
        "--vocabulary",
        "calibration",
    )
    assert "the predicted choice is the same for" in capsys.readouterr().out
    succeeds("compare", folder, small, file, "--tokens", 300)
    assert "nats (KL), mean over" in capsys.readouterr().out
    assert "has no lists of them" in fails(capsys, "prune", folder, texts, "--output", tmp_path / "b")
    assert "the model reads none" in fails(capsys, "prune", world / "checkpoint", file, "--output", tmp_path / "b")


def test_a_bare_encoder(world, texts, tmp_path, capsys):
    tiny_model(dtype=torch.float32).base_model.save_pretrained(tmp_path / "encoder")
    AutoTokenizer.from_pretrained(world / "checkpoint").save_pretrained(tmp_path / "encoder")
    succeeds("prune", tmp_path / "encoder", texts, "--output", tmp_path / "small", "--flops-reduction", "0.5")
    out, _ = capsys.readouterr()
    assert 0 < number(out, r"dense model: ([\d.e-]+) squared difference") < 4
    assert f'AutoModel.from_pretrained("{tmp_path / "small"}", trust_remote_code=True)' in out
    assert type(kprune.load(tmp_path / "small")).__name__ == "PrunedBertModel"


def test_a_language_model(world, texts, tmp_path, capsys):
    torch.manual_seed(0)
    shape = dict(vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    config = LlamaConfig(**shape, num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3)
    folder = tmp_path / "checkpoint"
    dense = LlamaForCausalLM(config)
    dense.save_pretrained(folder)
    AutoTokenizer.from_pretrained(world / "checkpoint").save_pretrained(folder)
    succeeds("prune", folder, texts, "--output", tmp_path / "small", "--flops-reduction", "0.5", "--method", "kprune")
    assert "AutoModelForCausalLM.from_pretrained" in capsys.readouterr().out
    succeeds("compare", folder, tmp_path / "small", texts)
    out, _ = capsys.readouterr()
    tokenizer, divergence, same, tokens = AutoTokenizer.from_pretrained(folder), 0.0, 0, 0
    models = dense, kprune.load(tmp_path / "small")
    for text in SENTENCES:
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        p, q = (model.eval()(**inputs).logits[0].detach().log_softmax(-1) for model in models)
        divergence += (q.exp() * (q - p)).sum().item()
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
        tokens += len(p)
    assert number(out, r"dense model: ([\d.e-]+) nats a token") == pytest.approx(divergence / tokens, rel=1e-3)
    assert number(out, r"likeliest next token is the same for ([\d.]+) %") == pytest.approx(
        100 * same / tokens, abs=0.05
    )


def test_the_same_seed_gives_the_same_model(checkpoint, texts, tmp_path):
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        succeeds("prune", checkpoint, texts, "--output", tmp_path / name, "--seed", seed, "--tokens", "150")
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(
        weights[0][name].shape != weights[2][name].shape or not torch.equal(weights[0][name], weights[2][name])
        for name in weights[0]
    )


@pytest.mark.parametrize(
    "options, arguments",
    [
        ([], {"flops_reduction": 0.8}),
        (["--flops-reduction", "0.25", "--method", "kprune"], {"method": "kprune", "flops_reduction": 0.25}),
        (["--speedup", "3"], {"speedup": 3.0}),
        (["--params-reduction", "0.3"], {"params_reduction": 0.3}),
        (["--params-reduction", "0.3", "--of", "model"], {"params_reduction": 0.3, "of": "model"}),
        (["--grain", "4"], {"grain": 4, "flops_reduction": 0.8}),
        (["--uniform"], {"uniform": True, "flops_reduction": 0.8}),
        *((["--precision", name], {"precision": name, "flops_reduction": 0.8}) for name in PRECISIONS),
        (["--task", "classification"], {"task": "classification", "flops_reduction": 0.8}),
    ],
)
def test_options_become_arguments(checkpoint, texts, tmp_path, monkeypatch, capsys, options, arguments):
    given, prune = {}, kprune.prune

    def recorder(model, batches, **rest):
        given.update(rest)
        outcome = prune(model, batches, 0.5, "random")
        if "speedup" in rest:
            outcome.details["latency_budget"] = {"reached": False, "attempts": [{}, {}, {}]}
        return outcome

    monkeypatch.setattr(kprune, "prune", recorder, raising=False)
    succeeds("prune", checkpoint, texts, "--output", tmp_path / "small", *options)
    usual = {"method": "kprune_plus", "task": None, "uniform": False, "grain": 1, "of": "layers", "precision": "full"}
    assert given == usual | arguments
    missed = "a speed-up of 3x was not met: this is the closest of 3 attempts"
    assert (missed in capsys.readouterr().out) == ("--speedup" in options)


def test_formats(checkpoint, texts, tmp_path, capsys, monkeypatch):
    exported = []
    monkeypatch.setattr(
        "kprune.checkpoint.saving.export_onnx", lambda model, file, int8: exported.append(int8) or file.touch()
    )
    succeeds("prune", checkpoint, texts, "--output", tmp_path / "dense", "--format", "dense")
    out, _ = capsys.readouterr()
    assert "trust_remote_code" not in out and "zeros" in out
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "dense")
    assert number(out, r"heads +([\d,]+)") == 12 > number(out, r"heads +12 +([\d,]+)")
    assert re.search(r"parameters +([\d,]+) +\1 +0.0 %", out)
    assert stock.bert.encoder.layer[0].intermediate.dense.weight.shape == (48, 32)
    # What was pruned is pruned again, over the folder that kprune saved.
    half = ["--flops-reduction", "0.5", "--method", "kprune_plus_fast"]
    succeeds("prune", checkpoint, texts, "--output", tmp_path / "dense", *half, "--onnx")
    assert (tmp_path / "dense/model.onnx").is_file()
    succeeds("prune", checkpoint, texts, "--output", tmp_path / "dense", *half, "--onnx-int8")
    assert exported == [False, True]
    succeeds("prune", tmp_path / "dense", texts, "--output", tmp_path / "again", *half)
    before, after = (sum(w.numel() for w in kprune.load(tmp_path / name).parameters()) for name in ("dense", "again"))
    assert after < before


def test_the_stock_class(checkpoint, texts, tmp_path, capsys):
    output = ["--output", tmp_path / "alike", "--format", "uniform"]
    succeeds("prune", checkpoint, texts, *output, "--flops-reduction", "0.2", "--method", "kprune")
    out, _ = capsys.readouterr()
    assert "trust_remote_code" not in out and "stock class" in out
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "alike")
    assert re.search(rf"parameters +[\d,]+ +{sum(w.numel() for w in stock.parameters()):,}", out)
    assert stock.config.intermediate_size < 48
    assert main(["prune", str(checkpoint), str(texts), *map(str, output)]) == 2
    assert "error: uniform=True keeps at least 4 heads and 1 neurons" in capsys.readouterr().err.splitlines()[-1]


def test_a_file_for_llama_cpp(world, texts, tmp_path, capsys):
    pytest.importorskip("gguf")
    shape = dict(vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    folder, output = tmp_path / "checkpoint", ["--output", tmp_path / "file", "--format", "gguf"]
    LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=64)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(world / "checkpoint").save_pretrained(folder)
    command = ["prune", folder, texts, *output, "--flops-reduction", "0.5", "--method", "kprune"]
    assert "the tokenizer is no BPE but WordLevel" in fails(capsys, *command)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=299, initial_alphabet=alphabet))
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)
    succeeds(*command)
    out, _ = capsys.readouterr()
    size = (tmp_path / "file/model.gguf").stat().st_size / 1e6
    assert re.search(rf"megabytes on disk +[\d.]+ +{size:.1f}", out) and "llama-cli -m" in out
    assert "llama-cli" in (tmp_path / "file/README.md").read_text()
    assert "holds model.gguf, for llama.cpp" in fails(capsys, "compare", folder, tmp_path / "file", texts)
    assert "for language models of llama" in fails(
        capsys, "prune", world / "checkpoint", texts, *output, "--flops-reduction", "0.5"
    )


def test_the_choice_of_formats_is_the_librarys():
    assert FORMATS == kprune.checkpoint.FORMATS


def test_several_labels_at_once(checkpoint, texts, tmp_path, capsys):
    edited(problem_type="multi_label_classification")(checkpoint)
    command = ["prune", checkpoint, texts, "--output", tmp_path / "small"]
    assert "give task='multi_label'" in fails(capsys, *command, "--task", "classification")
    succeeds(*command)
    assert "nats (KL)" in capsys.readouterr().out


def test_weights_keep_their_type(checkpoint, texts, tmp_path):
    AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype="bfloat16").save_pretrained(checkpoint)
    succeeds("prune", checkpoint, texts, "--output", tmp_path / "small")
    assert {w.dtype for w in load_file(tmp_path / "small/model.safetensors").values()} == {torch.bfloat16}


def test_an_interruption_leaves_nothing(checkpoint, texts, tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(kprune, "prune", interrupted, raising=False)
    assert main(["prune", str(checkpoint), str(texts), "--output", str(tmp_path / "small")]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted" and not (tmp_path / "small").exists()
