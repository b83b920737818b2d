"""Prune a classifier, export it to ONNX, check that the file gives the same answers, and time the models.

    pip install '.[onnx]'    # in a clone of kprune
    python examples/deploy_onnx.py my/checkpoint texts.txt deployed --batch-size 1 --length 128

`deployed/` then has the pruned model for transformers, and `model.onnx` for onnxruntime, which needs no torch. `model-int8.onnx` is
the pruned model with weights of eight bits, `dense.onnx` the dense model.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

import kprune
from kprune.checkpoint.onnx import export_onnx
from kprune.cli.texts import decoded
from kprune.models.inputs import longest_input


def main() -> None:
    """Prune a classifier, save and export it, and print differences, times and file sizes."""
    parser = argparse.ArgumentParser(description="Prune a classifier and deploy it with ONNX.")
    parser.add_argument("checkpoint", help="folder or hub id of the fine-tuned model")
    parser.add_argument("texts", type=Path, help="a text file, one text a line")
    parser.add_argument("output", type=Path, help="folder for the pruned model and model.onnx")
    parser.add_argument("--flops-reduction", type=float, default=0.8, help="share of FLOPs to remove (0.8)")
    parser.add_argument("--batch-size", type=int, default=1, help="texts in a request (1)")
    parser.add_argument("--length", type=int, default=128, help="tokens of a text (128)")
    parser.add_argument("--repeats", type=int, default=20, help="how often each is timed (20)")
    arguments = parser.parse_args()

    texts = [line for line in decoded(arguments.texts).splitlines() if line.strip()]
    if not texts:
        raise kprune.UserError(f"{arguments.texts} has no texts: give 2,000 or so, one a line")
    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
    dense = AutoModelForSequenceClassification.from_pretrained(arguments.checkpoint, dtype="float32").eval()
    longest = longest_input(dense)
    if not 1 <= arguments.length <= longest or min(arguments.batch_size, arguments.repeats) < 1:
        raise kprune.UserError(
            f"give a --length from 1 to {longest}, the most that the model reads, and a --batch-size and --repeats from 1"
        )
    tokenized = [tokenizer(text, truncation=True) for text in texts]
    calibration = DataLoader(tokenized, batch_size=32, collate_fn=DataCollatorWithPadding(tokenizer))

    outcome = kprune.prune(dense, calibration, flops_reduction=arguments.flops_reduction, method="kprune_plus")
    outcome.save(arguments.output, tokenizer, onnx=True)
    dense_file = export_onnx(dense, arguments.output / "dense.onnx")
    small_file = export_onnx(outcome.model, arguments.output / "model-int8.onnx", int8=True)

    # What follows needs no kprune: a machine that serves the model can do the same.
    pruned = AutoModelForSequenceClassification.from_pretrained(arguments.output, trust_remote_code=True).eval()
    pruned_file = arguments.output / "model.onnx"
    request = tokenizer(
        texts[: arguments.batch_size],
        truncation=True,
        padding="max_length",
        max_length=arguments.length,
        return_tensors="pt",
    )
    calls = {
        "dense, torch": torch_call(dense, request),
        "pruned, torch": torch_call(pruned, request),
        "dense, ONNX": onnx_call(dense_file, request),
        "pruned, ONNX": onnx_call(pruned_file, request),
        "pruned, int8": onnx_call(small_file, request),
    }
    difference = (calls["pruned, torch"]() - calls["pruned, ONNX"]()).abs().max()
    print(f"largest difference of the pruned model's logits between torch and ONNX: {difference:.1e}")

    shape = f"{len(request['input_ids'])} x {arguments.length} tokens (CPU threads: {torch.get_num_threads()})"
    print(f"milliseconds for {shape}, the median of {arguments.repeats}:")
    for name, taken in milliseconds(calls, arguments.repeats).items():
        print(f"  {name:<14} {taken:8.2f}")
    for name, file in {"dense": dense_file, "pruned": pruned_file, "pruned, int8": small_file}.items():
        print(f"{name}: {file.stat().st_size / 1e6:.1f} MB as {file}")


def torch_call(model: torch.nn.Module, request: dict[str, torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Return a function that computes the logits of the request with transformers: [texts, classes]."""

    @torch.inference_mode()
    def call() -> torch.Tensor:
        return model(**request).logits

    return call


def onnx_call(file: Path, request: dict[str, torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Return a function that computes the logits with onnxruntime, on as many threads as torch has: [texts, classes]."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # onnxruntime's one kernel for a sum and the norm behind it is slower than its two kernels for the two steps.
    session = onnxruntime.InferenceSession(
        file, options, providers=["CPUExecutionProvider"], disabled_optimizers=["SkipLayerNormFusion"]
    )
    # If the tokenizer makes no token types, they are zeros.
    zeros = torch.zeros_like(request["input_ids"])
    inputs = {given.name: request.get(given.name, zeros).numpy() for given in session.get_inputs()}
    return lambda: torch.from_numpy(session.run(["logits"], inputs)[0])


def milliseconds(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median milliseconds of each call; the calls take turns, so that a slow moment of the machine slows each."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 2):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            # The first two rounds warm up, and are not counted.
            if repeat >= 2:
                taken[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in taken.items()}


if __name__ == "__main__":
    try:
        main()
    except (kprune.UserError, OSError) as error:  # transformers raises it if there is no such checkpoint
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
