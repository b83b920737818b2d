"""Measure the latency of BERT-base pruned by 80 % of FLOPs, by batch size, length and runtime: `python -m experiments.speed.latency_table`.

Weights are random, because their values do not change the time of a forward pass. Dense and pruned models alternate in one run. The
points of most interest come first. A run ends after `--minutes`, and the next run measures the missing points. On a GPU, use
`--device cuda --dtype bfloat16 --output results/latency_gpu.csv`, with another file for each device.
"""

import argparse
import functools
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BertConfig

from experiments.config.kinds import THREADS, check, number, or_null, whole, whole_numbers
from experiments.inputs.subject import pick_device
from experiments.speed.shapes import ALLOCATIONS, SHAPES, flops_ratio, kept_counts, pruned_to, random_model
from experiments.store import measurements
from kprune.budgets.latency.timing import alternate, device_name, random_batch, rounds
from kprune.checkpoint import export_onnx
from kprune.errors import UserError, command
from kprune.files import reachable

COLUMNS = (
    "shape",
    "allocation",
    "grain",
    "runtime",
    "dtype",
    "batch_size",
    "sequence_length",
    "dense_ms",
    "pruned_ms",
    "speedup",
    "speedup_low",
    "speedup_high",
    "repeats",
    "flops_ratio",
    "device",
    "threads",
    "torch",
    "runtime_version",
)
"""Milliseconds are medians; `speedup_low` and `speedup_high` are the smallest and largest ratio of a pair of passes; `flops_ratio` is
dense over pruned FLOPs at the row's length."""
CELL = ("shape", "grain", "runtime", "dtype", "batch_size", "sequence_length", "device", "threads", "torch")
FLOPS_LENGTH = 128
GOALS = ((32, 128), (1, 128))
SECONDS, GOAL_SECONDS = 10.0, 60.0
"""Time for the repeats of a point, and of a point of `GOALS`; there is at least one repeat, and at most the `rounds` of the device."""

Model = Callable[[int, int], Callable[[], Any]]
"""A function of batch size and length; it returns a function that runs a forward pass on a random batch."""


def eager(model: nn.Module, folder: Path) -> Model:
    def at(*shape: int):
        batch = random_batch(model, *shape)
        return lambda: model(**batch)

    return at


def graph(model: nn.Module, folder: Path) -> Model:
    """Return a model whose forward passes replay a CUDA graph, which starts the kernels of a pass without Python."""

    def at(*shape: int):
        batch, stream = random_batch(model, *shape), torch.cuda.Stream()
        # During the capture, transformers can't see that the mask is all ones, and would use a slower attention than other runtimes.
        del batch["attention_mask"]
        captured = torch.cuda.CUDAGraph()
        with torch.inference_mode():
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                model(**batch)  # a first call sets up memory and kernels, which can't be captured
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(captured):
                output = model(**batch)

        def replay():
            captured.replay()
            return output

        return replay

    return at


def compiled(model: nn.Module, folder: Path) -> Model:
    def at(*shape: int):
        torch._dynamo.reset()  # so that each shape is compiled separately, its best case
        batch, fast = random_batch(model, *shape), torch.compile(model)
        return lambda: fast(**batch)

    return at


@functools.cache
def one_arena() -> None:
    """Let all onnxruntime sessions share one memory arena; with one for each, a batch of 128 x 384 tokens needs more than 24 GB."""
    import onnxruntime as ort

    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(
        memory, ort.OrtArenaCfg({"arena_extend_strategy": 1})
    )  # 1: grow only by the requested size


def onnx(model: nn.Module, folder: Path) -> Model:
    import onnxruntime

    one_arena()
    file = export_onnx(model, folder / f"{len(list(folder.iterdir()))}.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.use_env_allocators", "1")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = {entry.name for entry in session.get_inputs()}

    def at(*shape: int):
        batch = random_batch(model, *shape)
        batch.setdefault("token_type_ids", torch.zeros_like(batch["input_ids"]))
        feed = {name: value.numpy() for name, value in batch.items() if name in names}
        return lambda: session.run(None, feed)

    return at


RUNTIMES = {"eager": eager, "compile": compiled, "onnx": onnx, "graph": graph}
ON_CPU, ON_GPU = ("eager", "compile", "onnx"), ("eager", "graph")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def timed(calls: list[Callable[[], Any]], device: torch.device, seconds: float) -> list[list[float]]:
    """Return the milliseconds of each call, a list for each, measured in turn after one untimed round.

    Args:
        calls: the functions to time.
        device: the device that they run on.
        seconds: time for all rounds; at least one round is timed.
    """
    first = alternate(calls, device, repeats=1, warm_up=1)
    round_seconds = sum(ms for (ms,) in first) / 1000
    further = min(int(seconds / round_seconds), rounds(device)[1]) - 1
    return [a + b for a, b in zip(first, alternate(calls, device, max(further, 0), warm_up=0), strict=True)]


def available(device: torch.device, dtype: str) -> list[str]:
    """Return the names of the runtimes for a device and a dtype; ONNX is only for float32."""
    names = ON_GPU if device.type == "cuda" else ON_CPU
    return [name for name in names if name != "onnx" or dtype == "float32"]


def cells(runtimes: list[str], batches: list[int], lengths: list[int]) -> list[tuple[str, int, int]]:
    """Return the points (runtime, batch size, length) in the order of measurement: first `GOALS`, then by number of tokens."""
    shapes = sorted(itertools.product(batches, lengths), key=lambda s: (s not in GOALS, s[0] * s[1]))
    goals, others = ([s for s in shapes if (s in GOALS) == goal] for goal in (True, False))
    return [(runtime, *shape) for part in (goals, others) for runtime in runtimes for shape in part]


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the points that the file lacks, writing it after each point, and return all its rows."""
    shape, deadline = SHAPES[options.shape], time.perf_counter() + 60 * options.minutes
    device = pick_device(options.device)
    rows = measurements.read(options.output, COLUMNS)
    machine = {
        "shape": options.shape,
        "grain": options.grain,
        "dtype": options.dtype,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    dense = random_model(shape).to(device, DTYPES[options.dtype])
    counts = {name: kept_counts(shape, name, FLOPS_LENGTH, options.grain) for name in ALLOCATIONS}
    models = [dense, *(pruned_to(dense, *kept) for kept in counts.values())]
    finished = {tuple(str(row[key]) for key in CELL) for row in rows}
    ready: dict[str, list[Model]] = {}
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for runtime, batch, length in cells(
            options.runtimes or available(device, options.dtype), options.batches, options.lengths
        ):
            cell = machine | {"runtime": runtime, "batch_size": batch, "sequence_length": length}
            start = time.perf_counter()
            if tuple(str(cell[key]) for key in CELL) in finished:
                continue
            if start + rates.get(runtime, 0.0) * batch * length > deadline:
                print(f"{runtime}, batch {batch}, length {length}: no time left; run again to go on", file=sys.stderr)
                continue
            if runtime not in ready:
                ready[runtime] = [RUNTIMES[runtime](model, Path(folder)) for model in models]
            begun = time.perf_counter()
            seconds = GOAL_SECONDS if (batch, length) in GOALS else SECONDS
            times = timed([at(batch, length) for at in ready[runtime]], device, seconds)
            rates[runtime] = (time.perf_counter() - begun) / (batch * length)
            for name, pruned, ms in zip(counts, models[1:], times[1:], strict=True):
                rows.append(
                    cell
                    | row(times[0], ms)
                    | {
                        "allocation": name,
                        "flops_ratio": flops_ratio(dense, pruned, length),
                        "runtime_version": version("onnxruntime") if runtime == "onnx" else torch.__version__,
                    }
                )
                print(line(rows[-1]), flush=True)
            measurements.put(options.output, COLUMNS, (*CELL, "allocation"), rows[-len(counts) :])
    return rows


def row(dense: list[float], pruned: list[float]) -> dict[str, Any]:
    """Return the columns of times of a row, from the milliseconds of the dense and the pruned model, [repeats] each."""
    ratios = [d / p for d, p in zip(dense, pruned, strict=True)]
    dense_ms, pruned_ms = statistics.median(dense), statistics.median(pruned)
    return {
        "dense_ms": dense_ms,
        "pruned_ms": pruned_ms,
        "speedup": dense_ms / pruned_ms,
        "speedup_low": min(ratios),
        "speedup_high": max(ratios),
        "repeats": len(ratios),
    }


def line(r: dict[str, Any]) -> str:
    return (
        f"{r['runtime']:8}{r['allocation']:16}batch {r['batch_size']:<4} length {r['sequence_length']:<4}"
        f"{r['dense_ms']:10.1f} ms {r['pruned_ms']:10.1f} ms {r['speedup']:6.2f}x "
        f"({r['speedup_low']:.2f} to {r['speedup_high']:.2f} in {r['repeats']})"
    )


def check_options(options: argparse.Namespace) -> None:
    """Check all options and the file before the first measurement.

    Raises:
        UserError: an option is wrong, or the file can't be written.
    """
    known = available(pick_device(options.device), options.dtype)
    if unknown := [name for name in options.runtimes or () if name not in known]:
        raise UserError(
            f"--runtimes {unknown[0]} is not to be had with --device {options.device} --dtype {options.dtype}: "
            f"use {', '.join(known)}"
        )
    for batch in options.batches:
        check("--batches", batch, whole(1, "1,8,32"))
    for length in options.lengths:
        check("--lengths", length, whole(1, "32,128", most=BertConfig().max_position_embeddings))
    check("--grain", options.grain, whole(1, "16", most=SHAPES[options.shape].neurons))
    check("--threads", options.threads, or_null(THREADS))
    check("--minutes", options.minutes, number("9"))
    measurements.make_room(options.output, COLUMNS)


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=reachable, default=Path("results/latency.csv"))
    parser.add_argument("--shape", choices=SHAPES, default="bert_base")
    parser.add_argument(
        "--grain", type=int, default=1, help="numbers of neurons are multiples of the grain, within the same FLOPs"
    )
    parser.add_argument("--batches", type=whole_numbers, default=[1, 8, 32, 128])
    parser.add_argument("--lengths", type=whole_numbers, default=[32, 128, 384])
    parser.add_argument("--runtimes", type=lambda text: text.split(","), help="default: all runtimes of the device")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice if left out")
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="time limit: a point that would end later is not begun"
    )
    options = parser.parse_args()
    check_options(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    measure(options)


if __name__ == "__main__":
    sys.exit(main())
