"""A perplexity is better if it is lower, and is no loss in points."""

import pandas as pd

from analysis.aggregate import best_score, informative


def rows(higher):
    return pd.DataFrame(
        {
            "score": [20.0, 30.0],
            "dense_score": [18.0, 18.0],
            "evaluation_majority": [None, None],
            "higher_is_better": higher,
        }
    )


def test_the_best_score():
    assert best_score(rows(True)) == 30.0
    assert best_score(rows(False)) == 20.0


def test_a_perplexity_is_in_no_mean_of_points():
    assert informative(rows(True)).all()
    assert not informative(rows(False)).any()
