"""A checkpoint and a file of texts for the command."""

import shutil
from pathlib import Path

import pytest
import torch
from command_line import SENTENCES


@pytest.fixture(autouse=True)
def as_it_was():
    """The command sets the process's number of threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def checkpoint(world, tmp_path) -> Path:
    return shutil.copytree(world / "checkpoint", tmp_path / "checkpoint")


@pytest.fixture
def texts(tmp_path) -> Path:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(SENTENCES))
    return file
