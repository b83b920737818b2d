"""Write numbers, names and whole tables. A table is a DataFrame of strings; `**` around a string makes it bold."""

import html
import re

import pandas as pd

from analysis import names, registry
from experiments.store.variant import variant_parts
from kprune.target import Target

MISSING = "–"
SUFFIX = {"markdown": "md", "latex": "tex", "csv": "csv"}
BOLD = re.compile(r"\*\*(.+?)\*\*")


def number(value: float | None, form: str = "{:.2f}") -> str:
    """Write a number; a dash if it is missing."""
    return MISSING if pd.isna(value) else form.format(value).replace("-", "−")


def percent(share: float | None) -> str:
    """Write a share in percent."""
    return MISSING if pd.isna(share) else number(100 * share, "{:.1f} %")


def times(value: float | None) -> str:
    """Write a factor: 2.50x."""
    return number(value, "{:.2f}x")


def mean_and_deviation(mean: float, deviation: float) -> str:
    """Write a mean, with its standard deviation if there is one."""
    return number(mean) if pd.isna(deviation) else f"{number(mean)} ± {number(deviation)}"


def score(row, best: float | None = None) -> str:
    """Write mean ± deviation of a row of `aggregate`, bold if the mean equals `best`, and the interval of its difference from K-prune."""
    shown = mean_and_deviation(row.score, row.score_std)
    if best is not None and f"{row.score:.2f}" == f"{best:.2f}":
        shown = f"**{shown}**"
    if pd.isna(row.against_kprune_low):
        return shown
    return f"{shown} [{signed(row.against_kprune_low)}, {signed(row.against_kprune_high)}]"


def signed(value: float) -> str:
    """Write a number with its sign."""
    return number(value, "{:+.1f}")


def target_label(target: str) -> str:
    """Return "80 %" for 0.8 of the FLOPs, "20 % of parameters" for p0.2, "50 % zeros" for s0.5, "2:4 zeros"; 2x stays as it is."""
    asked = Target.parse(target)
    share = f"{100 * asked.amount:g} %"
    labels = {
        "flops": share,
        "parameters": f"{share} of parameters",
        "sparsity": f"{share} zeros",
        "pattern": f"{target} zeros",
    }
    return labels.get(asked.kind, target)


def task_label(task: str) -> str:
    """Return the name of a task in tables and figures."""
    return names.TASKS.get(task, task)


def metric_label(metric: str, window: float | None) -> str:
    """Return the name of a metric, of a perplexity with the length of its windows: perplexity of 2,048 tokens."""
    return metric if pd.isna(window) else f"{metric} of {window:,.0f} tokens"


def model_label(model: str) -> str:
    """Return the name of a model in tables and figures."""
    return names.MODELS.get(model, model)


def method_label(method: str, variant: str = "") -> str:
    """Return the name of a method with its settings: K-prune (20,000 tokens, mu=2), Kwon et al. (2,048 examples)."""
    name = registry.label(method)
    settings = [
        f"{int(value):,} {key}" if key in ("tokens", "examples") and value.isdigit() else f"{key}={value}"
        for key, value in variant_parts(variant).items()
    ]
    return f"{name} ({', '.join(settings)})" if settings else name


def without_one_model(shown: pd.DataFrame) -> pd.DataFrame:
    """Return a table without its column Model if all rows have the same model."""
    return shown.drop(columns="Model") if "Model" in shown and shown["Model"].nunique() == 1 else shown


def render(table: pd.DataFrame, form: str) -> str:
    """Write a table as Markdown, LaTeX (booktabs), CSV or HTML."""
    if form == "markdown":
        return table.to_markdown(index=False, disable_numparse=True) + "\n"
    if form == "latex":
        return table.map(latex).rename(columns=latex).to_latex(index=False)
    if form == "html":
        return table.map(as_html).rename(columns=as_html).to_html(index=False, escape=False, border=0)
    return table.map(lambda text: BOLD.sub(r"\1", text)).to_csv(index=False)


def latex(text: str) -> str:
    """Escape a text for LaTeX; bold and signs such as ± become commands."""
    for sign in "&%$#_{}":
        text = text.replace(sign, f"\\{sign}")
    text = BOLD.sub(r"\\textbf{\1}", text)
    signs = {"±": r"$\pm$", "–": "--", "−": "$-$", "×": r"$\times$", "λ": r"$\lambda$", "μ": r"$\mu$", "γ": r"$\gamma$"}
    for sign, command in signs.items():
        text = text.replace(sign, command)
    return text


def as_html(text: str) -> str:
    """Escape a text for HTML; bold and code become tags."""
    return re.sub(r"`(.+?)`", r"<code>\1</code>", BOLD.sub(r"<b>\1</b>", html.escape(text)))
