"""A perplexity is better if it is lower, and is no loss in points."""

import pandas as pd
import pytest

from analysis.aggregate import aggregate, best_score, informative
from analysis.collect import collect
from analysis.columns import LATER
from analysis.records import load
from analysis.tables import TABLES, notes
from kprune.errors import UserError


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


WINDOWS = {
    "task": "wikitext2",
    "metric": "perplexity",
    "higher_is_better": False,
    "dense_score": 18.4,
    "score": 26.0,
    "evaluation": {
        "split": "test",
        "examples": 141,
        "sha256": "ab",
        "data": "Salesforce/wikitext (wikitext-2-v1, test)",
        "window": 2048,
        "first_token": "none",
    },
    "params_reduction_of_model": 0.158,
}


def test_cells_of_perplexity_and_scores_stand_in_one_table_and_one_file(write_cell, outputs, tmp_path):
    write_cell()
    write_cell(**WINDOWS)
    cells = load(outputs)
    assert cells["evaluation_window"].isna().tolist() == [True, False]
    assert len(TABLES["accuracy"].make(aggregate(cells))) == 2
    collect(outputs, tmp_path / "cells.csv")
    again = load(tmp_path / "cells.csv")
    assert notes(again) == notes(cells)
    assert "141 disjoint windows of 2,048 tokens of Salesforce/wikitext (wikitext-2-v1, test)" in notes(cells)


def test_a_file_from_before_there_were_windows(write_cell, outputs, tmp_path):
    write_cell()
    file = tmp_path / "cells.csv"
    collect(outputs, file)
    pd.read_csv(file).drop(columns=list(LATER)).to_csv(file, index=False)
    assert load(file)["evaluation_window"].isna().all()
    aggregate(load(file))


def test_a_folder_without_any_cell_of_ours_has_tables(write_cell, outputs):
    write_cell(**WINDOWS | {"method": "magnitude"})
    table = aggregate(load(outputs))
    assert TABLES["ablation"].make(table).empty and not TABLES["accuracy"].make(table).empty


@pytest.mark.parametrize(
    "change, told",
    [
        ({"window": 128}, "two windows of a perplexity, 2048 .* and 128 "),
        ({"data": "Salesforce/wikitext (wikitext-2-raw-v1, test)"}, "two data sets"),
    ],
)
def test_windows_and_data_are_not_mixed(write_cell, outputs, change, told):
    write_cell(**WINDOWS)
    write_cell(**WINDOWS | {"model": "other", "evaluation": WINDOWS["evaluation"] | change})
    with pytest.raises(UserError, match=told):
        aggregate(load(outputs))
