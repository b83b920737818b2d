"""Pruning cost and peak memory by method, tokens and layers, in one run on one machine: `python -m experiments.bench`.

The unit is one float32 dense forward pass over the same tokens, sorted by length, without hooks, measured in the same
process before and after. Every method runs in a process of its own; its peak memory is what the process reached beyond
what it held with model and data loaded. Weights, tokens and labels are random, lengths are like MRPC's; 80 % of FLOPs
are removed, or what a method reaches. `whole_model` is the authors' way (`experiments/bench/reference.py`), `floor`
what the exact method can't do without: L + 3 forwards, Gram matrices and solves.
"""

import argparse
import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from experiments import results
from experiments.composing import CONF
from experiments.methods import METHODS
from experiments.shapes import SHAPES
from kprune.errors import UserError

COLUMNS = (
    "shape", "sublayers", "method", "flops_reduction", "examples", "tokens", "padded_tokens_sorted",
    "padded_tokens_drawn", "forward_seconds", "seconds", "units", "of_floor", "of_whole_model", "peak_mb", "peak_of_whole_model",
    "stages", "device", "threads", "torch", "commit",
)  # fmt: skip
"""`units` are dense forwards; `of_floor` and the others are ratios to the rows of that name with the same shape and
tokens; `stages` are seconds."""
FAST = "kprune:measure_every=4:measure_batches=4"
WITHOUT_COST = ("magnitude", "random")


def default_methods() -> list[str]:
    """Every method that prunes in one go, K-prune's fast mode, and the two that they are compared with."""
    retrained = {name for name in METHODS if "recipe" in yaml.safe_load((CONF / "method" / f"{name}.yaml").read_text())}
    methods = [name for name in METHODS if name not in WITHOUT_COST and name not in retrained]
    return ["floor", "whole_model", methods[0], FAST, *methods[1:]]


def measured(shape: str, tokens: int, method: str, threads: int | None) -> dict[str, Any]:
    """What a process of its own reports.

    Raises:
        UserError: it fails.
    """
    command = [sys.executable, "-m", "experiments.bench.child", shape, str(tokens), method]
    command += ["--threads", str(threads)] if threads else []
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UserError(f"{method} on {shape} with {tokens} tokens failed: {last}")
    return {"shape": shape, "method": method} | json.loads(done.stdout.splitlines()[-1])


def with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ratios to the floor and to the whole-model way, where these were measured for the same shape and tokens."""
    by_key = {(r["shape"], r["tokens"], r["method"]): r for r in rows}
    for r in rows:
        for name in ("floor", "whole_model"):
            other = by_key.get((r["shape"], r["tokens"], name))
            r[f"of_{name}"] = r["units"] / other["units"] if other else None
        r["peak_of_whole_model"] = r["peak_mb"] / other["peak_mb"] if other and r.get("peak_mb") else None
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    head = ("model", "tokens (padded: sorted, drawn)", "method", "seconds", "forwards", "of floor", "of whole model", "MB")
    lines = ["| " + " | ".join(head) + " |", "|---|---|---|--:|--:|--:|--:|--:|"]
    number = lambda value, digits=2: "" if value is None else f"{value:.{digits}f}"  # noqa: E731
    for r in rows:
        tokens = f"{r['tokens']} ({r['padded_tokens_sorted']}, {r['padded_tokens_drawn']})"
        numbers = (number(r.get("seconds")), number(r["units"], 1), number(r["of_floor"]), number(r["of_whole_model"]))
        lines.append("| " + " | ".join((r["shape"], tokens, r["method"], *numbers, number(r.get("peak_mb"), 0))) + " |")
    return "\n".join(lines)


def written(rows: list[dict[str, Any]]) -> bytes:
    """The rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for r in rows:
        r = r | {"stages": " ".join(f"{stage}={seconds:g}" for stage, seconds in r.get("stages", {}).items())}
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in r.items()})
    return text.getvalue().encode()


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure everything; the file is written whole at the end, as its rows are compared with one another."""
    import torch

    from kprune.latency.timing import device_name

    machine = {"device": device_name(torch.device("cpu")), "torch": torch.__version__, "commit": results.commit()}
    jobs = [(s, t, m) for s in options.shapes for t in options.tokens for m in options.methods]
    rows = []
    for shape, tokens, method in tqdm(jobs, desc="bench", unit="run", disable=None):
        rows.append(measured(shape, tokens, method, options.threads) | machine)
    with_ratios(rows)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    results.write_whole(options.output, written(rows))
    return rows


def main() -> int:
    words = lambda text: text.split(",")  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/bench.csv"))
    parser.add_argument("--shapes", type=words, default=["minilm", "bert_base"], help=", ".join(SHAPES))
    parser.add_argument("--tokens", type=lambda t: [int(n) for n in t.split(",")], default=[1000, 2000, 4000])
    parser.add_argument("--methods", type=words, default=default_methods(), help="kprune:measure_every=2 changes a setting")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice where left out")
    options = parser.parse_args()
    try:
        rows = run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{rows[0]['device']}, {rows[0]['threads']} threads, torch {rows[0]['torch']}, float32")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
