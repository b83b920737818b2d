"""Names of classes, and matching two lists of names that are written differently."""

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
"""Synonyms for the classes of the tasks in conf/task; keys and values are in canonical form."""


def canonical(name: str) -> str:
    """Return the canonical form of a class's name: lower case, without separators or `LABEL_` before a number, and without synonyms."""
    text = re.sub(r"^non(?=[\W_])", "not", name.strip().casefold())
    if number := re.fullmatch(r"(?:label[\s_-]*)?([+-]?\d+(?:\.\d+)?)", text):
        return number[1]
    word = re.sub(r"[\W_]+", "", text)
    return SYNONYMS.get(word, word) or text


class Places:
    """Finds the place of a name in a list: by the exact name, else by its canonical form if only one name of the list has this form."""

    def __init__(self, names: Sequence[str]):
        forms = [canonical(name) for name in names]
        counts = Counter(forms)
        self.exact = {name: place for place, name in enumerate(names)}
        self.alike = {form: place for place, form in enumerate(forms) if counts[form] == 1}

    def of(self, name: str) -> int | None:
        """Return the place of a name in the list, from 0; None if it is not in the list."""
        return self.exact.get(name, self.alike.get(canonical(name)))


def places_of(names: Sequence[str], among: Sequence[str]) -> list[int] | None:
    """Return the place of each of `names` in `among`; None unless both lists name the same classes, each once."""
    keys: tuple[Callable[[str], str], ...] = (str.strip, canonical)
    for key in keys:
        ours, theirs = [key(name) for name in names], [key(name) for name in among]
        if len(set(ours)) == len(ours) == len(theirs) and set(ours) == set(theirs):
            return [theirs.index(name) for name in ours]
    return None


def shown(names: Sequence[str], most: int = 10) -> str:
    """Return the first `most` names as a list for a message, and the number of all names if they are more."""
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")
