"""The ensemble: every goal, loss and kind of attack in turn; each item keeps what hurt it most."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from hamward.attacks.anchors import Pool
from hamward.attacks.apgd import apgd
from hamward.attacks.base import ATTACKS, Goal, check_steps
from hamward.attacks.budget import Budget, check_words, round_to_grid
from hamward.attacks.edit_search import gradient_rank, search_of, served_bits
from hamward.attacks.ensemble import Aim, Worth, aims_of
from hamward.attacks.own_code import OwnCode
from hamward.attacks.square import square_search
from hamward.attacks.surrogate import OnSurrogate
from hamward.attacks.tag_edits import TagEdits
from hamward.models import HashModel, Victim, load_model
from hamward.models.victim import Access
from hamward.random import item_uniform
from hamward.types import MODALITIES, Modality

__all__ = ["Strongest", "StrongestTargeted"]

Start = Literal["clean", "best", "random"]
Member = Callable[[Tensor, Tensor], Tensor]
"""(rows of the items that are left, best items so far) -> what the member makes of these rows."""

_CANDIDATES = 50
_BEAM = 4
_UNTARGETED_ONLY = ("own-code", "annealed", "nearest-1", "nearest-2")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One run of APGD: the aim, whether it takes all steps or a quarter, and where it starts."""

    aim: str
    long: bool = False
    start: Start = "clean"


# Strong and cheap ones first: later ones see the items that are left.
_RUNS = (
    _Run(aim="mainstay", long=True),
    _Run(aim="center"),
    _Run(aim="prototypes"),
    _Run(aim="own-code", long=True),
    _Run(aim="annealed"),
    *(_Run(aim=f"nearest-{i}") for i in range(3)),
    _Run(aim="ranking", long=True, start="best"),
    _Run(aim="mainstay", start="random"),
    _Run(aim="ranking", start="random"),
    _Run(aim="ranking", start="best"),
)
_SEARCHES = (
    *("mainstay", "center", "own-code", "prototypes", "nearest-0", "nearest-1", "nearest-2"),
    *("ranking", "random"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ensemble:
    """What the untargeted and the targeted ensemble share.

    Attributes:
        eps: Image radius in [0, 1].
        norm: "linf" or "l2".
        text: "edits" of words, as a person could type them, or "feature-space": fractions of
            words within `text_eps`, as papers report.
        insertions: Words that may be put in, for edits.
        deletions: Words that may be taken out, for edits; a text that has words keeps one.
        text_eps: Radius for bags of words in feature space.
        steps: Steps of the long members and submissions of Square; the short members have a
            quarter. Not for tuning: for quick looks and tests.
    """

    access: ClassVar[Access] = "gradients"
    modalities: ClassVar[tuple[Modality, ...]] = MODALITIES
    targeted: ClassVar[bool] = False
    needs_references: ClassVar[bool] = True

    eps: float = 8 / 255
    norm: Literal["linf", "l2"] = "linf"
    text: Literal["edits", "feature-space"] = "edits"
    insertions: int = 3
    deletions: int = 3
    text_eps: float = 0.05
    steps: int = 100

    def __post_init__(self) -> None:
        check_steps(self.steps)
        self._edits(), self._ball("image"), self._ball("text")

    def budget(self, modality: Modality) -> Budget:
        """Return the ball of radius eps (images) or text_eps, or the budget of edits (texts)."""
        return self._edits() if self._edited(modality) else self._ball(modality)

    def _edited(self, modality: Modality) -> bool:
        return modality == "text" and self.text == "edits"

    def _ball(self, modality: Modality) -> Budget:
        return Budget(eps=self.eps if modality == "image" else self.text_eps, norm=self.norm)

    def _edits(self) -> Budget:
        return Budget.edits(insertions=self.insertions, deletions=self.deletions)

    def _on_surrogate(self, modality: Modality) -> OwnCode | TagEdits:
        if self._edited(modality):
            return TagEdits(insertions=self.insertions, deletions=self.deletions)
        return OwnCode(
            eps=self.eps, text_eps=self.text_eps, norm=self.norm, steps=self.steps, step_size=0.1
        )

    def _craft(
        self,
        victim: Victim,
        x: Tensor,
        goal: Goal,
        *,
        ids: Tensor,
        seed: int,
        surrogates: dict[str, HashModel],
    ) -> Tensor:
        who = "strongest-targeted" if self.targeted else "strongest"
        victim.require(self.access, who)
        goal.check(victim, x, ids)
        pool = Pool.of(goal, "other", who=who, targeted=self.targeted)
        budget, x, edited = self.budget(goal.modality), x.detach(), self._edited(goal.modality)
        best = x.clone()
        if edited:
            check_words(x)
            victim = dataclasses.replace(victim, low_precision=False)  # bits are decided here
        if budget.eps == 0 or len(x) == 0:
            return best
        worth = Worth.of(goal, pool, targeted=self.targeted)
        batch = _Batch(
            victim=victim,
            x=x,
            goal=goal,
            ids=ids,
            seed=seed,
            budget=budget,
            steps=self.steps,
            worth=worth,
            bound=worth.bound(),
            aims=aims_of(goal, pool, targeted=self.targeted, seed=seed),
        )
        others = {
            name: OnSurrogate(model=model, attack=self._on_surrogate(goal.modality), name=name)
            for name, model in surrogates.items()
        }
        reached = worth(goal.anchor, torch.arange(len(x), device=x.device))
        with victim.attacked():
            for member in batch.members(others, targeted=self.targeted):
                rows = torch.nonzero(reached < batch.bound - 1e-9)[:, 0]
                if not len(rows):
                    break
                made = member(rows, best)
                value = batch.worth_of(made, rows)
                better = value > reached[rows]
                best[rows[better]] = made[better].to(best.dtype)
                reached[rows[better]] = value[better]
        return best


@ATTACKS.register(
    "strongest",
    summary="Ensemble of goals, losses and kinds of attack; each item keeps its lowest AP",
    citation="hamward, after AutoAttack (Croce and Hein, ICML 2020)",
    access="gradients",
    threat="white-box, untargeted, knows query labels and database codes, query side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Strongest(_Ensemble):
    """The worst case per query over a fixed ensemble; nothing to tune but the budget.

    Aims: away from the own code (scale-free, then annealed tanh), from the center code and the
    mainstay code of the retrieved modality, to the prototypes of all foreign classes, to each of
    the three foreign prototypes nearest to the clean code, down the soft average precision.

    Pictures, and texts in feature space, pursue each in turn under APGD (`attacks.apgd`), two of
    them again from a random start and the last from the best item so far; then come own-code
    steps on each surrogate and, in l_inf balls, Square from the best item so far, which needs no
    gradient. Edited texts are searched like `tag-edits` for each aim, the ones without a code (and
    random edits, which need no gradient) by AP itself; of all texts that a search submits
    the one of lowest AP counts.

    After each member pictures are rounded as a file rounds them, codes are computed in full
    precision, and an item is replaced where its tie-aware AP over the reference database fell (or,
    where it has nothing relevant, where more bits flipped): no item is better off than under any
    member that does not build on others. Items whose AP is the least that any ranking has leave
    the batch.

    Source: hamward; APGD and Square of AutoAttack (Croce and Hein, ICML 2020).
    Differs: three nearest foreign prototypes instead of nine; restarts for two aims instead of
        all; Square has as many submissions as a long member has steps, not 5,000 (`square` is
        that attack), and ranks by AP; surrogates are those that the user names.

    Attributes:
        surrogates: Run folders of models, as `hamward train` writes them, that items are crafted
            on, too. Those that do not read the attacked modality are left out.
    """

    surrogates: tuple[str, ...] = ()

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial items; see `Attack`.

        Raises:
            ArtifactError: a surrogate's folder holds no model, or a damaged one.
            ShapeError: a surrogate reads other pictures or another vocabulary.
        """
        held = {folder: load_model(Path(folder))[0].to(x.device) for folder in self.surrogates}
        held = {name: model for name, model in held.items() if goal.modality in model.modalities}
        for model in held.values():
            model.check(goal.modality, x)
        return self._craft(victim, x, goal, ids=ids, seed=seed, surrogates=held)


@ATTACKS.register(
    "strongest-targeted",
    summary="Ensemble of targeted goals and losses; each item keeps its highest t-AP",
    citation="hamward, after AutoAttack (Croce and Hein, ICML 2020)",
    access="gradients",
    threat="white-box, targeted, knows database codes, query side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class StrongestTargeted(_Ensemble):
    """The best case for the attacker per query: `Strongest` with the target's labels.

    Aims: the mainstay and center code of the target's labels, the prototypes of its classes, the
    nearest of them, up the soft average precision. No surrogates: they have no code of the target.

    Source: as `Strongest`.
    Differs: as `Strongest`.
    """

    targeted: ClassVar[bool] = True

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial items; see `Attack`."""
        return self._craft(victim, x, goal, ids=ids, seed=seed, surrogates={})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """The items of one call and all that their members share, computed once."""

    victim: Victim
    x: Tensor
    goal: Goal
    ids: Int64[Tensor, " n"]
    seed: int
    budget: Budget
    steps: int
    worth: Worth
    bound: Float64[Tensor, " n"]
    aims: dict[str, Aim]

    def members(self, others: dict[str, OnSurrogate], *, targeted: bool) -> Iterator[Member]:
        skipped = _UNTARGETED_ONLY if targeted else ()
        if self.budget.norm == "edits":
            yield from (partial(self.search, name) for name in _SEARCHES if name not in skipped)
        else:
            yield from (partial(self.climb, run) for run in _RUNS if run.aim not in skipped)
        yield from (partial(self.transfer, other) for other in others.values())
        if self.budget.norm == "linf":
            yield self.squares

    def worth_of(self, made: Tensor, rows: Tensor) -> Float64[Tensor, " m"]:
        """Return what items are worth once they are stored."""
        x = self.x[rows]
        stored = round_to_grid(made, x, self.budget) if self.goal.modality == "image" else made
        return self.worth(self.victim.codes(self.goal.modality, stored.to(x.dtype)), rows)

    def climb(self, run: _Run, rows: Tensor, best: Tensor) -> Tensor:
        """Run APGD."""
        x, aim = self.x[rows], self.aims[run.aim]
        start = best[rows] if run.start == "best" else x
        if run.start == "random":
            noise = item_uniform(self.ids[rows], x.shape[1:], seed=self.seed, stream="strongest")
            start = x + (2 * noise.to(x.dtype) - 1) * self.budget.eps
        made, _ = apgd(
            self.victim,
            x,
            self.goal.select(rows),
            loss=lambda u, share: aim.loss(rows, u, share),
            score=lambda u: self.worth(u, rows),
            budget=self.budget,
            steps=self.steps if run.long else -(-self.steps // 4),
            start=start,
        )
        return made

    def search(self, name: str, rows: Tensor, best: Tensor) -> Tensor:
        """Edit words; of all texts that the search submits, return the one worth most."""
        x, aim = self.x[rows], self.aims.get(name)
        search = search_of(
            self.victim,
            x,
            self.goal.select(rows),
            self.ids[rows],
            budget=self.budget,
            beam=_BEAM if name == "ranking" else 1,
            candidates=_CANDIDATES,
        )
        kept = _Kept(texts=x.clone(), value=torch.full_like(self.bound[rows], -torch.inf))

        def loss(items: Tensor, logits: Tensor) -> Float[Tensor, " m"]:
            assert aim is not None
            return aim.loss(rows[items], logits, 1.0)

        bits = None
        if aim is not None and aim.goal is not None:
            bits = served_bits(aim.goal.select(rows), loss)

        def score(items: Tensor, texts: Tensor) -> Float64[Tensor, " m"]:
            with torch.no_grad():
                logits = self.victim.logits("text", texts)
                value = self.worth(logits, rows[items])
                kept.offer(items, texts, value)
                if bits is not None:
                    return bits(items, logits)
                done = value >= self.bound[rows[items]] - 1e-9
                return torch.where(done, search.most, (value + 1) / 2 * search.most)

        def by_chance(items: Tensor, texts: Tensor, step: int) -> Float64[Tensor, "m d"]:
            ids, stream = self.ids[rows[items]], f"strongest-{step}"
            return item_uniform(ids, texts.shape[1:], seed=self.seed, stream=stream)

        search.run(score, by_chance if aim is None else gradient_rank(self.victim, loss))
        return kept.texts

    def transfer(self, other: OnSurrogate, rows: Tensor, best: Tensor) -> Tensor:
        """Leave the clean code of a surrogate."""
        goal = self.goal.select(rows)
        return other(self.victim, self.x[rows], goal, ids=self.ids[rows], seed=self.seed)

    def squares(self, rows: Tensor, best: Tensor) -> Tensor:
        """Run Square from the best items, led by what is stored of each candidate."""

        def score(items: Tensor, of: Tensor) -> Int64[Tensor, " m"]:
            missing = self.worth_of(items, rows[of]) - self.bound[rows[of]]
            return (missing * 1e9).round().clamp_max(0).long()

        return square_search(
            self.x[rows],
            score,
            best_possible=0,
            budget=self.budget,
            queries=self.steps,
            initial=0.8,
            ids=self.ids[rows],
            seed=self.seed,
            start=best[rows],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """The best text seen for each item and its value; both tensors are updated in place."""

    texts: Float[Tensor, "n d"]
    value: Float64[Tensor, " n"]

    def offer(self, items: Tensor, texts: Tensor, value: Tensor) -> None:
        """Keep texts that are worth more than what is kept; of equals the first."""
        highest = torch.full_like(self.value, -torch.inf).scatter_reduce(0, items, value, "amax")
        at_peak = torch.nonzero(value == highest[items])[:, 0]
        order = torch.full_like(self.value, len(value)).long()
        first = order.scatter_reduce(0, items[at_peak], at_peak, "amin")
        better: Bool[Tensor, " n"] = highest > self.value
        self.texts[better] = texts[first[better]]
        self.value[better] = highest[better]
