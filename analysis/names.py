"""Names of tasks, models and settings in tables and figures, in the order in which these show them."""

TASKS = {
    "mrpc": "MRPC",
    "stsb": "STS-B",
    "stsb_embeddings": "STS-B, embeddings",
    "squad_retrieval": "SQuAD 1.1, search",
    "sst2": "SST-2",
    "qqp": "QQP",
    "qnli": "QNLI",
    "mnli": "MNLI",
    "rte": "RTE",
    "cola": "CoLA",
    "cola_matthews": "CoLA, Matthews",
    "swag": "SWAG",
    "squad": "SQuAD 1.1",
    "squad_v2": "SQuAD 2.0",
    "docstrings": "docstrings",
    "wikiann": "WikiANN",
    "wikitext2": "WikiText-2",
    "wikitext2_masked": "WikiText-2, masked",
    "c4": "C4",
}
MODELS = {
    "bert_base": "BERT-base",
    "distilbert": "DistilBERT",
    "roberta_base": "RoBERTa-base",
    "electra_base": "ELECTRA-base",
    "mpnet_base": "MPNet-base",
    "minilm": "MiniLM-L6",
    "smollm2": "SmolLM2-135M",
}
SETTINGS = {
    "": "as it is",
    "lambdas=None": "without K_pred",
    "lambdas=0": "without K_rep",
    "lambdas=0,predictive=fisher": "without K_rep, Fisher at S = T",
    "measure_every=None": "without sublayer-wise pruning",
    "measure_every=None,predictive=fisher": "without sublayer-wise pruning, Fisher at S = T",
    "tuning=False": "without weight tuning",
}
"""Names of a method's variants in the ablation table; a variant stands here without its calibration settings."""
SENSITIVITY = {"lambda": "λ", "mu": "μ", "temperature": "γ", "tokens": "calibration tokens"}
"""Names of the settings whose influence on the score is measured; the keys are columns of `analysis.records`."""


def position(names: dict[str, str], key: str) -> int:
    """Return the place of a key among `names`; an unknown key comes last."""
    return list(names).index(key) if key in names else len(names)
