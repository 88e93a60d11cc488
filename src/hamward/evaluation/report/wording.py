"""Numbers as a reader sees them: budgets, shares and names, the same everywhere."""

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

from hamward.attacks.budget import TYPED_NORMS
from hamward.evaluation.evaluate import Row
from hamward.types import Direction, Modality

__all__ = [
    "Bounded",
    "budget",
    "budget_axis",
    "in_levels",
    "interval",
    "percent",
    "reader_name",
    "score",
    "typed",
]

_NAMES: dict[Direction, str] = {
    "i2t": "image-to-text",
    "t2i": "text-to-image",
    "i2i": "image-to-image",
    "t2t": "text-to-text",
}


@runtime_checkable
class Bounded(Protocol):
    """What has a budget: a row, or a threat."""

    @property
    def norm(self) -> str:
        """Norm of the budget."""
        ...

    @property
    def eps(self) -> float:
        """Its size."""
        ...

    @property
    def attacked(self) -> Modality:
        """Modality of the attacked items."""
        ...


def reader_name(direction: Direction) -> str:
    """Return a direction in words.

    Example:
        >>> reader_name("i2t")
        'image-to-text'
    """
    return _NAMES[direction]


def score(value: float, *, digits: int = 3) -> str:
    """Return a MAP, never rounded to a sign without a value ("-0.00")."""
    return f"{value + 0.0:.{digits}f}"


def interval(row: Row, *, digits: int = 3) -> str:
    """Return the 95 % interval of a row."""
    return f"[{score(row.low, digits=digits)}, {score(row.high, digits=digits)}]"


def percent(share: float) -> str:
    """Return a share in percent.

    Example:
        >>> percent(0.256), percent(0.001)
        ('26 %', '0.1 %')
    """
    value = 100 * share
    return f"{value:.1f} %" if 0 < value < 9.95 else f"{value:.0f} %"


def in_levels(value: float) -> str:
    """Return a distance in [0, 1] as a fraction of the 255 levels of a picture file.

    Example:
        >>> in_levels(8 / 255), in_levels(0.003)
        ('8/255', '0.765/255')
    """
    levels = value * 255
    near = round(levels)
    return f"{near}/255" if abs(levels - near) < 1e-3 else f"{levels:.3g}/255"


def budget_axis(attacked: Modality, norms: Collection[str]) -> tuple[str, float]:
    """Return the name of an axis of budgets, and what to multiply their sizes with on it.

    Args:
        attacked: Modality of the attacked items.
        norms: Norms of the budgets on the axis.
    """
    if attacked == "text":
        typed = TYPED_NORMS.issuperset(norms)
        return ("words changed" if typed else "eps (feature space)"), 1.0
    return ("eps in 1/255", 255.0) if {*norms} == {"linf"} else ("eps", 1.0)


def budget(row: Bounded) -> str:
    """Return the budget of a row or threat with its unit and norm."""
    if row.norm in TYPED_NORMS:
        done = "edited" if row.norm == "edits" else "replaced"
        return f"≤ {row.eps:g} word{'s' if row.eps != 1 else ''} {done}"
    if row.norm in ("l0", "patch"):
        side = f" × {row.eps:g}" if row.norm == "patch" else ""
        return f"{row.norm} ≤ {row.eps:g}{side} pixels"
    norm = "l∞" if row.norm == "linf" else "l2"
    if row.attacked == "image" and row.norm == "linf":
        return f"{norm} ≤ {in_levels(row.eps)}"
    return f"{norm} ≤ {row.eps:.3g}"


def typed(words: Sequence[int]) -> str:
    """Return a budget of edits: words put in, and words taken out.

    Example:
        >>> typed((3, 2)), typed((1, 1))
        ('≤ 3 words typed in, 2 taken out', '≤ 1 word typed in, 1 taken out')
    """
    return f"≤ {words[0]} word{'' if words[0] == 1 else 's'} typed in, {words[1]} taken out"
