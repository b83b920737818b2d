"""How tasks, models and methods are called in tables and figures, in the order they are shown in."""

TASKS = {
    "mrpc": "MRPC",
    "stsb": "STS-B",
    "sst2": "SST-2",
    "qqp": "QQP",
    "qnli": "QNLI",
    "mnli": "MNLI",
    "rte": "RTE",
    "cola": "CoLA",
    "squad": "SQuAD 1.1",
    "squad_v2": "SQuAD 2.0",
    "docstrings": "docstrings",
}
MODELS = {"bert_base": "BERT-base", "distilbert": "DistilBERT", "roberta_base": "RoBERTa-base", "minilm": "MiniLM-L6"}
METHODS = {
    "kprune": "K-prune",
    "kprune_official": "K-prune, authors' code",
    "kwon": "Kwon et al.",
    "kcm": "KCM",
    "magnitude": "magnitude",
    "random": "random",
}


def position(names: dict[str, str], key: str) -> int:
    """Where a key comes among `names`; unknown ones last."""
    return list(names).index(key) if key in names else len(names)
