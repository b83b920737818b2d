"""The commands and options of `kprune`, and their help."""

import argparse
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

from kprune.cli.values import count, factor, share, threads, vocabulary, whole, zeros
from kprune.errors import UserError
from kprune.files import reachable

TOKENS = 100_000
METHOD = "kprune_plus"
FLOPS_REDUCTION = 0.8
FORMATS = ("pruned", "uniform", "dense", "gguf", "gguf-f32")
"""As `kprune.checkpoint` has them, which takes seconds to import."""

PRUNE = """\
Remove attention heads and neurons of a fine-tuned transformer, without retraining and without labels.

TEXTS are like those that the model will read, best those it was trained on: one text a line (.txt), a table with a header
(.csv, .tsv), or JSON (.jsonl, .json). The dense checkpoint is left as it was."""
PRUNE_EXAMPLES = """\
examples:
  kprune prune my/checkpoint texts.txt --output small
  kprune prune my/checkpoint reviews.csv --text-column body --flops-reduction 0.6 --output small
  kprune prune my/checkpoint pairs.jsonl --text-column question --second-column context --speedup 3 --output fast"""
VOCABULARY = """\
Keep the tokens that texts use, and those that any other text can be spelled by; the rest of the model stays as it is.

TEXTS are like those that the model will read, the more the better. Texts of kept tokens are answered as before."""
VOCABULARY_EXAMPLES = """\
example:
  kprune vocabulary my/checkpoint texts.txt --output small"""
COMPARE = """\
Measure how far a pruned model is from the dense one on texts, and how much smaller and faster it is.

Take texts that the model was not pruned on: on the calibration texts, it looks closer than it is."""
COMPARE_EXAMPLES = """\
example:
  kprune compare my/checkpoint small held_out.txt"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')}: see {self.prog} --help")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options, numbers checked; `command` is "prune", "vocabulary" or "compare".

    Raises:
        UserError: an option is unknown, missing or out of range.
    """
    parser = _parser()
    if not arguments:
        parser.print_help()
        raise UserError("no command is given: start with kprune prune, kprune vocabulary or kprune compare")
    return parser.parse_args(arguments)


def _version() -> str:
    try:
        return version("kprune")
    except PackageNotFoundError:
        return "a clone that is not installed"


def _parser() -> Parser:
    parser = Parser(prog="kprune", description="Prune transformers without retraining.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    raw = argparse.RawDescriptionHelpFormatter
    _add_prune(
        commands.add_parser(
            "prune",
            help="prune a checkpoint on texts of your own",
            usage="kprune prune CHECKPOINT TEXTS --output FOLDER [options]",
            description=PRUNE,
            epilog=PRUNE_EXAMPLES,
            formatter_class=raw,
        )
    )
    _add_vocabulary(
        commands.add_parser(
            "vocabulary",
            help="remove the tokens that texts do not use",
            usage="kprune vocabulary CHECKPOINT TEXTS --output FOLDER [options]",
            description=VOCABULARY,
            epilog=VOCABULARY_EXAMPLES,
            formatter_class=raw,
        )
    )
    _add_compare(
        commands.add_parser(
            "compare",
            help="compare a pruned model with the dense one",
            usage="kprune compare DENSE PRUNED TEXTS [options]",
            description=COMPARE,
            epilog=COMPARE_EXAMPLES,
            formatter_class=raw,
        )
    )
    return parser


def _add_prune(prune: argparse.ArgumentParser) -> None:
    _add_checkpoint(prune)
    _add_texts(prune)
    _add_task(prune)
    _add_amount(prune)
    _add_writing(prune)
    running = _add_running(prune, "tokens of texts to draw; a tenth of the texts is held out to measure on")
    running.add_argument(
        "--precision",
        choices=("full", "reduced"),  # kprune.precision.PRECISIONS, without torch
        default="full",
        help="reduced: texts pass through the model in bfloat16 on a CPU, in TF32 on a GPU, which takes less time (default: full)",
    )


def _add_vocabulary(words: argparse.ArgumentParser) -> None:
    _add_checkpoint(words)
    _add_texts(words)
    words.add_argument("--output", type=reachable, required=True, metavar="FOLDER", help="where the smaller model goes")


def _add_compare(compare: argparse.ArgumentParser) -> None:
    compare.add_argument(
        "dense", type=reachable, metavar="DENSE", help="folder of the dense model; its tokenizer is used"
    )
    compare.add_argument("pruned", type=reachable, metavar="PRUNED", help="folder of the pruned model")
    _add_texts(compare)
    _add_task(compare)
    _add_running(compare, "tokens of texts to draw")


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=reachable, metavar="CHECKPOINT", help="folder that save_pretrained or kprune wrote"
    )


def _add_amount(prune: argparse.ArgumentParser) -> None:
    target = prune.add_argument_group("how much to remove (one of these)").add_mutually_exclusive_group()
    target.add_argument(
        "--flops-reduction",
        type=share,
        metavar="SHARE",
        help=f"share of the layers' FLOPs to remove (default: {FLOPS_REDUCTION})",
    )
    target.add_argument("--params-reduction", type=share, metavar="SHARE", help="share of the layers' parameters")
    target.add_argument("--speedup", type=factor, metavar="FACTOR", help="how much faster to be, as measured here")
    target.add_argument(
        "--sparsity",
        type=zeros,
        metavar="SHARE",
        help="share of the layers' weights to set to zero, or a pattern such as 2:4, with --method wanda or sparsegpt of a clone: "
        "no smaller and no faster",
    )
    more = prune.add_argument_group("how it is counted and rounded, and which tokens stay")
    more.add_argument(
        "--of",
        choices=("layers", "model"),
        default="layers",
        help="whose parameters --params-reduction is a share of (default: layers)",
    )
    more.add_argument(
        "--grain",
        type=count,
        default=1,
        metavar="N",
        help="keep widths at multiples of N, such as 32, for the hardware",
    )
    more.add_argument(
        "--vocabulary",
        type=vocabulary,
        metavar="TEXTS",
        help="keep only the tokens of these texts: a file, or the word calibration for the texts that are drawn to prune on",
    )


def _add_writing(prune: argparse.ArgumentParser) -> None:
    how = prune.add_argument_group("what to write")
    how.add_argument("--output", type=reachable, required=True, metavar="FOLDER", help="where the pruned model goes")
    how.add_argument(
        "--method",
        default=METHOD,
        metavar="NAME",
        help=f"pruning method, such as kprune (default: {METHOD}, the closest to the dense model)",
    )
    how.add_argument(
        "--format",
        choices=FORMATS,
        help="pruned: small and fast (default; with a sparsity, dense); uniform: small and fast in the stock class, all layers "
        "alike; dense: the stock architecture with zeros, no smaller and no faster; gguf, gguf-f32: a language model for "
        "llama.cpp, in float16 or float32 (pip install '.[gguf]' in a clone of kprune)",
    )
    how.add_argument(
        "--uniform",
        action="store_true",
        help="keep as many heads, and as many neurons, in every layer; --format uniform implies it",
    )
    exports = how.add_mutually_exclusive_group()
    exports.add_argument(
        "--onnx", action="store_true", help="write model.onnx beside it (pip install '.[onnx]' in a clone of kprune)"
    )
    exports.add_argument(
        "--onnx-int8",
        dest="onnx",
        action="store_const",
        const="int8",
        help="the same with weights of eight bits, a quarter of the size",
    )


def _add_texts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "texts", type=reachable, metavar="TEXTS", help="file of texts: .txt, .csv, .tsv, .jsonl, .json; in UTF-8"
    )
    group = parser.add_argument_group("the file of texts")
    group.add_argument(
        "--text-column", metavar="NAME", help="column of the texts (default: text, sentence, ... if there is one such)"
    )
    group.add_argument(
        "--second-column",
        metavar="NAME",
        help="column of the second texts of pairs, or of lists of choices",
    )


def _add_task(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task",
        metavar="NAME",
        help="what the head does, if the checkpoint does not say: classification, multi_label, regression, multiple_choice, "
        "token_classification, span, causal_lm, masked_lm or embedding",
    )


def _add_running(parser: argparse.ArgumentParser, tokens: str) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("what to run on")
    group.add_argument("--tokens", type=count, default=TOKENS, metavar="N", help=f"{tokens} (default: {TOKENS:,})")
    group.add_argument(
        "--max-length",
        type=count,
        metavar="N",
        help="tokens to cut a text at (default: as many as the model reads, at most 512)",
    )
    group.add_argument("--seed", type=whole, default=0, metavar="N", help="seed of what is drawn (default: 0)")
    group.add_argument(
        "--device", default="auto", metavar="NAME", help="cpu, cuda, ... (default: a GPU if there is one)"
    )
    group.add_argument("--threads", type=threads, metavar="N", help="CPU threads (default: torch's choice)")
    return group
