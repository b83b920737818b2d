"""Measure memory and seconds of pruning a large Llama: `python -m experiments.speed.large llama_7b --layers-on cuda`.

Weights (in float32) and texts are random, because their values do not change how much memory is needed. The model is made on the CPU
and stays there; `--layers-on cuda` moves one layer at a time to the GPU, and `--states` names the place of the hidden states. The peak
of the process is counted beyond its memory with the loaded model; the peak of the GPU is the memory that torch reserved. `--gpu-gb 24`
limits torch to 24 GiB of the GPU, as on a smaller card.
"""

import argparse
import json
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from experiments.cell.memory import PeakMemory
from experiments.config.kinds import check, or_null, positive, whole
from experiments.config.methods import method_with
from experiments.speed.bench.child import resident_mb
from kprune.budgets import ParametersBudget
from kprune.budgets.latency.timing import now
from kprune.contract import Job, PruningData
from kprune.data import CalibrationSet
from kprune.errors import UserError, command
from kprune.objectives import objective_of

SHAPES = {
    "llama_7b": LlamaConfig(),
    "llama_1b": LlamaConfig(
        vocab_size=128_256,
        hidden_size=2048,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        intermediate_size=8192,
        tie_word_embeddings=True,
    ),
    "llama_100m": LlamaConfig(
        vocab_size=16_000,
        hidden_size=1024,
        num_hidden_layers=8,
        num_attention_heads=16,
        num_key_value_heads=8,
        intermediate_size=2048,
        tie_word_embeddings=True,
    ),
    "tiny": LlamaConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48
    ),
}
"""The shapes of Llama 2 7B and Llama 3.2 1B, and smaller shapes for trying the program."""


def random_texts(tokens: int, window: int, largest: int) -> CalibrationSet:
    """Return a calibration set of random texts.

    Args:
        tokens: total number of tokens, rounded down to whole texts; there is at least one text.
        window: number of tokens in a text.
        largest: number of tokens in the vocabulary.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, largest, (max(tokens // window, 1), window), generator=generator)
    return CalibrationSet([{"input_ids": row} for row in ids.tolist()], 1, 0)


def measured(options: argparse.Namespace) -> dict[str, object]:
    """Prune a model of random weights, and return its numbers of parameters, the seconds by stage, and the peaks of memory in MB."""
    gpu = torch.device("cuda") if torch.cuda.is_available() else None
    if gpu and options.gpu_gb:
        torch.cuda.set_per_process_memory_fraction(options.gpu_gb * 2**30 / torch.cuda.mem_get_info()[1])
    torch.manual_seed(0)
    model = LlamaForCausalLM(SHAPES[options.shape]).eval()
    parameters = sum(weight.numel() for weight in model.parameters())
    calibration = random_texts(options.tokens, options.window, model.config.vocab_size)
    method = method_with(options.method)
    before, peak, start = resident_mb(torch.device("cpu")), PeakMemory(torch.device("cpu")), now(model.device)
    budget = ParametersBudget(options.params_reduction)
    outcome = method.prune(Job(model, objective_of(model), PruningData(calibration), budget))
    reached = peak.mb()
    return {
        "parameters": parameters,
        "parameters_left": sum(weight.numel() for weight in outcome.model.parameters()),
        "tokens": calibration.tokens,
        "seconds": now(model.device) - start,
        "stages": {stage: round(seconds, 1) for stage, seconds in outcome.seconds_by_stage.items()},
        "loaded_mb": before,
        "peak_mb": reached and reached - before,
        "gpu_peak_mb": gpu and torch.cuda.max_memory_reserved() / 1e6,
    }


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--window", type=int, default=1024, help="number of tokens in a text")
    parser.add_argument("--params-reduction", type=float, default=0.2, help="share of the layers' parameters to remove")
    parser.add_argument("--method", default="kprune_plus_fast", help="with settings: kprune_plus:refit_epochs=1")
    parser.add_argument("--states", help="device, cpu or disk")
    parser.add_argument("--layers-on", help="device of one layer at a time, such as cuda")
    parser.add_argument("--gpu-gb", type=float, help="the most GPU memory that torch may take, in GiB")
    options = parser.parse_args()
    check("--tokens", options.tokens, whole(1, "20000"))
    check("--window", options.window, whole(1, "1024"))
    check("--gpu-gb", options.gpu_gb, or_null(positive("24")))
    if options.gpu_gb and not torch.cuda.is_available():
        raise UserError(f"--gpu-gb {options.gpu_gb:g} would be ignored, since there is no GPU here: leave it out")
    given = {"states": options.states, "layers_on": options.layers_on}
    options.method += "".join(f":{name}={value}" for name, value in given.items() if value)
    if needs := method_with(options.method).needs:
        raise UserError(f"--method {options.method} needs {' and '.join(needs)}, and texts are random: use kprune_plus")
    print(json.dumps(measured(options)))


if __name__ == "__main__":
    sys.exit(main())
