import numpy as np
import pytest
from scipy.stats import pearsonr, rankdata
from sklearn.metrics import f1_score, matthews_corrcoef, ndcg_score

from experiments.scoring import counts, metrics
from experiments.scoring.predictions import Predictions


def test_spearman_is_pearson_of_mean_ranks():
    rng = np.random.default_rng(0)
    values, labels = np.round(rng.normal(size=(2, 200)), 1)  # rounded, so that there are ties
    assert len(set(labels)) < 100
    expected = 100 * pearsonr(rankdata(values), rankdata(labels)).statistic
    assert metrics.spearman(values, labels) == pytest.approx(expected)
    assert metrics.spearman(labels, labels**3) == pytest.approx(100)


def test_constant_values_rank_nothing():
    assert metrics.spearman(np.full(5, 2.5), np.arange(5)) == 0


def test_ndcg_is_that_of_the_sorted_ranking():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(40, 30))
    relevant = (rng.random((40, 30)) < rng.uniform(0.02, 0.5, size=(40, 1))).astype(float)
    relevant[:, 0] = 1
    for grades in (relevant, relevant * rng.integers(1, 4, size=(40, 30))):
        found = metrics.ndcg(scores, grades, 10)
        assert 0 == found.min() < found.max() < 1
        np.testing.assert_allclose(found, [ndcg_score(grades[[i]], scores[[i]], k=10) for i in range(40)])


def test_reciprocal_rank_is_one_over_the_place_of_the_first_relevant_one():
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=size) for size in (1, 3, 12, 40)]
    grades = [np.array([1.0]), np.array([0, 0, 2.0]), np.zeros(12), (rng.random(40) < 0.1).astype(float)]
    grades[2][scores[2].argmin()] = 1  # below the depth
    expected = []
    for own, relevant in zip(scores, grades, strict=True):
        best = max(own[relevant > 0])
        rank = 1 + int((own > best).sum())
        expected.append(1 / rank if rank <= 10 else 0)
    assert metrics.reciprocal_rank(scores, grades, 10) == pytest.approx(expected)
    assert expected[2] == 0 and metrics.reciprocal_rank([np.zeros(3)], [np.array([1, 0, 0])], 10) == [1 / 3]


@pytest.mark.parametrize(
    "scores, relevant, expected",
    [
        ([0.9, 0.5, 0.1], [0], 1.0),
        ([0.9, 0.5, 0.1], [1], 1 / np.log2(3)),  # second
        ([0.9, 0.5, 0.1], [2], 0.0),  # third, behind the depth of two
        ([0.9, 0.5, 0.1], [2, 1], (1 / np.log2(3)) / (1 + 1 / np.log2(3))),
        ([0.5, 0.5, 0.5], [0], 0.0),  # nothing is told apart
    ],
)
def test_ndcg_by_hand(scores, relevant, expected):
    grades = np.isin(np.arange(3), relevant).astype(float)
    assert metrics.ndcg([np.array(scores)], [grades], 2) == pytest.approx([expected])


# Worked out by hand from the rules of the official evaluate-v1.1.py and evaluate-v2.0.py.
@pytest.mark.parametrize(
    "prediction, answers, exact, f1",
    [
        ("The Eiffel Tower!", ["eiffel tower"], 1, 1),  # case, article, punctuation
        ("  an   apple ", ["apple"], 1, 1),
        ("in Paris, France", ["Paris", "Paris France"], 0, 0.8),  # best of both: P 2/3, R 1
        ("cat cat dog", ["cat dog dog"], 0, 2 / 3),  # tokens counted with their multiplicity
        ("theatre", ["atre"], 0, 0),  # an article is a word, not a prefix
        ("1-2", ["12"], 1, 1),  # punctuation vanishes, no space in its place
        ("", ["Paris"], 0, 0),
        ("blue", ["red", "green"], 0, 0),
    ],
)
@pytest.mark.parametrize("no_answers", [False, True])
def test_squad_rules(prediction, answers, exact, f1, no_answers):
    assert np.concatenate(metrics.squad([prediction], [answers], no_answers)) == pytest.approx([exact, f1])


@pytest.mark.parametrize(
    "prediction, answers, score",
    [
        ("", [], 1),
        ("Paris", [], 0),
        ("the", [], 1),  # nothing is left of it
        ("", ["the"], 1),  # an answer of which nothing is left does not count
        ("", ["Paris"], 0),
    ],
)
def test_squad_2_without_answers(prediction, answers, score):
    assert np.concatenate(metrics.squad([prediction], [answers], no_answers=True)).tolist() == [score, score]


def test_squad_scores_each_question():
    exact, f1 = metrics.squad(["x", "y"], [["x"], ["z"]], no_answers=False)
    assert exact.tolist() == f1.tolist() == [1, 0]


def one_hot(classes, kinds):
    return np.eye(kinds, dtype=bool)[classes]


@pytest.mark.parametrize("kinds", [2, 4])
def test_scores_of_counts_are_scikit_learns(kinds):
    rng = np.random.default_rng(0)
    gold, predicted = rng.integers(kinds, size=(2, 200))
    predicted = np.where(rng.random(200) < 0.5, gold, predicted)
    found = counts.counted(one_hot(predicted, kinds), one_hot(gold, kinds))
    assert counts.score_of("matthews", found.sum(axis=0), 200) == pytest.approx(
        100 * matthews_corrcoef(gold, predicted)
    )
    assert counts.score_of("macro_f1", found.sum(axis=0), 200) == pytest.approx(
        100 * f1_score(gold, predicted, average="macro")
    )
    second = counts.score_of("f1", found[:, 1:2].sum(axis=0), 200)
    assert second == pytest.approx(100 * f1_score(gold == 1, predicted == 1))


def test_f1_of_several_labels_is_scikit_learns():
    gold, predicted = np.random.default_rng(0).random((2, 50, 6)) < 0.4
    found = counts.counted(predicted, gold)
    for metric, average in (("micro_f1", "micro"), ("macro_f1", "macro")):
        values = found.sum(axis=1, keepdims=True) if average == "micro" else found
        assert Predictions(metric, values).score == pytest.approx(100 * f1_score(gold, predicted, average=average))


def test_nothing_predicted_is_0():
    nothing = counts.counted(np.zeros((5, 1), dtype=bool), np.ones((5, 1), dtype=bool))
    assert Predictions("f1", nothing).score == 0
    same = counts.counted(one_hot(np.zeros(5, dtype=int), 2), one_hot(np.array([0, 1, 0, 1, 1]), 2))
    assert Predictions("matthews", same).score == 0
