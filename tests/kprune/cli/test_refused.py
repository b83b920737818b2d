"""Options, checkpoints and outputs that can't be used: one line, and nothing is written."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import edited, fails, succeeds, with_head
from safetensors.torch import load_file, save_file
from tiny import SHAPE
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from kprune.cli import main

ROOT = Path(__file__).parents[3]


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
        (["--threads", "0"], "--threads: 0 is not a whole number from 1 to 1,024"),
        (["--threads", "99999999999"], "--threads: 99999999999 is not a whole number from 1 to 1,024"),
        (["--grain", 20 * "9"], f"--grain: {20 * '9'} is not a whole number above 0 and below 2^63"),
        (["--max-length", "65"], "--max-length 65 is more than the model reads: give at most 64"),
        (["--format", "small"], "--format: invalid choice: 'small'"),
        (["--method", "nonsense"], "'nonsense'"),
        (["--method", "kwon"], "--method kwon needs labels, and texts are all there is: use kprune_plus"),
        (["--task", "nonsense"], "--task nonsense is unknown: use"),
        (
            ["--task", "span"],
            "--task span is for a ...ForQuestionAnswering model, this is a BertForSequenceClassification",
        ),
        (["--device", "abacus"], "--device abacus is not to be had here"),
        (["--device", "meta"], "--device meta is not to be had here"),
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


def without_head(folder: Path):
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("classifier")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def without_tokenizer(folder: Path):
    for file in folder.glob("tokenizer*"):
        file.unlink()


def with_another_token(folder: Path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["zzz"])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    "damage, words",
    [
        (shutil.rmtree, "there is no folder"),
        (without("config.json"), "has no config.json"),
        (without("model.safetensors"), "has no weights"),
        (without_tokenizer, "has no tokenizer"),
        (with_another_token, "has 'zzz' as token 99, and the model has 99 embeddings"),
        (without_head, "has no weights of classifier.bias"),
        (
            edited(num_hidden_layers=1),
            "has weights of bert.encoder.layer.1.attention.output.LayerNorm, which a BertForSequenceClassification by its",
        ),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is damaged"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json is damaged"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "does not load"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"nothing"), "does not load"),
        (edited(architectures=None), "does not say its model's class"),
        (edited(architectures=[{}]), "config.json is damaged"),
        (edited(architectures=["BertForPreTraining"]), "BertForPreTraining"),
        (
            edited(architectures=["Qwen3_5ForConditionalGeneration"], model_type="qwen3_5"),
            "writes its language model, a Qwen3_5ForCausalLM, to another folder",
        ),
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


def test_an_output_that_can_not_be_replaced(checkpoint, texts, tmp_path, capsys, monkeypatch):
    """A folder is replaced whole, so it is what holds it that is written to."""
    command = ["prune", checkpoint, texts, "--output"]
    locked, here = tmp_path / "locked", tmp_path / "here"
    (locked / "small").mkdir(parents=True)
    (here / "inner").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != locked)
    assert f"can't be made: {locked} is no folder that you may write to" in fails(capsys, *command, locked / "small")
    assert f"can't be made: {locked} is no folder" in fails(capsys, *command, locked / "new/small")
    monkeypatch.setattr(os.path, "ismount", lambda place: Path(place) == here)
    assert f"--output {here} is a mount point" in fails(capsys, *command, here)
    monkeypatch.setattr(os.path, "ismount", lambda place: False)
    monkeypatch.chdir(here / "inner")
    for folder in (".", "..", here):
        assert f"--output {folder} is or holds the working directory" in fails(capsys, *command, folder)
    assert Path.cwd() == here / "inner"


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize(
    "name, words",
    [
        ("locked/x", "locked/x can't be reached (Permission denied): check its spelling and permissions"),
        ("loop", "loop can't be reached (Too many levels of symbolic links)"),
        ("loop/x", "loop/x can't be reached (Too many levels of symbolic links)"),
        (256 * "n", "can't be reached (File name too long)"),
        ("~nosuchuser/x", "~nosuchuser/x can't be reached (Could not determine home directory.)"),
    ],
)
def test_paths_that_can_not_be_reached(checkpoint, texts, tmp_path, capsys, monkeypatch, name, words, place):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    find = os.stat

    def locked(path, *arguments, **settings):  # root, whom tests may run as, may enter any folder
        if "locked" in Path(path).parts:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return find(path, *arguments, **settings)

    monkeypatch.setattr(os, "stat", locked)
    given = [checkpoint, texts, tmp_path / "small"]
    given[place] = name if name[0] == "~" else tmp_path / name
    assert words in fails(capsys, "prune", *given[:2], "--output", given[2])
    assert not (tmp_path / "small").exists()


def test_folders_that_may_not_be_read(checkpoint, texts, tmp_path, capsys, monkeypatch):
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) not in closed)
    for closed in ([checkpoint], [earlier]):
        line = fails(capsys, "prune", checkpoint, texts, "--output", earlier)
        assert f"{closed[0]} is a folder that you may not read" in line


def test_an_output_of_too_long_a_name(checkpoint, texts, tmp_path, capsys):
    for name in (238 * "n", 238 * "n" + "/small", "new/" + 119 * "é"):
        line = fails(capsys, "prune", checkpoint, texts, "--output", tmp_path / name)
        assert "can't be made: a name in it has more than 237 bytes" in line
    succeeds("prune", checkpoint, texts, "--output", tmp_path / (237 * "n"), "--method", "kprune_plus_fast")


def test_models_that_can_not_be_compared(world, checkpoint, texts, tmp_path, capsys):
    span = with_head(world, tmp_path / "span", "span")
    assert "one is an AutoModelForSequenceClassification, the other an AutoModelForQuestionAnswering" in fails(
        capsys, "compare", checkpoint, span, texts
    )
    other = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=5, ignore_mismatched_sizes=True)
    other.save_pretrained(tmp_path / "other")
    assert "num_labels is 3, the second's 5" in fails(capsys, "compare", checkpoint, tmp_path / "other", texts)
    assert "has no pairs" in fails(capsys, "compare", span, span, texts)
    for name, names, problem in (
        ("neg", ["neg", "so", "pos"], None),
        ("pos", ["pos", "so", "neg"], None),
        ("any", ["neg", "so", "pos"], "multi_label_classification"),
    ):
        model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
        model.config.id2label, model.config.problem_type = dict(enumerate(names)), problem
        model.save_pretrained(tmp_path / name)
    first = ("compare", tmp_path / "neg")
    assert "class 0 is neg in the first model and pos in the second" in fails(capsys, *first, tmp_path / "pos", texts)
    line = fails(capsys, *first, tmp_path / "any", texts)
    assert "the first model's task is classification, the second's multi_label" in line


def test_bare_encoders_of_other_shapes_and_weights_that_are_no_numbers(world, texts, tmp_path, capsys):
    def saved(**entries):
        model = AutoModel.from_config(AutoConfig.for_model("bert", **SHAPE | entries))
        folder = tmp_path / "-".join(["bert", *entries])
        model.save_pretrained(folder), AutoTokenizer.from_pretrained(world / "checkpoint").save_pretrained(folder)
        return folder

    dense = saved()
    for entry, ours, theirs in (("hidden_size", 32, 16), ("type_vocab_size", 2, 1)):
        line = fails(capsys, "compare", dense, saved(**{entry: theirs}), texts)
        assert f"the first model's {entry} is {ours}, the second's {theirs}: compare two of one origin" in line
    weights = load_file(dense / "model.safetensors")
    weights["encoder.layer.1.output.dense.bias"][3] = float("nan")
    save_file(weights, dense / "model.safetensors", metadata={"format": "pt"})
    line = fails(capsys, "compare", saved(initializer_range=0.2), dense, texts)
    assert "encoder.layer.1.output.dense.bias has values that are NaN or infinite: the second model is damaged" in line


def test_classifiers_that_find_the_last_token_by_another_padding(world, texts, tmp_path, capsys):
    """Of a decoder: padded with a token that it takes for a word, it answers for the padding."""
    folders = {}
    for padding in (None, 1, 2):
        folders[padding] = tmp_path / f"padding-{padding}"
        config = AutoConfig.for_model("llama", **SHAPE, num_labels=3, pad_token_id=padding)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folders[padding])
        AutoTokenizer.from_pretrained(world / "checkpoint").save_pretrained(folders[padding])
    for pair in ((None, 1), (1, None)):
        line = fails(capsys, "compare", *(folders[padding] for padding in pair), texts)
        assert "pad_token_id=None, and a LlamaForSequenceClassification finds the last token by it" in line
    assert "the first model's pad_token_id is 1, the second's 2" in fails(
        capsys, "compare", folders[1], folders[2], texts
    )
    assert main(["compare", *map(str, (folders[1], folders[1], texts)), "--threads", "1"]) == 0


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
