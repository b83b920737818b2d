"""A perplexity is better if it is lower, and is no loss in points."""

import numpy as np
import pandas as pd
import pytest

from analysis.aggregate import aggregate, best_score, informative
from analysis.collect import collect
from analysis.columns import LATER
from analysis.pairing import DIFFERENCE
from analysis.records import load
from analysis.tables import TABLES, notes
from kprune.errors import UserError


def rows(higher):
    return pd.DataFrame(
        {
            "score": [20.0, 30.0, 10.0 if higher is False else 40.0],
            "dense_score": 18.0,
            "evaluation_majority": None,
            "higher_is_better": higher,
            "seeds": [3, 3, 1],
        }
    )


def test_the_best_score_is_of_a_row_of_the_most_seeds():
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


def losses(ours=2.0, theirs=2.2, windows=16):
    rng = np.random.default_rng(0)
    base = rng.normal(ours, 0.5, windows)
    return base, base + (theirs - ours) + rng.normal(0, 0.05, windows)


def of_windows(values, method, **changes):
    return WINDOWS | {"method": method, "score": float(np.exp(values.mean())), **changes}


def against(source):
    return TABLES["perplexity_ratios"].make(aggregate(load(source))).set_index("Method")["Over K-prune+, fast's"]


def test_a_ratio_of_perplexities_has_an_interval_over_windows(write_cell, outputs, tmp_path):
    """Against resampling windows one by one; what the windows share in difficulty falls out of it."""
    ours, theirs = losses()
    write_cell({"values": ours}, **of_windows(ours, "kprune_plus_fast"))
    write_cell({"values": theirs}, **of_windows(theirs, "flap"))
    rng = np.random.default_rng(0)
    drawn = [rng.integers(16, size=16) for _ in range(1000)]
    ratios = [np.exp(theirs[rows].mean()) / np.exp(ours[rows].mean()) for rows in drawn]
    low, high = np.percentile(ratios, [2.5, 97.5])
    ratio = np.exp(theirs.mean() - ours.mean())
    shown = against(outputs)
    assert shown["FLAP"] == f"{ratio:.2f} [{low:.2f}, {high:.2f}]" and low < ratio < high < 1.3
    assert shown["K-prune+, fast"] == "–"
    # By the committed files alone, which hold the rival's windows, too.
    collect(outputs, tmp_path / "decoders.csv")
    for file in outputs.rglob("predictions.npz"):
        file.unlink()
    assert against(tmp_path / "decoders.csv").equals(shown)


def test_a_ratio_without_windows_has_no_interval(write_cell, outputs):
    ours, theirs = losses()
    write_cell({"values": ours}, **of_windows(ours, "kprune_plus_fast"))
    write_cell(**of_windows(theirs, "flap"))
    write_cell(
        {"values": theirs}, **of_windows(theirs, "oscar", target="p0.1")
    )  # nothing to compare with at this target
    shown = against(outputs)
    assert shown["FLAP"] == f"{np.exp(theirs.mean() - ours.mean()):.2f}" and shown["OSSCAR"] == "–"


def test_a_mean_of_seeds_draws_them_and_one_seed_is_compared_with_the_same_seed(write_cell, outputs):
    ours, theirs = losses()
    for seed in range(2):
        write_cell({"values": ours + seed}, **of_windows(ours + seed, "kprune_plus_fast", seed=seed))
        write_cell({"values": theirs + seed}, **of_windows(theirs + seed, "flap", seed=seed))
    write_cell({"values": theirs}, **of_windows(theirs, "oscar"))
    shown = against(outputs)
    begins = f"{np.exp(theirs.mean() - ours.mean()):.2f} ["
    assert shown["FLAP"].startswith(begins) and shown["OSSCAR"].startswith(begins)


def test_perplexities_by_target_the_lowest_first_and_in_bold(write_cell, outputs):
    for method, target, score in (
        ("flap", "p0.1", 24.0),
        ("flap", "p0.2", 34.0),
        ("oscar", "p0.2", 27.0),
        ("kprune_plus", "p0.1", 21.0),
        ("kprune_plus", "p0.2", 25.0),
    ):
        write_cell(**WINDOWS | {"method": method, "target": target, "score": score})
    write_cell(**WINDOWS | {"method": "kprune_plus", "target": "p0.2", "score": 26.0, "seed": 1})
    shown = TABLES["perplexity"].make(aggregate(load(outputs)))
    assert shown.to_numpy().tolist() == [
        ["dense", "18.40", "18.40"],
        ["K-prune+", "**21.00**", "**25.50 ± 0.71**"],
        ["FLAP", "24.00", "34.00"],
        ["OSSCAR", "–", "27.00"],
    ]
    assert list(shown) == ["Method", "10 % of parameters", "20 % of parameters"]


def test_models_with_different_targets_stand_in_one_table(write_cell, outputs):
    for model, target in (("smollm2", "p0.1"), ("other", "p0.2")):
        write_cell(**WINDOWS | {"model": model, "target": target, "method": "flap"})
    shown = TABLES["perplexity"].make(aggregate(load(outputs))).set_index(["Model", "Method"])
    assert shown.loc["SmolLM2-135M", "FLAP"].tolist() == ["**26.00**", "–"]
    assert shown.loc["other", "FLAP"].tolist() == ["–", "**26.00**"]


def test_perplexities_of_masked_tokens_are_perplexities(write_cell, outputs, tmp_path):
    ours, theirs = losses()
    masked = {"task": "wikitext2_masked", "metric": "masked_perplexity"}
    write_cell({"values": ours}, **of_windows(ours, "kprune_plus_fast", **masked))
    write_cell({"values": theirs}, **of_windows(theirs, "flap", **masked))
    collect(outputs, tmp_path / "masked.csv")
    assert "[" in against(tmp_path / "masked.csv")["FLAP"]
    assert len(TABLES["perplexity"].make(aggregate(load(outputs)))) == 3


def test_a_difference_of_perplexities_is_no_difference_in_points(write_cell, outputs):
    ours, theirs = losses()
    write_cell({"values": ours}, **of_windows(ours, "kprune"))
    write_cell({"values": theirs}, **of_windows(theirs, "flap"))
    cells = load(outputs)
    assert cells[DIFFERENCE].isna().all(axis=None)
    assert not any("[" in text for text in TABLES["accuracy"].make(aggregate(cells)).to_numpy().ravel())


@pytest.mark.parametrize("table", ["perplexity", "perplexity_ratios"])
def test_scores_in_percent_are_no_perplexities(write_cell, outputs, table):
    write_cell()
    assert TABLES[table].make(aggregate(load(outputs))).empty
