"""Entities of tagged words, counted as conlleval and the package seqeval do.

seqeval itself is left out: its last release is of 2020 and no wheel, and what is needed of it is this one rule.
"""

from collections.abc import Sequence

Entity = tuple[str, int, int]
"""Kind, first word, and the word after the last."""


def is_tag(tag: str) -> bool:
    """Tell whether a tag is O, or B- or I- before a kind."""
    return tag == "O" or (tag[:2] in ("B-", "I-") and len(tag) > 2)


def entities(tags: Sequence[str]) -> set[Entity]:
    """Return the entities of a sentence's tags.

    One begins at B-, and at I- after O or another kind: models write that, and so do data in IOB1.
    """
    found, start = set(), None
    for place, tag in enumerate([*tags, "O"]):
        goes_on = start is not None and tag == f"I-{tags[start][2:]}"
        if start is not None and not goes_on:
            found.add((tags[start][2:], start, place))
            start = None
        if tag != "O" and not goes_on:
            start = place
    return found


def counts_of(predicted: Sequence[str], gold: Sequence[str]) -> list[int]:
    """Return how many entities of a sentence were predicted rightly, were predicted, and are there."""
    ours, theirs = entities(predicted), entities(gold)
    return [len(ours & theirs), len(ours), len(theirs)]
