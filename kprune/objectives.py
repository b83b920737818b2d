"""What a model's head predicts: how far a student is from its teacher, and the loss on labels.

Every task head is one of three: classification, regression or span (extractive question answering). The rest of
the library never asks which one it has; it reads the head's logits with `read` and compares them with `divergence`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kprune.errors import UserError


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

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """K_pred of the K-prune paper (eq. 4) for every example: [B]. `student` and `teacher` come from `read`."""
        raise NotImplementedError

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Task loss, the mean over the batch: a scalar."""
        raise NotImplementedError


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

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)


class Regression(Objective):
    """Values [B]; squared error between student and teacher in place of the KL. The temperature has no meaning here."""

    def read(self, output, attention_mask: Tensor) -> Tensor:
        return output.logits.squeeze(-1)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return (student - teacher) ** 2

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(logits, labels.to(logits.dtype))


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
        return logits.masked_fill(attention_mask[:, None, :] == 0, torch.finfo(logits.dtype).min)

    def read_tokens(self, attention_mask: Tensor) -> Tensor:
        return attention_mask.bool()

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return kl_divergence(student, teacher, temperature).mean(dim=-1)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


OBJECTIVES = {"classification": Classification, "regression": Regression, "span": Span}


def objective_of(model) -> Objective:
    """The objective that a transformers model's head asks for.

    Raises:
        UserError: the head is neither a sequence classifier nor a question answerer.
    """
    name = type(model).__name__
    if name.endswith("ForQuestionAnswering"):
        return Span()
    if name.endswith("ForSequenceClassification"):
        config = model.config
        regression = config.problem_type == "regression" or config.num_labels == 1
        return Regression() if regression else Classification()
    raise UserError(
        f"{name} has no head K-prune can compare; use a ...ForSequenceClassification or ...ForQuestionAnswering model"
    )
