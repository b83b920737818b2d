"""The command `kprune`: prune a checkpoint on texts of one's own, cut its vocabulary, compare two checkpoints."""

import argparse
import sys
from collections.abc import Sequence

from kprune.cli.folders import check_output, find_checkpoint
from kprune.cli.options import parse
from kprune.cli.texts import read_texts
from kprune.errors import command


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: as a `command`, it returns the exit code.

    Args:
        arguments: what follows `kprune`; the process's own if None.
    """
    run(parse(sys.argv[1:] if arguments is None else arguments))


def run(options: argparse.Namespace) -> None:
    """Read the files that the options name, then do what the command says.

    Raises:
        UserError: something that was given can't be used.
    """
    texts = read_texts(options.texts, options.text_column, options.second_column)
    names = [options.dense, options.pruned] if options.command == "compare" else [options.checkpoint]
    checkpoints = [find_checkpoint(name) for name in names]
    if options.command != "compare":
        check_output(options.output, checkpoints[0].folder)
    # torch and transformers take seconds to import: help, and what is wrong with files, come without them.
    from kprune.cli import commands

    getattr(commands, options.command)(options, texts, *checkpoints)
