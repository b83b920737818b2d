"""Edits of the config.json of a tiny saved BERT that loading refuses, with kprune and without."""

import json


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


def edit_config(folder, edit):
    path = folder / "config.json"
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    return folder


def setting(**changes):
    return lambda config: config | changes
