"""Spearman's correlation, and the values of single items (nDCG, reciprocal rank, exact match and F1) whose means are scores."""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy import stats


def spearman(values: np.ndarray, labels: np.ndarray) -> float:
    """Return Spearman's rank correlation of two arrays [N], in percent; equal values get the mean of their ranks.

    The correlation is undefined if all values or all labels are equal, as in a model pruned to nothing; 0 is returned then.
    """
    values, labels = np.asarray(values, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if len(values) < 2 or np.ptp(values) == 0 or np.ptp(labels) == 0:
        return 0.0
    return 100 * float(stats.spearmanr(values, labels).statistic)


def ndcg(scores: Sequence[np.ndarray], grades: Sequence[np.ndarray], depth: int) -> np.ndarray:
    """Return the nDCG of each query's `depth` top documents, [N] in [0, 1] (Järvelin and Kekäläinen, 2002).

    The gain of a document is its grade, as in trec_eval, and not a power of two.

    Args:
        scores: for each of N queries, the scores of its documents, [documents].
        grades: for each query, the grades of the same documents, [documents], 0 or above; at least one is above 0.
        depth: number of top documents that count.
    """
    discounts = 1 / np.log2(np.arange(2, depth + 2))

    def gain(ranking: np.ndarray) -> float:
        return float((ranking[:depth] * discounts[: len(ranking)]).sum())

    pairs = zip(scores, grades, strict=True)
    return np.array([gain(ranked(score, own)) / gain(np.sort(own)[::-1]) for score, own in pairs])


def reciprocal_rank(scores: Sequence[np.ndarray], grades: Sequence[np.ndarray], depth: int) -> np.ndarray:
    """Return for each query 1 / rank of its first document with a grade above 0, [N]; 0 if the rank is larger than `depth`.

    Args:
        scores, grades, depth: as in `ndcg`.
    """
    first = np.array([np.argmax(ranked(score, own) > 0) for score, own in zip(scores, grades, strict=True)])
    return np.where(first < depth, 1 / (first + 1), 0.0)


def ranked(scores: np.ndarray, grades: np.ndarray) -> np.ndarray:
    """Return the grades of documents, sorted by falling score.

    Among documents with the same score, lower grades come first, so that a model with equal scores for all documents scores low.
    """
    return grades[np.lexsort((grades, -scores))]


def squad(
    predictions: Sequence[str], answers: Sequence[Sequence[str]], no_answers: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return exact match and F1 of each question, [N] each in [0, 1], by the rules of the official evaluation scripts.

    Both are the maximum over the accepted answers.

    Args:
        predictions: a text for each question, "" for no answer.
        answers: for each question the accepted texts; [] if it has no answer.
        no_answers: whether the rules of SQuAD 2.0 apply: a question without an answer expects "", and empty texts match.
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
