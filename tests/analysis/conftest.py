"""Result files of made-up cells, laid out as run.py does."""

from functools import partial

import pytest
from records import write_first_version


@pytest.fixture
def write_cell(outputs):
    """write_cell(score=70.0, ...) writes one result.json below tmp_path/outputs and returns its path."""
    return partial(write_first_version, outputs)


@pytest.fixture
def outputs(tmp_path):
    return tmp_path / "outputs"
