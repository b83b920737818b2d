"""Counting the entities of tagged words by the rule of conlleval and of the package seqeval.

seqeval is not a dependency: its last release is from 2020 and has no wheel, and this project needs only this rule.
"""

from collections.abc import Sequence

Entity = tuple[str, int, int]
"""The kind of an entity, the place of its first word, and the place after its last word."""


def is_tag(tag: str) -> bool:
    """Tell whether a tag is O, B-KIND or I-KIND."""
    return tag == "O" or (tag[:2] in ("B-", "I-") and len(tag) > 2)


def entities(tags: Sequence[str]) -> set[Entity]:
    """Return the entities of a sentence's tags.

    An entity begins at a tag B-, and also at a tag I- that follows O or another kind, as in data in IOB1 and in predictions.
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
    """Return the numbers of correctly predicted, predicted and actual entities of a sentence."""
    ours, theirs = entities(predicted), entities(gold)
    return [len(ours & theirs), len(ours), len(theirs)]
