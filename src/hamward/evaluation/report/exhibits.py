"""What the gallery shows, as values: queries, changes and retrieved items."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hamward.evaluation.evaluate import Row
from hamward.types import Direction

__all__ = [
    "Case",
    "Exhibit",
    "Hit",
    "PictureChange",
    "TextChange",
    "View",
    "WordChange",
    "names_of",
    "replaced_words",
    "text_change",
]

_WORDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One retrieved item: its position in the data, distance and whether it is right."""

    item: int
    distance: int
    relevant: bool
    picture: str
    words: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WordChange:
    """A word whose weight an attack moved."""

    word: str
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TextChange:
    """What an attack did to a bag of words.

    Attributes:
        weakened: Words of the text that lost weight, most first.
        added: Words that gained weight, most first.
        others: How many more words changed.
        most: By how much at most these others.
        typed: Whether only whole words went or came, as in a text that a person can type.
    """

    weakened: tuple[WordChange, ...]
    added: tuple[WordChange, ...]
    others: int
    most: float
    typed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureChange:
    """What an attack did to a picture.

    Attributes:
        picture: The adversarial picture as a file holds it, as a data URI.
        difference: The amplified difference, as a data URI.
        factor: How far it is amplified.
        linf: Largest change of a color value.
    """

    picture: str
    difference: str
    factor: int
    linf: float


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One query before and after the attack on one victim.

    Attributes:
        victim: Who was attacked and is searched.
        change: What the attack did.
        before: First hits of the clean query.
        after: First hits of the adversarial query.
        clean: Average precision before, NaN without relevant items.
        attacked: Average precision after.
        flips: Share of code bits that differ.
    """

    victim: str
    change: PictureChange | TextChange
    before: tuple[Hit, ...]
    after: tuple[Hit, ...]
    clean: float
    attacked: float
    flips: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One query with its views, one a victim."""

    item: int
    item_id: int
    picture: str
    words: tuple[str, ...]
    labels: tuple[str, ...]
    views: tuple[View, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhibit:
    """The cases of one direction, the attack's row on the baseline, and how they were chosen."""

    direction: Direction
    attack: str
    row: Row
    chosen: str
    cases: tuple[Case, ...]


def text_change(
    before: NDArray[np.floating], after: NDArray[np.floating], words: Sequence[str]
) -> TextChange:
    """Return the words that lost and that gained most, and what else moved.

    Ties go by vocabulary order.

    Example:
        >>> change = text_change(np.array([1.0, 0.0]), np.array([0.5, 0.0]), ("cat", "dog"))
        >>> change.weakened, change.added, change.others
        ((WordChange(word='cat', before=1.0, after=0.5),), (), 0)
    """
    delta = after.astype(np.float64) - before
    typed = bool(np.isin(before, (0, 1)).all() and np.isin(after, (0, 1)).all())
    order = np.argsort(-np.abs(delta).round(6), kind="stable").tolist()
    moved = [i for i in order if abs(delta[i]) > 1e-6]
    shown = len(moved) if typed else _WORDS
    lost = [i for i in moved if delta[i] < 0][:shown]
    gained = [i for i in moved if delta[i] > 0][:shown]
    others = [i for i in moved if i not in {*lost, *gained}]

    def named(indices: list[int]) -> tuple[WordChange, ...]:
        return tuple(
            WordChange(word=words[i], before=float(before[i]), after=float(after[i]))
            for i in indices
        )

    return TextChange(
        weakened=named(lost),
        added=named(gained),
        others=len(others),
        most=max((abs(float(delta[i])) for i in others), default=0.0),
        typed=typed,
    )


def replaced_words(before: str, after: str) -> TextChange:
    """Return the words that stand in a text only before, and only after, in their order.

    Example:
        >>> change = replaced_words("full moon moon", "full lunar moon")
        >>> [c.word for c in change.weakened], [c.word for c in change.added]
        (['moon'], ['lunar'])
    """
    old, new = before.split(), after.split()
    gone, come = Counter(old) - Counter(new), Counter(new) - Counter(old)
    return TextChange(
        weakened=tuple(WordChange(word=w, before=1.0, after=0.0) for w in gone.elements()),
        added=tuple(WordChange(word=w, before=0.0, after=1.0) for w in come.elements()),
        others=0,
        most=0.0,
        typed=True,
    )


def names_of(names: Sequence[str], chosen: NDArray[np.uint8]) -> tuple[str, ...]:
    """Return the names of the columns that an item has."""
    return tuple(names[i] for i in np.flatnonzero(chosen).tolist())
