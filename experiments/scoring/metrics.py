"""Metrics that are more than a mean, and what the others are means of."""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy import stats


def spearman(values: np.ndarray, labels: np.ndarray) -> float:
    """Return Spearman's rank correlation of two arrays [N] in percent, ties ranked by their mean.

    Constant values, as of a model pruned to nothing, rank nothing: their undefined correlation counts as 0.
    """
    values, labels = np.asarray(values, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if len(values) < 2 or np.ptp(values) == 0 or np.ptp(labels) == 0:
        return 0.0
    return 100 * float(stats.spearmanr(values, labels).statistic)


def ndcg(scores: Sequence[np.ndarray], grades: Sequence[np.ndarray], depth: int) -> np.ndarray:
    """Return the nDCG of each query's ranking, cut at a depth: [N] in [0, 1] (Järvelin and Kekäläinen, 2002).

    A document's gain is its grade, as in trec_eval, not a power of two.

    Args:
        scores: of the documents for each query, N arrays.
        grades: of the same documents, 0 or above, one of a query's above 0.
    """
    discounts = 1 / np.log2(np.arange(2, depth + 2))

    def gain(ranking: np.ndarray) -> float:
        return float((ranking[:depth] * discounts[: len(ranking)]).sum())

    pairs = zip(scores, grades, strict=True)
    return np.array([gain(ranked(score, own)) / gain(np.sort(own)[::-1]) for score, own in pairs])


def reciprocal_rank(scores: Sequence[np.ndarray], grades: Sequence[np.ndarray], depth: int) -> np.ndarray:
    """Return one over the rank of each query's first document with a grade above 0, 0 if it stands below a depth: [N].

    Args:
        scores, grades: as of `ndcg`.
    """
    first = np.array([np.argmax(ranked(score, own) > 0) for score, own in zip(scores, grades, strict=True)])
    return np.where(first < depth, 1 / (first + 1), 0.0)


def ranked(scores: np.ndarray, grades: np.ndarray) -> np.ndarray:
    """Return grades by falling score.

    Of documents with the same score, those of lower grades come first, so that a model that tells nothing apart finds nothing.
    """
    return grades[np.lexsort((grades, -scores))]


def squad(
    predictions: Sequence[str], answers: Sequence[Sequence[str]], no_answers: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return exact match and F1 of each question ([N], in [0, 1]) by the rules of the official evaluation scripts, the best over
    its answers.

    Args:
        predictions: one text per question, "" for no answer.
        answers: the accepted texts per question, none if it has no answer.
        no_answers: SQuAD 2.0's rules: a question without an answer expects "", and empty texts match each other.
    """
    exact, f1 = [], []
    for prediction, accepted in zip(predictions, answers, strict=True):
        if no_answers:
            accepted = [answer for answer in accepted if normalise(answer)] or [""]
        exact.append(max(float(normalise(prediction) == normalise(answer)) for answer in accepted))
        f1.append(max(_f1(prediction, answer, no_answers) for answer in accepted))
    return np.array(exact), np.array(f1)


def normalise(text: str) -> str:
    """Return a text in lower case, without punctuation, articles and extra white space."""
    text = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


_PUNCTUATION = frozenset(string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def _f1(prediction: str, answer: str, empty_matches: bool) -> float:
    predicted, expected = normalise(prediction).split(), normalise(answer).split()
    if not predicted or not expected:
        return float(empty_matches and predicted == expected)
    common = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * common / (len(predicted) + len(expected))
