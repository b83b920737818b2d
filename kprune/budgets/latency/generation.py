"""Measured speed of language models: a prompt read, and one token more generated."""

import copy
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from kprune.budgets.latency.timing import alternate, of_fewest_tokens, random_batch
from kprune.errors import UserError
from kprune.models.copies import frozen_shared_copy
from kprune.models.inputs import longest_input
from kprune.types import Model


def measure_generation(models: Sequence[Model], batch_size: int, prompt_length: int) -> dict[str, list[float]]:
    """Measure tokens per second of several models, which alternate.

    A prompt of random tokens fills a cache and gives the logits of its last token alone, as `generate` does; the decoding step adds
    a token to this cache.

    Returns:
        "prefill" and "decoding": the tokens per second of each model, of all examples together; medians.

    Raises:
        UserError: the prompt and one token more are longer than what the models read.
    """
    first = models[0]
    if prompt_length + 1 > longest_input(first):
        raise UserError(
            f"generation can't be measured behind {prompt_length} tokens, the model reads {longest_input(first)}: "
            "give a shorter prompt"
        )
    prompt = random_batch(of_fewest_tokens(models), batch_size, prompt_length)
    frozen = [frozen_shared_copy(model) for model in models]
    prefill = alternate([partial(read, model, prompt) for model in frozen], first.device)
    steps = alternate([decoding_step(model, prompt) for model in frozen], first.device)
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
        return model(
            input_ids=token,
            attention_mask=mask,
            past_key_values=branch(cache),
            use_cache=True,
            logits_to_keep=1,
            return_dict=True,
        )

    return step


def branch(cache: Any) -> Any:
    """Return a cache that begins with the keys, values and states of another one, which stays as it is; this takes next to no time.

    Cropping the cache after a step would not restore it: a cache of a sliding window has dropped its oldest token.
    """
    # The cache of a decoder that could also read an encoder holds two caches.
    grown = copy.copy(getattr(cache, "self_attention_cache", cache))
    grown.layers = [copy.copy(layer) for layer in grown.layers]
    for layer in grown.layers:
        # The states of a convolution or recurrence lie in dictionaries, and are overwritten in place.
        states = {name: value for name, value in vars(layer).items() if isinstance(value, dict)}
        vars(layer).update(copy.deepcopy(states))
    return grown


def _speeds(times: list[list[float]], tokens: int) -> list[float]:
    return [1000 * tokens / statistics.median(ms) for ms in times]
