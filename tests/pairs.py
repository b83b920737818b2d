"""The settings of the task on the data set org/pairs of the mirror in tests/experiments/conftest.py."""

PAIRS = {
    "kind": "glue",
    "name": "pairs",
    "hub_id": "org/pairs",
    "config": "tiny",
    "evaluation_split": "validation",
    "text": ["sentence1", "sentence2"],
    "problem": "classification",
    "metric": "accuracy",
    "label_names": ["no", "yes"],
    "max_length": 24,
    "average_length": 20.0,
    "batch_size": 4,
}
