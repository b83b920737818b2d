"""Figures from result files: `python -m analysis.figures OUTPUTS [NAME ...] [--output FOLDER]`."""

import argparse
import sys

from analysis.figures import CAPTIONS, figures
from analysis.figures.style import save
from analysis.records import folder_of, load
from kprune.errors import command
from kprune.files import reachable


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.figures", description="Figures from result files.")
    parser.add_argument("source", type=reachable, help="output folder of run.py, or CSV file of analysis.collect")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CAPTIONS)}; all if left out")
    parser.add_argument(
        "--output", type=reachable, help="folder to write to; default: figures/ beside or in the source"
    )
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in CAPTIONS:
            parser.error(f"no figure {name}: use {', '.join(CAPTIONS)}")
    cells = load(arguments.source)
    output = arguments.output or folder_of(arguments.source) / "figures"
    drawn = []
    for name, figure in figures(cells, arguments.names or CAPTIONS):
        drawn.append(save(figure, output, name))
        print("figure:", *drawn[-1])
    if not drawn:
        print(f"figures: no cells for one in {arguments.source}")


if __name__ == "__main__":
    sys.exit(main())
