"""The pages' tables and numbers: what is in them, and that the committed ones are those of the committed cells."""

import re
from pathlib import Path

import pandas as pd
import pytest

from analysis import readme
from analysis.records import load
from kprune.errors import UserError

ROOT = Path(__file__).parents[2]
README = (
    "# K\n<!-- table:accuracy -->\nstale\n<!-- /table:accuracy -->\n\n<!-- table:cost -->\n<!-- /table:cost -->\nend\n"
)


@pytest.fixture
def cells(write_cell, outputs):
    for task in ("stsb", "mrpc"):
        for target, tokens in ((0.7, {"tokens": 20000}), (0.8, {})):
            write_cell(task=task, flops_reduction_requested=target, variant=tokens)
    return load(outputs)


def test_cost_names_the_machine(cells):
    text = readme.marked("cost", cells)
    assert "2.50x" in text and "12.3 s" in text and "100,000" in text
    assert "a CPU, batch 32 of 128 tokens, 2 threads" in text


@pytest.mark.parametrize("name", ["cost", "speedup"])
def test_machines_of_what_is_not_shown_are_not_named(write_cell, outputs, name):
    latency = {
        "device": "a CPU",
        "batch_size": 32,
        "sequence_length": 128,
        "dense_ms": 100.0,
        "pruned_ms": 40.0,
        "speedup": 2.5,
    }
    for seed in (0, 1):
        write_cell(score=78.0, seed=seed, latency=latency | {"threads": 2})
    write_cell(variant={"mu": 2.0}, seed=2, latency=latency | {"threads": 16})
    text = readme.marked(name, load(outputs))
    assert "2 threads" in text and "16 threads" not in text and "up to 2 seeds" in text
    assert "16 threads" in readme.marked("measurements", load(outputs))


def test_readme_is_rewritten_and_checked(cells, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells.to_csv(tmp_path / "cells.csv", index=False)
    Path("README.md").write_text(README)
    (tmp_path / "docs/results").mkdir(parents=True)
    below = Path("docs/results/cost.md")
    below.write_text("<!-- table:cost -->\n<!-- /table:cost -->\n")
    arguments = ["readme", "--cells", "cells.csv"]
    monkeypatch.setattr("sys.argv", [*arguments, "--check"])
    assert readme.main() == 1 and Path("README.md").read_text() == README
    monkeypatch.setattr("sys.argv", arguments)
    assert readme.main() == 0
    text = Path("README.md").read_text()
    assert "stale" not in text and "| MRPC (accuracy)" in text and text.endswith("\nend\n")
    assert "12.3 s" in below.read_text()
    monkeypatch.setattr("sys.argv", [*arguments, "--check"])
    assert readme.main() == 0


def test_the_embedded_task_has_a_table_of_its_own(cells, write_cell, outputs):
    text = "<!-- table:demo -->\n<!-- /table:demo -->\n<!-- table:speedup -->\n<!-- /table:speedup -->\n"
    assert "docstrings" not in readme.rewrite(text, cells, outputs) and "MRPC" in readme.rewrite(text, cells, outputs)
    write_cell(task="docstrings")
    demo, others = readme.rewrite(text, load(outputs), outputs).split("<!-- /table:demo -->")
    assert "docstrings" in demo and "MRPC" not in demo and "docstrings" not in others


def test_studies_come_from_cells_of_their_own(cells, outputs, tmp_path):
    text = "<!-- table:latency-budget -->\n<!-- /table:latency-budget -->\n"
    assert readme.rewrite(text, cells, tmp_path) == text
    cells.to_csv(tmp_path / "latency_budget.csv", index=False)
    made = readme.rewrite(text, cells.iloc[:0], tmp_path)
    assert "MRPC" in made and "Speed-up measured on" in made


def entries(text, word):
    """Return the entries of each row of a Markdown table that has a word."""
    return [[entry.strip() for entry in line.strip("|").split("|")] for line in text.splitlines() if word in line]


def test_tables_of_benchmark_and_latency_come_from_their_own_files(cells, tmp_path):
    text = "<!-- table:bench -->\n<!-- /table:bench -->\n<!-- table:latency-grid -->\n<!-- /table:latency-grid -->\n"
    assert readme.rewrite(text, cells, tmp_path) == text
    (tmp_path / "bench.csv").write_text(
        "shape,method,tokens,padded_tokens_sorted,forward_seconds,seconds,units,peak_mb,device,threads,torch\n"
        "bert_base,floor,2000,2100,2,,27.4,,a CPU,2,2.13\n"
        "bert_base,whole_model,2000,2100,2,84,42,2000,a CPU,2,2.13\n"
        "bert_base,kprune:lambdas=[1e-4],2000,2100,1,56.2,56.2,900,a CPU,2,2.13\n"
        "bert_base,kprune_plus,2000,2100,3,30,10,900,a CPU,2,2.13\n"
    )
    (tmp_path / "latency.csv").write_text(
        "shape,grain,runtime,dtype,batch_size,sequence_length,allocation,dense_ms,speedup,speedup_low,speedup_high,repeats,device,"
        "threads,torch\n"
        "bert_base,1,onnx,float32,32,128,even,1000,4.5,4.5,4.5,1,a CPU,2,2.13\n"
        "bert_base,1,onnx,float32,8,128,even,250,4.2,4.1,4.3,9,a CPU,2,2.13\n"
        "bert_base,1,onnx,float32,8,128,mrpc_reference,250,4.0,3.9,4.1,9,a CPU,2,2.13\n"
    )
    bench, latency = readme.rewrite(text, cells, tmp_path).split("<!-- /table:bench -->")
    rows = entries(bench, "BERT-base")
    # All in the median forward, of two seconds, and none in the one that was timed beside it.
    assert [row[4:7] for row in rows] == [
        ["27.4", "1.00x", "0.65x"],
        ["42.0", "1.53x", "1.00x"],
        ["28.1", "1.03x", "0.67x"],
        ["15.0", "0.55x", "0.36x"],
    ]
    assert rows[2][2] == "K-prune (lambdas=[1e-4])" and rows[2][-1] == "0.45x" and "a CPU, 2 threads" in bench
    lines = [line for line in latency.splitlines() if "onnx" in line]
    assert "4.00x (3.90 to 4.10)" in lines[0] and "4.50x (once)" in lines[1] and "–" in lines[1]


def test_a_gpus_costs_are_shown_beside_what_they_were(cells, tmp_path):
    text = "<!-- table:bench-gpu -->\n<!-- /table:bench-gpu -->\n"
    (tmp_path / "bench_gpu.csv").write_text(
        "shape,method,flops_reduction,seconds,units,peak_mb,stages,device,threads,torch\n"
        "minilm,kprune_plus,0.8,59.84,104.4,1370,fisher=4.4 refit=39.13 input_map=0.2 gram=1.0,a GPU,16,2.11\n"
        "minilm,kprune,0.8,17.19,30.1,8794,knowledge=15.2,a GPU,16,2.11\n"
        "minilm,kprune_plus,0.8,19.44,31.9,4401,fisher=1.4 refit=10.26 input_map=1.5 gram=1.0,a GPU,16,2.11\n"
        "minilm,kprune_fast,0.7_0.8,30.0,50.0,9000,knowledge=15.2,a GPU,16,2.11\n"
    )
    rows = entries(readme.rewrite(text, cells, tmp_path), "K-prune")
    assert rows == [
        ["K-prune+", "59.8", "19.4", "31.9", "4,401 MB", "refit 10.3 s, input map 1.5 s, fisher 1.4 s"],
        ["K-prune", "–", "17.2", "30.1", "8,794 MB", "knowledge 15.2 s"],
        ["K-prune, fast", "–", "30.0", "50.0", "9,000 MB", "–"],
    ]


def test_costs_of_two_models_have_rows_of_their_own(cells, tmp_path):
    text = "<!-- table:bench-reduced -->\n<!-- /table:bench-reduced -->\n"
    (tmp_path / "bench_reduced.csv").write_text(
        "shape,method,flops_reduction,seconds,units,peak_mb,stages,device,threads,torch\n"
        "minilm,kprune_plus,0.8,50.0,18.0,400,refit=20.0,a CPU,2,2.13\n"
        "bert_base,kprune_plus,0.8,300.0,13.0,1400,refit=150.0,a CPU,2,2.13\n"
    )
    rows = entries(readme.rewrite(text, cells, tmp_path), "K-prune")
    assert rows == [
        ["MiniLM-L6", "K-prune+", "50.0", "18.0", "400 MB", "refit 20.0 s"],
        ["BERT-base", "K-prune+", "300.0", "13.0", "1,400 MB", "refit 150.0 s"],
    ]


def test_a_gpus_latency_has_its_precision(cells, tmp_path):
    text = "<!-- table:latency-grid-gpu -->\n<!-- /table:latency-grid-gpu -->\n"
    (tmp_path / "latency_gpu.csv").write_text(
        "shape,grain,runtime,dtype,batch_size,sequence_length,allocation,dense_ms,speedup,speedup_low,speedup_high,repeats,"
        "device,threads,torch\n"
        "bert_base,1,graph,float32,32,128,even,18,3.5,3.4,3.6,51,a GPU,8,2.13\n"
        "bert_base,1,graph,bfloat16,32,128,even,2,1.2,1.1,1.3,51,a GPU,8,2.13\n"
    )
    made = readme.rewrite(text, cells, tmp_path)
    assert "torch 2.13, float32 and bfloat16." in made and "Grain" not in made and "Machine" not in made
    assert {("bfloat16", "1.20x"), ("float32", "3.50x")} == {
        (line.split("|")[2].strip(), line.split("|")[6].split()[0]) for line in made.splitlines() if "graph" in line
    }
    with (tmp_path / "latency_gpu.csv").open("a") as file:
        file.write("bert_base,16,graph,float32,32,128,even,9,4.5,4.4,4.6,51,another GPU,8,2.13\n")
    made = readme.rewrite(text, cells, tmp_path)
    assert made.count("another GPU") == 2 and "3.50x" in made and "4.50x" in made, "machines are not mixed"


@pytest.mark.parametrize(
    "text, words",
    [
        ("<!-- table:other -->\n<!-- /table:other -->", "table 'other'"),
        ("<!-- table:cost -->\n", "close its table 'cost'"),
        ("of <!-- number:other -->1<!-- /number -->", "number 'other'"),
        ("of <!-- number:loss kprune -->1<!-- /number -->", "loss kprune"),
        ("of <!-- number:loss kprune 0.8 many -->1<!-- /number -->", "many"),
        ("of <!-- number:cost most kprune_plus kprune -->1<!-- /number -->", "most.*lowest, highest"),
        ("of <!-- number:tasks -->1", "close its number 'tasks'"),
        ("- <!-- number:tasks -->1<!-- /number -->", "begins a line"),
        ("of <!-- number:slicegpt nomodel dense -->1<!-- /number --> all", "can't be made: nomodel is not there"),
    ],
)
def test_wrong_markers(write_cell, outputs, text, words, tmp_path):
    write_cell(method="kprune")
    write_cell(method="kprune_plus")
    with pytest.raises(UserError, match=words):
        readme.rewrite(text, load(outputs), tmp_path)


@pytest.mark.parametrize("name", sorted(readme.FILES))
def test_a_file_beside_the_cells_without_a_column_is_one_line(name, tmp_path):
    file, _ = readme.FILES[name]
    first = (ROOT / "results" / file).read_text().splitlines()[0].split(",")
    kept = [column for column in first if column in ("device", "stage", "batch_size", "sequence_length")]
    values = {"device": "cpu", "stage": name.removeprefix("held-out-"), "batch_size": "32", "sequence_length": "128"}
    rows = [[*kept, "other"], [*(values[column] for column in kept), "1"]]
    (tmp_path / file).write_text("".join(",".join(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=f"{file} has no rows that table {name} can be made of .*: restore it"):
        readme.of_file(name, tmp_path)


def test_a_file_without_what_is_said_of_the_machine_is_one_line(tmp_path):
    bench = pd.read_csv(ROOT / "results/bench.csv")
    bench.drop(columns="torch").to_csv(tmp_path / "bench.csv", index=False)
    with pytest.raises(UserError, match="bench.csv has no rows that table bench can be made of .*torch.*: restore it"):
        readme.of_file("bench", tmp_path)


def test_a_page_that_is_not_utf_8_is_one_line(cells, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells.to_csv("cells.csv", index=False)
    Path("page.md").write_bytes("größe".encode("latin-1"))
    monkeypatch.setattr("sys.argv", ["readme", "--cells", "cells.csv", "page.md"])
    assert readme.main() == 2 and capsys.readouterr().err.startswith("error: page.md is not readable")


def test_the_page_of_a_wrong_marker_is_named(cells, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells.to_csv("cells.csv", index=False)
    Path("page.md").write_text("<!-- table:other -->\n")
    monkeypatch.setattr("sys.argv", ["readme", "--cells", "cells.csv", "page.md"])
    assert readme.main() == 2 and capsys.readouterr().err.startswith("error: page.md: ")


@pytest.fixture(scope="module")
def committed():
    return load(ROOT / "results" / "cells.csv")


@pytest.mark.parametrize("page", readme.pages(ROOT), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_committed_pages_are_up_to_date(page, committed):
    text = page.read_text()
    assert readme.rewrite(text, committed, ROOT / "results") == text, "run make readme"


MEASURED = re.compile(r"\d+\.\d+(?!\.\d)|\d+ (points|times as|s\b|ms|MB)|\b\d+x\b")
NOT_MEASURED = re.compile(r"Python 3\.\d+|SQuAD \d\.\d|transformers \d\.\d+|bfloat16|float\d+")


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs/results").glob("*.md"))], ids=lambda page: page.name
)
def test_no_measured_number_is_typed_by_hand(page):
    prose = readme.NUMBER.sub("", readme.MARKED.sub("", page.read_text()))
    prose = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", prose, flags=re.DOTALL)
    typed = [match[0] for match in MEASURED.finditer(NOT_MEASURED.sub("", prose))]
    assert not typed, "mark it, as <!-- number:... -->"
