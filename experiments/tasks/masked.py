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
    """A text of which 15 % of the tokens are masked, and a pretrained encoder with the head for them.

    The documents are joined by `separator`, tokenised and cut into disjoint windows, each between the tokenizer's special
    tokens; what is left at the end is dropped. `kprune.masked_tokens` masks each window by its own tokens, the same for all models of
    one tokenizer. A window's loss is the mean over its masked tokens; the perplexity is the exponential of the mean over
    windows: the perplexity of BERT's pretraining (Devlin et al., 2019, table 6), and not the pseudo-perplexity that masks one
    token at a time (Salazar et al., 2020), which takes a forward pass for each token.
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
        """Return what stands around a window.

        Raises:
            UserError: the tokenizer masks nothing, or a window has no room for a text.
        """
        check_mask_token(tokenizer)
        around = special_tokens(tokenizer)
        if self.window <= len(around):
            raise UserError(
                f"task.window={self.window} leaves no room for a text beside {len(around)} special tokens: give more"
            )
        return around


class HubMaskedTask(MaskedTask, HubTextTask):
    """A text from the hub."""


class FileMaskedTask(MaskedTask, FileTextTask):
    """A file of one's own."""


class MaskedEvaluation(WindowEvaluation):
    """The mean negative log-likelihood of the masked tokens of each window."""

    metric = MaskedTask.metric

    def reduce(self, logits: Tensor, example: Example) -> Tensor:
        """Return a window's loss in place of its logits, [P, vocabulary]."""
        labels = torch.tensor([label for label in example["label"] if label != IGNORED], device=logits.device)
        return F.cross_entropy(logits[: len(labels)].float(), labels)


def special_tokens(tokenizer: Any) -> Around:
    """Return the tokens that a tokenizer puts before a text, and those behind it."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids, text = encoded["input_ids"], [place for place, own in enumerate(encoded["special_tokens_mask"]) if not own]
    return Around(ids[: text[0]], ids[text[-1] + 1 :])
