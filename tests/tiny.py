"""Tiny random models with an initialisation large enough that a broken mask shows."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    ElectraConfig,
    ElectraForQuestionAnswering,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForQuestionAnswering,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
)

from kprune.checkpoint import become_pruned
from kprune.data import CalibrationSet
from kprune.models import ModelView, view_of
from kprune.models.flops import flops_reduction, model_flops
from kprune.models.surgery import keep_units

SHAPE = dict(
    vocab_size=99,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=64,
    initializer_range=0.3,
)
DISTIL_SHAPE = dict(
    vocab_size=99, dim=32, n_layers=3, n_heads=4, hidden_dim=48, max_position_embeddings=64, initializer_range=0.3
)
CONFIGS = {
    "bert": lambda **kw: BertConfig(**SHAPE, **kw),
    "roberta": lambda **kw: RobertaConfig(**SHAPE, **kw),
    "electra": lambda **kw: ElectraConfig(**SHAPE, embedding_size=16, **kw),
    "distilbert": lambda **kw: DistilBertConfig(**DISTIL_SHAPE, **kw),
}
CLASSES = {
    "bert": (BertForSequenceClassification, BertForQuestionAnswering, BertForTokenClassification),
    "roberta": (RobertaForSequenceClassification, RobertaForQuestionAnswering, RobertaForTokenClassification),
    "electra": (ElectraForSequenceClassification, ElectraForQuestionAnswering, ElectraForTokenClassification),
    "distilbert": (
        DistilBertForSequenceClassification,
        DistilBertForQuestionAnswering,
        DistilBertForTokenClassification,
    ),
}
FAMILIES = tuple(CONFIGS)
HEADS = {
    "classification": dict(num_labels=3),
    "regression": dict(num_labels=1, problem_type="regression"),
    "span": {},
    "token_classification": dict(num_labels=4),
    "multi_label": dict(num_labels=3, problem_type="multi_label_classification"),
}
# Every head, and every family, with one of the others.
FAMILY_AND_HEAD = [(FAMILIES[i % len(FAMILIES)], head) for i, head in enumerate(HEADS)]
CLASS_OF = {"span": 1, "token_classification": 2}
"""Place in `CLASSES`; of other heads the first."""


def tiny_model(
    family: str = "bert", head: str = "classification", attention: str = "sdpa", dtype=torch.float64, seed=0, layers=3
):
    torch.manual_seed(seed)
    config = CONFIGS[family](**HEADS[head])
    config.num_hidden_layers = layers
    model = CLASSES[family][CLASS_OF.get(head, 0)](config)
    model.set_attn_implementation(attention)
    # A LayerNorm and biases at their initial values hide what they do.
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model.to(dtype).eval()


def head_share(dense: ModelView) -> float:
    """Return the share of a tiny model's FLOPs that one head has, at 8 tokens: its projections, scores and product."""
    return (8 * 8 * 32 * 8 + 4 * 8 * 8 * 8) / model_flops(dense, 8.0)


def assert_less_than_a_head_over(outcome, model, reduction: float) -> None:
    """The FLOPs at 8 tokens are met by less than a head's, what is on record is what is there, and answers are finite."""
    dense, pruned = view_of(model), view_of(outcome.model)
    achieved = flops_reduction(dense, pruned, 8.0)
    assert reduction <= achieved + 1e-9 <= reduction + head_share(dense) + 1e-9
    assert outcome.kept_heads == [block.units for block in pruned.of_kind("heads")]
    assert outcome.kept_neurons == [block.units for block in pruned.of_kind("neurons")]
    assert torch.isfinite(outcome.model(**tiny_batch())[0]).all()


def tiny_calibration(examples: int = 12, batch_size: int = 4, seed: int = 0, longest: int = 12) -> CalibrationSet:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, longest, (examples,), generator=generator).tolist()
    rows = [{"input_ids": torch.randint(5, 99, (n,), generator=generator).tolist()} for n in lengths]
    return CalibrationSet(rows, batch_size, pad_token_id=1)


def tiny_batch(seed: int = 0) -> dict[str, torch.Tensor]:
    return tiny_calibration(seed=seed).batches()[1]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of the words w0 to w96."""
    words = {word: index for index, word in enumerate(["[UNK]", "[PAD]", *(f"w{i}" for i in range(97))])}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")


# Heads and neurons kept per block; an attention and an FFN lose everything, and one keeps all.
KEPT_UNITS = [[], [1, 5, 40], [0, 2], [], [0, 1, 2, 3], list(range(0, 48, 3))]


def narrowed(family: str = "bert", head: str = "classification", kept_units=KEPT_UNITS):
    """A tiny pruned model in float32."""
    model = tiny_model(family, head, dtype=torch.float32, layers=len(kept_units) // 2)
    for block, units in zip(view_of(model).blocks, kept_units, strict=True):
        keep_units(block, torch.tensor(units, dtype=torch.long))
    return become_pruned(model)


def tiny_labelled(head: str = "classification", **settings) -> CalibrationSet:
    """`tiny_calibration` with a random label for each example."""
    plain = tiny_calibration(**settings)
    generator = torch.Generator().manual_seed(7)
    draw = lambda below: int(torch.randint(below, (1,), generator=generator))  # noqa: E731
    label = {
        "classification": lambda length: draw(3),
        "regression": lambda length: draw(50) / 10,
        "span": lambda length: (draw(length), draw(length)),
        "token_classification": lambda length: [-100, *(draw(4) for _ in range(length - 1))],
        "multi_label": lambda length: [draw(2) for _ in range(3)],
    }[head]
    rows = [example | {"label": label(len(example["input_ids"]))} for example in plain.examples]
    return CalibrationSet(rows, plain.batch_size, plain.pad_token_id)
