"""Count the parameters that SliceGPT leaves of a decoder: `python -m analysis.slicegpt`.

Ashkboos, Croci, do Nascimento, Hoefler, Hensman, "SliceGPT: Compress Large Language Models by Deleting Rows and Columns" (ICLR 2024,
arXiv 2401.15024), with the choices of the authors' code.
"""

import argparse
import sys
from dataclasses import dataclass

from kprune.errors import command

MULTIPLE = 8
"""The width that is left is rounded down to a multiple of this number."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder whose output head shares the matrix of its word embeddings.

    Attributes:
        layers: number of layers.
        hidden: width of the residual stream.
        queries, keys: features of all query heads, and of all key heads; the value heads have as many as the key heads.
        neurons: neurons of one layer.
        first: matrices that read the input of a feed-forward network: 1, or 2 if it is gated.
        vocabulary: number of tokens.
        positions: number of learned positions, 0 if there are none.
        biases: whether linear modules and norms have biases.
    """

    layers: int
    hidden: int
    queries: int
    keys: int
    neurons: int
    first: int
    vocabulary: int
    positions: int
    biases: bool


SHAPES = {
    "smollm2": Shape(30, 576, 576, 192, 1536, 2, 49152, 0, biases=False),
    "opt_125m": Shape(12, 768, 768, 768, 3072, 1, 50272, 2050, biases=True),
}


def dense_parameters(shape: Shape) -> int:
    """Return the number of parameters of the whole dense model."""
    d, norms = shape.hidden, (2 if shape.biases else 1) * (2 * shape.layers + 1) * shape.hidden
    return d * (shape.vocabulary + shape.positions) + norms + shape.layers * layer_parameters(shape, d)


def layer_parameters(shape: Shape, width: int) -> int:
    """Return the number of parameters of one layer's linear modules if the residual stream has the given width."""
    rows = shape.queries + 2 * shape.keys + shape.first * shape.neurons
    biases = rows + 2 * width if shape.biases else 0
    return width * (rows + shape.queries + shape.neurons) + biases


def skip_parameters(shape: Shape, slicing: float) -> int:
    """Return the number of parameters of the skip connections: two matrices a layer, of which the last one leads to the dense width."""
    width = sliced_width(shape, slicing)
    return (2 * shape.layers - 1) * width**2 + width * shape.hidden


def sliced_parameters(shape: Shape, slicing: float) -> int:
    """Return the number of parameters of the whole model after a share `slicing` of its width is removed.

    Norms have no parameters any more. The output head reads the dense width, and has a matrix of its own; the bias of the last
    norm becomes a bias of the head.
    """
    width = sliced_width(shape, slicing)
    last = (shape.hidden - width) * (shape.neurons + shape.biases)
    layers = shape.layers * layer_parameters(shape, width) + last
    ends = width * (shape.vocabulary + shape.positions) + (shape.hidden + shape.biases) * shape.vocabulary
    return layers + ends + skip_parameters(shape, slicing)


def sliced_width(shape: Shape, slicing: float) -> int:
    """Return the width of the residual stream after a share `slicing` of it is removed."""
    return int((1 - slicing) * shape.hidden) // MULTIPLE * MULTIPLE


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.slicegpt", description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", choices=SHAPES, default="smollm2")
    shape = SHAPES[parser.parse_args().model]
    print(f"dense: {dense_parameters(shape):,} parameters")
    for slicing in (0.1, 0.2, 0.25, 0.3, 0.4):
        total, skips = sliced_parameters(shape, slicing), skip_parameters(shape, slicing)
        print(f"{slicing:.0%} sliced: {total:,}, {skips:,} of them on skip connections")


if __name__ == "__main__":
    sys.exit(main())
