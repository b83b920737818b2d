"""The rooms of experiments/: what imports what, and through how many files a cell's config travels."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [ROOT / "run.py", *(ROOT / "experiments").rglob("*.py")]
}


def imports(path: Path) -> set[str]:
    """Modules of FILES that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & set(FILES)


@pytest.mark.parametrize(
    "room, not_known",
    [
        ("store", {"config", "inputs", "tasks", "scoring", "cell", "sweep", "speed"}),
        ("config", {"inputs", "scoring", "cell", "sweep", "speed"}),
        ("tasks", {"config", "store", "cell", "sweep", "speed"}),
        ("inputs", {"cell", "sweep", "speed"}),
        ("cell", {"sweep", "speed"}),
    ],
)
def test_a_room_does_not_know_those_that_are_built_on_it(room, not_known):
    rooms = {
        module.split(".")[1]
        for name, path in FILES.items()
        if name.split(".")[1:2] == [room]
        for module in imports(path)
        if module.count(".")
    }
    assert not rooms & not_known


def test_a_raw_config_is_known_to_those_alone_who_read_it():
    """As plain values it goes from Hydra to `cell_config`, and nowhere else."""
    makers = ("compose_cell", "cell_config", "DictConfig")
    knowing = {name for name, path in FILES.items() if any(word in path.read_text() for word in makers)}
    assert knowing == {
        "run",
        "experiments.config.composing",
        "experiments.config.cell",
        "experiments.config.methods",
        "experiments.sweep.plan",
    }
    plain = {name for name, path in FILES.items() if ".plain()" in path.read_text()} - knowing
    assert plain == {
        "experiments.cell.identity",  # writes them down
        "experiments.cell.runner",  # the variant alone, into the record
        "experiments.speed.served",  # the variant alone, into its file
        "experiments.config.groups",
        "experiments.scoring.dense",  # names a file of the cache
    }
