"""The embedded task: which library does this docstring's first paragraph come from?

Built without a network, by parsing (never importing) the sources of libraries that the project installs anyway.
"""

import ast
import gc
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import re
import signal
import sysconfig
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tqdm import tqdm

from experiments.inputs.cache import cache_folder
from experiments.tasks.text import Table, TextTask
from kprune.errors import UserError
from kprune.files import OTHER_CACHE, write_whole

FORMAT = 3
"""Version of the cached file; raised when the way to build the file changes."""
MASK = "library"
"""The word that replaces the name of every library."""
WORDS = 6
"""The least number of plain words in a paragraph; shorter paragraphs are left out."""
ENOUGH = 6000
"""Number of paragraphs of a library after which no more files are parsed, because parsing takes most of the time."""
HELD_OUT = 0.18
"""Share of a library's paragraphs that go to the evaluation set, in whole modules."""
SHINGLE = 5
"""Length, in plain words, of the runs that are compared to find near-copies."""
SKIPPED = {"site-packages", "__pycache__", "idlelib", "lib2to3", "externals", "_vendor"}
"""Folders that are not read: bytecode, tools and their tests, and other projects' code inside a library."""
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Library:
    """A library whose docstrings are read.

    Attributes:
        module: top-level module; None for the standard library.
        package: the distribution, whose version is recorded; None for the standard library.
        names: the words to mask in upper and lower case; a name of four letters or more is masked within longer words, too.
    """

    module: str | None
    package: str | None
    names: Sequence[str]

    def folder(self) -> Path:
        """Return the folder of the sources.

        Raises:
            UserError: the library is not installed.
        """
        if self.module is None:
            return Path(sysconfig.get_paths()["stdlib"])
        if not self.module.isidentifier():
            raise UserError(f"task.libraries: {self.module} is no top-level module: give the name that is imported")
        spec = importlib.util.find_spec(self.module)  # imports nothing, because the module is a top-level one
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"the docstrings task needs the sources of {self.package}: pip install {self.package}")
        return Path(spec.submodule_search_locations[0])

    def version(self) -> str:
        if self.package is None:
            return platform.python_version()
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError as error:
            raise UserError(f"the docstrings task needs {self.package}: pip install {self.package}") from error


@dataclass(frozen=True)
class Paragraph:
    text: str
    label: int
    module: str


class DocstringsTask(TextTask):
    """Classification of the first paragraphs of docstrings by library.

    Args:
        libraries: for each class, the `module`, `package` and `names` of its `Library`.
        train_per_class, evaluation_per_class: number of paragraphs of each class in the training and evaluation set.
    """

    evaluation_split = "held-out modules"

    def __init__(
        self,
        name: str,
        libraries: dict[str, dict],
        train_per_class: int,
        evaluation_per_class: int,
        max_length: int,
        average_length: float | None,
        batch_size: int,
    ):
        super().__init__(name, "classification", "accuracy", max_length, average_length, batch_size)
        self.libraries = {label: Library(**settings) for label, settings in libraries.items()}
        self.label_names = list(self.libraries)
        self.train_per_class, self.evaluation_per_class = train_per_class, evaluation_per_class

    @property
    def per_class(self) -> dict[str, int]:
        """Return the number of paragraphs of each class, by split."""
        return {"train": self.train_per_class, "evaluation": self.evaluation_per_class}

    @property
    def versions(self) -> dict[str, str]:
        """Return the version of each library, by class."""
        return {label: library.version() for label, library in self.libraries.items()}

    @property
    def record(self) -> dict:
        """Return the settings and library versions that the data were built with, and the numbers of modules and paragraphs by split."""
        return self._data["record"]

    def training_table(self) -> Table:
        return self._table("train")

    def evaluation_table(self) -> Table:
        return self._table("evaluation")

    def _table(self, split: str) -> Table:
        rows = self._data[split]
        return Table(f"{self.name} ({split})", [rows["text"]], rows["label"])

    @cached_property
    def _data(self) -> dict:
        """Return {"record": ..., "train": {"text": [...], "label": [...], "module": [...]}, "evaluation": ...}."""
        built_from = {
            "format": FORMAT,
            "versions": self.versions,
            "names": {label: list(library.names) for label, library in self.libraries.items()},
            "per_class": self.per_class,
        }
        key = hashlib.sha256(json.dumps(built_from, sort_keys=True).encode()).hexdigest()[:12]
        path = cache_folder() / "tasks" / f"{self.name}-{key}.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # missing or damaged: building it takes seconds
            pass
        splits = self._build()
        data = {"record": {**built_from, **summary(splits)}}
        for split, paragraphs in splits.items():
            data[split] = {field: [getattr(p, field) for p in paragraphs] for field in ("text", "label", "module")}
        write_whole(path, lambda temporary: temporary.write_text(json.dumps(data), encoding="utf-8"), OTHER_CACHE)
        return data

    def _build(self) -> dict[str, list[Paragraph]]:
        mask = masker([name for library in self.libraries.values() for name in library.names])
        jobs = [
            (label, str(library.folder()), library.module or "")
            for label, library in enumerate(self.libraries.values())
        ]
        # The workers ignore an interruption, so that only this process reports it.
        with ProcessPoolExecutor(2, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
            found = list(tqdm(pool.map(read_library, jobs), total=len(jobs), desc="reading docstrings", disable=None))
        paragraphs = [Paragraph(mask(p.text), p.label, p.module) for library in found for p in library]
        splits = split_by_module(without_copies(paragraphs), HELD_OUT)
        splits["evaluation"] = without_near_copies(splits["evaluation"], splits["train"])
        return {split: self._balanced(split, rows) for split, rows in splits.items()}

    def _balanced(self, split: str, paragraphs: list[Paragraph]) -> list[Paragraph]:
        count = self.per_class[split]
        chosen = []
        for label, name in enumerate(self.label_names):
            rows = sorted((p for p in paragraphs if p.label == label), key=lambda p: digest(p.text))
            if len(rows) < count:
                raise UserError(
                    f"the installed {name} {self.libraries[name].version()} has {len(rows)} {split} "
                    f"docstrings, not {count}: install another version or lower task.{split}_per_class"
                )
            chosen += rows[:count]
        return sorted(chosen, key=lambda p: digest(p.text))


def read_library(job: tuple[int, str, str]) -> list[Paragraph]:
    """Return the first paragraphs of the docstrings in a folder of sources.

    Files are read in the order of the hashes of their modules' names, until there are `ENOUGH` paragraphs.

    Args:
        job: the number of the class, the folder, and the name of the top-level module ("" for the standard library).
    """
    label, folder, name = job
    gc.disable()  # a tree has up to a million objects and no cycles; the collector would only cost time
    root = Path(folder)
    skipped = (
        SKIPPED if name else SKIPPED | {"test", "tests"}
    )  # the tests of the standard library are as large as a library
    found = []
    modules = {(name, *file.relative_to(root).with_suffix("").parts): file for file in root.rglob("*.py")}
    for parts, file in sorted(modules.items(), key=lambda item: digest(".".join(item[0]))):
        if skipped.intersection(parts):
            continue
        if len(found) >= ENOUGH:
            break
        try:
            source = file.read_text(encoding="utf-8")
            if '"""' not in source:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warnings about escapes in strings of the parsed file
                tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, OSError):  # templates, and files in other encodings
            continue
        module = ".".join(parts).removeprefix(".")
        found += [Paragraph(text, label, module) for text in first_paragraphs(tree)]
    return found


def first_paragraphs(tree: ast.Module) -> list[str]:
    """Return the first paragraph of each docstring of a module, its classes and functions, each as one line of `WORDS` words or more."""
    texts = []
    statements: list[ast.AST] = [tree]
    while statements:  # ast.walk would visit every expression, too
        node = statements.pop()
        for block in ("body", "orelse", "handlers", "finalbody"):
            inner = getattr(node, block, ())
            statements += inner if isinstance(inner, list) else ()
        if isinstance(node, DOCUMENTED):
            docstring = ast.get_docstring(node) or ""
            text = " ".join(re.split(r"\n\s*\n", docstring.strip(), maxsplit=1)[0].split())
            if len(plain_words(text)) >= WORDS:
                texts.append(text)
    return texts


def masker(names: Sequence[str]) -> Callable[[str], str]:
    """Return a function that replaces names by MASK: names of four letters or more anywhere, shorter names only as whole words."""
    ordered = sorted(map(re.escape, names), key=len, reverse=True)
    anywhere = [name for name in ordered if len(name) >= 4]
    alone = [rf"(?<![a-z]){name}(?![a-z])" for name in ordered if len(name) < 4]
    pattern = re.compile("|".join(anywhere + alone), re.IGNORECASE)
    return lambda text: pattern.sub(MASK, text)


def plain_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without identifiers and numbers, because near-copies differ in these."""
    return [
        word.lower()
        for word in re.findall(r"[^\s/,;:()\[\]=\"'`*]+", text)
        if re.fullmatch(r"[A-Za-z]?[a-z]+\.?", word)
    ]


def without_copies(paragraphs: list[Paragraph]) -> list[Paragraph]:
    """Return one paragraph of each group with the same plain words, and none of a group with paragraphs of several libraries."""
    by_words = defaultdict(list)
    for paragraph in paragraphs:
        by_words[" ".join(plain_words(paragraph.text))].append(paragraph)
    return [same[0] for same in by_words.values() if len({p.label for p in same}) == 1]


def split_by_module(paragraphs: list[Paragraph], held_out: float) -> dict[str, list[Paragraph]]:
    """Split paragraphs into "train" and "evaluation", with all paragraphs of a module in the same split.

    In each library, modules are taken for evaluation in the order of the hashes of their names, until its share is `held_out`.
    """
    by_library = defaultdict(lambda: defaultdict(list))
    for paragraph in paragraphs:
        by_library[paragraph.label][paragraph.module].append(paragraph)
    splits = {"train": [], "evaluation": []}
    for modules in by_library.values():
        wanted = held_out * sum(map(len, modules.values()))
        taken = 0
        for module in sorted(modules, key=digest):
            # A module that would exceed the share stays in training; otherwise one huge module could empty the training set.
            held = taken + len(modules[module]) <= 1.1 * wanted
            taken += len(modules[module]) if held else 0
            splits["evaluation" if held else "train"] += modules[module]
    return splits


def without_near_copies(paragraphs: list[Paragraph], training: list[Paragraph]) -> list[Paragraph]:
    """Return the paragraphs of which less than half of the runs of `SHINGLE` plain words occur in `training`."""
    seen = {run for paragraph in training for run in shingles(paragraph.text)}
    kept = []
    for paragraph in paragraphs:
        runs = shingles(paragraph.text)
        if 2 * sum(run in seen for run in runs) < len(runs):
            kept.append(paragraph)
    return kept


def shingles(text: str) -> list[tuple[str, ...]]:
    words = plain_words(text)
    return [tuple(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def summary(splits: dict[str, list[Paragraph]]) -> dict:
    return {
        "paragraphs": {split: len(rows) for split, rows in splits.items()},
        "modules": {split: len({p.module for p in rows}) for split, rows in splits.items()},
    }
