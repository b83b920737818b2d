"""pyproject.toml, environment.yml, the Makefile and the README say the same."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()


def test_conda_has_the_same_dependencies():
    text = (ROOT / "environment.yml").read_text()
    assert f"pip install --no-deps {PROJECT['tool']['kprune']['embedded-encoder']}\n" in text
    environment = yaml.safe_load(text)
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    project = PROJECT["project"]
    assert f"python{project['requires-python']}" in conda
    assert sorted(pip) == sorted(project["dependencies"] + project["optional-dependencies"]["test"])


def test_constraints_hold_dependencies():
    """Each pin is of something the project needs, within what pyproject.toml allows."""
    from packaging.requirements import Requirement

    needed = {Requirement(entry).name: Requirement(entry).specifier for entry in PROJECT["project"]["dependencies"]}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            (specifier,) = pin.specifier
            assert specifier.operator == "==" and needed[pin.name].contains(specifier.version)


def test_the_package_lists_every_room():
    patterns = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {pattern.rstrip("*") for pattern in patterns} == {"kprune", "baselines", "experiments", "analysis"}
    for room in ("kprune", "baselines", "experiments", "analysis"):
        folders = {path.parent for path in (ROOT / room).rglob("*.py")}
        assert all((folder / "__init__.py").is_file() for folder in folders), f"{room} has a folder that is no package"


def test_files_beside_the_code_are_packaged():
    rooms = PROJECT["tool"]["setuptools"]["package-data"]
    for room in ("kprune", "baselines", "experiments", "analysis"):
        for path in (ROOT / room).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                assert any(path.match(pattern) for pattern in rooms.get(room, [])), path


def test_help_lists_the_targets():
    quiet = ["make", "--no-print-directory", "help"]  # `make test` is a make of its own
    shown = subprocess.run(quiet, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY:((?:.*\\\n)*.*)", MAKEFILE, re.MULTILINE)[1].replace("\\\n", " ").split()
    targets = {line.split()[0] for line in shown.splitlines() if line.strip()}
    assert targets == set(phony), "every target has a comment, and every one is phony"
    assert {"install", "demo", "test"} <= targets


def named_targets(text: str) -> set[str]:
    """Targets behind `make `, and those of a list in backticks that such a one opens: `make this`, `that` or `another`."""
    calls = re.findall(r"(?:^|`)make ([^`#\n]*)", text, re.MULTILINE)
    lists = re.findall(r"`make [^`\n]*`((?:(?:,\s+|,?\s+(?:or|and)\s+)`[^`\n]*`)+)", text)
    items = [item for items in lists for item in re.findall(r"`([^`]*)`", items) if not item.startswith("make ")]
    return {word for words in calls + items for word in words.split() if "=" not in word}


def test_a_list_of_targets_is_read_to_its_end():
    text = "Every: `make a`, `b-c`,\n`d`, or `make e X=1` for all; lists such as `X=1` and `f`. `make g` and `h`.\nmake i  # j\n"
    assert named_targets(text) == {"a", "b-c", "d", "e", "g", "h", "i"}


def test_targets_that_are_named_exist():
    pages = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / ".ci" / "run")
    named = set().union(*(named_targets(file.read_text()) for file in pages))
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    assert {"table-speedup", "ablation", "table-retrained", "report"} <= named <= targets


@pytest.mark.parametrize("name", ["LICENSE", "CITATION.cff", "README.md", ".ci/run"])
def test_files_of_a_project(name):
    assert (ROOT / name).read_text().strip()


def test_outputs_are_not_committed():
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {".venv/", "outputs/", "wandb/", "*.egg-info/"} <= set(ignored)
