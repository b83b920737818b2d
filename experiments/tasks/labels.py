"""Names of classes, and which of two lists of them mean the same."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

SYNONYMS = {
    word: meant
    for meant, words in {
        "entailment": ("entail", "entails", "entailed"),
        "contradiction": ("contradict", "contradicts", "contradicted", "contradictory"),
        "notentailment": ("notentail", "notentailed"),
        "equivalent": ("paraphrase",),
        "notequivalent": ("notparaphrase", "inequivalent"),
    }.items()
    for word in words
}
"""Other words for the classes of the tasks of conf/task, in the form that `canonical` gives them."""


def canonical(name: str) -> str:
    """Return a class's name without what names of one class differ by: case, separators, LABEL_ before a number, synonyms."""
    text = re.sub(r"^non(?=[\W_])", "not", name.strip().casefold())
    if number := re.fullmatch(r"(?:label[\s_-]*)?([+-]?\d+(?:\.\d+)?)", text):
        return number[1]
    word = re.sub(r"[\W_]+", "", text)
    return SYNONYMS.get(word, word) or text


class Places:
    """Where names stand in a list: by the names as they are, else by their canonical form if no two of the list share it."""

    def __init__(self, names: Sequence[str]):
        forms = [canonical(name) for name in names]
        counts = Counter(forms)
        self.exact = {name: place for place, name in enumerate(names)}
        self.alike = {form: place for place, form in enumerate(forms) if counts[form] == 1}

    def of(self, name: str) -> int | None:
        """Return the place of a name; None if it is none of the list's."""
        return self.exact.get(name, self.alike.get(canonical(name)))


def places_of(names: Sequence[str], among: Sequence[str]) -> list[int] | None:
    """Return where each name stands among others; None unless both lists name the same classes, each once."""
    keys: tuple[Callable[[str], str], ...] = (str.strip, canonical)
    for key in keys:
        ours, theirs = [key(name) for name in names], [key(name) for name in among]
        if len(set(ours)) == len(ours) == len(theirs) and set(ours) == set(theirs):
            return [theirs.index(name) for name in ours]
    return None


def shown(names: Sequence[str], most: int = 10) -> str:
    """List names for a message, not more than `most` of them."""
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")
