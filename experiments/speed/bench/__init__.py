"""What pruning costs, in units of one dense forward over the same tokens: `python -m experiments.speed.bench`."""
