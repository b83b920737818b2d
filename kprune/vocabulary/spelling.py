"""What becomes of texts whose tokens were not all kept."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from kprune.vocabulary.tokenizer import ids_of
from kprune.vocabulary.tokens import Vocabulary


@dataclass(frozen=True)
class Spelling:
    """How texts are spelled by fewer tokens.

    Attributes:
        tokens: number of the texts' tokens in the whole vocabulary.
        missing: share of these tokens that are not kept, so that other tokens spell them.
        growth: number of the texts' tokens in the new vocabulary, over that in the whole one.
    """

    tokens: int
    missing: float
    growth: float

    @classmethod
    def of(cls, before: Iterable[Sequence[int]], after: Iterable[Sequence[int]], kept: Collection[int]) -> "Spelling":
        """Return the spelling of texts by their tokens in the whole vocabulary and in the new one."""
        known, tokens = set(kept), [token for ids in before for token in ids]
        missing = sum(token not in known for token in tokens)
        count = max(len(tokens), 1)
        return cls(len(tokens), missing / count, sum(map(len, after)) / count)

    def sentence(self, tokens: str) -> str:
        """Return the spelling in words.

        Args:
            tokens: what the sentence calls the texts' tokens, such as "the tokens of held-out texts".
        """
        return (
            f"{100 * self.missing:.1f} % of {tokens} are not kept; others spell them, which makes {self.growth:.3f} times as "
            "many tokens"
        )


def spelling_of(vocabulary: Vocabulary, texts: Iterable[str]) -> Spelling:
    """Return how a vocabulary spells texts, such as some that it was not made for."""
    texts = list(texts)
    before, after = (ids_of(tokenizer, texts) for tokenizer in (vocabulary.whole, vocabulary.tokenizer))
    return Spelling.of(before, after, vocabulary.kept)
