"""pyproject.toml, environment.yml, the Makefile and the README say the same; the wheel holds what it should."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
ROOMS = ("kprune", "baselines", "experiments", "analysis")


def entries(extra: str) -> list[str]:
    """The requirements of an extra; a reference to extras of this project is replaced by theirs."""
    found = []
    for entry in PROJECT["project"]["optional-dependencies"][extra]:
        own = re.fullmatch(r"kprune\[(.*)\]", entry)
        found += [line for name in own[1].split(",") for line in entries(name)] if own else [entry]
    return found


def test_conda_has_the_same_dependencies():
    text = (ROOT / "environment.yml").read_text()
    assert f"pip install --no-deps {PROJECT['tool']['kprune']['embedded-encoder']}\n" in text
    environment = yaml.safe_load(text)
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    project = PROJECT["project"]
    assert f"python{project['requires-python']}" in conda
    assert sorted(pip) == sorted(project["dependencies"] + entries("test"))


def test_constraints_hold_dependencies():
    """Each pin is of something that `make install` installs, within what pyproject.toml allows."""
    installed = map(Requirement, PROJECT["project"]["dependencies"] + entries("test"))
    needed = {requirement.name: requirement.specifier for requirement in installed}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            (specifier,) = pin.specifier
            assert specifier.operator == "==" and needed[pin.name].contains(specifier.version)


def test_every_folder_of_code_is_a_package():
    for room in ROOMS:
        folders = {path.parent for path in (ROOT / room).rglob("*.py")}
        assert all((folder / "__init__.py").is_file() for folder in folders), f"{room} has a folder that is no package"


def imported(code: ast.AST) -> set[str]:
    """The top-level packages of absolute imports in a piece of code."""
    names: set[str] = set()
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def test_the_library_imports_what_it_declares():
    """Extras are imported inside functions, so that kprune works without them; the laboratory is not imported at all."""
    project = PROJECT["project"]
    required = {Requirement(entry).name for entry in project["dependencies"]}
    extras = {
        Requirement(entry).name for extra in ("onnx", "gguf") for entry in project["optional-dependencies"][extra]
    }
    used: set[str] = set()
    for path in (ROOT / "kprune").rglob("*.py"):
        code = ast.parse(path.read_text())
        everywhere = imported(code) - sys.stdlib_module_names - {"kprune"}
        functions = {id(node) for node in ast.walk(code) if isinstance(node, ast.FunctionDef)}
        outside = ast.Module([node for node in code.body if id(node) not in functions], [])
        at_import = imported(outside) - sys.stdlib_module_names - {"kprune"}
        assert at_import <= required, f"{path} imports {at_import - required}"
        assert everywhere <= required | extras, f"{path} imports {everywhere - required - extras}"
        used |= everywhere
    assert required <= used, f"nothing imports {required - used}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this clone, built in a copy of it."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("pyproject.toml", "README.md", "LICENSE", "run.py"):
        shutil.copy(ROOT / name, folder)
    for room in (*ROOMS, "conf"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    build = "import setuptools.build_meta as backend; print(backend.build_wheel('dist'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "dist" / done.stdout.split()[-1]


def test_the_wheel_holds_the_library_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        information = {name.split("/")[-1]: name for name in archive.namelist() if ".dist-info/" in name}
        metadata, scripts = (archive.read(information[name]).decode() for name in ("METADATA", "entry_points.txt"))
    files = [path for path in (ROOT / "kprune").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert packed == {str(path.relative_to(ROOT)) for path in files}
    assert "kprune/py.typed" in packed
    needed = [line.split(": ")[1] for line in metadata.splitlines() if line.startswith("Requires-Dist:")]
    assert {Requirement(line).name for line in needed if "extra ==" not in line} == {
        "torch",
        "transformers",
        "safetensors",
        "tqdm",
    }
    assert re.search(r"^kprune = kprune\.cli:main$", scripts, re.MULTILINE)


def required_distributions(names: Iterable[str]) -> dict[str, Distribution]:
    """The installed distributions that others need, themselves included, without extras."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name not in found:
            found[name] = distribution(name)
            needed = map(Requirement, found[name].requires or [])
            waiting += [entry.name for entry in needed if not entry.marker or entry.marker.evaluate({"extra": ""})]
    return found


IN_A_BARE_ENVIRONMENT = """
import importlib.util, sys
import torch
from transformers import AutoModelForSequenceClassification
import kprune
for name in ("experiments", "baselines", "analysis", "hydra", "wandb", "pandas", "datasets", "scipy", "onnx"):
    assert importlib.util.find_spec(name) is None, name
model = AutoModelForSequenceClassification.from_pretrained("checkpoint")
batches = [{"input_ids": torch.randint(5, 99, (8, 10))} for _ in range(3)]
outcome = kprune.prune(model, batches, flops_reduction=0.5)
loaded = kprune.load(outcome.save("pruned"))
assert torch.equal(loaded(**batches[0]).logits, outcome.model.eval()(**batches[0]).logits)
try:
    kprune.prune(model, batches, method="kwon")
except kprune.UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_the_wheel_works_in_a_bare_environment(wheel, world, tmp_path):
    """With what it declares and nothing else, linked from the environment that runs the tests."""
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv/bin/python"
    site = Path(
        subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    )
    for one in required_distributions(Requirement(entry).name for entry in PROJECT["project"]["dependencies"]).values():
        for top in {file.parts[0] for file in one.files} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(one.locate_file(top))
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command) -> subprocess.CompletedProcess:
        return subprocess.run(command, cwd=world, env=environment, capture_output=True, text=True, check=False)

    done = run(python, "-c", IN_A_BARE_ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 and "kwon" in done.stdout and "clone" in done.stdout
    (tmp_path / "texts.txt").write_text("\n".join(f"w{i} w{i + 1} w{i + 2}" for i in range(60)))
    output = ("--output", tmp_path / "small", "--flops-reduction", "0.5")
    done = run(site.parents[2] / "bin/kprune", "prune", "checkpoint", tmp_path / "texts.txt", *output)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "small/modeling_kprune.py").is_file()


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
