"""The record of one cell: the schema of result.json, which tracking, tables and the model card read, too."""

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from experiments.store.variant import named
from kprune.errors import UserError, one_line
from kprune.target import Target


@dataclass(frozen=True)
class Evaluation:
    """The evaluation set.

    Attributes:
        split: the split of the data set.
        examples: number of examples; for a perplexity, number of windows.
        majority: share of the most frequent class, in percent; None without classes.
        sha256: hash of the tokens.
        data: for a perplexity, the data set of the texts.
        window: for a perplexity, number of tokens in a window.
        first_token: for a perplexity, "once" if the tokenizer's first token stands only before the whole text, "none" if it stands
            nowhere, "each" if special tokens are around each window.
    """

    split: str
    examples: int
    majority: float | None = None
    sha256: str | None = None
    data: str | None = None
    window: int | None = None
    first_token: str | None = None


@dataclass(frozen=True)
class CheckpointUsed:
    """The dense model: its source ("given", "reference", "pretrained", "cache" or "fine-tuned") and the hash of its weights."""

    source: str
    sha256: str


@dataclass(frozen=True)
class CalibrationUsed:
    """The calibration set that the method read.

    Attributes:
        examples: number of examples.
        tokens: number of tokens of all examples.
        labels: whether the method read labels.
        data: the data set of the texts, if the examples were drawn from texts.
        texts: number of texts in `data`.
        window: number of tokens in an example that was drawn from texts.
        draw: how an example was drawn from texts, as in `experiments.inputs.drawing.DrawnTexts`.
    """

    examples: int
    tokens: int
    labels: bool | None = None
    data: str | None = None
    texts: int | None = None
    window: int | None = None
    draw: str | None = None


@dataclass(frozen=True)
class TokensPerSecond:
    """The speed of the dense and the pruned model, measured in turn."""

    dense: float
    pruned: float


@dataclass(frozen=True)
class Latency:
    """The median time of a forward pass of the dense and the pruned model, in milliseconds.

    Attributes:
        sequence_length: number of tokens of a sequence; for a language model, of the prompt.
        speedup_range: the smallest and the largest speed-up of a single pair of passes.
        prefill: for a language model, the speed of reading the prompt.
        decoding: for a language model, the speed of generating the next token with the prompt in the cache.
    """

    device: str
    batch_size: int
    sequence_length: int
    threads: int
    dense_ms: float
    pruned_ms: float
    speedup: float
    speedup_range: list[float] | None = None
    prefill: TokensPerSecond | None = None
    decoding: TokensPerSecond | None = None


@dataclass(frozen=True)
class Size:
    """The parameters of the dense and the pruned model (tied parameters count once) and the megabytes of their float32 weights on disk."""

    parameters_dense: int
    parameters_pruned: int
    megabytes_dense: float
    megabytes_pruned: float


@dataclass(frozen=True)
class VocabularyUsed:
    """The cut vocabulary.

    Attributes:
        kept: number of tokens that are kept.
        of: number of tokens in the vocabulary before the cut.
        missing: share of the evaluation set's tokens that the cut vocabulary lacks.
        growth: length of the evaluation set in tokens of the cut vocabulary, divided by its length before the cut.
    """

    kept: int
    of: int
    missing: float
    growth: float


@dataclass(frozen=True)
class Record:
    """The record of one cell. Scores are in percent; reductions are shares, measured on the pruned model.

    Attributes:
        params_reduction: share of the layers' parameters that was removed.
        params_reduction_of_model: share of all parameters that was removed; None in older records.
        sparsity: share of zeros among the weights of the layers' linear modules; zeros lower no number of parameters or FLOPs and
            no time. None if whole units were removed.
        kept_heads, kept_neurons: the number of kept units of each layer, bottom to top (means if they depend on the input).
        peak_memory_mb: the largest memory during the cell, of the GPU or, on a CPU, of the process; None if the system can't tell.
        latency: None if it was not measured, for example because the model has the shapes of the dense model.
        config: the identity of the cell, as in `experiments.cell.identity`.
        target: the budget or the sparsity that was asked for.
        device: the device that the model was pruned on, without which seconds can't be compared; None in older records.
        size: None in older records.
        vocabulary: None if every token is kept.
        plan: indices of the kept units by block; None if they depend on the input, and in records from before 2.0.
        details: further results that the method reports.
    """

    task: str
    model: str
    method: str
    variant: dict[str, Any]
    seed: int
    metric: str
    higher_is_better: bool
    dense_score: float
    score: float
    evaluation: Evaluation
    checkpoint: CheckpointUsed
    flops_reduction_requested: float | None
    flops_reduction: float
    params_reduction: float
    kept_heads: list[float]
    kept_neurons: list[float]
    pruning_seconds: float
    seconds_by_stage: dict[str, float]
    peak_memory_mb: float | None
    calibration: CalibrationUsed
    latency: Latency | None
    versions: dict[str, str | None]
    commit: str | None
    config: dict[str, Any]
    details: dict[str, Any]
    target: Target
    params_reduction_requested: float | None = None
    params_reduction_of_model: float | None = None
    plan: dict[str, list[int]] | None = None
    device: str | None = None
    sparsity: float | None = None
    size: Size | None = None
    vocabulary: VocabularyUsed | None = None

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Read a result file.

        Raises:
            UserError: the file is missing or damaged.
        """
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is damaged ({one_line(error)}): run its cell again") from error

    @classmethod
    def from_json(cls, content: Any) -> "Record":
        """Build a record from the plain values of a result file of this or an earlier version.

        Raises:
            ValueError: an entry is missing or has a wrong type; the message names the entry.
        """
        if isinstance(content, Mapping) and "target" not in content:
            content = {**content, "target": _earlier_target(content)}
        return _read(cls, content, "")

    def to_json(self) -> dict[str, Any]:
        """Return the plain values of a result file; null for numbers that JSON can't hold."""
        return plain(self)

    @property
    def name(self) -> str:
        """Return the method's name with its variant, as in the path of the cell: `kprune+tokens=2000`."""
        return named(self.method, self.variant)

    @property
    def method_version(self) -> int:
        """Return the version of the method's algorithm, 1 if the record does not say."""
        return self.config.get("method_version", 1)


def plain(value: Any) -> Any:
    """Return the plain JSON values of nested dataclasses, targets, dicts and lists; None for NaN and infinities."""
    if isinstance(value, Target):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _earlier_target(content: Mapping[str, Any]) -> str:
    """Return the target of an older record without `target`: the requested share of FLOPs or, without one, the config's target.

    Raises:
        ValueError: neither is a valid target.
    """
    requested, config = content.get("flops_reduction_requested"), content.get("config")
    try:
        if requested is not None:
            return str(Target("flops", requested))
        return str(Target.from_options(config if isinstance(config, Mapping) else {}))
    except UserError as error:
        raise ValueError(f"no target: {error}") from error


def _read(kind: Any, value: Any, name: str) -> Any:
    """Check that a plain value has a type, and build the dataclasses in it; entries without a field are left out.

    Raises:
        ValueError: the value has another type, or an entry is missing; the message has its dotted `name`.
    """
    if kind is Any:
        return value
    if kind is Target and isinstance(value, str):
        try:
            return Target.parse(value)
        except UserError as error:
            raise ValueError(str(error)) from error
    if is_dataclass(kind) and isinstance(value, Mapping):
        return _read_fields(kind, value, name)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        kinds = [entry for entry in inner if entry is not type(None)]
        return None if value is None and len(kinds) < len(inner) else _read(kinds[0], value, name)
    if origin is list and isinstance(value, list):
        return [_read(inner[0], entry, name) for entry in value]
    if origin is dict and isinstance(value, Mapping):
        return {key: _read(inner[1], entry, f"{name}.{key}") for key, entry in value.items()}
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    if kind in (str, bool) and isinstance(value, kind):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"{name or 'the record'} is {value!r:.80}")


def _read_fields(kind: Any, content: Mapping[str, Any], name: str) -> Any:
    hints, values = get_type_hints(kind), {}
    for field in fields(kind):
        inner = f"{name}.{field.name}" if name else field.name
        if field.name in content:
            values[field.name] = _read(hints[field.name], content[field.name], inner)
        elif field.default is MISSING:
            raise ValueError(f"{inner} is missing")
    return kind(**values)
