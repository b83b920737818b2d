"""Masked language modelling: the perplexity of masked tokens, in disjoint windows of a running text."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.inputs.drawing import Amount, Around, Draw, draw_texts
from experiments.inputs.texts import Texts
from experiments.tasks.language import FileTextTask, HubTextTask, LanguageTask, WindowEvaluation
from kprune.data import Example
from kprune.errors import UserError
from kprune.masked_tokens import SHARE, check_mask_token, mask_tokens
from kprune.objectives import MaskedLM
from kprune.objectives.base import IGNORED


class MaskedTask(LanguageTask):
    """Perplexity of masked tokens (15 % of a text), for a pretrained encoder with its head for masked tokens.

    The documents are joined by `separator`, tokenised and cut into disjoint windows; an incomplete window at the end is dropped.
    The tokenizer's special tokens stand around each window. `kprune.masked_tokens` masks a window depending only on its tokens, so
    that all models of one tokenizer have the same masked tokens. A window's loss is the mean over its masked tokens; the
    perplexity is the exponential of the mean over windows. This is the perplexity of BERT's pretraining (Devlin et al., 2019,
    table 6). It is not the pseudo-perplexity (Salazar et al., 2020), which masks one token at a time and needs a forward pass
    for each token.
    """

    metric = "masked_perplexity"
    wanted_model = "a pretrained encoder that still has its head for masked tokens, such as model=bert_base"
    generates = False
    latency_point = (32, 128)
    usual_window = 512
    objective_kind = MaskedLM

    def draw(self, texts: Texts, tokenizer: Any, amount: Amount, seed: int) -> tuple[list[Example], Draw]:
        drawn, draw = draw_texts(texts, tokenizer, self.window, amount, seed, self._around(tokenizer))
        return [mask_tokens({"input_ids": ids}, tokenizer) for ids in drawn], draw

    def tokenise_training(self, tokenizer: Any) -> list[Example]:
        self._around(tokenizer)
        return [mask_tokens(example, tokenizer) for example in super().tokenise_training(tokenizer)]

    def tokenise_evaluation(self, tokenizer: Any) -> WindowEvaluation:
        around, texts = self._around(tokenizer), self.evaluation_texts()
        windows = self.windows_of(texts, tokenizer, self.window - len(around), special=False)
        examples = [mask_tokens({"input_ids": around.put(ids)}, tokenizer) for ids in windows]
        data = f"{texts.source}, {100 * SHARE:.0f} % masked"
        return MaskedEvaluation(self.evaluation_split, examples, data, self.window, "each")

    def _around(self, tokenizer: Any) -> Around:
        """Return the special tokens around a window.

        Raises:
            UserError: the tokenizer has no mask token, or a window has no room for text beside the special tokens.
        """
        check_mask_token(tokenizer)
        around = special_tokens(tokenizer)
        if self.window <= len(around):
            raise UserError(
                f"task.window={self.window} leaves no room for a text beside {len(around)} special tokens: give more"
            )
        return around


class HubMaskedTask(MaskedTask, HubTextTask):
    """Perplexity of masked tokens of a text from the hub."""


class FileMaskedTask(MaskedTask, FileTextTask):
    """Perplexity of masked tokens of the user's own file."""


class MaskedEvaluation(WindowEvaluation):
    """An evaluation set of windows; the prediction for a window is the mean negative log-likelihood of its masked tokens."""

    metric = MaskedTask.metric

    def reduce(self, logits: Tensor, example: Example) -> Tensor:
        """Return the loss of a window, a scalar, from the logits [P, vocabulary] of its P masked tokens."""
        labels = torch.tensor([label for label in example["label"] if label != IGNORED], device=logits.device)
        return F.cross_entropy(logits[: len(labels)].float(), labels)


def special_tokens(tokenizer: Any) -> Around:
    """Return the special tokens that a tokenizer puts before a text and behind it."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids, text = encoded["input_ids"], [place for place, own in enumerate(encoded["special_tokens_mask"]) if not own]
    return Around(ids[: text[0]], ids[text[-1] + 1 :])
