"""Heads with a logit for each word of a vocabulary, at many tokens of a text."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kprune.objectives.base import Objective, kl_divergence

CHUNK = 256
"""Tokens whose logits are compared at once: a vocabulary is wide."""


class VocabularyHead(Objective):
    """Compare logits [B, T, vocabulary] by the KL, summed over an example's tokens.

    Logits of no token, as at padding, are zeros, so that they neither differ nor have a gradient.
    """

    def read_tokens(self, attention_mask: Tensor, last: bool) -> Tensor:
        return attention_mask.bool()

    def most_likely(self, logits: Tensor, count: int) -> Tensor | None:
        return logits.topk(count).indices if count < logits.shape[-1] else None

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        pairs = zip(student.split(CHUNK, dim=1), teacher.split(CHUNK, dim=1), strict=True)
        return torch.stack([kl_divergence(s, t, temperature).sum(dim=1) for s, t in pairs]).sum(dim=0)

    def fisher_roots(self, logits: Tensor, temperature: float, keys: Tensor) -> list[Tensor]:
        """Return one root per example: a random sign vector for every token, drawn with the example's key."""
        roots = []
        for example, key in zip(logits, keys.tolist(), strict=True):
            generator = torch.Generator().manual_seed(key)
            parts = [
                self._root(z, temperature, vocabulary_signs(len(z), z.shape[-1], generator, z.device))
                for z in example.split(CHUNK)
            ]
            roots.append(torch.stack(parts).sum())
        return [torch.stack(roots)]

    @staticmethod
    def _root(logits: Tensor, temperature: float, signs: Tensor) -> Tensor:
        """Return Σ_t v_tᵀ z_t of some tokens' logits [T, V], with v_t = √p ∘ s − p (√p · s) for signs s [T, V]."""
        p = F.softmax(logits.detach() / temperature, dim=-1)
        signed = p.sqrt().mul_(signs.to(p))
        v = signed - p.mul_(signed.sum(dim=-1, keepdim=True))
        return (v * logits).sum()


def vocabulary_signs(
    tokens: int, classes: int, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """Return ±1 [tokens, classes], int8; the signs of any two classes are independent, which is all that the Fisher needs.

    The classes are laid out in a square, and each has the product of its row's and its column's sign. So a vocabulary of
    50,000 takes some 450 draws a token.
    """
    rows = math.isqrt(classes - 1) + 1
    # Drawn token by token, so that padding behind them changes no draw.
    drawn = 2 * torch.randint(2, (tokens, 2, rows), dtype=torch.int8, generator=generator) - 1
    of_row, of_column = drawn.to(device).unbind(1)
    return (of_row[:, :, None] * of_column[:, None, :]).flatten(1)[:, :classes]
