"""Models, heads, tasks and settings that can't be pruned or saved are told in one line, before the work."""

import pytest
import torch
from api import IDS, Headless, Recorder, padded_batches
from decoders import tiny_decoder
from families import tiny_of
from tiny import SHAPE, tiny_model
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.prune import l1_unstructured
from transformers import BertConfig, BertForPreTraining, BertForSequenceClassification

import kprune
from baselines.retrained.cofi import CoFi
from baselines.retrained.dynabert import DynaBERT
from baselines.retrained.ebert import EBERT
from baselines.retrained.finetuned import FineTuned
from kprune.checks import check_layers
from kprune.cli.loading import pick_device
from kprune.errors import UserError
from kprune.methods.kprune.algorithm import KPrune
from kprune.models.offload import place_for_layers
from kprune.objectives import Span


@pytest.mark.parametrize(
    "head, label, message",
    [
        (
            "classification",
            torch.tensor([0, 1, 2, 3]),
            "batch 0, example 3: labels is 3, not a whole number from 0 to 2",
        ),
        ("classification", torch.tensor([0, 1, -100, 2]), "example 2: labels is -100, .*: mend it$"),
        ("classification", torch.tensor([0.5, 1.0, 2.0, 1.0]), "example 0: labels is 0.5, .*: mend it$"),
        (
            "classification",
            torch.tensor([0.0, 1.0, 2.0, 1.0]),
            r"example 0: labels is 0.0, .*: convert them, labels.long\(\)$",
        ),
        (
            "classification",
            torch.tensor([[0], [1], [2], [1]]),
            r"labels is \[4, 1\], and .* needs \[4\], one for each example",
        ),
        ("classification", torch.tensor(1), r"labels is \[\], and there are 4 examples"),
        ("regression", torch.tensor([0.0, 1.0, float("nan"), 1.0]), "labels that are NaN or infinite"),
        # One loss in transformers, and 4 by 4 differences here.
        (
            "regression",
            torch.rand(4, 1),
            r"labels is \[4, 1\], and a regression head needs \[4\], one for each example",
        ),
        ("regression", torch.rand(4, 2), r"labels is \[4, 2\], and a regression head needs \[4\]"),
        ("span", torch.tensor([[0], [1], [2], [1]]), r"start_positions is \[4, 1\], and a span head needs \[4\]"),
        ("span", torch.tensor([0, 1, 2, 12]), "example 3: start_positions is 12, not a whole number from 0 to 9"),
    ],
)
def test_labels_that_a_head_has_not(head, label, message):
    model = tiny_model(head=head, dtype=torch.float32)
    names = ("start_positions", "end_positions") if head == "span" else ("labels",)
    batch = {"input_ids": torch.arange(5, 45).view(4, 10), **dict.fromkeys(names, label)}
    with pytest.raises(UserError, match=message) as error:
        kprune.prune(model, [batch], 0.5, "kwon")
    assert "\n" not in str(error.value)


def test_labels_of_several_values_at_once_have_one_for_each():
    """Values of several outputs, of which the loss is a mean."""
    torch.manual_seed(0)
    config = BertConfig(**SHAPE, num_labels=2, problem_type="regression")
    model, batch = BertForSequenceClassification(config).eval(), {"input_ids": torch.arange(5, 45).view(4, 10)}
    for wrong in (torch.rand(4), torch.rand(4, 1), torch.rand(4, 3)):
        with pytest.raises(UserError, match=r"regression head needs \[4, 2\], one for each output"):
            kprune.prune(model, [batch | {"labels": wrong}], 0.5, "kwon")
    assert kprune.prune(model, [batch | {"labels": torch.rand(4, 2)}], 0.5, "kwon").details["flops_reduction"] >= 0.5


def test_a_method_that_trains_is_told_where_it_can():
    model = tiny_model(dtype=torch.float32)
    for method in (DynaBERT(), EBERT(), CoFi(), FineTuned(KPrune())):
        with pytest.raises(UserError, match="trains on labelled examples.* use it with run.py"):
            kprune.prune(model, padded_batches(model), 0.5, method=method)


def test_models_and_settings_that_do_not_work():
    model = tiny_model()
    with pytest.raises(UserError, match="method 'nonsense' is unknown: use one of kprune_plus"):
        kprune.prune(model, padded_batches(model), method="nonsense")
    with pytest.raises(
        UserError,
        match="task 'nonsense' is unknown: use multi_label, regression, classification, multiple_choice, "
        "token_classification, span",
    ):
        kprune.prune(model, padded_batches(model), task="nonsense")
    with pytest.raises(UserError, match=r"outside \(0, 1\)"):
        kprune.prune(model, padded_batches(model), flops_reduction=80)
    with pytest.raises(UserError, match="no head that kprune can compare"):
        kprune.prune(BertForPreTraining(model.config), padded_batches(model))
    with pytest.raises(UserError, match="'Linear' is not supported"):
        kprune.prune(torch.nn.Linear(2, 2), padded_batches(model), task="classification")
    model.bert.encoder.layer[1].output.dense.weight.data[3, 4] = float("nan")
    with pytest.raises(UserError, match="bert.encoder.layer.1.output.dense.weight has values that are NaN"):
        kprune.prune(model, padded_batches(model))


class OwnBert(BertForSequenceClassification):
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = -output.logits
        return output


def own_class(name):
    model = tiny_model(dtype=torch.float32)
    model.__class__ = type(name, (OwnBert,), {})
    return model


def changed(change, family="bert", **settings):
    model = tiny_model(family, dtype=torch.float32, **settings)
    change(model)
    return model


def set_head(model):
    model.classifier = torch.nn.Sequential(torch.nn.Linear(32, 8), torch.nn.Linear(8, 3))


def name_arguments(model):
    set_head(model)
    model.classifier.arguments = dict


def widen_head(model):
    model.classifier = torch.nn.Linear(32, 4)


def add_module(model):
    model.bert.adapter = torch.nn.Linear(3, 3)


def replace_activation(model):
    model.bert.encoder.layer[1].intermediate.intermediate_act_fn = torch.nn.ReLU()


def wrap_query(model):
    class LoraLinear(torch.nn.Linear):
        pass

    model.bert.encoder.layer[2].attention.self.query.__class__ = LoraLinear


def set_forward(model):
    model.classifier.forward = lambda features: features[:, :3]


UNSAVEABLE = {
    "a subclass of a stock name": (own_class, "BertForSequenceClassification", "is not a class of transformers"),
    "a subclass": (own_class, "OwnForSequenceClassification", "is not a class of transformers"),
    "a head of one's own": (changed, set_head, "classifier is a Sequential, not a Linear"),
    "a wider head": (changed, widen_head, r"classifier has a bias of \[4\], not \[3\]"),
    "an attribute of the name that stand-ins have": (
        changed,
        name_arguments,
        "classifier is a Sequential, not a Linear",
    ),
    "a module more": (changed, add_module, "bert.adapter is added"),
    "another activation": (changed, replace_activation, "intermediate_act_fn is a ReLU, not a GELUActivation"),
    "an adapter": (changed, wrap_query, "layer.2.attention.self.query is a LoraLinear, not a Linear"),
    "weight norm": (changed, lambda m: weight_norm(m.classifier), "classifier is a ParametrizedLinear, not a Linear"),
    "masks": (changed, lambda m: l1_unstructured(m.classifier, "weight", 0.5), "classifier has bias and weight_orig"),
    "a patched forward": (changed, set_forward, "classifier has a forward of its own"),
}


@pytest.mark.parametrize("case", UNSAVEABLE)
def test_what_could_not_be_saved_is_told_before_anything_is_done(case):
    make, how, message = UNSAVEABLE[case]
    recorder = Recorder()
    with pytest.raises(UserError, match=message) as error:
        kprune.prune(make(how), [{"input_ids": IDS}], 0.5, method=recorder)
    assert not hasattr(recorder, "job") and "\n" not in str(error.value)


def set_attribute(path, **values):
    """Return what sets attributes of the module at a path of a model."""

    def change(model):
        for name, value in values.items():
            setattr(model.get_submodule(path), name, value)

    return change


def scale_frequencies(model):
    model.model.rotary_emb.inv_freq.mul_(0.5)


def set_config(**settings):
    return lambda model: model.config.update(settings)


LINEAR = {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}
ANOTHER_FUNCTION = {
    "an attention that looks ahead": (
        "qwen2",
        set_attribute("model.layers.1.self_attn", is_causal=False),
        "is_causal=False, not True",
    ),
    "a layer without positions": (
        "smollm3",
        set_attribute("model.layers.0.self_attn", use_rope=0),
        "use_rope=0, not 1",
    ),
    "other positions in the config": (
        "qwen2",
        set_config(**LINEAR),
        "model.rotary_emb has rope_type=default, not linear",
    ),
    "other frequencies": ("llama", scale_frequencies, "model.rotary_emb has another inv_freq"),
    "another padding token": ("roberta", set_config(pad_token_id=5), "roberta.embeddings has padding_idx=1, not 5"),
    "other token types": (
        "bert",
        lambda model: model.bert.embeddings.token_type_ids.fill_(1),
        "bert.embeddings has another token_type_ids",
    ),
    "another pooling": (
        "eurobert",
        set_attribute("", classifier_pooling="mean"),
        "the model has classifier_pooling=mean, not late",
    ),
    "no scale of dropped tokens": (
        "esm",
        set_attribute("esm.embeddings", token_dropout=False),
        "token_dropout=False, not True",
    ),
}


@pytest.mark.parametrize("case", ANOTHER_FUNCTION)
def test_a_setting_that_the_config_does_not_have_is_told_before_anything_is_done(case):
    family, change, message = ANOTHER_FUNCTION[case]
    model, recorder = tiny_of(family, torch.float32), Recorder()
    kprune.prune(model, [{"input_ids": IDS}], 0.5, method="kprune_fast")
    change(model)
    with pytest.raises(UserError, match=message) as error:
        kprune.prune(model, [{"input_ids": IDS}], 0.5, method=recorder)
    assert not hasattr(recorder, "job") and "\n" not in str(error.value)


def test_a_head_that_is_changed_afterwards_is_not_saved(tmp_path):
    outcome = kprune.prune(tiny_model(dtype=torch.float32), [{"input_ids": IDS}], 0.5)
    set_head(outcome.model)
    with pytest.raises(UserError, match="classifier is a Sequential, not a Linear"):
        outcome.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_device_without_float64(monkeypatch):
    """Apple's, which this one stands for."""
    zeros = torch.zeros

    def without_float64(*size, dtype=None, **settings):
        if dtype is torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return zeros(*size, dtype=dtype, **settings)

    model = tiny_model(dtype=torch.float32)
    monkeypatch.setattr(torch, "zeros", without_float64)
    with pytest.raises(
        UserError, match=r"^the model is on cpu, which does not compute in float64: .*model.to\('cpu'\)$"
    ):
        kprune.prune(model, padded_batches(model), 0.5)
    with pytest.raises(UserError, match="layers_on=cpu:0 is not to be had here, or has no float64"):
        place_for_layers("cpu:0", model.device)
    with pytest.raises(UserError, match="--device cpu is not to be had here, or has no float64"):
        pick_device("cpu")


@pytest.mark.parametrize(
    "head, task, message",
    [
        ("classification", "span", "'span' is for a ...ForQuestionAnswering model, this is a BertForSequence"),
        ("classification", Span(), "'span' is for a ...ForQuestionAnswering model"),
        ("span", "classification", "'classification' is for a ...ForSequenceClassification model, this is a BertForQ"),
        ("span", "regression", "'regression' is for a ...ForSequenceClassification model"),
        ("regression", "classification", "has one output.* give task='regression'"),
        ("classification", Span, "is unknown: use"),
        ("classification", ["span"], "is unknown: use"),
    ],
)
def test_a_task_that_is_not_the_heads(head, task, message):
    model = tiny_model(head=head, dtype=torch.float32)
    with pytest.raises(UserError, match=message):
        kprune.prune(model, padded_batches(model), 0.5, task=task)


def test_settings_of_a_model_that_are_one_line():
    roberta = tiny_model("roberta", dtype=torch.float32)
    roberta.config.pad_token_id = None
    with pytest.raises(UserError, match="config has no pad_token_id"):
        kprune.prune(roberta, [{"input_ids": IDS}], 0.5)
    model = tiny_model(dtype=torch.float32)
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(UserError, match=r"='flex_attention' is not .*\.set_attn_implementation\('sdpa'\)"):
        kprune.prune(model, [{"input_ids": IDS}], 0.5)
    model = tiny_model(dtype=torch.float32)
    with pytest.raises(UserError, match="method is a int: give the name"):
        kprune.prune(model, [{"input_ids": IDS}], 0.5, method=3)
    with pytest.raises(UserError, match="flops_reduction='0.8' is not a number"):
        kprune.prune(model, [{"input_ids": IDS}], "0.8")
    with pytest.raises(UserError, match="uniform='no' is neither True nor False"):
        kprune.prune(model, [{"input_ids": IDS}], 0.5, uniform="no")
    with pytest.raises(UserError, match=r"speedup_at=\(2, 8\) is no point: give a kprune.budgets.latency.Point"):
        kprune.prune(model, [{"input_ids": IDS}], speedup=2, speedup_at=(2, 8))
    with pytest.raises(UserError, match="Headless does not say which models have its head: give it class_suffixes"):
        kprune.prune(model, [{"input_ids": IDS}], 0.5, task=Headless())


def test_an_unknown_format_is_one_line(tmp_path):
    model = tiny_model(dtype=torch.float32)
    outcome = kprune.prune(model, padded_batches(model), 0.5, method="kprune_fast")
    for format in ("GGUF", ""):
        with pytest.raises(UserError, match=f"format={format} is unknown: use pruned, uniform, dense"):
            outcome.save(tmp_path / "model", format=format)


def test_only_weights_of_the_models_own_layers_tell_of_layers_left_out(tmp_path):
    model = tiny_decoder("gpt2")
    check_layers(tmp_path, model, ["lm_head.weight", "path.3.weight", "transformer.h.7.attn.bias"])
    with pytest.raises(UserError, match=r"has weights of transformer\.h\.7\.mlp\.c_fc, which"):
        check_layers(tmp_path, model, ["transformer.h.7.mlp.c_fc.weight"])
