"""What is asked of a pruned model, as it is typed, stored and named: "0.8", "p0.2", "3x", "s0.5" or "2:4"."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from kprune.errors import UserError

TargetKind = Literal["flops", "parameters", "latency", "sparsity", "pattern"]
OPTIONS: dict[str, str] = {"flops": "flops_reduction", "parameters": "params_reduction", "latency": "speedup"}
"""The option that gives the amount of each budget, in Python and on the command line."""
SPARSITY = "sparsity"
"""The option that asks for zeros among the weights, a share or a pattern; no budget counts them."""
NUMBER = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"
"""What `number_text` writes of a number that is not negative."""
NOTHING = "nothing"
"""What a share of 0 of the FLOPs asks to remove."""

_FORMS: dict[TargetKind, re.Pattern[str]] = {
    "flops": re.compile(f"({NUMBER})"),
    "parameters": re.compile(f"p({NUMBER})"),
    "latency": re.compile(f"({NUMBER})x"),
    "sparsity": re.compile(f"s({NUMBER})"),
    "pattern": re.compile(r"(\d+):(\d+)"),
}
_SHARES: dict[TargetKind, str] = {
    "flops": "FLOPs to remove, such as 0.8",
    "parameters": "parameters to remove, such as 0.2",
    "sparsity": "weights to set to zero, such as 0.5, or a pattern such as 2:4",
}


@dataclass(frozen=True)
class Target:
    """One request.

    Attributes:
        kind: "flops" ("0.8") and "parameters" ("p0.2") remove a share of the FLOPs or parameters, "0" removes nothing; "latency"
            ("3x") makes the measured model three times as fast; "sparsity" ("s0.5") sets a share of the layers' weights to zero;
            "pattern" ("2:4") keeps two of each four consecutive weights, and sets the others to zero.
        amount: the share to remove, the factor, or the number of weights to keep in a group.
        group: weights in a group of a pattern; None for the other kinds.

    Raises:
        UserError: the amount is out of range.
    """

    kind: TargetKind
    amount: float
    group: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(TargetKind) or (self.group is None) == (self.kind == "pattern"):
            raise ValueError(f"no target is of kind {self.kind!r} with a group of {self.group}")
        amount = self.amount if _is_number(self.amount) else math.nan
        if self.kind == "latency":
            check_speedup(self.amount)
        if self.kind == "pattern" and not (0 < amount < (self.group or 0) and amount == int(amount)):
            raise UserError(
                f"the pattern {_shown(self.amount)}:{self.group} removes nothing or everything: keep fewer weights "
                "than a group has, such as 2:4"
            )
        if self.kind in _SHARES and not self.keeps_all:
            check_share(self.kind, self.amount)

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Read a target as `str` writes it.

        Raises:
            UserError: the text is none, or its amount is out of range.
        """
        for kind, form in _FORMS.items():
            if found := form.fullmatch(text):
                amount, *group = found.groups()
                return cls(kind, float(amount), *map(int, group))
        raise UserError(
            f"target {text!r} is unknown: give 0.8 (share of FLOPs), p0.2 (share of parameters), 3x (speed-up), s0.5 (share of "
            "weights that are zero) or 2:4 (pattern)"
        )

    @classmethod
    def of_sparsity(cls, asked: Any) -> "Target":
        """Return the target of a share of the weights, 0.5, or of a pattern, "2:4".

        Raises:
            UserError: `asked` is neither, or out of range.
        """
        found = _FORMS["pattern"].fullmatch(asked) if isinstance(asked, str) else None
        return cls("pattern", float(found[1]), int(found[2])) if found else cls("sparsity", asked)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "Target":
        """Read a target from named options, as a record's config has them: `sparsity`, else `budget` (FLOPs without it) and
        its amount.

        Raises:
            UserError: the budget is unknown, or its amount is missing or out of range.
        """
        if options.get(SPARSITY) is not None:
            return cls.of_sparsity(options[SPARSITY])
        budget = options.get("budget", "flops")
        if budget not in OPTIONS:
            *others, last = OPTIONS
            raise UserError(f"budget={_shown(budget)} is unknown: use {', '.join(others)} or {last}")
        amount: Any = options.get(OPTIONS[budget])
        return cls(budget, amount)

    @property
    def option(self) -> str:
        """Return the name of the option that gives the amount."""
        return SPARSITY if self.is_sparsity else OPTIONS[self.kind]

    @property
    def is_sparsity(self) -> bool:
        """Tell whether single weights are to be zero, so that nothing gets smaller."""
        return self.kind in ("sparsity", "pattern")

    @property
    def keeps_all(self) -> bool:
        """Tell whether nothing is to be removed."""
        return self.kind == "flops" and _is_number(self.amount) and self.amount == 0

    def options(self) -> dict[str, Any]:
        """Return what `from_options` reads: the option with its amount and, for parameters and latency, the budget."""
        if self.kind == "pattern":
            return {self.option: str(self)}
        return ({"budget": self.kind} if self.kind in ("parameters", "latency") else {}) | {self.option: self.amount}

    def requested(self, kind: TargetKind) -> float | None:
        """Return the amount if it is one of this kind, else None."""
        return self.amount if self.kind == kind else None

    @property
    def order(self) -> tuple[int, float, int]:
        """Return the key to sort by: FLOPs, parameters, speed-ups, shares of zeros, patterns, each by size."""
        return get_args(TargetKind).index(self.kind), self.amount, self.group or 0

    def __str__(self) -> str:
        if self.kind == "pattern":
            return f"{self.amount:.0f}:{self.group}"
        text = number_text(self.amount)
        return {"flops": text, "parameters": f"p{text}", "latency": f"{text}x", "sparsity": f"s{text}"}[self.kind]


def check_share(kind: TargetKind, amount: Any) -> None:
    """Check that the amount of a target is a share, between 0 and 1.

    Raises:
        UserError: it is not.
    """
    number = _is_number(amount)
    if not number or not 0 < amount < 1:
        option = OPTIONS.get(kind, SPARSITY)
        wrong = "is outside (0, 1)" if number else "is not a number"
        raise UserError(f"{option}={_shown(amount)} {wrong}: give the share of {_SHARES[kind]}")


def check_speedup(amount: Any) -> None:
    """Check that the amount of a target is a factor above 1.

    Raises:
        UserError: it is not.
    """
    if not _is_number(amount) or not 1 < amount < math.inf:
        raise UserError(f"speedup={_shown(amount)} asks for no speed-up: give a factor above 1, such as speedup=3")


def number_text(number: float) -> str:
    """Return the shortest text of a number that reads back as the same one: 0.8, 3, 1e-05."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str) and re.fullmatch(NUMBER, value):  # what is wrong with it is the quotes
        return repr(value)
    return number_text(value) if _is_number(value) else str(value)
