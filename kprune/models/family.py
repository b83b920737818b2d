"""The description of a model family: the names of modules, and the rows and columns that units own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["heads", "neurons"]
Placement = Literal["before", "after"]
Amount = Literal["units", "columns"]


@dataclass(frozen=True)
class Rows:
    """A module whose output rows belong to units.

    The rows are laid out as [parts, units, rows of one unit]: a fused query-key-value projection has three parts, a fused
    gate and up projection two. How many rows a unit owns follows from the weights, so modules of one site may differ:
    grouped-query attention has fewer key than query rows.

    Attributes:
        path: of the module, below the layer.
        parts: how often the rows of all units are repeated.
    """

    path: str
    parts: int = 1


@dataclass(frozen=True)
class Site:
    """One kind of sublayer that the layers of a family have.

    Attributes:
        name: of the sublayer, in block names such as "3.attention".
        kind: what its units are. A convolution or recurrence counts as one head.
        inputs: modules that own rows of the units.
        output: path of the output projection (W_out in the paper), whose columns belong to the units.
        norm: path of the norm before the sublayer or after its residual sum; None if there is neither (OLMo 2).
        output_norm: path of the norm that is applied to the output projection's output before the residual sum (Gemma 2, OLMo
            2); None if there is none.
        core: paths of the modules that turn what the inputs read into the units' features, in the order of their calls. If
            the output projection lies inside one of them, what follows it there is left out.
        width: gives the columns of the output projection that one unit owns, from the model's config.
        attributes: paths of module attributes that hold a width, and whether it counts units or columns.
        settings: settings of the config that count the units of every layer, or a multiple of them; none if the config can't
            have fewer units of the same width, such as BERT's heads, whose width is the hidden size over their number.
        per_head: name of an argument of the core whose second dimension is the heads of the dense model, and which is the same
            for all layers and examples, such as a relative position bias [B, heads, T, T]; None if there is none.
        some_layers: whether only some layers have it, those in which the module at `output` exists.
        recurrent: whether it mixes tokens by a convolution or a recurrence, not by attention. Then its core returns a tensor alone
            and stores no keys and values, and its cost is linear in the number of tokens.
    """

    name: str
    kind: Kind
    inputs: tuple[Rows, ...]
    output: str
    norm: str | None
    core: tuple[str, ...]
    width: Callable[[Any], int]
    attributes: Mapping[str, Amount] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    per_head: str | None = None
    output_norm: str | None = None
    some_layers: bool = False
    recurrent: bool = False


@dataclass(frozen=True)
class Family:
    """The layers of a model family.

    Attributes:
        layers: path of the list of layers, below the base model.
        sites: the sublayers of a layer, bottom to top; of those with `some_layers`, a layer has one.
        norm_first: whether `Site.norm` comes before the sublayer, and not after its residual sum; or the name of the config's flag
            that says so. True if no norm comes after the sum.
        multiplier: name of the config's setting that holds the factor of every update in the residual sum (Granite); None if the
            family has no such factor.
        parallel: whether both sublayers of a layer read the layer's input (GPT-J, Phi-2), and not the second the first one's output;
            or the name of the config's flag that says so (Pythia).
        reads_last_token: whether a classifier reads the last real token, as a decoder's does, and not the first.
        returns_pair: whether a layer returns a tuple that begins with its output, not the output alone.
        positions_after_padding: whether the first position has the padding token's number plus 1 (RoBERTa), so that fewer tokens
            fit.
        types_are_words: whether token types are looked up among the words, so that to leave them out is not the same as to give
            zeros.
        strangers: paths, below the base model, of modules that some configs add and the sites do not describe: a model that
            has one is refused.
        groups: name of the config's setting that counts the layers with weights of their own, in a family whose layers may share
            weights; None in any other.
        numbered: name of the config's setting that, if it is set, makes a layer's function depend on its number, so that no layer can
            take another's place; None if there is no such setting.
        fixed: settings that transformers ignores, each with the value that it computes by. A model whose config has another value
            is refused, since transformers does not compute what was trained.
    """

    layers: str
    sites: tuple[Site, ...]
    norm_first: bool | str = False
    multiplier: str | None = None
    parallel: bool | str = False
    reads_last_token: bool = False
    returns_pair: bool = False
    positions_after_padding: bool = False
    types_are_words: bool = False
    strangers: tuple[str, ...] = ()
    groups: str | None = None
    numbered: str | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def placement(self, config: Any) -> Placement:
        """Return where the norms of a model with this config are."""
        return "before" if said(config, self.norm_first) else "after"

    def is_parallel(self, config: Any) -> bool:
        """Tell whether both sublayers of a layer of a model with this config read the layer's input."""
        return said(config, self.parallel)

    def scale(self, config: Any) -> float:
        """Return the factor of every update in the residual sum of a model with this config; 1 if the family has none."""
        return float(getattr(config, self.multiplier)) if self.multiplier else 1.0


def said(config: Any, flag: bool | str) -> bool:
    """Return a flag, or the value of the config's setting that it names."""
    return bool(getattr(config, flag)) if isinstance(flag, str) else flag


def head_size(config: Any) -> int:
    """Return the columns of one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def group_size(config: Any) -> int:
    """Return the columns of one key/value head's group of query heads."""
    return head_size(config) * (config.num_attention_heads // config.num_key_value_heads)


def all_heads(config: Any) -> int:
    """Return the columns of all query heads together."""
    return head_size(config) * config.num_attention_heads


def one(config: Any) -> int:
    """Return 1, the columns of a neuron."""
    return 1


def attention(
    paths: tuple[str, ...],
    output: str,
    norm: str | None,
    core: str,
    width: Callable[[Any], int] = head_size,
    **more: Any,
) -> Site:
    """Describe an attention with separate projections."""
    return Site("attention", "heads", tuple(map(Rows, paths)), output, norm, (core,), width, **more)


def ffn(
    first: tuple[str, ...],
    output: str,
    norm: str | None,
    core: tuple[str, ...],
    parts: int = 1,
    setting: str = "intermediate_size",
) -> Site:
    """Describe a feed-forward network; `first` has two modules, or two parts in one, if it is gated."""
    inputs = tuple(Rows(path, parts) for path in first)
    return Site("ffn", "neurons", inputs, output, norm, core, one, settings=(setting,))
