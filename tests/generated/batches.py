"""What users give as batches."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import BatchEncoding

from generated.option import Option, options


def each(change: Callable[[dict[str, Any]], Any]) -> Callable[[list[Any]], list[Any]]:
    return lambda batches: [change(batch) for batch in batches]


def some_without_types(batches: list[dict]) -> list[dict]:
    return [{k: v for k, v in b.items() if i or k != "token_type_ids"} for i, b in enumerate(batches)]


def without_mask(batches: list[dict]) -> list[dict]:
    return [{name: value for name, value in batch.items() if name != "attention_mask"} for batch in batches]


def with_hole(batch: dict) -> dict:
    mask = batch["attention_mask"].clone()
    mask[:, 2] = 0
    return batch | {"attention_mask": mask}


def one_token(batches: list[dict]) -> list[dict]:
    return [{name: value[:1, :1] for name, value in batch.items()} for batch in batches[:1]]


def loadable(batches: list[dict]) -> bool:
    same = all(batch.keys() == batches[0].keys() for batch in batches)
    return (
        same
        and all(isinstance(v, torch.Tensor) and not v.is_nested for v in batches[0].values())
        and all(v.layout is torch.strided and v.dim() == 2 for v in batches[0].values())
        and "input_ids" in batches[0]
    )


def on_the_left(batch: dict) -> dict:
    """Roll each example to the end of its row."""
    shifts = batch["input_ids"].shape[1] - batch["attention_mask"].sum(dim=1)
    return {n: torch.stack([r.roll(int(s)) for r, s in zip(v, shifts, strict=True)]) for n, v in batch.items()}


def loaded(batches: list[dict]) -> Any:
    rows = [
        {name: value[i] for name, value in batch.items()} for batch in batches for i in range(len(batch["input_ids"]))
    ]

    def pad(examples):
        return {
            name: nn.utils.rnn.pad_sequence([e[name] for e in examples], True, float(name == "input_ids"))
            for name in rows[0]
        }

    # Its own generator: without one, it draws of the caller's random numbers.
    return torch.utils.data.DataLoader(rows, batch_size=3, collate_fn=pad, generator=torch.Generator())


BATCHES: dict[str, tuple[Option, ...]] = {
    "columns": options(
        Option("", lambda batches: batches),
        Option("no types", each(lambda b: {k: v for k, v in b.items() if k != "token_type_ids"})),
        Option("some types", some_without_types),
        Option("no mask", without_mask),
        Option("bool mask", each(lambda b: b | {"attention_mask": b["attention_mask"].bool()})),
        Option("float mask", each(lambda b: b | {"attention_mask": b["attention_mask"].float()})),
        Option("int32", each(lambda b: {name: value.int() for name, value in b.items()})),
        Option("one token", one_token),
        Option("on the left", each(on_the_left), may="padded on the left"),
        Option(
            "more columns", each(lambda b: b | {"labels": torch.zeros(len(b["input_ids"])), "text": "a", "n": None})
        ),
        Option("no tokens", each(lambda b: {"inputs_embeds": torch.zeros(2, 3, 32)}), "no tensor input_ids"),
        Option("a hole", each(with_hole), "padding between tokens"),
        Option("one dimension", each(lambda b: {n: v[0] for n, v in b.items()}), "batch, length"),
        Option("float ids", each(lambda b: b | {"input_ids": b["input_ids"].float()}), "give integers"),
        Option("bool ids", each(lambda b: b | {"input_ids": b["input_ids"].bool()}), "give integers"),
        Option("short mask", each(lambda b: b | {"attention_mask": b["attention_mask"][:, 1:]}), "one shape"),
        Option("numbered mask", each(lambda b: b | {"attention_mask": b["attention_mask"] * 2}), "attention_mask"),
        Option(
            "NaN mask", each(lambda b: b | {"attention_mask": b["attention_mask"] * float("nan")}), "attention_mask"
        ),
        Option("strange token", each(lambda b: b | {"input_ids": b["input_ids"] + 999}), "vocabulary is"),
        Option("negative token", each(lambda b: b | {"input_ids": b["input_ids"] - 99}), "has token -"),
        Option("padding alone", each(lambda b: b | {"attention_mask": b["attention_mask"] * 0}), "padding alone"),
        Option("too long", each(lambda b: {n: v.repeat(1, 20) for n, v in b.items() if n == "input_ids"}), "truncate"),
        Option("on meta", each(lambda b: {name: value.to("meta") for name, value in b.items()}), "meta"),
        Option("sparse", each(lambda b: {n: v.to_sparse() for n, v in b.items()}), "nested or sparse"),
        Option(
            "nested", each(lambda b: {n: torch.nested.nested_tensor(list(v)) for n, v in b.items()}), "nested or sparse"
        ),
        Option("lists", each(lambda b: {name: value.tolist() for name, value in b.items()}), "input_ids is a list"),
        Option("numpy", each(lambda b: {name: value.numpy() for name, value in b.items()}), "input_ids is a ndarray"),
    ),
    "batches": options(
        Option("", lambda batches: batches),
        Option("BatchEncoding", each(BatchEncoding)),
        Option("generator", lambda batches: (batch for batch in batches)),
        Option("tuple of batches", tuple),
        Option("DataLoader", lambda b: loaded(b) if loadable(b) else b),
        Option("tuples", each(lambda b: tuple(b.values())), "is a tuple: give dicts"),
        Option("tensors", each(lambda b: b["input_ids"]), "is a Tensor: give dicts"),
        Option("one batch", lambda batches: batches[0], "is one batch"),
        Option("no batch", lambda batches: [], "batches is empty"),
        Option(
            "no example",
            each(lambda b: {n: v[:0] if isinstance(v, torch.Tensor) else v for n, v in b.items()}),
            "is empty",
        ),
        Option("None", lambda batches: None, "give an iterable"),
    ),
}
"""What is done to a list of dicts of tensors, in this order."""
