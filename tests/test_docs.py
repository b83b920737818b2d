"""The pages: their links lead somewhere, their snippets run, and what the code says of them is there."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
import spellers
import torch
import yaml
from choices import tiny_chooser
from decoders import tiny_decoder
from masked_lm import masking_tokenizer, sentences, tiny_masked_lm
from sentence_transformers import SentenceTransformer
from tiny import SHAPE, tiny_model, tiny_tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMultipleChoice,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormForSequenceClassification,
)

import kprune
from baselines.registry import METHODS
from experiments.tasks import build_task
from kprune.models import families, family, view_of
from kprune.objectives import OBJECTIVES

ROOT = Path(__file__).parents[1]
# The changelog names what was.
PAGES = [page for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")) if page.name != "CHANGELOG.md"]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def snippet(page, name, language="python"):
    """Return the code behind a page's `<!-- tested: name -->`."""
    text = (ROOT / page).read_text()
    return re.search(rf"<!-- tested: {name} -->\n```{language}\n(.*?)```", text, re.DOTALL)[1]


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} does not exist"
        assert not anchor or anchor in anchors(target), f"{link}: {target.name} has no such heading"


def test_every_page_is_listed():
    index = ROOT / "docs/README.md"
    linked = {(index.parent / link).resolve() for link in re.findall(r"\]\(([^)#\s]+)", index.read_text())}
    assert {page for page in (ROOT / "docs").rglob("*.md") if page != index} <= linked


def test_pages_that_the_code_names_exist():
    files = [
        path for room in ("kprune", "baselines", "experiments", "analysis", "conf") for path in (ROOT / room).rglob("*")
    ]
    files += [ROOT / "Makefile", ROOT / "run.py", ROOT / "pyproject.toml"]
    named = {
        (path, page)
        for path in files
        if path.suffix in (".py", ".yaml", ".toml", "") and path.is_file()
        for page in re.findall(r"docs/[\w/]+\.md", path.read_text())
    }
    assert named and not {
        f"{path.relative_to(ROOT)} names {page}" for path, page in named if not (ROOT / page).is_file()
    }


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_paths_in_backticks_exist(page):
    """Files of the repository that a page names, without those that a reader writes or a command makes."""
    rooms = r"(?:kprune|baselines|experiments|analysis|conf|tests|results|docs(?!/api)|examples)/[\w/.-]+"
    made = ("baselines/mine.py", "conf/method/mine.yaml", "conf/task/agnews.yaml")
    named = set(re.findall(rf"`({rooms})`", page.read_text())) - set(made)
    assert not {path for path in named if not (ROOT / path).exists()}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_modules_that_are_run_exist(page):
    for module in re.findall(r"python -m ((?:experiments|analysis)[\w.]+)", page.read_text()):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_every_family_is_named():
    page = (ROOT / "docs/how_to/prune_your_own_model.md").read_text()
    table = page.split("| `model_type` in config.json |")[1].split("\n\n")[0]
    assert set(re.findall(r"`([^`]+)`", table)) == set(families.FAMILIES)


@pytest.mark.parametrize("kind", [family.Family, family.Site, family.Rows])
def test_every_field_of_a_family_is_told(kind):
    page = (ROOT / "docs/how_to/add_a_family.md").read_text()
    missing = {field.name for field in fields(kind)} - {"path"}
    assert not {name for name in missing if not re.search(rf"`{name}\b", page)}


def test_every_head_is_named():
    page = (ROOT / "docs/how_to/prune_your_own_model.md").read_text()
    assert set(OBJECTIVES) <= set(re.findall(r'`(?:task=)?"(\w+)"`', page))


def test_every_method_is_named():
    named = (ROOT / "README.md").read_text().split("## Which method")[1].split("\n## ")[0]
    assert set(METHODS) <= set(re.findall(r"`(\w+)`", named))


def test_every_method_has_a_row():
    page = (ROOT / "docs/notes/methods.md").read_text()
    named = [name for row in re.findall(r"^\|(.*?)\|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert sorted(set(METHODS) | {"method"}) == sorted(named)


def batches(count=4, vocabulary=97):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        ids = torch.randint(2, vocabulary, (8, 12), generator=generator)
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_the_family_is_added_by_its_entry(monkeypatch):
    monkeypatch.setitem(families.FAMILIES, "roberta-prelayernorm", None)  # so that it is gone again afterwards
    exec(snippet("docs/how_to/add_a_family.md", "family"), vars(family) | vars(families))
    torch.manual_seed(0)
    config = RobertaPreLayerNormConfig(
        vocab_size=97,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
        initializer_range=0.3,
    )
    model = RobertaPreLayerNormForSequenceClassification(config).eval()
    batch, view = next(batches()), view_of(model)
    with torch.no_grad():
        hidden, context = view.embed(batch)
        assert torch.allclose(view.run(0, hidden, context, batch).logits, model(**batch).logits, atol=1e-5)
    outcome = kprune.prune(model, batches(), flops_reduction=0.6, method="kprune_plus")
    assert 0.6 <= outcome.details["flops_reduction"] < 0.7


def test_a_sentence_transformer_is_pruned_and_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_model(dtype=torch.float32).base_model.save_pretrained("my-embedder")
    tiny_tokenizer().save_pretrained("my-embedder")
    (tmp_path / "texts.txt").write_text("\n".join(f"w{i} w{i * 7 % 90} w{i * i % 90}" for i in range(60)))
    scope = {}
    exec(snippet("docs/how_to/prune_your_own_model.md", "sentence-transformers"), scope)
    opened = SentenceTransformer("pruned", trust_remote_code=True)
    assert (opened.encode(scope["texts"]) == scope["outcome"].model.encode(scope["texts"])).all()


def test_a_masked_language_model_is_pruned_and_opened_with_another_head(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_masked_lm().save_pretrained("my-encoder")
    masking_tokenizer().save_pretrained("my-encoder")
    (tmp_path / "texts.txt").write_text("\n".join(sentences(60)))
    exec(snippet("docs/how_to/prune_your_own_model.md", "masked"), {})
    opened = AutoModelForSequenceClassification.from_pretrained("pruned", num_labels=2, trust_remote_code=True)
    assert opened.num_labels == 2 and view_of(opened).blocks[1].units < 48


def test_a_model_of_multiple_choice_is_pruned_and_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny_chooser(dtype=torch.float32)
    model.save_pretrained("my-chooser")
    tiny_tokenizer().save_pretrained("my-chooser")
    rows = [
        {"question": f"w{i} w{i * 7 % 90}", "choices": [f"w{i + k} w{i * k % 90}" for k in range(3)]} for i in range(40)
    ]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    scope = {}
    exec(snippet("docs/how_to/prune_your_own_model.md", "choice"), scope)
    opened, ids = (
        AutoModelForMultipleChoice.from_pretrained("pruned", trust_remote_code=True),
        scope["batches"][0]["input_ids"],
    )
    assert torch.equal(opened(ids).logits, scope["outcome"].model(ids).logits) and opened(ids).logits.shape == (8, 3)


@pytest.mark.parametrize("family", ["gpt_neox", "phi"])
def test_a_decoder_without_a_padding_token_is_pruned_and_opened(family, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = spellers.byte_level()
    tokenizer.pad_token = None
    tiny_decoder(family, vocab_size=len(tokenizer)).save_pretrained("my/llm"), tokenizer.save_pretrained("my/llm")
    (tmp_path / "texts.txt").write_text("\n".join([*spellers.lines(40), " ".join(spellers.lines(40))]))
    scope = {}
    exec(snippet("docs/how_to/prune_a_decoder.md", "decoder"), scope)
    opened = AutoModelForCausalLM.from_pretrained("small", trust_remote_code=True)
    assert opened.config._attn_implementation == scope["model"].config._attn_implementation
    for batch in scope["batches"]:
        assert batch["input_ids"].shape[1] <= 64
        assert torch.equal(opened(**batch).logits, scope["outcome"].model(**batch).logits)
    assert scope["outcome"].details["params_reduction"] >= 0.2


def test_a_vocabulary_is_cut(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = spellers.wordpiece()
    config = BertConfig(**SHAPE | {"vocab_size": len(tokenizer)}, pad_token_id=1)
    BertForSequenceClassification(config).save_pretrained("my-model"), tokenizer.save_pretrained("my-model")
    (tmp_path / "texts.txt").write_text("\n".join(spellers.lines(9)))
    scope = {}
    exec(snippet("docs/how_to/cut_the_vocabulary.md", "vocabulary"), scope)
    model = AutoModelForSequenceClassification.from_pretrained("small")
    assert model.config.vocab_size == scope["outcome"].details["vocabulary"]["kept"] < len(tokenizer)


def test_the_method_is_used_from_python():
    scope = {"__name__": "mine"}
    exec(snippet("docs/how_to/add_a_method.md", "method"), scope)
    model = tiny_model(dtype=torch.float32)
    outcome = kprune.prune(model, batches(), flops_reduction=0.6, method=scope["Mine"](power=1.0))
    assert outcome.details["flops_reduction"] >= 0.6
    layer = view_of(model).blocks[1]
    sums = layer.output.weight.abs().sum(dim=0)
    kept = torch.zeros(layer.units, dtype=torch.bool)
    kept[outcome.plan.kept[layer.name]] = True
    assert kept.any() and not kept.all() and sums[kept].min() >= sums[~kept].max()


def test_the_task_is_built_from_its_file():
    settings = yaml.safe_load(snippet("docs/how_to/add_a_task.md", "task", "yaml"))
    task = build_task(settings)
    assert task.name == "agnews" and task.num_labels == 4 and task.metric == "accuracy"
    assert settings.keys() <= yaml.safe_load((ROOT / "conf/task/mrpc.yaml").read_text()).keys()
