"""Folders that are damaged or not to be trusted: one clear error, and nothing else of them is read or run."""

import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from language import texts, tiny_llama
from safetensors.torch import load_file, save_file
from tampered import EMPTY, FFN, TAMPERED, edit_config, entry, setting, table
from tiny import narrowed, tiny_batch

import kprune
from kprune.checkpoint import load, save
from kprune.errors import UserError
from kprune.models.families import family_names

FORMAT_1 = Path(__file__).parents[1] / "fixtures" / "format_1"


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
    "a_number_of_rows": (table("modules", {FFN: [16, 10**12]}), "the number 1000000000000, which is no size"),
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
    # What is said of the folder is short, whatever the folder says.
    assert "\n" not in str(error.value) and len(str(error.value).replace(family_names(), "")) < 600


def test_a_folder_for_llama_cpp_is_told_apart(folder):
    (folder / "model.safetensors").rename(folder / "model.gguf")
    with pytest.raises(UserError, match="holds model.gguf, for llama.cpp: save with format='pruned' to load it"):
        load(folder)


def test_large_numbers_that_are_no_sizes_are_what_they_were(tmp_path):
    model = tiny_llama(rope_theta=50_000_000)
    model.config.num_parameters_total = 134_515_008  # a user's own
    model.generation_config.max_length = 10**9
    kprune.prune(model, [texts()], 0.3).save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.config.rope_parameters["rope_theta"] == 50_000_000
    assert loaded.config.num_parameters_total == 134_515_008
    assert loaded.generation_config.max_length == 10**9


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


def test_weights_in_several_files_are_told_of(saved, tmp_path):
    load(saved).save_pretrained(tmp_path / "shards", max_shard_size="5KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    with pytest.raises(UserError, match="has its weights in several files, and kprune reads one: .*max_shard_size"):
        load(tmp_path / "shards")
