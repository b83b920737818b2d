"""What a model's head predicts: how far a student is from its teacher, and the loss on labels.

Every task head is one of three: classification, regression or span (extractive question answering). The rest of
the library never asks which one it has; it reads the head's logits with `read` and compares them with `divergence`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kprune.errors import UserError

EXACT_CLASSES = 3
"""Up to so many classes, the Fisher of a classifier is exact; beyond, it is sampled with random signs."""


class Objective:
    """One kind of head. Labels are a tensor [B] ([B, 2] for spans: first and last token of the answer)."""

    def read(self, output, attention_mask: Tensor) -> Tensor:
        """Logits of a transformers model output that `divergence` and `loss` compare, batch first."""
        raise NotImplementedError

    def read_tokens(self, attention_mask: Tensor) -> Tensor:
        """Which of the last layer's tokens the head reads: [B, T] bool. A classifier reads the first alone."""
        first = torch.zeros_like(attention_mask, dtype=torch.bool)
        first[:, 0] = True
        return first

    def with_padding(self, keep: bool) -> "Objective":
        """The same objective with padded positions in its softmax, or without; only a span has any there."""
        return self

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """K_pred of the K-prune paper (eq. 4) for every example: [B]. `student` and `teacher` come from `read`."""
        raise NotImplementedError

    def fisher_roots(self, logits: Tensor, temperature: float, keys: Tensor) -> list[Tensor]:
        """Linear functions of the logits whose squared gradients add up to the Fisher of `divergence` at equality.

        For a change δ of an example's logits, `divergence` is ½ Σ_k (root_k(δ))² to second order (exactly so, or in
        expectation over random signs where the exact sum would need one root per class or position).

        Args:
            keys: an integer per example, [B], that its random signs are drawn with.

        Returns:
            one or more tensors [B], differentiable in the logits.
        """
        raise NotImplementedError

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Task loss, the mean over the batch: a scalar."""
        raise NotImplementedError


def softmax_roots(logits: Tensor, temperature: float, signs: Tensor) -> Tensor:
    """`vᵀz` [..., K] of logits z [..., C] for `v_k = B s_k`, B Bᵀ = diag(p) − p pᵀ, p the tempered softmax of z.

    With signs [..., C, K] the identity matrix, the squares add up to the quadratic form exactly; with independent
    random signs and K = 1 they do in expectation.
    """
    p = F.softmax(logits.detach() / temperature, dim=-1)
    root = p.sqrt()
    v = root[..., None] * signs - p[..., None] * (root[..., None] * signs).sum(dim=-2, keepdim=True)
    return (v * logits[..., None]).sum(dim=-2)


def random_signs(keys: Tensor, size: int, stream: int) -> Tensor:
    """±1 [B, size], the same for an example wherever it stands and however far it is padded."""
    positions = torch.arange(size, device=keys.device)
    mixed = (keys[:, None] * 2654435761 + positions * 40503 + stream * 97) % (1 << 31)
    for _ in range(3):  # xorshift and a multiplication: neighbouring positions end up unrelated
        mixed = ((mixed ^ (mixed >> 15)) * 739982445) % (1 << 31)
    return ((mixed >> 16) & 1) * 2.0 - 1.0


def kl_divergence(p_logits: Tensor, q_logits: Tensor, temperature: float) -> Tensor:
    """γ² KL(softmax(p/γ) ‖ softmax(q/γ)) over the last dimension."""
    log_p = F.log_softmax(p_logits / temperature, dim=-1)
    log_q = F.log_softmax(q_logits / temperature, dim=-1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(dim=-1)


class Classification(Objective):
    """Logits [B, classes]; KL divergence, cross-entropy."""

    def read(self, output, attention_mask: Tensor) -> Tensor:
        return output.logits

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return kl_divergence(student, teacher, temperature)

    def fisher_roots(self, logits: Tensor, temperature: float, keys: Tensor) -> list[Tensor]:
        classes = logits.shape[-1]
        if classes == 2:
            p = F.softmax(logits.detach() / temperature, dim=-1)
            return [p.prod(dim=-1).sqrt() * (logits[:, 1] - logits[:, 0])]
        if classes <= EXACT_CLASSES:
            signs = torch.eye(classes, dtype=logits.dtype, device=logits.device)
        else:
            signs = random_signs(keys, classes, 0)[..., None].to(logits.dtype)
        return list(softmax_roots(logits, temperature, signs).unbind(dim=-1))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)


class Regression(Objective):
    """Values [B], or [B, outputs] of several; squared error between student and teacher, summed over the outputs, in place
    of the KL. The temperature has no meaning here."""

    def read(self, output, attention_mask: Tensor) -> Tensor:
        return output.logits.squeeze(-1)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return _outputs((student - teacher) ** 2).sum(dim=1)

    def fisher_roots(self, logits: Tensor, temperature: float, keys: Tensor) -> list[Tensor]:
        return [2**0.5 * value for value in _outputs(logits).unbind(dim=1)]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(logits, labels.to(logits.dtype))


def _outputs(values: Tensor) -> Tensor:
    """[B, outputs], from [B] where there is one."""
    return values.reshape(len(values), -1)


class Span(Objective):
    """Start and end logits [B, 2, T]; the mean of their two KL divergences.

    Positions outside the attention mask are left out of the softmaxes, so a score does not depend on what an example
    was batched with. `keep_padding` puts them back, as the K-prune authors' code has it.
    """

    def __init__(self, keep_padding: bool = False):
        self.keep_padding = keep_padding

    def read(self, output, attention_mask: Tensor) -> Tensor:
        logits = torch.stack([output.start_logits, output.end_logits], dim=1)
        if self.keep_padding:
            return logits
        # Far below any logit, and still finite and far below them over any temperature.
        return logits.masked_fill(attention_mask[:, None, :] == 0, -(torch.finfo(logits.dtype).max ** 0.5))

    def read_tokens(self, attention_mask: Tensor) -> Tensor:
        return attention_mask.bool()

    def with_padding(self, keep: bool) -> "Span":
        return Span(keep)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return kl_divergence(student, teacher, temperature).mean(dim=-1)

    def fisher_roots(self, logits: Tensor, temperature: float, keys: Tensor) -> list[Tensor]:
        # The signs of start and end are independent, so that one root serves both.
        signs = torch.stack([random_signs(keys, logits.shape[-1], stream) for stream in (0, 1)], dim=1)
        roots = softmax_roots(logits, temperature, signs[..., None].to(logits.dtype))
        return [roots[..., 0].sum(dim=-1) / 2**0.5]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


OBJECTIVES = {"classification": Classification, "regression": Regression, "span": Span}


def objective_of(model) -> Objective:
    """The objective that a transformers model's head asks for.

    Raises:
        UserError: the head is neither a sequence classifier nor a question answerer, or it has several labels at once.
    """
    name = type(model).__name__
    if name.endswith("ForQuestionAnswering"):
        return Span()
    if name.endswith("ForSequenceClassification"):
        config = model.config
        if config.problem_type == "multi_label_classification":
            raise UserError(
                f"{name} has problem_type='multi_label_classification', which no KL of one softmax compares: give "
                "task='regression', which compares its logits by their squared error"
            )
        regression = config.problem_type == "regression" or config.num_labels == 1
        return Regression() if regression else Classification()
    raise UserError(
        f"{name} has no head K-prune can compare; use a ...ForSequenceClassification or ...ForQuestionAnswering model"
    )
