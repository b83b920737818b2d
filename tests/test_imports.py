"""Arrows between modules and packages: no circle, not even one that is hidden in a function or behind TYPE_CHECKING."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("kprune", "baselines", "experiments", "analysis")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [ROOT / "run.py", *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]
}


def imports(path: Path) -> set[str]:
    """Other modules of FILES that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # A name that is a module is taken from its folder, whose __init__ need not be done.
            found |= names if names <= set(FILES) else names | {node.module}
    return {module for module in found & set(FILES) if FILES[module] != path}


def test_no_module_imports_itself_by_way_of_others():
    order = list(TopologicalSorter({name: imports(path) for name, path in FILES.items()}).static_order())
    assert (
        order.index("kprune.errors") < order.index("kprune.contract") < order.index("kprune.api") < order.index("run")
    )


@pytest.mark.parametrize(
    "package, known",
    [
        ("kprune", {"kprune"}),
        ("baselines", {"kprune", "baselines"}),
        ("experiments", {"kprune", "baselines", "experiments"}),
        ("analysis", {"kprune", "baselines", "experiments", "analysis"}),
    ],
)
def test_packages_point_one_way(package, known):
    seen = {
        module.split(".")[0]
        for name, path in FILES.items()
        if name.split(".")[0] == package
        for module in imports(path)
    }
    assert seen <= known


def test_rooms_of_the_library_point_one_way():
    """Folders of `kprune/` and the files beside them, as rooms."""

    def room(module: str) -> str:
        parts = module.split(".")
        return parts[1] if len(parts) > 1 else "kprune"

    arrows: dict[str, set[str]] = {}
    for name, path in FILES.items():
        if name.startswith("kprune."):
            seen = {room(module) for module in imports(path) if module.startswith("kprune.")}
            arrows.setdefault(room(name), set()).update(seen - {room(name)})
    list(TopologicalSorter(arrows).static_order())  # raises CycleError
    assert not arrows["models"] & {"methods", "objectives", "budgets", "solve", "checkpoint", "api"}
