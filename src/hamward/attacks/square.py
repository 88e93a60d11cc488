"""Square attack: random search with squares, on codes or on returned lists alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int64
from torch import Tensor

from hamward.attacks.base import ATTACKS, Goal
from hamward.attacks.budget import Budget
from hamward.attacks.options import BallOptions
from hamward.errors import AccessError, ConfigError
from hamward.models import Victim
from hamward.models.victim import Access
from hamward.random import item_uniform

__all__ = ["Square", "SquareList", "square_search", "square_share"]

Score = Callable[[Tensor, Tensor], Int64[Tensor, " n"]]
"""Items and their rows -> how well each serves the goal; asks the victim once an item."""

# After these shares of the budget the area halves once more (Algorithm 1's schedule for 10,000
# iterations, Sec. 4.1 and the released code).
_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


def square_share(step: int, steps: int, *, initial: float) -> float:
    """Return which share of the picture a square covers in a step.

    Source: Andriushchenko et al., ECCV 2020, Sec. 4.1: p halves at 10, 50, 200, 500, 1,000,
        2,000, 4,000, 6,000 and 8,000 of 10,000 iterations, rescaled to the budget.

    Example:
        >>> [square_share(i, 10_000, initial=0.8) for i in (0, 11, 51, 9_000)]
        [0.8, 0.4, 0.2, 0.0015625]
    """
    done = step / max(steps, 1)
    return float(initial * 0.5 ** sum(done > share for share in _HALVINGS))


def square_search(
    x: Tensor,
    score: Score,
    *,
    best_possible: int,
    budget: Budget,
    queries: int,
    initial: float,
    ids: Int64[Tensor, " n"],
    seed: int,
    start: Tensor | None = None,
) -> Tensor:
    """Search the corners of the l_inf ball at random, one query an item and step.

    The first query is the start, the second vertical stripes of +-eps (one sign a column
    and channel), then windows whose channels move to one side of the ball each. A candidate that
    scores at least as well is kept. An item that has the best possible score leaves the batch.

    Args:
        x: Clean items.
        score: Asks the victim.
        best_possible: Score that cannot be exceeded.
        budget: The l_inf ball.
        queries: Most submissions of one item.
        initial: Share of a picture that the first squares cover.
        ids: Item ids; each item has its own random numbers, whatever it is batched with.
        seed: Seed.
        start: Items in the ball to start from, the clean ones by default.

    Returns:
        The best item seen, detached.
    """
    x = x.detach()
    low, high = budget.bounds(x)
    best = (x if start is None else start.detach()).clone()
    rows = torch.arange(len(x), device=x.device)
    if queries < 1 or len(x) == 0 or budget.eps == 0:
        return best
    reached = score(best, rows)
    for step in range(queries - 1):
        rows = rows[reached[rows] < best_possible]
        if len(rows) == 0:
            break
        window, up = _move(
            x.shape[1:],
            ids[rows],
            step=step,
            share=square_share(step - 1, queries - 2, initial=initial),
            seed=seed,
        )
        moved = torch.where(up, high[rows], low[rows])
        candidate = torch.where(window, moved, best[rows])
        value = score(candidate, rows)
        better = value >= reached[rows]
        best[rows] = torch.where(better.view(-1, *[1] * (x.dim() - 1)), candidate, best[rows])
        reached[rows] = torch.where(better, value, reached[rows])
    return best


def _move(
    shape: torch.Size, ids: Int64[Tensor, " n"], *, step: int, share: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Return where each item changes and whether upward, both broadcastable to the items."""
    stream = f"square {step}"
    if len(shape) < 3:  # words have no neighborhood: a random set of them, each with its sign
        draws = item_uniform(ids, (2, *shape), seed=seed, stream=stream)
        return (draws[:, 0] < share) | (step == 0), draws[:, 1] < 0.5
    channels, height, width = shape
    if step == 0:
        up = item_uniform(ids, (channels, 1, width), seed=seed, stream=stream) < 0.5
        return torch.ones_like(up[:, :1]), up
    side = min(max(round((share * height * width) ** 0.5), 1), height, width)
    draws = item_uniform(ids, (2 + channels,), seed=seed, stream=stream)
    inside = []
    for draw, length in ((draws[:, 0], height), (draws[:, 1], width)):
        first = (draw * (length - side + 1)).long()[:, None]
        at = torch.arange(length, device=ids.device)
        inside.append((at >= first) & (at < first + side))
    window = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return window, (draws[:, 2:] < 0.5)[:, :, None, None]


def _check(queries: int, initial: float) -> None:
    if queries < 1:
        raise ConfigError(f"queries must be at least 1 an item, got {queries}")
    if not 0 < initial <= 1:
        raise ConfigError(f"initial must be in (0, 1], got {initial:g}")


@ATTACKS.register(
    "square",
    summary="Random search with squares; the bits that flip in the received codes decide",
    citation="Andriushchenko, Croce, Flammarion and Hein, ECCV 2020, on the Hamming distance",
    access="codes",
    threat="black-box (codes of every submission), untargeted, label-free, query side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Square(BallOptions):
    """Flip as many bits as the budget allows without a gradient.

    Source: Andriushchenko, Croce, Flammarion and Hein, "Square Attack: a query-efficient
        black-box adversarial attack via random search", ECCV 2020, l_inf version.
    Differs: the score is the number of bits that serve the goal, not a margin; it has plateaus,
        so candidates of equal score are kept (there: strictly better ones). Each item draws its
        own square (there as well), from its id. The clean item is submitted first, which counts.
        Bags of words have no squares: a random set of words moves instead (feature space).

    Attributes:
        queries: Most submissions of one item, the clean one included.
        initial: Share of the picture that the first squares cover; 0.8 in AutoAttack.
    """

    access: ClassVar[Access] = "codes"

    queries: int = 5000
    initial: float = 0.8

    def __post_init__(self) -> None:
        self.budget("image"), self.budget("text")
        _check(self.queries, self.initial)

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial items; see `Attack`."""
        victim.require(self.access, "square")
        goal.check(victim, x, ids)

        def score(items: Tensor, rows: Tensor) -> Int64[Tensor, " n"]:
            codes = victim.codes(goal.modality, items)
            return goal.select(rows).flips(codes.to(x.dtype))

        return square_search(
            x,
            score,
            best_possible=victim.code_length,
            budget=self.budget(goal.modality),
            queries=self.queries,
            initial=self.initial,
            ids=ids,
            seed=seed,
        )


@ATTACKS.register(
    "square-list",
    summary="Square attack that sees the returned list only: push out what the clean item found",
    citation="Andriushchenko, Croce, Flammarion and Hein, ECCV 2020, on returned lists",
    access="ranks",
    threat="black-box (a list for every submission), untargeted, label-free, query side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class SquareList(BallOptions):
    """Replace as much of the clean item's list as the budget allows, seeing lists only.

    Source: as `Square`.
    Differs: as `Square`; the score is the number of items of the clean list's first `top_k` that
        the list no longer shows.

    Attributes:
        queries: Most submissions of one item, the clean one included.
        top_k: How many items a list shows.
        initial: Share of the picture that the first squares cover.
    """

    access: ClassVar[Access] = "ranks"

    queries: int = 5000
    top_k: int = 100
    initial: float = 0.8

    def __post_init__(self) -> None:
        self.budget("image"), self.budget("text")
        _check(self.queries, self.initial)
        if self.top_k < 1:
            raise ConfigError(f"top_k must be at least 1, got {self.top_k}")

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial items; see `Attack`."""
        goal.check(victim, x, ids)
        if goal.toward:
            raise ConfigError("square-list is untargeted: a list shows no code to approach")
        if victim.index is None:
            raise AccessError("square-list needs a victim with an index: it reads ranked lists")
        k = min(self.top_k, len(victim.index))
        if k == len(victim.index):
            raise ConfigError(
                f"square-list: a list of all {k} database items always holds the same ones: take "
                "a smaller top_k"
            )
        clean: list[Tensor] = []

        def score(items: Tensor, rows: Tensor) -> Int64[Tensor, " n"]:
            shown = victim.ranks(goal.modality, items, k=k)
            if not clean:  # the first submission is all clean items
                clean.append(shown)
            kept = (clean[0][rows][:, :, None] == shown[:, None, :]).any(2)
            return k - kept.sum(1)

        return square_search(
            x,
            score,
            best_possible=k,
            budget=self.budget(goal.modality),
            queries=self.queries,
            initial=self.initial,
            ids=ids,
            seed=seed,
        )
