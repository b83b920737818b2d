"""Measured speed of a language model: a prompt read, and one token more generated."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from kprune.budgets.latency.timing import alternate, of_fewer_tokens, random_batch
from kprune.errors import UserError
from kprune.models.copies import frozen_view
from kprune.models.view import longest_input
from kprune.types import Model


def measure_generation(
    dense: Model, pruned: Model, batch_size: int, prompt_length: int
) -> dict[str, tuple[float, float]]:
    """Measure tokens per second of the dense and the pruned model, which alternate.

    A prompt of random tokens fills a cache and gives the logits of its last token alone, as `generate` asks for; the decoding
    step adds a token with that cache.

    Returns:
        "prefill" and "decoding": the dense and the pruned model's tokens per second, of all examples together; medians.

    Raises:
        UserError: the model reads no prompt as long, and a token more.
    """
    if prompt_length + 1 > longest_input(dense):
        raise UserError(
            f"generation can't be measured behind {prompt_length} tokens, the model reads {longest_input(dense)}: "
            "give a shorter prompt"
        )
    prompt = random_batch(of_fewer_tokens(dense, pruned), batch_size, prompt_length)
    models = [frozen_view(model) for model in (dense, pruned)]
    prefill = alternate([partial(read, model, prompt) for model in models], dense.device)
    steps = alternate([decoding_step(model, prompt) for model in models], dense.device)
    return {
        "prefill": _speeds(prefill, batch_size * prompt_length),
        "decoding": _speeds(steps, batch_size),
    }


def read(model: Model, prompt: dict[str, torch.Tensor]) -> Any:
    """Return a model's output for a prompt: the last token's logits, and the cache."""
    return model(**prompt, use_cache=True, logits_to_keep=1, return_dict=True)


@torch.inference_mode()
def decoding_step(model: Model, prompt: dict[str, torch.Tensor]) -> Callable[[], Any]:
    """Return a call that adds one token to a prompt that has been read; every call does the same."""
    output = read(model, prompt)
    cache, token = output.past_key_values, output.logits[:, -1:].argmax(dim=-1)
    length = prompt["input_ids"].shape[1]
    mask = torch.ones(len(token), length + 1, dtype=torch.long, device=token.device)

    def step() -> Any:
        result = model(
            input_ids=token,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            return_dict=True,
        )
        cache.crop(-1)  # a slice of what was there: it takes no time to speak of
        return result

    return step


def _speeds(times: list[list[float]], tokens: int) -> tuple[float, float]:
    dense, pruned = (1000 * tokens / statistics.median(ms) for ms in times)
    return dense, pruned
