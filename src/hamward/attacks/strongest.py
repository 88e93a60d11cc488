"""The ensemble: every white-box goal and loss in turn, each item keeps what hurt it most."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor

from hamward.attacks.anchors import Pool, center_codes, class_prototypes, mainstay_codes, relevance
from hamward.attacks.apgd import Loss, apgd
from hamward.attacks.base import ATTACKS, Goal, check_steps
from hamward.attacks.budget import Budget, round_to_grid
from hamward.attacks.stepping import annealing
from hamward.codes import hamming_distance
from hamward.losses import (
    auto_temperature,
    prototype_contrast,
    soft_average_precision,
    unit_logits,
)
from hamward.metrics import average_precision, distance_counts
from hamward.models import Victim
from hamward.models.victim import Access
from hamward.random import item_uniform
from hamward.types import MODALITIES, Modality

__all__ = ["Strongest", "StrongestTargeted"]

Start = Literal["clean", "best", "random"]

# Strong and cheap ones first: later ones see the items that are left.
_TARGETED = (
    "mainstay",
    "center",
    "prototypes",
    "nearest-0",
    "ranking",
    "mainstay-random",
    "ranking-random",
    "ranking-again",
)
_NAMES = (
    *("mainstay", "center", "prototypes", "own-code", "annealed"),
    *("nearest-0", "nearest-1", "nearest-2"),
    *("ranking", "mainstay-random", "ranking-random", "ranking-again"),
)
_RANKED = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """One run of APGD: what it ascends, whether it takes all steps, and where it starts."""

    loss: Loss
    long: bool = False
    start: Start = "clean"


@ATTACKS.register(
    "strongest",
    summary="Ensemble of all white-box goals under APGD; each item keeps its lowest tie-aware AP",
    citation="hamward, after AutoAttack (Croce and Hein, ICML 2020)",
    access="gradients",
    threat="white-box, untargeted, knows query labels and database codes, query side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Strongest:
    """The worst case per query over a fixed ensemble; nothing to tune but the budget.

    In turn, under APGD (`attacks.apgd`): away from the own code (scale-free, then annealed
    tanh), from the center code and the mainstay code of the retrieved modality, to the
    prototypes of all foreign classes, to each of the three foreign prototypes nearest to the
    clean code, down the soft average precision itself, and that again from a random start and
    from the best item so far. After each run pictures are rounded as a file rounds them, codes
    are computed in full precision, and an item is replaced where its tie-aware AP over the
    reference database fell (or, where it has nothing relevant, where more bits flipped). Items
    that have reached the AP of the best code known for them leave the batch.

    Source: the ensemble that `beyond.md` a.2 proposes; APGD of AutoAttack.
    Differs: Square and transfer attacks, which need no gradients, are attacks of their own here
        (`square`, `transfer`); the diagnostics compare them with this one.

    Attributes:
        eps: Image radius in [0, 1].
        text_eps: Radius for bags of words, a feature-space attack.
        norm: "linf" or "l2".
        steps: Steps of the long members; the short ones have a quarter. Not for tuning: for
            quick looks and tests.
    """

    access: ClassVar[Access] = "gradients"
    modalities: ClassVar[tuple[Modality, ...]] = MODALITIES
    targeted: ClassVar[bool] = False
    needs_references: ClassVar[bool] = True

    eps: float = 8 / 255
    text_eps: float = 0.05
    norm: Literal["linf", "l2"] = "linf"
    steps: int = 100

    def __post_init__(self) -> None:
        check_steps(self.steps)
        self.budget("image"), self.budget("text")

    def budget(self, modality: Modality) -> Budget:
        """Return the ball of radius eps (images) or text_eps (bags of words)."""
        return Budget(eps=self.eps if modality == "image" else self.text_eps, norm=self.norm)

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial items; see `Attack`."""
        victim.require(self.access, "strongest")
        goal.check(victim, x, ids)
        budget = self.budget(goal.modality)
        pool = Pool.of(goal, "other", who="strongest")
        return _worst_case(
            victim, x, goal, pool, budget=budget, steps=self.steps, ids=ids, seed=seed
        )


@ATTACKS.register(
    "strongest-targeted",
    summary="Ensemble of targeted goals under APGD; each item keeps its highest tie-aware t-AP",
    citation="hamward, after AutoAttack (Croce and Hein, ICML 2020)",
    access="gradients",
    threat="white-box, targeted, knows database codes, query side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class StrongestTargeted:
    """The best case for the attacker per query: `Strongest` with the target's labels.

    Attributes:
        eps: Image radius in [0, 1].
        text_eps: Radius for bags of words, a feature-space attack.
        norm: "linf" or "l2".
        steps: Steps of the long members; the short ones have a quarter. Not for tuning: for
            quick looks and tests.
    """

    access: ClassVar[Access] = "gradients"
    modalities: ClassVar[tuple[Modality, ...]] = MODALITIES
    targeted: ClassVar[bool] = True
    needs_references: ClassVar[bool] = True

    eps: float = 8 / 255
    text_eps: float = 0.05
    norm: Literal["linf", "l2"] = "linf"
    steps: int = 100

    def __post_init__(self) -> None:
        check_steps(self.steps)
        self.budget("image"), self.budget("text")

    def budget(self, modality: Modality) -> Budget:
        """Return the ball of radius eps (images) or text_eps (bags of words)."""
        return Budget(eps=self.eps if modality == "image" else self.text_eps, norm=self.norm)

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial items; see `Attack`."""
        victim.require(self.access, "strongest-targeted")
        goal.check(victim, x, ids)
        budget = self.budget(goal.modality)
        pool = Pool.of(goal, "other", who="strongest-targeted", targeted=True)
        return _worst_case(
            victim,
            x,
            goal,
            pool,
            budget=budget,
            steps=self.steps,
            ids=ids,
            seed=seed,
            targeted=True,
        )


def _worst_case(
    victim: Victim,
    x: Tensor,
    goal: Goal,
    pool: Pool,
    *,
    budget: Budget,
    steps: int,
    ids: Tensor,
    seed: int,
    targeted: bool = False,
) -> Tensor:
    x = x.detach()
    best = x.clone()
    if budget.eps == 0 or len(x) == 0:
        return best
    worth = _Worth(goal=goal, pool=pool, sign=1.0 if targeted else -1.0)
    ceiling = worth.ceiling(seed=seed)
    reached = worth(goal.anchor, slice(None))
    with victim.attacked():
        for name in _NAMES if not targeted else _TARGETED:
            rows = torch.nonzero(reached < ceiling - 1e-9)[:, 0]
            if not len(rows):
                break
            part = goal.select(rows)
            member = _member(name, part, worth.select(rows), seed=seed)
            start = {"clean": x, "best": best}.get(member.start, x)[rows]
            if member.start == "random":
                noise = item_uniform(ids[rows], x.shape[1:], seed=seed, stream="strongest")
                start = x[rows] + (2 * noise.to(x.dtype) - 1) * budget.eps
            made, _ = apgd(
                victim,
                x[rows],
                part,
                loss=member.loss,
                score=lambda u, rows=rows: worth(_bits(u), rows),  # type: ignore[misc]
                budget=budget,
                steps=steps if member.long else -(-steps // 4),
                start=start,
            )
            stored = round_to_grid(made, x[rows], budget) if goal.modality == "image" else made
            value = worth(victim.codes(goal.modality, stored.to(x.dtype)), rows)
            better = value > reached[rows]
            best[rows[better]] = made[better].to(best.dtype)
            reached[rows[better]] = value[better]
    return best


def _bits(logits: Tensor) -> Int8[Tensor, "n k"]:
    return torch.where(logits >= 0, 1, -1).to(torch.int8)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worth:
    """What codes are worth to the attacker: -AP, or t-AP, over the reference database."""

    goal: Goal
    pool: Pool
    sign: float

    def select(self, rows: Tensor) -> "_Worth":
        pool = dataclasses.replace(
            self.pool, visible=self.pool.visible[rows], wanted=self.pool.wanted[rows]
        )
        return dataclasses.replace(self, goal=self.goal.select(rows), pool=pool)

    def __call__(self, codes: Tensor, rows: Tensor | slice) -> Float[Tensor, " n"]:
        wanted = self.pool.wanted[rows]
        counts = distance_counts(
            codes,
            self.pool.codes.to(torch.int8),
            query_labels=wanted,
            database_labels=self.pool.label,
        )
        precision = torch.from_numpy(average_precision(counts)).to(codes.device)
        differing = (codes != self.goal.anchor[rows]).double().mean(1)
        return torch.where(torch.isnan(precision), differing, self.sign * precision)

    def ceiling(self, *, seed: int) -> Float[Tensor, " n"]:
        """Return the worth of the best code known, whatever any picture can reach."""
        anchor = self.goal.anchor
        known = [center_codes(self.pool, anchor), mainstay_codes(self.pool, anchor)]
        if self.sign < 0:
            known = [-anchor, *(-code for code in known)]
        return torch.stack([self(code, slice(None)) for code in known]).amax(0)


def _member(name: str, goal: Goal, worth: _Worth, *, seed: int) -> _Member:
    """Return a member of the ensemble for some items."""
    pool, sign = worth.pool, worth.sign
    if name.startswith("ranking"):
        start: Start = "random" if name == "ranking-random" else "best"
        return _Member(loss=_ranking(pool, sign), long=name == "ranking", start=start)
    if name == "annealed":
        return _Member(
            loss=lambda u, share: sign * (goal.anchor * torch.tanh(annealing(share) * u)).sum(1)
        )
    if name == "prototypes" or name.startswith("nearest"):
        return _by_prototypes(name, goal, worth, seed=seed)
    code = {
        "own-code": lambda: goal.anchor,
        "center": lambda: center_codes(pool, goal.anchor),
        "mainstay": lambda: mainstay_codes(pool, goal.anchor),
        "mainstay-random": lambda: mainstay_codes(pool, goal.anchor),
    }[name]()
    again = name == "mainstay-random"
    return _Member(
        loss=_agree(code, sign),
        long=name in ("own-code", "mainstay"),
        start="random" if again else "clean",
    )


def _by_prototypes(name: str, goal: Goal, worth: _Worth, *, seed: int) -> _Member:
    """Return a run to all prototypes that the goal wants, or to a near one of them."""
    prototypes, occur = class_prototypes(worth.pool, seed=seed)
    own, foreign = (worth.pool.wanted > 0) * occur, (worth.pool.wanted == 0) * occur
    near, far = (own, foreign) if worth.sign > 0 else (foreign, own)
    if name.startswith("nearest"):
        code = _nearest(goal, prototypes, near, place=int(name.removeprefix("nearest-")))
        return _Member(loss=_agree(code, 1.0))
    return _Member(
        loss=lambda u, share: (
            -prototype_contrast(torch.tanh(unit_logits(u)), prototypes.to(u.dtype), near, far=far)
        )
    )


def _agree(code: Tensor, direction: float) -> Loss:
    return lambda u, share: direction * auto_temperature(u, code)


def _nearest(
    goal: Goal, prototypes: Int8[Tensor, "c k"], allowed: Bool[Tensor, "n c"], *, place: int
) -> Tensor:
    """Return for each item the allowed prototype that is nearest to its clean code but `place`."""
    distance = hamming_distance(goal.anchor, prototypes).double()
    values, order = torch.where(allowed, distance, torch.inf).sort(dim=1, stable=True)
    place = min(place, len(prototypes) - 1)
    found = torch.isfinite(values[:, place, None])
    return torch.where(found, prototypes[order[:, place]], -goal.anchor)


def _ranking(pool: Pool, sign: float) -> Loss:
    """Return the soft AP over an even sample of the references as a loss."""
    step = max(1, -(-len(pool.label) // _RANKED))
    chosen = slice(None, None, step)
    codes, label = pool.codes[chosen], pool.label[chosen]
    hits = relevance(pool.wanted, label)

    def loss(u: Float[Tensor, "n k"], share: float) -> Float[Tensor, " n"]:
        relaxed = torch.tanh(unit_logits(u))
        return sign * soft_average_precision(relaxed, codes.to(u.dtype), hits.to(u.dtype))

    return loss
