"""Vocabulary pruning: a model and its tokenizer keep the tokens that texts use, and those that spell everything else."""

from kprune.vocabulary.pruning import prune_vocabulary
from kprune.vocabulary.spelling import Spelling, spelling_of
from kprune.vocabulary.tokens import Vocabulary, vocabulary_of
from kprune.vocabulary.weights import cut_vocabulary

__all__ = ["Spelling", "Vocabulary", "cut_vocabulary", "prune_vocabulary", "spelling_of", "vocabulary_of"]
