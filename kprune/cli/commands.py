"""What the commands `prune`, `vocabulary` and `compare` do once the files they are given are read."""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

import kprune
from kprune.checkpoint import check_format, check_kind, check_replaceable, natural_format
from kprune.checkpoint.card import auto_class_of
from kprune.cli import comparison
from kprune.cli.drawing import HELD_OUT, check_columns, cut_at, draw, held_out, tokenised, with_masks
from kprune.cli.folders import Checkpoint, find_checkpoint
from kprune.cli.loading import convert_to_stored, load_model, load_tokenizer, pick_device
from kprune.cli.options import FLOPS_REDUCTION
from kprune.cli.texts import Texts, read_texts
from kprune.cli.values import CALIBRATION
from kprune.data import Example, collate
from kprune.errors import UserError
from kprune.masked_tokens import check_mask_token
from kprune.methods.registry import METHODS, find_method
from kprune.models import view_of
from kprune.models.inputs import longest_input, needs_token_types, padding_of
from kprune.objectives import Objective, reads_choices
from kprune.target import SPARSITY
from kprune.vocabulary import Spelling, spelling_of, vocabulary_of

BATCH_SIZE = 32


def prune(options: argparse.Namespace, texts: Texts, checkpoint: Checkpoint) -> None:
    """Prune a checkpoint, save it, and print what is left of it and how far it is from the dense one.

    Raises:
        UserError: something that was given can't be used; nothing is written then.
    """
    check_method(options)
    check_format(options.format or "pruned", options.onnx)
    check_replaceable(options.output)
    device = started(options)
    dense = load_model(checkpoint, device)
    tokenizer = load_tokenizer(checkpoint, dense)
    check_kind(dense, options.format or "pruned", tokenizer)
    objective = comparison.objective_for(dense, options.task)
    examples, unseen = held_out(drawn(options, texts, [dense], objective, tokenizer), options.tokens)
    words = vocabulary_texts(options, texts, examples)
    vocabulary = None if words is None else vocabulary_of(dense, tokenizer, words)
    say(f"{described(texts)}; pruning {checkpoint.folder} on {counted(examples)}")
    start = time.perf_counter()
    outcome = whole = kprune.prune(
        dense,
        batches(dense, examples),
        method=options.method,
        task=options.task,
        uniform=options.uniform or options.format == "uniform",
        grain=options.grain,
        of=options.of,
        precision=options.precision,
        **target(options),
    )
    seconds = time.perf_counter() - start
    theirs = spelled = None
    if words is not None and vocabulary is not None:
        outcome = kprune.prune_vocabulary(whole, words, tokenizer)
        theirs = respelled(options, [dense], unseen, vocabulary.tokenizer)
        ours = respelled(options, [dense], unseen, tokenizer)  # without masks, if there are any
        spelled = Spelling.of(ids(ours), ids(theirs), vocabulary.kept)
        outcome.details["vocabulary"] |= vars(spelled)
    if not options.onnx:  # runtimes have few operators in half precision
        convert_to_stored(outcome.model, checkpoint)
    format = options.format or natural_format(outcome.model, outcome.plan)
    outcome.save(options.output, outcome.tokenizer or tokenizer, format=format, onnx=options.onnx)
    say(f"saved in {options.output}; comparing it with {checkpoint.folder}")
    # What is measured is what was saved, if torch can run it.
    saved = find_checkpoint(options.output)
    pruned = outcome.model.float() if format.startswith("gguf") else load_model(saved, device)
    # A head that answers for tokens gives other answers if the text has other tokens: compare in the whole vocabulary.
    whole_words = theirs is not None and not comparison.answers_once(objective)
    compared = (whole.model, objective, unseen) if whole_words else (pruned, objective, unseen, theirs)
    distance = comparison.distance(dense, *compared)
    latency = None if outcome.plan.sparsity else outcome.details.get("latency") or measured(dense, pruned)
    size = comparison.size_and_speed(dense, pruned, (checkpoint, saved), latency)
    print(comparison.table([*units(dense, outcome), *tokens_lines(outcome), *size]))
    print(f"\n{removed(outcome)}, in {seconds:.0f} s")
    search = outcome.details.get("latency_budget")
    if search and not search["reached"]:
        print(
            f"a speed-up of {options.speedup:g}x was not met: this is the closest of {len(search['attempts'])} attempts"
        )
    if spelled:
        print(spelled.sentence("the tokens of held-out texts"))
    measured_on = f"held-out texts{' in the whole vocabulary' if whole_words else ''}"
    print(f"{distance.sentence(measured_on)}\n\n{how_to_load(options.output, format, pruned)}")


def removed(outcome: kprune.Pruned) -> str:
    """Return in words the shares of FLOPs and parameters that were removed, or of the weights that are zero."""
    if outcome.plan.sparsity:
        return (
            f"zero: {100 * outcome.details['sparsity']:.1f} % of the weights of the layers, which makes the model no smaller and no "
            "faster"
        )
    return (
        f"removed: {100 * outcome.details['flops_reduction']:.1f} % of the layers' FLOPs, counted at "
        f"{outcome.details['sequence_length']:.1f} tokens, and {100 * outcome.details['params_reduction']:.1f} % of their parameters"
    )


def vocabulary(options: argparse.Namespace, texts: Texts, checkpoint: Checkpoint) -> None:
    """Cut a checkpoint's vocabulary to the tokens of texts, save it, and print what is left and how texts like these are spelled.

    Raises:
        UserError: something that was given can't be used; nothing is written then.
    """
    check_replaceable(options.output)
    dense = load_model(checkpoint, pick_device("cpu"))
    tokenizer = load_tokenizer(checkpoint, dense)
    words = list(dict.fromkeys(text for row in texts.rows for text in row))
    say(f"{described(texts)}; cutting the vocabulary of {checkpoint.folder}")
    outcome = kprune.prune_vocabulary(dense, words, tokenizer)
    convert_to_stored(outcome.model, checkpoint)
    unseen, seen = words[::HELD_OUT], [word for index, word in enumerate(words) if index % HELD_OUT]
    spelled = spelling_of(vocabulary_of(dense, tokenizer, seen), unseen) if seen else None
    outcome.details["vocabulary"] |= vars(spelled) if spelled else {}
    outcome.save(options.output)
    saved = find_checkpoint(options.output)
    size = comparison.size_and_speed(dense, outcome.model, (checkpoint, saved), None)
    print(comparison.table([*tokens_lines(outcome), *size]))
    print("\ntexts of these tokens are split and answered as before")
    if spelled:
        print(f"a tenth of the texts, spelled with the tokens of the rest: {spelled.sentence('its tokens')}")
    format = natural_format(outcome.model, outcome.plan)
    print(f"\n{how_to_load(options.output, format, outcome.model)}")


def vocabulary_texts(options: argparse.Namespace, texts: Texts, examples: Sequence[Example]) -> list[str] | None:
    """Return the texts that --vocabulary names, those of the examples if it is "calibration"; None without it.

    Raises:
        UserError: the file is not one of texts.
    """
    if options.vocabulary is None:
        return None
    if options.vocabulary == CALIBRATION:
        return [text for example in examples for text in example["texts"]]
    columns = texts.columns if options.vocabulary.suffix.lower() != ".txt" else ()
    return [text for row in read_texts(options.vocabulary, *columns).rows for text in row]


def ids(examples: Sequence[Example]) -> list[list[int]]:
    """Return the tokens of examples."""
    return [example["input_ids"] for example in examples]


def respelled(
    options: argparse.Namespace, models: Sequence[PreTrainedModel], examples: Sequence[Example], tokenizer: Any
) -> list[Example]:
    """Return the texts of examples as another tokenizer has them; models as `drawn` has them."""
    rows, choices = [example["texts"] for example in examples], reads_choices(models[0])
    length = cut_at(options.max_length, min(map(longest_input, models)), tokenizer, len(rows[0]) >= 2)
    return tokenised(rows, tokenizer, needs_token_types(models[0]), length, choices)


def tokens_lines(outcome: kprune.Pruned) -> list[comparison.Line]:
    """Return the table's line of tokens, if the vocabulary was cut."""
    if outcome.tokenizer is None:
        return []
    before, after = (outcome.details["vocabulary"][name] for name in ("of", "kept"))
    return [("tokens", f"{before:,}", f"{after:,}", comparison.fewer(before, after))]


def compare(options: argparse.Namespace, texts: Texts, first: Checkpoint, second: Checkpoint) -> None:
    """Print how far a pruned checkpoint is from its dense one, and the size and speed of both.

    Raises:
        UserError: something that was given can't be used.
    """
    device = started(options)
    dense, pruned = load_model(first, device), load_model(second, device)
    objective = comparison.objective_for(dense, options.task)
    comparison.check_alike(dense, pruned, objective, options.task)
    tokenizer = load_tokenizer(first, dense)
    models, theirs = [dense, pruned], None
    examples = drawn(options, texts, models, objective, tokenizer)
    if dense.config.vocab_size != pruned.config.vocab_size:
        theirs = respelled(options, models, examples, load_tokenizer(second, pruned))
    say(f"{described(texts)}; comparing {second.folder} with {first.folder} on {counted(examples)}")
    distance = comparison.distance(dense, pruned, objective, examples, theirs)
    latency = measured(dense, pruned)
    print(comparison.table(comparison.size_and_speed(dense, pruned, (first, second), latency)))
    print(f"\n{distance.sentence()}")


def check_method(options: argparse.Namespace) -> None:
    """Check that a method prunes on texts alone, and to what is asked for.

    Raises:
        UserError: the method is unknown, needs labels or training, or does not prune to what is asked for; or an option is without
            the option that it goes with.
    """
    method = find_method(options.method)
    if options.of != "layers" and options.params_reduction is None:
        raise UserError(f"--of {options.of} goes with --params-reduction: give --params-reduction, or leave --of out")
    if options.grain != 1 and options.sparsity is not None:
        raise UserError(
            f"--grain {options.grain} is about widths, which --sparsity leaves as they are: leave --grain out"
        )
    measures = {"params_reduction": "parameters", "speedup": "latency", "sparsity": SPARSITY}
    asked = (measure for name, measure in measures.items() if getattr(options, name) is not None)
    method.check_measure(next(asked, "flops"))
    method.check_precision(options.precision)
    needs = method.needs
    if needs:
        raise UserError(
            f"--method {method.name} needs {' and '.join(sorted(needs))}, and texts are all there is: use {', '.join(METHODS)}, or "
            "run.py of the repository"
        )


def say(line: str) -> None:
    """Print how far the work is; the standard output is for results."""
    print(line, file=sys.stderr, flush=True)


def started(options: argparse.Namespace) -> torch.device:
    """Set the number of threads and return the device.

    Raises:
        UserError: the device is unknown or not there.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    return pick_device(options.device)


def drawn(
    options: argparse.Namespace, texts: Texts, models: Sequence[PreTrainedModel], objective: Objective, tokenizer: Any
) -> list[Example]:
    """Return tokenised texts, drawn until the budget of tokens is full; of a masked language model, those with a token to mask.

    Args:
        models: the models that read the texts; a text is cut at the most tokens that all of them read.

    Raises:
        UserError: the model answers questions and the texts are no pairs, it chooses and they have no choices, the model is
            asked for masked tokens and the tokenizer masks none, --max-length does not suit the model, or there is no token, or
            none to mask.
    """
    check_columns(texts, objective)
    if objective.reads_labels:
        check_mask_token(tokenizer)
    length = cut_at(options.max_length, min(map(longest_input, models)), tokenizer, len(texts.columns) == 2)
    examples = draw(texts, tokenizer, needs_token_types(models[0]), length, options.tokens, options.seed)
    if not examples:
        raise UserError(f"the tokenizer makes no token of any text in {texts.file}: check file and tokenizer")
    return with_masks(examples, tokenizer, texts) if objective.reads_labels else examples


def described(texts: Texts) -> str:
    """Return in words how many texts a file has, and in which columns."""
    where = f" in {' and '.join(texts.columns)}" if texts.columns else ""
    return f"{texts.file} has {len(texts.rows):,} texts{where}"


def counted(examples: Sequence[Example]) -> str:
    """Return in words how many texts and tokens there are."""
    tokens = sum(len(example["input_ids"]) for example in examples)
    return f"{len(examples):,} text{'' if len(examples) == 1 else 's'} ({tokens:,} tokens)"


def batches(model: PreTrainedModel, examples: Sequence[Example]) -> Iterator[dict[str, Tensor]]:
    """Yield padded batches, as a DataLoader would."""
    for start in range(0, len(examples), BATCH_SIZE):
        yield collate(examples[start : start + BATCH_SIZE], padding_of(model))


def target(options: argparse.Namespace) -> dict[str, Any]:
    """Return how much to remove, as an argument of `kprune.prune`."""
    asked = {name: getattr(options, name) for name in ("flops_reduction", "params_reduction", "speedup", "sparsity")}
    return {name: value for name, value in asked.items() if value is not None} or {"flops_reduction": FLOPS_REDUCTION}


def units(dense: PreTrainedModel, outcome: kprune.Pruned) -> list[comparison.Line]:
    """Return the table's lines of heads and neurons, of all layers together."""
    lines = []
    for kind in ("heads", "neurons"):
        before, after = sum(block.units for block in view_of(dense).of_kind(kind)), sum(outcome.plan.per_layer(kind))
        lines.append((kind, f"{before:,}", f"{after:,}", comparison.fewer(before, after)))
    return lines


def measured(dense: PreTrainedModel, pruned: PreTrainedModel) -> dict[str, Any]:
    """Measure forward passes of both models, and say so before, since a large model takes minutes on a CPU."""
    say("measuring how fast both are")
    return comparison.latency(dense, pruned)


def how_to_load(folder: Path, format: str, model: PreTrainedModel) -> str:
    """Return where the pruned model is, and the Python that loads it."""
    auto = auto_class_of(model)
    if format.startswith("gguf"):
        return f"{folder}/model.gguf is for llama.cpp:\n    llama-cli -m {folder}/model.gguf"
    if format == "uniform":
        return f'{folder} holds a model of the stock class. Load it with\n    {auto}.from_pretrained("{folder}")'
    if format == "dense":
        return (
            f"{folder} holds the stock architecture with zeros in place of what was removed (--format dense). Load it with\n"
            f'    {auto}.from_pretrained("{folder}")'
        )
    return (
        f"The pruned model is in {folder}. Load it with\n"
        f'    {auto}.from_pretrained("{folder}", trust_remote_code=True)\n'
        f'or, without running code of the folder, with kprune.load("{folder}").'
    )
