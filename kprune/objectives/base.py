"""What a model's head predicts: how far a student is from its teacher, and the loss on labels."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kprune.types import Model

EXACT_CLASSES = 3
"""Up to so many outputs, the Fisher of a classifier is exact; beyond, it is sampled with random signs."""
IGNORED = -100
"""The label of a token that has none, as transformers' losses have it."""


class Objective(ABC):
    """One kind of head, and all that it implies.

    The rest of the library never asks of which kind a head is: it reads the head's logits with `answers` and compares them with
    `divergence`. Labels are a tensor [B], or [B, k] if there are k `label_keys`, or one number for each of what `labels_of` says.

    Attributes:
        name: as in `task=`.
        class_suffixes: ends of the names of the transformers classes that have this head, the usual one first.
        auto_class: name of the transformers auto class that loads a model with this head.
        label_keys: names under which transformers' batches carry the labels; () if there are none.
        problem_type: what transformers' config calls the problem, for classes with several kinds of heads; None elsewhere.
        labels_of: what each number of the labels belongs to: the whole example, a token ([B, T]) or an output of the head ([B,
            outputs]).
        labels_are_positions: whether labels are positions of tokens, which move with the padding before an example.
        reads_labels: whether labels say which tokens are compared, so that every method reads them.
        of_choices: whether an example is several texts, and the head gives each a logit. Batches then are [B, choices, T] for
            transformers, and rows [R, T] with `choices` [B] here (`kprune.data.collate`).
    """

    name: ClassVar[str]
    class_suffixes: ClassVar[tuple[str, ...]]
    auto_class: ClassVar[str]
    label_keys: ClassVar[tuple[str, ...]] = ("labels",)
    problem_type: ClassVar[str | None] = None
    labels_of: ClassVar[Literal["example", "token", "output"]] = "example"
    labels_are_positions: ClassVar[bool] = False
    reads_labels: ClassVar[bool] = False
    of_choices: ClassVar[bool] = False

    @classmethod
    def fits(cls, model: Model) -> bool:
        """Tell whether a transformers model's head is of this kind.

        Raises:
            UserError: the head looks like it, but asks for something that this kind does not compare.
        """
        return type(model).__name__.endswith(cls.class_suffixes)

    @abstractmethod
    def read(self, output: Any, attention_mask: Tensor) -> Tensor:
        """Return the logits of a transformers model output that `divergence` and `loss` compare, batch first.

        Args:
            attention_mask: [B, T], zero where there is padding.
        """

    def answers(self, output: Any, batch: dict[str, Tensor]) -> Tensor:
        """Return the logits that are compared, of a transformers model output for a collated batch."""
        return self.read(output, batch["attention_mask"])

    def answered(self, batch: dict[str, Tensor]) -> Tensor:
        """Return which entries of `answers` [B, P, ...] belong to a token, not to padding, for a head on tokens: [B, P] bool."""
        return batch["attention_mask"].bool()

    def read_tokens(self, attention_mask: Tensor, last: bool) -> Tensor:
        """Return which of the last layer's tokens the head reads: [B, T] bool. A classifier reads one token alone.

        Args:
            last: whether a classifier reads the last real token (`Family.reads_last_token`), and not the first.
        """
        real = attention_mask.bool()
        order = real.flip(1).cumsum(1).flip(1) if last else real.cumsum(1)
        return real & (order == 1)

    def label_values(self, model: Model, example: dict[str, Any]) -> int | None:
        """Return the number of values, from 0 up, that each number of an example's label may have; None if it may be any."""
        return None

    def label_shape(self, model: Model, tokens: int) -> list[int]:
        """Return the shape of an example's label, under each of `label_keys`, among so many tokens, padding counted."""
        if self.labels_of == "example":
            return []
        outputs: Any = model.config.num_labels
        return [tokens if self.labels_of == "token" else outputs]

    def crop(self, logits: Tensor, length: int) -> Tensor:
        """Return one example's logits without those of its padding; only a head that answers for every token has logits of padding."""
        return logits

    def most_likely(self, logits: Tensor, count: int) -> Tensor | None:
        """Return the indices [..., count] of the largest logits, if a comparison may leave the others out; None if it may not.

        A vocabulary is costly to compare as a whole, and nearly all of its tokens have almost no probability.
        """
        return None

    def with_padding(self, keep: bool) -> "Objective":
        """Return the same objective with padded positions in its softmax, or without; only for `Span` the two differ."""
        return self

    @abstractmethod
    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return the divergence (eq. 4 of the K-prune paper) for every example: [B]. `student` and `teacher` come from `answers`."""

    @abstractmethod
    def fisher_roots(self, logits: Tensor, temperature: float, keys: Tensor) -> list[Tensor]:
        """Return linear functions of the logits whose squared gradients add up to the Fisher of `divergence` at equality.

        For a change δ of an example's logits, `divergence` is ½ Σ_k (root_k(δ))² to second order (exactly so, or in
        expectation over random signs if the exact sum would need one root per class or position).

        Args:
            keys: an integer per example, [B], that its random signs are drawn with.

        Returns:
            one or more tensors [B], differentiable in the logits.
        """

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the task loss, the mean over the batch: a scalar."""


def excluded_logit(dtype: torch.dtype) -> float:
    """Return a logit that takes no part in a softmax: finite, and far below any other one at any temperature."""
    return -(torch.finfo(dtype).max ** 0.5)


def softmax_roots(logits: Tensor, temperature: float, signs: Tensor) -> Tensor:
    """Return `vᵀz` [..., K] of logits z [..., C] for `v_k = B s_k`, B Bᵀ = diag(p) − p pᵀ, p the tempered softmax of z.

    With signs [..., C, K] the identity matrix, the squares add up to the quadratic form exactly; with independent
    random signs and K = 1 they do in expectation.
    """
    p = F.softmax(logits.detach() / temperature, dim=-1)
    root = p.sqrt()
    v = root[..., None] * signs - p[..., None] * (root[..., None] * signs).sum(dim=-2, keepdim=True)
    return (v * logits[..., None]).sum(dim=-2)


def random_signs(keys: Tensor, size: int, stream: int) -> Tensor:
    """Return ±1 [B, size], the same for an example wherever it stands and however far it is padded."""
    positions = torch.arange(size, device=keys.device)
    mixed = (keys[:, None] * 2654435761 + positions * 40503 + stream * 97) % (1 << 31)
    for _ in range(3):  # xorshift and a multiplication: neighbouring positions end up unrelated
        mixed = ((mixed ^ (mixed >> 15)) * 739982445) % (1 << 31)
    return ((mixed >> 16) & 1) * 2.0 - 1.0


def kl_divergence(p_logits: Tensor, q_logits: Tensor, temperature: float) -> Tensor:
    """Return γ² KL(softmax(p/γ) ‖ softmax(q/γ)) over the last dimension."""
    log_p = F.log_softmax(p_logits / temperature, dim=-1)
    log_q = F.log_softmax(q_logits / temperature, dim=-1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(dim=-1)
