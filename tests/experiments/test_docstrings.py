import json
import sys
from collections import Counter

import pytest

from experiments.tasks import build_task
from experiments.tasks.docstrings import (
    Library,
    Paragraph,
    first_paragraphs,
    masker,
    split_by_module,
    without_copies,
    without_near_copies,
)
from kprune.errors import UserError

WORDS = ["apple", "river", "stone", "cloud", "green", "quiet", "open", "table", "seven", "light", "paper", "ocean"]


def sentence(library: str, i: int) -> str:
    picked = " ".join(WORDS[(i // 12**k + 5 * k) % 12] for k in range(3))
    return f"Return the {picked} {WORDS[(7 * i) % 12]} of {library.title()}."


def write_library(root, name, modules=30, functions=6):
    folder = root / name
    for m in range(modules):
        path = folder / f"part{m}" / "code.py"
        path.parent.mkdir(parents=True)
        bodies = []
        for f in range(functions):
            text = sentence(name, (m * functions + f) * (2 if name == "alphalib" else 3) + len(name))
            bodies.append(f'def f{f}():\n    """{text} {name}{m}\n\n    More on {name}, which is left out.\n    """\n')
        path.write_text("raise RuntimeError('imported')\n" + "\n".join(bodies))
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "broken.py").write_text("def (:")
    return folder


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A task on two libraries that must not be imported, and a cache of its own."""
    for name in ("alphalib", "betalib"):
        write_library(tmp_path / "site", name)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("KPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Library, "version", lambda library: "1.0")
    libraries = {name: {"module": name, "package": name, "names": [name]} for name in ("alphalib", "betalib")}
    return {
        "kind": "docstrings",
        "name": "docstrings",
        "libraries": libraries,
        "train_per_class": 20,
        "evaluation_per_class": 4,
        "max_length": 32,
        "average_length": None,
        "batch_size": 8,
    }


def test_sources_are_parsed_masked_balanced_and_never_imported(settings):
    task = build_task(settings)
    assert task.label_names == ["alphalib", "betalib"] and task.num_labels == 2
    train, evaluation = task.training_table(), task.evaluation_table()
    assert Counter(train.labels) == {0: 20, 1: 20} and Counter(evaluation.labels) == {0: 4, 1: 4}
    texts = [*train.texts[0], *evaluation.texts[0]]
    assert len(set(texts)) == len(texts)
    assert not any("alphalib" in t.lower() or "betalib" in t.lower() or "More" in t for t in texts)
    assert all("library" in text for text in texts)
    assert "alphalib" not in sys.modules
    modules = {split: set(task._data[split]["module"]) for split in ("train", "evaluation")}
    assert not modules["train"] & modules["evaluation"]
    assert task.record["versions"] == {"alphalib": "1.0", "betalib": "1.0"}
    assert task.record["paragraphs"] == {"train": 40, "evaluation": 8}


def test_it_is_built_once_and_again_where_the_cache_is_damaged(settings, tmp_path, monkeypatch):
    texts = build_task(settings).training_table().texts
    (cached,) = (tmp_path / "cache/tasks").iterdir()
    built = json.loads(cached.read_text())
    again = build_task(settings)
    monkeypatch.setattr(again, "_build", lambda: pytest.fail("built again"))
    assert again.training_table().texts == texts
    cached.write_text(cached.read_text()[:100])
    assert build_task(settings).training_table().texts == texts
    assert json.loads(cached.read_text()) == built
    monkeypatch.setattr(Library, "version", lambda library: "1.1")
    build_task(settings).training_table()
    assert len(list((tmp_path / "cache/tasks").iterdir())) == 2


def test_it_goes_through_a_tokenizer(settings, tokenizer):
    task = build_task(settings)
    examples = task.training(tokenizer)
    assert {example["label"] for example in examples} == {0, 1}
    assert max(len(example["input_ids"]) for example in examples) <= 32
    assert task.evaluation(tokenizer).size == 8


def test_too_few_docstrings_and_libraries_that_are_not_there(settings):
    with pytest.raises(UserError, match="alphalib 1.0 has .* not 5000"):
        build_task(settings | {"train_per_class": 5000}).training_table()
    missing = {"gammalib": {"module": "gammalib", "package": "gamma-lib", "names": ["gammalib"]}}
    with pytest.raises(UserError, match="pip install gamma-lib"):
        build_task(settings | {"libraries": missing}).training_table()


def test_first_paragraphs():
    import ast

    tree = ast.parse(
        '"""Module words that are long\nenough to be kept.\n\nNot this."""\nclass A:\n    """Too short."""\n'
    )
    assert first_paragraphs(tree) == ["Module words that are long enough to be kept."]


def test_names_are_masked_in_any_case():
    mask = masker(["torch", "pytorch", "np"])
    assert mask("PyTorch's TORCH_fn, np.array and input") == "library's library_fn, library.array and input"


def test_copies_go():
    rows = [
        Paragraph("Return the first value of a1 here", 0, "a"),
        Paragraph("return the First value of b2 here", 0, "b"),
        Paragraph("words that both of them have said", 0, "a"),
        Paragraph("words that both of them have said", 1, "c"),
    ]
    assert without_copies(rows) == rows[:1]


def test_near_copies_of_training_leave_the_evaluation_set():
    train = [Paragraph("one two three four five six seven eight", 0, "a")]
    near = Paragraph("zero one two three four five six seven", 0, "b")
    far = Paragraph("one two three nine ten eleven twelve thirteen", 0, "b")
    assert without_near_copies([near, far], train) == [far]


def test_a_module_is_on_one_side():
    rows = [Paragraph(f"text {i} {j}", 0, f"lib.m{i}") for i in range(40) for j in range(5)]
    splits = split_by_module(rows, 0.2)
    sides = {split: {p.module for p in part} for split, part in splits.items()}
    assert not sides["train"] & sides["evaluation"]
    assert len(splits["train"]) + len(splits["evaluation"]) == 200 and 30 <= len(splits["evaluation"]) <= 44
    assert {p.module for p in split_by_module(rows[::-1], 0.2)["train"]} == sides["train"]
