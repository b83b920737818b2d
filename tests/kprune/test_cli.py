"""The command `kprune`, on tiny checkpoints."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from choices import tiny_chooser
from safetensors.torch import load_file, save_file
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
from kprune.cli.drawing import draw, held_out
from kprune.cli.options import FORMATS, path
from kprune.cli.texts import Texts, read_texts
from kprune.errors import UserError
from kprune.precision import PRECISIONS

ROOT = Path(__file__).parents[2]
SENTENCES = [" ".join(f"w{(i * 7 + j * 3) % 97}" for j in range(3 + i % 9)) for i in range(80)]


@pytest.fixture(autouse=True)
def as_it_was():
    """The command sets the process's number of threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def checkpoint(world, tmp_path) -> Path:
    return shutil.copytree(world / "checkpoint", tmp_path / "checkpoint")


def with_head(world, folder: Path, head: str) -> Path:
    tiny_model(head=head, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(world / "checkpoint").save_pretrained(folder)
    return folder


@pytest.fixture
def texts(tmp_path) -> Path:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(SENTENCES))
    return file


def number(shown: str, pattern: str) -> float:
    return float(re.search(pattern, shown)[1].replace(",", ""))


def succeeds(*arguments) -> None:
    assert main([*map(str, arguments), "--threads", "1"]) == 0


def fails(capsys, *arguments) -> str:
    """The one line that bad input gives."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith("error: ") and not out
    return line


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
    for text in SENTENCES:
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        models = dense, kprune.load(tmp_path / "small")
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


def test_formats(checkpoint, texts, tmp_path, capsys):
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
    assert "has no model.safetensors" in fails(capsys, "compare", folder, tmp_path / "file", texts)
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


@pytest.mark.parametrize(
    "options, words",
    [
        (["--flops-reduction", "80%"], "--flops-reduction: 80% is not a share between 0 and 1"),
        (["--flops-reduction", "1"], "not a share between 0 and 1"),
        (["--flops-reduction", "nan"], "not a share between 0 and 1"),
        (["--speedup", "1"], "--speedup: 1 is not a factor above 1"),
        (["--speedup", "inf"], "not a factor above 1"),
        (["--speedup", "3", "--flops-reduction", "0.8"], "not allowed with argument --speedup"),
        (["--params-reduction", "-1"], "not a share between 0 and 1"),
        (["--of", "model"], "--of model goes with --params-reduction"),
        (["--grain", "4", "--sparsity", "0.5", "--method", "wanda"], "--grain 4 is about widths"),
        (["--tokens", "1e5"], "--tokens: 1e5 is not a whole number above 0"),
        (["--tokens", "1"], "within --tokens 1 is too few"),
        (["--seed", "-1"], "--seed: -1 is not a whole number, 0 or above"),
        (["--threads", "0"], "--threads: 0 is not a whole number above 0"),
        (["--max-length", "65"], "--max-length 65 is more than the model reads: give at most 64"),
        (["--format", "small"], "--format: invalid choice: 'small'"),
        (["--method", "nonsense"], "'nonsense'"),
        (["--method", "kwon"], "--method kwon needs labels, and texts are all there is: use kprune_plus"),
        (["--task", "nonsense"], "--task nonsense is unknown: use"),
        (["--task", "span"], "--task span does not suit a BertForSequenceClassification"),
        (["--device", "abacus"], "--device abacus is not to be had here"),
        (["--text-column", "text"], "has no columns"),
        (["--second-column", "text"], "--second-column needs --text-column"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_options(checkpoint, texts, tmp_path, capsys, options, words):
    line = fails(capsys, "prune", checkpoint, texts, "--output", tmp_path / "small", *options)
    assert words in line and not (tmp_path / "small").exists()


def without(name):
    return lambda folder: (folder / name).unlink()


def edited(**entries):
    def edit(folder: Path):
        config = json.loads((folder / "config.json").read_text()) | entries
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))

    return edit


def without_head(folder: Path):
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("classifier")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def without_tokenizer(folder: Path):
    for file in folder.glob("tokenizer*"):
        file.unlink()


@pytest.mark.parametrize(
    "damage, words",
    [
        (shutil.rmtree, "there is no folder"),
        (without("config.json"), "has no config.json"),
        (without("model.safetensors"), "has no weights"),
        (without_tokenizer, "has no tokenizer"),
        (without_head, "has no weights of classifier.bias"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is damaged"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json is damaged"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "does not load"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"nothing"), "does not load"),
        (edited(architectures=None), "does not say its model's class"),
        (edited(architectures=[{}]), "config.json is damaged"),
        (edited(architectures=["BertForPreTraining"]), "BertForPreTraining"),
        (edited(model_type="gpt9"), "does not load"),
        (
            lambda folder: (folder / "modules.json").write_text("[]"),
            "kprune.prune(SentenceTransformer(FOLDER), batches)",
        ),
    ],
)
def test_what_is_no_checkpoint(checkpoint, texts, tmp_path, capsys, damage, words):
    damage(checkpoint)
    for arguments in (
        ["prune", checkpoint, texts, "--output", tmp_path / "small"],
        ["compare", checkpoint, checkpoint, texts],
    ):
        assert words in fails(capsys, *arguments)
    assert not (tmp_path / "small").exists()


def test_an_output_that_is_taken(checkpoint, texts, tmp_path, capsys):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("long")
    command = ["prune", checkpoint, texts, "--output"]
    assert "holds files that kprune did not save" in fails(capsys, *command, mine)
    assert "is a file" in fails(capsys, *command, mine / "thesis.txt")
    assert "can't be made" in fails(capsys, *command, mine / "thesis.txt/small")
    assert "is the checkpoint that is to be pruned" in fails(capsys, *command, checkpoint)
    assert [file.name for file in mine.iterdir()] == ["thesis.txt"]


def test_models_that_can_not_be_compared(world, checkpoint, texts, tmp_path, capsys):
    span = with_head(world, tmp_path / "span", "span")
    assert "one is an AutoModelForSequenceClassification, the other an AutoModelForQuestionAnswering" in fails(
        capsys, "compare", checkpoint, span, texts
    )
    other = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=5, ignore_mismatched_sizes=True)
    other.save_pretrained(tmp_path / "other")
    assert "num_labels is 3, the second's 5" in fails(capsys, "compare", checkpoint, tmp_path / "other", texts)
    assert "has no pairs" in fails(capsys, "compare", span, span, texts)


def test_what_is_wrong_with_files_needs_no_torch(tmp_path):
    script = (
        "import sys; from kprune.cli import main; code = main(sys.argv[1:]); sys.exit(code + ('torch' in sys.modules))"
    )
    command = [sys.executable, "-c", script, "prune", tmp_path, tmp_path / "none.txt", "--output", tmp_path / "small"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 2


def test_help(capsys):
    for command in ("prune", "compare"):
        with pytest.raises(SystemExit) as end:
            main([command, "--help"])
        assert end.value.code == 0
        assert f"usage: kprune {command} " in capsys.readouterr().out
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert "prune a checkpoint on texts of your own" in out and err.startswith("error: no command is given")
    done = subprocess.run(
        [sys.executable, "-m", "kprune", "--version"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout.strip()


# Name and content of a file, what is asked for, and the texts.
READ = {
    "lines": ("a.txt", b"one\r\n\n  two \rthree", {}, [("one",), ("two",), ("three",)]),
    "utf-8 with a byte order mark": ("a.txt", "\ufeffé".encode(), {}, [("é",)]),
    "utf-16": ("a.txt", "é\nè".encode("utf-16"), {}, [("é",), ("è",)]),
    "a line separator inside a line": ("a.txt", "a\u2028b".encode(), {}, [("a\u2028b",)]),
    "one column": ("a.csv", b"whatever\none\n", {}, [("one",)]),
    "a column by name": ("a.csv", b"id,Sentence,label\nx,one,good\ny,,bad\n", {}, [("one",)]),
    "the one column of words": ("a.csv", b"words,stars\none,1\n2,2.5\n", {}, [("one",), ("2",)]),
    "quotes": ("a.csv", b'text,label\n"a, ""b""\nc",1\n', {}, [('a, "b"\nc',)]),
    "semicolons": ("a.csv", b"text;label\none, two;1\n", {}, [("one, two",)]),
    "tabs": ("a.tsv", b"text\tlabel\none\t1\n", {}, [("one",)]),
    "blanks in the header": ("a.csv", b" sentence , label\none,1\n", {}, [("one",)]),
    "a column that is asked for": ("a.csv", b"text,other\none,two\n", {"text_column": "other"}, [("two",)]),
    "pairs": ("a.csv", b"a,b\none,two\nthree,\n", {"text_column": "b", "second_column": "a"}, [("two", "one")]),
    "a short row": ("a.csv", b"label,text\n1\n2,two\n", {}, [("two",)]),
    "a long text": ("a.csv", b"text\n" + b"x" * 200_000, {}, [("x" * 200_000,)]),
    "json lines": ("a.jsonl", b'{"text": "one", "n": 1}\n\n{"n": 2, "text": null}\n', {}, [("one",)]),
    "json strings": ("a.jsonl", b'"one"\n"two"', {}, [("one",), ("two",)]),
    "a json list": ("a.json", b'[{"body": "one"},\n {"body": "two"}]', {}, [("one",), ("two",)]),
    "question and choices": (
        "a.jsonl",
        b'{"context": "c", "question": "q", "choices": ["one", " two"]}\n{"question": "r", "choices": ["a", "b", "c"]}',
        {},
        [("q", "one", "two"), ("r", "a", "b", "c")],
    ),
    "question and context": ("a.jsonl", b'{"id": "x", "context": "c", "question": "q"}', {}, [("q", "c")]),
}


@pytest.mark.parametrize("name", READ)
def test_reading(name, tmp_path):
    file, content, columns, rows = READ[name]
    (tmp_path / file).write_bytes(content)
    assert read_texts(tmp_path / file, **columns).rows == rows


UNREADABLE = {
    "nothing there": ("a.txt", None, {}, "there is no file"),
    "empty": ("a.txt", b" \n", {}, "is empty"),
    "another kind": ("a.parquet", b"PAR1", {}, "is not a .txt"),
    "latin-1": ("a.txt", "one\ntwo é".encode("latin-1"), {}, r"line 2, is not UTF-8 \(byte 0xe9\).* iconv"),
    "zero bytes": ("a.txt", b"a\0b", {}, "zero bytes"),
    "header alone": ("a.csv", b"text,label\n", {}, "header and no rows"),
    "wrong column": ("a.csv", b"text,label\na,1\n", {"text_column": "txt"}, "no column 'txt': it has text, label"),
    "wrong second column": ("a.csv", b"a,b\nx,y\n", {"text_column": "a", "second_column": "c"}, "no column 'c'"),
    "several columns of words": ("a.csv", b"a,b\nx,y\n", {}, "has 2 columns that may be the texts.*; it has a, b"),
    "several named columns": ("a.csv", b"text,review\nx,y\n", {}, "has 2 columns that may be the texts"),
    "numbers alone": ("a.csv", b"a,b\n1,2\n", {}, "has no columns that may be the texts"),
    "an empty column": ("a.csv", b"text,b\n,2\n", {}, "no text in column text"),
    "twice the same column": ("a.csv", b"text,text\na,b\n", {}, "two columns of one name"),
    "a comma without quotes": ("a.csv", b"text,label\na, b,1\n", {}, "line 2, has 3 entries, the header 2"),
    "an open quote": ("a.csv", b'text\n"a\nb\n', {}, "is not CSV"),
    "not json": ("a.jsonl", b'{"text": "one"}\n{"text"\n', {}, "line 2, is not JSON"),
    "json numbers": ("a.jsonl", b"1\n", {}, "row 1, is a int"),
    "a list for a text": ("a.jsonl", b'{"text": ["a"]}', {}, "column text holds a list"),
    "one choice": ("a.jsonl", b'{"question": "q", "choices": ["a"]}', {}, "row 1, has 1 choice: give two"),
    "an empty choice": (
        "a.jsonl",
        b'{"question": "q", "choices": ["a", ""]}',
        {},
        "column choices is .* not a list of texts",
    ),
    "choices and no choices": (
        "a.jsonl",
        b'{"question": "q", "choices": ["a", "b"]}\n{"question": "r", "choices": "a"}',
        {},
        "row 2: column choices is 'a', not a list",
    ),
    "columns of lines": ("a.txt", b"one", {"text_column": "text"}, "has no columns"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_can_not_be_read(name, tmp_path):
    file, content, columns, message = UNREADABLE[name]
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_texts(tmp_path / file, **columns)
    assert "\n" not in str(error.value)


def test_drawing(world):
    tokenizer = AutoTokenizer.from_pretrained(world / "checkpoint")
    texts = Texts(Path("a.txt"), [(text,) for text in SENTENCES] * 2, ())
    everything = draw(texts, tokenizer, False, 6, 10**6, seed=0)
    assert len(everything) == len(set(SENTENCES)), "a text that is there twice is drawn once"
    assert max(len(example["input_ids"]) for example in everything) == 6
    some = draw(texts, tokenizer, False, 6, 100, seed=0)
    lengths = [len(example["input_ids"]) for example in some]
    assert sum(lengths[:-1]) < 100 <= sum(lengths) and some == everything[: len(some)]
    assert draw(texts, tokenizer, False, 6, 100, seed=1) != some
    fit, unseen = held_out(everything, 10**6)
    assert len(unseen) == 8 and len(fit) == 72
    assert not [example for example in unseen if example in fit]


def test_home_folders(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert path("~/small") == Path("/home/me/small")
