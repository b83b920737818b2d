"""No code tells heads from neurons by where a block stands: a block has a name and a kind."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IDIOMS = {
    "every other block": re.compile(r"\[[01]?::2\]"),
    "odd or even": re.compile(r"%\s*2\b"),
    "twice the layer": re.compile(r"\[2 \* \w+( \+ 1)?\]"),
    "a kind that blocks do not have": re.compile(r"[\"']mha[\"']"),
}
FILES = [file for room in ("kprune", "baselines", "experiments", "analysis") for file in (ROOT / room).rglob("*.py")]


@pytest.mark.parametrize("idiom", IDIOMS)
def test_no_block_is_told_by_its_place(idiom):
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in FILES
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if IDIOMS[idiom].search(line)
    ]
    assert len(FILES) > 80 and not found, "\n".join(found)


@pytest.mark.parametrize(
    "line", ["blocks[0::2]", "kept[1::2]", "blocks[::2]", "index % 2 == 0", "kept[2 * layer + 1]", 'kind == "mha"']
)
def test_the_idioms_are_found(line):
    assert any(idiom.search(line) for idiom in IDIOMS.values())
