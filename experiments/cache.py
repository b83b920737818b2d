"""The folder where what is expensive to make is kept between runs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`KPRUNE_CACHE`, or ~/.cache/kprune."""
    return Path(os.environ.get("KPRUNE_CACHE") or "~/.cache/kprune").expanduser()
