import sys

import pytest

from analysis import render
from analysis.aggregate import aggregate
from analysis.records import load
from analysis.tables import TABLES
from analysis.tables.__main__ import main

CONFIG = {
    "method": {"lambdas": [1e-6], "mu": 1.0, "knowledge": {"temperature": 2.0}},
    "calibration": {"tokens": 100000},
}


def shown(name, outputs):
    return TABLES[name].make(aggregate(load(outputs)))


@pytest.fixture
def cells(write_cell):
    """MRPC at 70 and 80 %, two seeds at 80 %, and SQuAD by another method."""
    write_cell(flops_reduction_requested=0.7, variant={"tokens": 20000}, score=76.0)
    write_cell(score=74.0)
    write_cell(seed=1, score=75.0)
    write_cell(
        task="squad",
        metric="f1",
        method="kprune_official",
        dense_score=74.6,
        score=60.0,
        latency=None,
        evaluation={"split": "validation", "examples": 9, "majority": None, "sha256": "x"},
    )


def test_scores_by_target(cells, outputs):
    table = shown("accuracy", outputs).set_index("Task")
    assert list(table.columns) == ["Majority", "Dense", "Method", "70 %", "80 %"]
    # The calibration budget differs by target, not within one: it makes no row of its own.
    assert table.loc["MRPC (accuracy)"].tolist() == ["68.38", "78.19", "K-prune", "**76.00**", "**74.50 ± 0.71**"]
    assert table.loc["SQuAD 1.1 (f1)"].tolist() == ["–", "74.60", "K-prune, authors' code", "–", "**60.00**"]
    assert len(table) == 2, "no method has both tasks, and so none has a mean"


def test_zeros_among_the_weights_stand_apart_from_what_is_removed(write_cell, outputs):
    """A share of zeros has columns of its own, no speed-up, and its own share beside the FLOPs that all stayed."""
    write_cell(flops_reduction_requested=0.5)
    masked = {"flops_reduction_requested": None, "flops_reduction": 0.0, "params_reduction": 0.0, "latency": None}
    for target, share in (("s0.5", 0.5), ("2:4", 0.5)):
        write_cell(method="wanda", score=77.0, target=target, sparsity=share, **masked)
    table = shown("accuracy", outputs).set_index("Method")
    assert list(table.columns) == ["Task", "Majority", "Dense", "50 %", "50 % zeros", "2:4 zeros"]
    assert table.loc["Wanda"].tolist()[3:] == ["–", "**77.00**", "**77.00**"]
    assert table.loc["K-prune"].tolist()[3:] == ["**74.51**", "–", "–"]
    every = shown("measurements", outputs).set_index("Asked")
    assert every.loc["50 % zeros", ["FLOPs removed", "Params removed", "Zeros", "Speed-up"]].tolist() == [
        "0.0 %",
        "0.0 %",
        "50.0 %",
        "–",
    ]
    assert every.loc["50 %", "Zeros"] == "–" and list(shown("latency", outputs)["Method"]) == ["K-prune"]


def test_sizes_stand_beside_the_flops_and_are_left_out_of_older_rows(write_cell, outputs):
    write_cell()
    assert TABLES["size"].make(aggregate(load(outputs))).empty
    parameters = {"parameters_dense": 22_700_000, "parameters_pruned": 14_200_000}
    size = parameters | {"megabytes_dense": 90.9, "megabytes_pruned": 56.9}
    write_cell(size=size, flops_reduction_requested=0.7)
    (row,) = TABLES["size"].make(aggregate(load(outputs))).to_dict("records")
    assert row["Parameters"] == "22.7 to 14.2 million" and row["MB on disk"] == "90.9 to 56.9"
    assert row["FLOPs removed"] == "80.1 %" and "Tokens kept" not in row


def test_a_mean_is_of_a_method_that_has_every_task(write_cell, outputs):
    for task, score in (("mrpc", 70.0), ("rte", 60.0)):
        write_cell(task=task, score=score)
    write_cell(task="mrpc", flops_reduction_requested=0.6)
    write_cell(task="mrpc", method="kwon")
    table = shown("accuracy", outputs)
    means = table.loc[table["Task"] == "mean of 2 tasks", ["Method", "60 %", "80 %"]]
    assert means.to_numpy().tolist() == [["K-prune", "–", "**65.00**"]]


def test_the_best_is_bold_and_what_a_method_cannot_reach_a_dash(write_cell, outputs):
    for task in ("mrpc", "rte"):
        for target in (0.6, 0.8):
            write_cell(task=task, flops_reduction_requested=target, score=74.0)
            write_cell(
                task=task, flops_reduction_requested=target, method="kwon", score=75.0 if target == 0.6 else 60.0
            )
        write_cell(task=task, flops_reduction_requested=0.6, method="kcm", score=50.0)
    table = shown("accuracy", outputs)
    for task in ("MRPC (accuracy)", "mean of 2 tasks"):
        rows = table[table["Task"] == task].set_index("Method")[["60 %", "80 %"]]
        assert rows.loc["K-prune"].tolist() == ["74.00", "**74.00**"]
        assert rows.loc["Kwon et al."].tolist() == ["**75.00**", "60.00"]
        assert rows.loc["KCM"].tolist() == ["50.00", "–"]


def test_the_papers_score_is_a_row_of_its_own_for_the_same_model(write_cell, outputs):
    for model in ("bert_base", "minilm"):
        write_cell(model=model, method="kprune_official", score=70.0)
        write_cell(model=model)
    write_cell(model="bert_base", variant={"mu": 2.0})
    table = shown("accuracy", outputs)
    assert table[["Model", "Method", "80 %"]].to_numpy().tolist() == [
        ["BERT-base", "K-prune", "**74.51**"],
        ["BERT-base", "K-prune, paper", "84.90"],
        ["BERT-base", "K-prune, authors' code", "70.00"],
        ["MiniLM-L6", "K-prune", "**74.51**"],
        ["MiniLM-L6", "K-prune, authors' code", "70.00"],
    ]


def test_a_method_that_reads_no_text_has_no_calibration_tokens(write_cell, outputs):
    for method in ("kprune", "magnitude"):
        write_cell(method=method)
    tokens = shown("measurements", outputs).set_index("Method")["Calibration tokens"]
    assert tokens["magnitude"] == "–" != tokens["K-prune"]


def test_budgets_of_the_token_curve_stay_out_of_the_comparison(write_cell, outputs):
    def cell(method, tokens, score):
        config = CONFIG | {"calibration": {"tokens": tokens}}
        write_cell(method=method, variant={"tokens": tokens} if tokens != 100000 else {}, config=config, score=score)

    for tokens in (1000, 20000, 100000):
        cell("kprune", tokens, 70.0)
    cell("kwon", 20000, 60.0)
    methods = ["K-prune (100,000 tokens)", "K-prune (20,000 tokens)", "Kwon et al."]
    assert shown("accuracy", outputs)["Method"].tolist() == methods
    assert shown("sensitivity", outputs)["Value"].tolist() == ["1,000", "20,000", "100,000"]
    assert shown("measurements", outputs)["Method"].tolist() == ["K-prune (1,000 tokens)", *methods]


def test_fastest_within_three_points_and_their_geometric_mean(write_cell, outputs):
    def cell(task, target, score, speedup, **changes):
        latency = {"device": "a CPU", "batch_size": 32, "sequence_length": 128, "threads": 2, "dense_ms": 100.0}
        latency |= {"pruned_ms": 100 / speedup, "speedup": speedup}
        write_cell(
            task=task,
            model="bert_base",
            flops_reduction_requested=target,
            dense_score=80.0,
            score=score,
            latency=latency,
            **changes,
        )

    cell("mrpc", 0.6, 79.0, 2.0)
    cell("mrpc", 0.7, 77.0, 3.0)  # exactly three points
    cell("mrpc", 0.8, 76.9, 4.0)
    cell("rte", 0.6, 80.0, 12.0)
    cell("rte", 0.6, 76.0, 9.0, method="kwon")
    cell("rte", 0.6, 70.0, 9.0, method="kprune_plus")  # a method before it that has none leaves the best one bold
    table = shown("speedup", outputs).set_index("Task")
    assert table["K-prune"].tolist() == ["**3.00x** (70 %)", "**12.00x** (60 %)", "6.00x"]
    assert table["Kwon et al."].tolist() == ["–", "–", "–"]
    assert table["K-prune, paper"].tolist() == ["2.66x", "–", "–"]


def test_a_speedup_that_is_no_more_than_noise_ahead_is_not_the_best(write_cell, outputs):
    for task, ours, theirs in (("mrpc", 3.96, 3.61), ("rte", 3.98, 3.61)):
        for method, speedup in (("kprune", ours), ("kwon", theirs), ("kcm", 2.0)):
            latency = {"device": "a CPU", "batch_size": 32, "sequence_length": 128, "threads": 2, "dense_ms": 100.0}
            write_cell(task=task, method=method, score=78.0, latency=latency | {"pruned_ms": 1.0, "speedup": speedup})
    table = shown("speedup", outputs).set_index("Task")
    assert table["K-prune"].tolist()[:2] == ["3.96x (80 %)", "**3.98x** (80 %)"], "9.7 and 10.2 % ahead"
    assert not table[["Kwon et al.", "KCM"]].map(lambda text: "**" in text).any(axis=None)


def test_a_method_with_two_budgets_somewhere_is_named_with_them_on_every_task(write_cell, outputs):
    for task in ("mrpc", "rte"):
        write_cell(task=task, score=60.0, method="kwon", config=CONFIG)
    config = CONFIG | {"calibration": {"tokens": 500}}
    write_cell(task="rte", score=62.0, method="kwon", config=config, variant={"tokens": 500})
    methods = shown("accuracy", outputs)[["Task", "Method"]].to_numpy().tolist()
    assert methods[-1] == ["mean of 2 tasks", "Kwon et al. (100,000 tokens)"]
    assert {method for _, method in methods} == {"Kwon et al. (100,000 tokens)", "Kwon et al. (500 tokens)"}


def test_a_budget_in_examples_is_a_row_of_its_own(write_cell, outputs):
    config = CONFIG | {"calibration": {"tokens": 100000, "examples": 2048}}
    for task in ("mrpc", "rte"):
        write_cell(task=task, score=60.0, method="kwon", config=CONFIG)
        write_cell(task=task, score=62.0, method="kwon", config=config, variant={"examples": 2048})
    methods = shown("accuracy", outputs)[["Task", "Method"]].to_numpy().tolist()
    assert ["mean of 2 tasks", "Kwon et al. (2,048 examples)"] in methods
    assert {method for _, method in methods} == {"Kwon et al. (100,000 tokens)", "Kwon et al. (2,048 examples)"}


def test_ablation_stands_beside_the_same_budget(write_cell, outputs):
    def cell(score, tokens=2000, target=0.8, **changed):
        config = {"method": CONFIG["method"] | changed, "calibration": {"tokens": tokens}}
        variant = changed | ({"tokens": tokens} if tokens != 100000 else {})
        write_cell(score=score, config=config, variant=variant, flops_reduction_requested=target)

    cell(75.0, tokens=100000)
    cell(70.0)
    cell(60.0, lambdas=[0.0])
    cell(50.0, mu=2.0)
    cell(1.0, target=0.6)
    assert shown("ablation", outputs).to_dict("records") == [
        {"Method": "K-prune", "Variant": "as it is", "MRPC 80 %": "70.00"},
        {"Method": "K-prune", "Variant": "without K_rep", "MRPC 80 %": "60.00"},
    ]
    assert shown("sensitivity", outputs).to_numpy().tolist() == [
        ["λ", "0", "60.00"],
        ["λ", "1e-06", "70.00"],
        ["μ", "1", "70.00"],
        ["μ", "2", "50.00"],
        ["calibration tokens", "2,000", "70.00"],
        ["calibration tokens", "100,000", "75.00"],
    ]


def test_passes_in_reduced_precision_are_no_ablation(write_cell, outputs):
    write_cell(score=75.0)
    write_cell(score=74.0, variant={"precision": "reduced"})
    write_cell(score=60.0, variant={"precision": "reduced", "mu": 2.0})
    assert shown("accuracy", outputs)["Method"].tolist() == ["K-prune", "K-prune (precision=reduced)"]
    assert shown("ablation", outputs).empty
    write_cell(score=50.0, variant={"precision": "reduced", "tuning": False})
    assert shown("ablation", outputs).to_dict("records") == [
        {"Method": "K-prune (precision=reduced)", "Variant": "as it is", "MRPC 80 %": "74.00"},
        {"Method": "K-prune (precision=reduced)", "Variant": "without weight tuning", "MRPC 80 %": "50.00"},
    ]


def test_a_setting_that_was_moved_on_two_budgets_has_a_curve_for_each(write_cell, outputs):
    for tokens, score in ((2000, 60.0), (100000, 70.0)):
        for mu in (1.0, 2.0, 4.0):
            config = {"method": CONFIG["method"] | {"mu": mu}, "calibration": {"tokens": tokens}}
            variant = ({"mu": mu} if mu != 1.0 else {}) | ({"tokens": tokens} if tokens != 100000 else {})
            write_cell(score=score + mu, config=config, variant=variant)
    of_mu = shown("sensitivity", outputs).query("Setting.str.startswith('μ')").to_numpy().tolist()
    assert of_mu == [
        [f"μ, {tokens} tokens", f"{mu}", f"{score + mu:.2f}"]
        for tokens, score in (("2,000", 60), ("100,000", 70))
        for mu in (1, 2, 4)
    ]


def test_retrained_beside_kprune(write_cell, outputs):
    write_cell(pruning_seconds=10.0)
    stage = {"steps": 345, "epochs": 3, "examples": 3668, "capped": False}
    stages = {"training": {"width_stage": stage, "final_fine_tuning": stage | {"steps": 115, "epochs": 1}}}
    write_cell(method="dynabert_w", pruning_seconds=4220.0, score=76.0, details=stages)
    write_cell(method="kprune_plus", pruning_seconds=5.0)
    write_cell(method="kwon")
    write_cell(task="rte")
    table = shown("retrained", outputs)
    assert table["Method"].tolist() == ["K-prune+", "K-prune", "DynaBERT-w"]
    assert table["Times K-prune"].tolist() == ["0.5x", "1.0x", "422.0x"]
    assert table["Score"].tolist() == ["74.51", "74.51", "**76.00**"]
    assert table["Trained"].tolist() == ["–", "–", "460 steps: 4 epochs of 3,668 examples"]
    assert "DynaBERT-w" not in shown("accuracy", outputs)["Method"].tolist()


def test_a_schedule_is_told_where_schedules_are_compared(write_cell, outputs):
    write_cell()
    write_cell(method="ebert", variant={"bf16": True})
    write_cell(task="sst2", method="ebert", variant={"bf16": True, "max_examples": 10000})
    assert shown("retrained", outputs)["Method"].tolist() == ["K-prune", "EBERT", "EBERT"]
    write_cell(method="ebert", variant={"bf16": True, "epochs": 8})
    expected = ["K-prune", "EBERT (bf16=True)", "EBERT (bf16=True, epochs=8)", "EBERT (bf16=True, max_examples=10000)"]
    assert shown("retrained", outputs)["Method"].tolist() == expected


def test_every_measurement(cells, outputs):
    table = shown("measurements", outputs)
    assert "Paper" not in table
    first, last = table.iloc[0], table.iloc[-1]
    assert (first["Asked"], first["FLOPs removed"], first["Params removed"]) == ("70 %", "80.1 %", "39.5 %")
    assert (first["Pruning"], first["Speed-up"], last["Speed-up"]) == ("12.3 s", "2.50x", "–")
    assert first["Calibration tokens"] == "100,000"
    assert shown("latency", outputs)["Machine"].tolist() == ["a CPU"] * 2


def test_targets_in_order(write_cell, outputs):
    write_cell(flops_reduction_requested=None)
    write_cell(flops_reduction_requested=0.75)
    write_cell(flops_reduction_requested=None, target="p0.2")
    write_cell()
    assert list(shown("accuracy", outputs).columns)[-4:] == ["75 %", "80 %", "20 % of parameters", "2x"]


@pytest.mark.parametrize(
    "form, expected", [("markdown", "| MRPC "), ("latex", r"\toprule"), ("csv", "MRPC (accuracy),68.38")]
)
def test_command(cells, outputs, monkeypatch, capsys, form, expected):
    monkeypatch.setattr(sys, "argv", ["tables", str(outputs), "accuracy", "retrained", "--format", form])
    main()
    printed = capsys.readouterr().out
    assert expected in printed and "Retrained methods: no cells for it" in printed
    assert "a CPU, batch 32 of 128 tokens, 2 threads" in printed
    written = sorted(path.name for path in (outputs / "tables").iterdir())
    made = ("accuracy", "cost", "latency", "loss", "measurements", "speedup", "trade")
    assert written == sorted(["cells.csv", *(f"{name}.{suffix}" for name in made for suffix in ("csv", "md", "tex"))])


def test_latex_is_escaped():
    assert render.latex("80 % a_b ± – **λ −1**") == r"80 \% a\_b $\pm$ -- \textbf{$\lambda$ $-$1}"
