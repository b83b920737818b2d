"""Offline by default; real-data tests run when KPRUNE_MIRROR is set, slow ones when KPRUNE_SLOW is, a GPU's where one is."""

import os

# A test process a core (pytest-xdist), each on one thread; torch reads it when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402
from world import make_world  # noqa: E402

MIRROR = os.environ.get("KPRUNE_MIRROR")
os.environ["WANDB_MODE"] = "disabled"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("real_data") and not MIRROR:
            item.add_marker(pytest.mark.skip(reason="KPRUNE_MIRROR is not set: no real data"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="there is no GPU"))
        if item.get_closest_marker("slow") and not os.environ.get("KPRUNE_SLOW"):
            item.add_marker(pytest.mark.skip(reason="KPRUNE_SLOW is not set: takes minutes"))


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))
