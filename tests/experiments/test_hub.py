import socket
import time

import huggingface_hub
import pytest
from huggingface_hub import constants

from experiments.inputs import hub
from experiments.inputs.checkpoints.finding import local_checkpoint
from kprune.errors import UserError


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def silent_hub(monkeypatch):
    """A hub that accepts connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield endpoint


def test_dataset_from_the_mirror(mirror, capfd):
    data = hub.find_dataset("org/pairs", "tiny")
    assert set(data) == {"train", "validation"}
    assert list(data["train"]["label"]) == [1, 0, 1, 0, 1, 1]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["google/some-model", "../mirror/org/pairs"])
def test_missing_model(mirror, offline, name):
    with pytest.raises(UserError) as caught:
        hub.find_model(name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_missing_dataset_says_where_it_was_looked_for(mirror, offline):
    with pytest.raises(UserError) as caught:
        hub.find_dataset("org/other", "tiny")
    message = str(caught.value)
    assert str(mirror / "org/other") in message and constants.ENDPOINT in message and "\n" not in message


def test_missing_without_a_mirror(monkeypatch, offline):
    monkeypatch.delenv("KPRUNE_MIRROR", raising=False)
    with pytest.raises(UserError, match="KPRUNE_MIRROR is not set"):
        hub.find_dataset("org/pairs", "tiny")


def test_a_mirror_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("KPRUNE_MIRROR", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="KPRUNE_MIRROR=.*nowhere is not a folder"):
        hub.find_model("org/model")
    # Else a model would be fine-tuned in place of the reference that the mirror has.
    with pytest.raises(UserError, match="KPRUNE_MIRROR=.*nowhere is not a folder"):
        local_checkpoint("mrpc", "minilm", None)


def test_silent_hub_is_given_up_on(mirror, silent_hub, monkeypatch, capfd):
    assert hub.HUB_PATIENCE < 20
    monkeypatch.setattr(hub, "HUB_PATIENCE", 1.0)
    start = time.monotonic()
    with pytest.raises(UserError, match=silent_hub):
        hub.find_dataset("org/other", "tiny")
    assert time.monotonic() - start < 5
    assert capfd.readouterr() == ("", "")


def test_unreachable_hub_fails_without_retries(mirror, monkeypatch, capfd):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    start = time.monotonic()
    with pytest.raises(UserError, match="was not reached"):
        hub.find_model("org/other")
    assert time.monotonic() - start < 5
    assert capfd.readouterr() == ("", "")


def test_hub_comes_after_the_mirror(mirror, tmp_path, monkeypatch):
    (mirror / "org/pairs").rename(tmp_path / "snapshot")
    asked = []

    def download(repo_id, repo_type, allow_patterns, local_files_only=False):
        asked.append((repo_id, repo_type, allow_patterns))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *args, **settings: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert set(hub.find_dataset("org/pairs", "tiny")) == {"train", "validation"}
    assert asked == [("org/pairs", "dataset", ["README.md", "tiny/*"])]


def test_earlier_download_serves_without_a_network(mirror, tmp_path, monkeypatch, offline):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda **request: str(tmp_path / "snapshot"))
    (tmp_path / "snapshot").mkdir()
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        hub.find_model("org/model")  # its weights were never fetched
    (tmp_path / "snapshot/model.safetensors").touch()
    assert hub.find_model("org/model") == str(tmp_path / "snapshot")


def test_damaged_dataset(mirror, capfd, caplog):
    (mirror / "org/pairs/tiny/train.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match="org/pairs"):
        hub.find_dataset("org/pairs", "tiny")
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_unknown_config(mirror):
    with pytest.raises(UserError, match="nothing"):
        hub.find_dataset("org/pairs", "nothing")


def test_model_folder_comes_before_the_mirror(mirror, tmp_path, monkeypatch):
    assert hub.find_model("org/pairs") == str(mirror / "org/pairs")
    (tmp_path / "org/pairs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub.find_model("org/pairs") == "org/pairs"
