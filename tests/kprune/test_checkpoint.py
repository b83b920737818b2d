import json
import re
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import run_plain
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, KEPT_UNITS, narrowed, tiny_batch, tiny_calibration, tiny_model, tiny_tokenizer
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    Trainer,
    TrainingArguments,
)

import kprune
from kprune.checkpoint import load, save
from kprune.checkpoint.dense import densified
from kprune.errors import UserError
from kprune.models import view_of
from kprune.models.surgery import keep_layers, keep_units
from kprune.plan import Plan

FORMAT_1 = Path(__file__).parents[1] / "fixtures" / "format_1"
AUTO = {"classification": AutoModelForSequenceClassification, "span": AutoModelForQuestionAnswering}
FRESH_PROCESS = """
import sys, torch, transformers
from pathlib import Path
from types import SimpleNamespace
sys.modules["kprune"] = None
batch = torch.load("batch", weights_only=True)
out = {}
for folder in sorted(Path("models").iterdir()):
    for name in ("AutoModel", "AutoModelForQuestionAnswering" if "span" in folder.name else "AutoModelForSequenceClassification"):
        model = getattr(transformers, name).from_pretrained(folder, trust_remote_code=True)
        out[folder.name, name] = [value.detach() for value in model(**batch).to_tuple()]
texts = transformers.pipeline("text-classification", "models/bert-classification", trust_remote_code=True)
out["texts"] = texts(["w3 w4 w5", "w90 w8"], top_k=None)
model.save_pretrained("resaved")
transformers.AutoModelForQuestionAnswering.from_pretrained("resaved", trust_remote_code=True)
for folder in sorted(Path("format_1").iterdir()):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    out["format 1", folder.name] = model(**batch).logits.detach()
for folder in sorted(Path("tampered").iterdir()):
    try:
        transformers.AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    except ValueError as error:
        out[folder.name] = str(error)
arguments = transformers.TrainingArguments("run", max_steps=2, report_to=[], use_cpu=True, disable_tqdm=True, save_steps=1)
rows = [{"input_ids": torch.full((8,), 5 + i % 3), "labels": i % 3} for i in range(4)]
model = transformers.AutoModelForSequenceClassification.from_pretrained("models/roberta-classification", trust_remote_code=True)
trainer = transformers.Trainer(model, arguments, train_dataset=rows)
trainer.train()
trainer.save_model("trained")
out["trained"] = model.eval()(**batch).logits.detach()
uploaded = []
hub, api = transformers.utils.hub, transformers.utils.hub.hf_api().__class__
hub.create_and_tag_model_card = lambda *args, **kwargs: type("Card", (), {"save": lambda self, path: None})()
api.create_repo = lambda self, repo_id, **kwargs: type("Repo", (), {"repo_id": repo_id})()
api.create_commit = lambda self, operations, **kwargs: uploaded.extend(o.path_in_repo for o in operations)
model.push_to_hub("somebody/model")
out["pushed"] = sorted(uploaded)
uploaded.clear()
model.save_pretrained("pushed", push_to_hub=True, repo_id="somebody/model")
out["saved and pushed"] = sorted(uploaded)
torch.save(out, "out")
"""


def entry(edit):
    """Return an edit of config.json's entry `kprune`."""
    return lambda config: config | {"kprune": edit(config["kprune"])}


def table(name, changes):
    """Return an edit of one of the tables in it; of a module's size, None takes it out."""
    return entry(
        lambda old: old | {name: {key: value for key, value in (old[name] | changes).items() if value is not None}}
    )


QUERY, FFN = "encoder.layer.1.attention.self.query", "encoder.layer.2.output.dense"
EMPTY = "encoder.layer.0.attention.self"
# What is done to config.json, and what the error says in plain transformers, too.
TAMPERED = {
    "one_row_more": (table("modules", {QUERY: [32, 24]}), "disagree about"),
    "one_neuron_more": (table("modules", {FFN: [17, 32]}), "disagree about"),
    "no_heads": (
        table("emptied", {"encoder.layer.2.attention.self": {"output": None, "pair": True, "layer": None}}),
        "disagree about|has no attribute .query",
    ),
    "negative": (table("modules", {QUERY: [32, -1]}), r"the size \[32, -1\] for .*query, of \[32, 32\] at most"),
    "too_wide": (table("modules", {FFN: [49, 32]}), r"the size \[49, 32\] for .*dense, of \[48, 32\] at most"),
    "fractional": (table("modules", {FFN: [1.5, 32]}), r"the size \[1.5, 32\]"),
    "boolean": (table("modules", {FFN: [True, 32]}), r"the size \[True, 32\]"),
    "one_number": (table("modules", {FFN: 16}), "the size 16"),
    "unknown_module": (table("modules", {"encoder.layer.9.output.dense": [3, 3]}), "the module encoder.layer.9"),
    "no_linear_module": (table("modules", {"encoder.layer.1.attention": [3, 3]}), "no linear module"),
    "an_empty_path": (table("emptied", {"": {"bias": None}}), "which has no units"),
    "a_huge_bias": (table("emptied", {"encoder.layer.0.attention.output.dense": {"bias": 2**23}}), "none of that size"),
    "a_name_of_a_module": (
        table("emptied", {EMPTY: {"output": "a.b", "pair": True, "layer": None}}),
        "output is a.b",
    ),
    "a_layer_by_name": (table("emptied", {EMPTY: {"output": None, "pair": True, "layer": "x"}}), "layer is x"),
    "too_many_heads": (
        table("attributes", {"encoder.layer.1.attention.self.num_attention_heads": 5}),
        "5 for the attribute .*, of 4 at most",
    ),
    "an_attribute_that_is_none": (table("attributes", {"encoder.layer.1.forward": 5}), "the attribute .*forward"),
    "tables_missing": (entry(lambda old: {"format": 2, "layers": "encoder.layer"}), "no table kprune.modules"),
    "a_list": (entry(lambda old: old | {"modules": [1]}), "no table kprune.modules"),
    "no_entry": (lambda config: {k: v for k, v in config.items() if k != "kprune"}, "no entry kprune"),
    "newer": (entry(lambda old: old | {"format": 3}), "kprune format 3, this code reads 2"),
}


@pytest.fixture
def tokenizer():
    return tiny_tokenizer()


def plan_of(model, kept_units, layers_left_out=()):
    return Plan.of(view_of(model), kept_units, layers_left_out)


def edit_config(folder, edit):
    path = folder / "config.json"
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    return folder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", ["classification", "span"])
def test_load_gives_the_same_logits(family, head, tmp_path):
    model, batch = narrowed(family, head), tiny_batch()
    model.config.id2label = {0: "no", 1: "yes", 2: "maybe"} if head == "classification" else model.config.id2label
    loaded = load(save(model, tmp_path / "model"))
    assert torch.equal(loaded(**batch)[0], model(**batch)[0])
    assert loaded.config.id2label == model.config.id2label


def test_plain_transformers_loads_it_in_a_fresh_process(tmp_path, tokenizer):
    """Every family, head and auto class to the last bit, a pipeline, and tampered folders, where kprune is not there."""
    batch, expected = tiny_batch(), {}
    for family in FAMILIES:
        for head, auto in AUTO.items():
            model = narrowed(family, head)
            name = save(model, tmp_path / "models" / f"{family}-{head}", tokenizer).name
            expected[name, auto.__name__] = model(**batch).to_tuple()
            expected[name, "AutoModel"] = model.base_model(**batch).to_tuple()[:1]  # a fresh pooler may be added
    for name, (edit, _) in TAMPERED.items():
        edit_config(save(narrowed(), tmp_path / "tampered" / name), edit)
    shutil.copytree(FORMAT_1, tmp_path / "format_1")
    torch.save(batch, tmp_path / "batch")
    run_plain(FRESH_PROCESS, tmp_path)
    out = torch.load(tmp_path / "out", weights_only=True)
    for key, values in expected.items():
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(values, out[key], strict=False)), key
    for family in FAMILIES:
        logits = json.loads((FORMAT_1 / family / "logits.json").read_text())
        assert torch.equal(out["format 1", family], torch.tensor(logits)), family
    inputs = tokenizer("w3 w4 w5", return_tensors="pt")
    shown = {entry["label"]: entry["score"] for entry in out["texts"][0]}
    torch.testing.assert_close(
        torch.tensor([shown[f"LABEL_{i}"] for i in range(3)]), narrowed()(**inputs).logits.softmax(-1)[0].detach()
    )
    config = json.loads((tmp_path / "resaved/config.json").read_text())
    assert set(config["auto_map"]) >= {"AutoModel", *(auto.__name__ for auto in AUTO.values())}
    sizes = config["kprune"]["modules"]
    assert sizes["encoder.layer.0.intermediate.dense"] == [32, 3] and sizes[QUERY] == [32, 16]
    for name, (_, message) in TAMPERED.items():
        assert re.search(message, out[name]), name
    for folder in (tmp_path / "trained", tmp_path / "run/checkpoint-2"):
        assert torch.equal(load(folder)(**batch).logits, out["trained"])
    for pushed in ("pushed", "saved and pushed"):
        assert {"config.json", "model.safetensors", "modeling_kprune.py"} <= set(out[pushed])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(narrowed(), tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


WATCHED = []


def watch(event, arguments):
    """Keep what is connected to, started, or opened for writing while a test looks."""
    if WATCHED and (event.startswith(("socket.connect", "subprocess", "os.system", "os.exec")) or event == "os.remove"):
        WATCHED[0].append((event, *arguments))
    if WATCHED and event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        WATCHED[0].append((event, *arguments))


sys.addaudithook(watch)


@contextmanager
def nothing_else():
    """Within, nothing is fetched, started or written."""
    WATCHED.append([])
    try:
        yield
        assert WATCHED[0] == []
    finally:
        WATCHED.clear()


def setting(**changes):
    return lambda config: config | changes


# What only `kprune.load` looks at, or meets before transformers does.
UNTRUSTED = {
    "architectures_missing": (lambda c: {k: v for k, v in c.items() if k != "architectures"}, "holds nothing"),
    "architectures_empty": (setting(architectures=[]), "not a pruned model"),
    "architectures_of_a_dict": (setting(architectures=[{}]), "not a pruned model"),
    "another_architecture": (setting(architectures=["BertForSequenceClassification"]), "not a pruned model"),
    "a_path_for_a_class": (setting(architectures=["Pruned../evil"]), "not a pruned model"),
    "a_class_that_is_none": (setting(architectures=["PrunedAutoModel"]), "bert has no such model"),
    "a_class_of_another_family": (setting(architectures=["PrunedGPT2Model"]), "bert has no such model"),
    "another_family": (setting(model_type="clip"), "of the family 'clip'"),
    "a_family_that_is_a_list": (setting(model_type=["bert"]), "of the family"),
    "a_hub_kernel": (setting(attn_implementation="evil/kernel"), "attn_implementation='evil/kernel'"),
    "a_hidden_hub_kernel": (setting(_attn_implementation_internal="evil/kernel"), "none of transformers' own"),
    "flash_attention": (setting(_attn_implementation="flash_attention_2"), "none of transformers' own"),
    "quantized": (setting(quantization_config={"quant_method": "gptq", "bits": 4}), "quantization_config"),
    "code_of_the_hub": (setting(auto_map={"AutoModel": "evil/repo--code.Evil"}), "auto_map to code"),
    "code_of_the_folder": (setting(auto_map={"AutoModel": "os.system"}), "auto_map to code"),
    "auto_map_of_a_list": (setting(auto_map=["modeling_kprune.PrunedBertModel"]), "auto_map to code"),
    "no_heads_at_all": (setting(num_attention_heads=0), "does not load"),
    "heads_that_do_not_divide": (setting(num_attention_heads=5), "does not load"),
    "more_heads": (setting(num_attention_heads=8), "does not load"),
    "negative_size": (setting(hidden_size=-32), "hidden_size='-32'"),
    "wide": (setting(hidden_size=32000), "hidden_size='32000', and the weights have 99 at most"),
    "a_huge_vocabulary": (setting(vocab_size=10_000_000), "vocab_size='10000000'"),
    "a_number_beyond_all": (setting(intermediate_size=10**12), "the number 1000000000000, which is no size"),
    "a_number_inside": (setting(id2label={"0": 10**30}), "which is no size"),
    "many_layers": (setting(num_hidden_layers=1_000_000), "lists '1000000' layers, the weights have 3"),
    "fewer_layers": (setting(num_hidden_layers=2), "lists '2' layers"),
    "no_layers": (setting(num_hidden_layers=0), "layers, the weights have 3"),
    "many_labels": (setting(num_labels=10_000_000), "num_labels='10000000'"),
    "a_label_more": (setting(id2label={str(i): str(i) for i in range(4)}, label2id={}), "disagree about classifier"),
    "labels_of_a_list": (setting(id2label=["a", "b", "c"]), "does not load"),
    "positions": (setting(max_position_embeddings=32), "disagree about .*position_embeddings"),
    "a_word_for_a_size": (setting(hidden_size="32"), "does not load"),
    "a_list_for_a_size": (setting(vocab_size=[99]), "does not load"),
    "nothing_for_a_size": (setting(intermediate_size=None), "does not load"),
    "a_fraction_of_layers": (setting(num_hidden_layers=3.0), "does not load"),
    "an_unknown_activation": (setting(hidden_act="nonsense"), "does not load"),
    "an_activation_that_is_a_dict": (setting(hidden_act={"a": 1}), "does not load"),
    "a_method_of_the_config": (setting(to_dict="x"), "'to_dict', which is no setting"),
    "padding_beyond_the_vocabulary": (setting(pad_token_id=5000), "does not load"),
    "widths_of_format_1": (setting(kprune_format=1, kept_heads=[0, 2], kept_neurons=[1, 1, 1]), "no list kept_heads"),
    "another_list_of_layers": (entry(lambda old: old | {"layers": "encoder"}), "does not load"),
    "a_norm_replaced": (
        table("emptied", {"encoder.layer.1.output.LayerNorm": {"bias": 32}}),
        "LayerNorm among kprune.emptied|disagree",
    ),
    "the_embeddings_resized": (
        table("modules", {"embeddings.word_embeddings": [32, 99]}),
        "word_embeddings",
    ),
    "an_entry_more": (
        table("emptied", {EMPTY: {"output": None, "pair": True, "layer": None, "more": 1}}),
        "among kprune.emptied",
    ),
}


@pytest.mark.parametrize("name", [*TAMPERED, *UNTRUSTED])
def test_a_tampered_config_is_one_clear_error(name, folder):
    """Nothing is fetched, run or written for it."""
    edit, message = (TAMPERED | UNTRUSTED)[name]
    (folder / "modeling_kprune.py").write_text("raise SystemExit('code of the folder was run')")
    edit_config(folder, edit)
    with pytest.raises(UserError, match=message) as error, nothing_else():
        load(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_no_other_file_of_the_folder_is_read(folder):
    """An adapter's config, an index and code beside the weights, which transformers would follow, change nothing."""
    expected, batch = narrowed(), tiny_batch()
    (folder / "modeling_kprune.py").write_text("raise SystemExit('code of the folder was run')")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/base", "peft_type": "LORA"}')
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../../elsewhere.safetensors"}}')
    (folder / "generation_config.json").write_text("{")
    edit_config(
        folder, setting(_name_or_path="evil/base", name_or_path="evil/base", torch_dtype="os", dtype="nonsense")
    )
    with nothing_else():
        loaded = load(folder)
    assert torch.equal(loaded(**batch).logits, expected(**batch).logits)
    assert loaded.dtype == torch.float32 and "evil" not in str(loaded.config)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool])
def test_weights_of_another_type(dtype, folder):
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"] = weights["classifier.bias"].to(dtype)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(UserError, match="classifier.bias is (I8|BOOL), and weights are F64, F32"):
        load(folder)


def test_a_saved_model_says_how_attention_was_run(tmp_path):
    """Older transformers write it into the config; what is transformers' own is no harm."""
    folder = edit_config(
        save(narrowed(), tmp_path / "model"), setting(_attn_implementation_autoset=True, seen=[1, "x"])
    )
    assert load(edit_config(folder, setting(attn_implementation="eager"))).config.seen == [1, "x"]


@pytest.mark.parametrize("family", FAMILIES)
def test_format_1_loads_to_the_last_bit_and_is_saved_as_format_2(family, tmp_path):
    expected, batch = torch.tensor(json.loads((FORMAT_1 / family / "logits.json").read_text())), tiny_batch()
    model = load(FORMAT_1 / family)
    assert torch.equal(model(**batch).logits, expected)
    model.save_pretrained(tmp_path / "by transformers")
    for folder in (save(model, tmp_path / "again"), tmp_path / "by transformers"):
        config = json.loads((folder / "config.json").read_text())
        assert config["kprune"]["format"] == 2 and not {"kprune_format", "kept_heads", "kept_neurons"} & set(config)
        assert "format`: 2" in (folder / "modeling_kprune.py").read_text()
        assert torch.equal(load(folder)(**batch).logits, expected)


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("bert", dict(kept_heads=[0, 2, 5]), "of .* at most"),
        ("bert", dict(kept_heads=[0, 2, -4]), "-4 in kept_heads"),
        ("bert", dict(kept_neurons=[3, 0]), "no list kept_neurons of 3 numbers"),
        ("distilbert", dict(kept_neurons=[3, 0, 1.5]), "1.5 in kept_neurons"),
        ("distilbert", dict(kept_heads=[1, 2, 4]), "disagree about"),
        ("electra", dict(kprune_format=7), "no entry kprune"),
    ],
)
def test_format_1_with_other_widths(name, changes, message, tmp_path):
    folder = shutil.copytree(FORMAT_1 / name, tmp_path / name)
    with pytest.raises(UserError, match=message):
        load(edit_config(folder, setting(**changes)))


def test_damage_is_one_clear_error(tmp_path):
    folder = save(narrowed(), tmp_path / "model")
    with pytest.raises(UserError, match="has no config.json"):
        load(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights.pop("classifier.bias")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="classifier.bias"):
        load(folder)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="does not load"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is damaged"):
        load(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(UserError, match="config.json is damaged"):
        load(folder)
    (folder / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="config.json is damaged"):
        load(folder)
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="config.json is damaged"):
        load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no model.safetensors"):
        load(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_is_the_stock_model_with_zeros_at_the_removed_units(family, tmp_path):
    model, stock, batch = narrowed(family), tiny_model(family, dtype=torch.float32), tiny_batch()
    random_state = torch.get_rng_state()
    folder = save(model, tmp_path / "model", format="dense", plan=plan_of(stock, KEPT_UNITS))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not (folder / "modeling_kprune.py").exists()
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert type(loaded) is type(stock)
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, rtol=1e-5, atol=1e-5)
    for ours, theirs, units in zip(view_of(loaded).blocks, view_of(stock).blocks, KEPT_UNITS, strict=True):
        for linear, original in zip(ours.inputs, theirs.inputs, strict=True):
            kept = torch.zeros(theirs.units, ours.width)
            kept[units] = 1
            assert torch.equal(linear.weight, original.weight * kept.view(-1, 1))
        assert torch.equal(ours.output.bias, theirs.output.bias)
    packed = densified(model)  # without the places, the units come first
    torch.testing.assert_close(packed(**batch).logits, model(**batch).logits, rtol=1e-5, atol=1e-5)


def test_dense_of_a_model_with_dropped_layers(tmp_path):
    """As DynaBERT's: the kept units of all layers, none in the one that is gone."""
    kept_units, batch = [[1, 3], [1, 5, 40], [], [], [0], [0, 9]], tiny_batch()
    model = narrowed(kept_units=kept_units)
    keep_layers(view_of(model), [0, 2])
    plan = plan_of(tiny_model(), kept_units, layers_left_out=[1])
    folder = save(model, tmp_path / "model", format="dense", plan=plan)
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, rtol=1e-5, atol=1e-5)
    places = [s.output.weight.any(dim=0).nonzero()[:: s.width, 0] // s.width for s in view_of(loaded).blocks]
    assert [units.tolist() for units in places] == [[1, 3], [1, 5, 40], [0], [0, 9]]


def test_a_dense_copy_is_pruned_again(tmp_path):
    dense = AutoModelForSequenceClassification.from_pretrained(save(narrowed(), tmp_path / "model", format="dense"))
    keep_units(view_of(dense).blocks[0], torch.tensor([0]))
    again = load(save(dense, tmp_path / "again"))
    assert [block.units for block in view_of(again).of_kind("heads")] == [1, 4, 4]
    assert not hasattr(again.config, "kprune_dense")


def test_a_pruned_model_is_fine_tuned_by_the_trainer(tmp_path):
    """The loss falls; what the Trainer saves loads again, here and in plain transformers."""
    torch.manual_seed(0)
    rows = [
        {"input_ids": torch.full((8,), 5 + i % 3), "attention_mask": torch.ones(8).long(), "labels": i % 3}
        for i in range(32)
    ]
    model = tiny_model(dtype=torch.float32)
    outcome = kprune.prune(model, tiny_calibration().batches(), 0.8)
    arguments = TrainingArguments(
        tmp_path / "run",
        max_steps=30,
        learning_rate=5e-3,
        per_device_train_batch_size=16,
        logging_steps=10,
        save_steps=15,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(outcome.model, arguments, train_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
    trainer.save_model(tmp_path / "tuned")
    for folder in (tmp_path / "tuned", tmp_path / "run/checkpoint-30"):
        loaded, batch = load(folder), tiny_batch()
        assert [block.units for block in view_of(loaded).of_kind("neurons")] == outcome.kept_neurons
        assert torch.equal(loaded(**batch).logits, outcome.model.eval()(**batch).logits)
        assert (folder / "modeling_kprune.py").is_file()


@pytest.mark.parametrize("how", ["push_to_hub", "save_pretrained"])
def test_an_upload_has_the_modeling_file(how, tmp_path, monkeypatch):
    """From here, as from a process without kprune."""
    uploaded = []
    card = SimpleNamespace(save=lambda path: None)
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *args, **kwargs: card)
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **kwargs: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr(
        HfApi, "create_commit", lambda self, operations, **kwargs: uploaded.extend(o.path_in_repo for o in operations)
    )
    if how == "push_to_hub":
        narrowed().push_to_hub("somebody/model")
    else:
        narrowed().save_pretrained(tmp_path / "model", push_to_hub=True, repo_id="somebody/model")
    assert {"config.json", "model.safetensors", "modeling_kprune.py"} <= set(uploaded)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch, error):
    def fails(*args, **kwargs):
        raise error

    model = narrowed()
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", fails)
    with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt):
        save(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_saving_again_replaces_what_was_saved_and_nothing_else(tmp_path, tokenizer):
    folder = tmp_path / "model"
    save(narrowed(), folder, tokenizer, card="old", onnx=False)
    (folder / "model.onnx").write_text("of the earlier model")
    (folder / "checkpoint-7").mkdir()
    (folder / "checkpoint-7/optimizer.pt").write_text("state")
    (folder / "notes.txt").write_text("mine")
    (folder / "link").symlink_to("notes.txt")
    kept = narrowed(kept_units=[[0]] * 6)
    for format in ("dense", "pruned"):
        save(kept, folder, format=format)
        names = {path.name for path in folder.iterdir()}
        assert {"checkpoint-7", "notes.txt", "link", "tokenizer.json"} <= names
        assert ("modeling_kprune.py" in names) == (format == "pruned")
        assert not {"README.md", "model.onnx"} & names
    assert (folder / "checkpoint-7/optimizer.pt").read_text() == "state" and (folder / "link").is_symlink()
    assert torch.equal(load(folder)(**tiny_batch()).logits, kept(**tiny_batch()).logits)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["written", "first move", "second move"])
def test_an_interruption_leaves_what_was_there(error, step, tmp_path, monkeypatch):
    folder = save(narrowed(), tmp_path / "model", card="old")
    (folder / "checkpoint-7").mkdir()
    (folder / "checkpoint-7/optimizer.pt").write_text("state")
    before, moves, rename = contents(folder), [], Path.rename

    def fails(*args, **kwargs):
        raise error

    def move(path, target):
        moves.append(target)
        if len(moves) == {"first move": 1, "second move": 2}[step]:
            raise error
        return rename(path, target)

    if step == "written":
        monkeypatch.setattr("transformers.modeling_utils.safe_save_file", fails)
    else:
        monkeypatch.setattr(Path, "rename", move)
    with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt):
        save(narrowed(kept_units=[[0]] * 6), folder, card="new")
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_behind_a_link_is_replaced_where_it_is(tmp_path):
    save(narrowed(), tmp_path / "there")
    (tmp_path / "here").symlink_to("there")
    save(narrowed(), tmp_path / "here", card="new")
    assert (tmp_path / "here").is_symlink() and (tmp_path / "there/README.md").read_text() == "new"


def test_only_what_kprune_saved_is_replaced(tmp_path):
    folder = tmp_path / "model"
    for format in ("pruned", "dense", "pruned"):
        save(narrowed(), folder, format=format)
    assert (folder / "modeling_kprune.py").is_file()
    tiny_model().save_pretrained(tmp_path / "mine")
    before = sorted((tmp_path / "mine").iterdir())
    with pytest.raises(UserError, match="kprune did not save"):
        save(narrowed(), tmp_path / "mine")
    assert sorted((tmp_path / "mine").iterdir()) == before
    with pytest.raises(UserError, match="format=nonsense is unknown: use pruned, uniform, dense, gguf or gguf-f32"):
        save(narrowed(), tmp_path / "other", format="nonsense")
