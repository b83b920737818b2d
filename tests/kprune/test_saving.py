"""What saving writes: all of it or nothing, over what kprune saved before and over nothing else."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi
from tiny import narrowed, tiny_batch, tiny_model, tiny_tokenizer
from transformers import AutoTokenizer

from kprune.checkpoint import load, save
from kprune.cli.folders import find_checkpoint
from kprune.errors import UserError


@pytest.mark.parametrize("how", ["push_to_hub", "save_pretrained"])
def test_an_upload_has_the_modeling_file(how, tmp_path, monkeypatch):
    """From here, as from a process without kprune."""
    uploaded = []
    card = SimpleNamespace(save=lambda path: None)
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *args, **kwargs: card)
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **kwargs: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr(
        HfApi, "create_commit", lambda self, operations, **kwargs: uploaded.extend(o.path_in_repo for o in operations)
    )
    if how == "push_to_hub":
        narrowed().push_to_hub("somebody/model")
    else:
        narrowed().save_pretrained(tmp_path / "model", push_to_hub=True, repo_id="somebody/model")
    assert {"config.json", "model.safetensors", "modeling_kprune.py"} <= set(uploaded)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch, error):
    def fails(*args, **kwargs):
        raise error

    model = narrowed()
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", fails)
    with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt):
        save(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_saving_again_replaces_what_was_saved_and_nothing_else(tmp_path):
    folder = tmp_path / "model"
    save(narrowed(), folder, tiny_tokenizer(), card="old", onnx=False)
    (folder / "model.onnx").write_text("of the earlier model")
    (folder / "checkpoint-7").mkdir()
    (folder / "checkpoint-7/optimizer.pt").write_text("state")
    (folder / "notes.txt").write_text("mine")
    (folder / "link").symlink_to("notes.txt")
    kept = narrowed(kept_units=[[0]] * 6)
    for format in ("dense", "pruned"):
        save(kept, folder, format=format)
        names = {path.name for path in folder.iterdir()}
        assert {"checkpoint-7", "notes.txt", "link", "tokenizer.json"} <= names
        assert ("modeling_kprune.py" in names) == (format == "pruned")
        assert not {"README.md", "model.onnx"} & names
    assert (folder / "checkpoint-7/optimizer.pt").read_text() == "state" and (folder / "link").is_symlink()
    assert torch.equal(load(folder)(**tiny_batch()).logits, kept(**tiny_batch()).logits)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_tokenizer_is_replaced_by_another_one_whole(tmp_path):
    folder, earlier = tmp_path / "model", tiny_tokenizer()
    earlier.chat_template = {"default": "OLD {{ messages }}", "other": "OLD"}
    save(narrowed(), folder, earlier)
    (folder / "spiece.model").write_bytes(b"of the earlier one")
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    save(narrowed(), folder)
    assert contents(folder) == before
    save(narrowed(), folder, tiny_tokenizer())
    assert AutoTokenizer.from_pretrained(folder).chat_template is None
    assert not (folder / "additional_chat_templates").exists() and not (folder / "spiece.model").exists()
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["written", "first move", "second move"])
def test_an_interruption_leaves_what_was_there(error, step, tmp_path, monkeypatch):
    folder = save(narrowed(), tmp_path / "model", card="old")
    (folder / "checkpoint-7").mkdir()
    (folder / "checkpoint-7/optimizer.pt").write_text("state")
    before, moves, rename = contents(folder), [], Path.rename

    def fails(*args, **kwargs):
        raise error

    def move(path, target):
        moves.append(target)
        if len(moves) == {"first move": 1, "second move": 2}[step]:
            raise error
        return rename(path, target)

    if step == "written":
        monkeypatch.setattr("transformers.modeling_utils.safe_save_file", fails)
    else:
        monkeypatch.setattr(Path, "rename", move)
    with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt):
        save(narrowed(kept_units=[[0]] * 6), folder, card="new")
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_behind_a_link_is_replaced_where_it_is(tmp_path):
    save(narrowed(), tmp_path / "there")
    (tmp_path / "here").symlink_to("there")
    save(narrowed(), tmp_path / "here", card="new")
    assert (tmp_path / "here").is_symlink() and (tmp_path / "there/README.md").read_text() == "new"


def test_a_card_is_utf_8_whatever_the_locale_is(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "text_encoding", lambda encoding, *level: encoding or "ascii")
    folder = save(narrowed(), tmp_path / "model", card="λ ≥ 0.1")
    assert (folder / "README.md").read_bytes().decode("utf-8") == "λ ≥ 0.1"


def test_the_working_directory_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "model/inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "model/inner")
    for folder in (".", "..", tmp_path / "model"):
        with pytest.raises(
            UserError, match="is or holds the working directory, which can't be replaced: give a folder"
        ):
            save(narrowed(), folder)
    assert list(Path("..").resolve().iterdir()) == [Path.cwd()]
    assert save(narrowed(), "small") == Path("small") and (tmp_path / "model/inner/small/config.json").is_file()


def test_only_what_kprune_saved_is_replaced(tmp_path):
    folder = tmp_path / "model"
    for format in ("pruned", "dense", "pruned"):
        save(narrowed(), folder, format=format)
    assert (folder / "modeling_kprune.py").is_file()
    tiny_model().save_pretrained(tmp_path / "mine")
    before = sorted((tmp_path / "mine").iterdir())
    with pytest.raises(UserError, match="kprune did not save"):
        save(narrowed(), tmp_path / "mine")
    assert sorted((tmp_path / "mine").iterdir()) == before
    with pytest.raises(UserError, match="format=nonsense is unknown: use pruned, uniform, dense, gguf or gguf-f32"):
        save(narrowed(), tmp_path / "other", format="nonsense")


def test_a_file_is_not_replaced(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UserError, match="notes is a file: give a folder"):
        save(narrowed(), tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_what_nests_too_deeply_is_no_folder_of_kprunes(tmp_path):
    (tmp_path / "config.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match="kprune did not save"):
        save(narrowed(), tmp_path)
    with pytest.raises(UserError, match="config.json is damaged"):
        find_checkpoint(tmp_path)


def test_a_folder_that_can_not_be_reached(tmp_path):
    """Its name is too long; a folder on the way that may not be entered is the same to the system."""
    for use in (load, lambda folder: save(narrowed(), folder)):
        with pytest.raises(
            UserError, match=r"xxx can't be reached \(File name too long\): check its spelling and permissions$"
        ):
            use(tmp_path / ("x" * 300))


def test_the_path_that_comes_back_is_there(tmp_path):
    folder = save(narrowed(), tmp_path / "nowhere/../model")
    assert folder == (tmp_path / "model").resolve() and (folder / "config.json").is_file()


def test_a_tokenizer_by_its_name(tmp_path):
    with pytest.raises(UserError, match=r"^tokenizer is a str: give one, such as AutoTokenizer.from_pretrained"):
        save(narrowed(), tmp_path / "model", "my-model")
    assert not list(tmp_path.iterdir())
