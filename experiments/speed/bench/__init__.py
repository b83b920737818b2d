"""The cost of pruning, in units of one dense forward pass over the same tokens: `python -m experiments.speed.bench`."""
