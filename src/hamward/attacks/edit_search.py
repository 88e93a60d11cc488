"""Search for the best few edits of bags of words: greedy, beam and exhaustive, all in batches."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from hamward.attacks.base import Goal
from hamward.attacks.budget import Budget, check_words
from hamward.errors import ConfigError
from hamward.models import Victim
from hamward.random import item_uniform

__all__ = ["EditSearch", "gradient_rank", "search_of", "served_bits"]

_CHUNK = 2048
_GRID = 1 << 16

Score = Callable[[Tensor, Tensor], Tensor]
"""(rows of the items, texts) -> (m,) float64: bits that serve the goal, and a fraction below 1
that orders equals."""

Rank = Callable[[Tensor, Tensor, int], Tensor]
"""(rows of the items, texts, step) -> (m, D): a value for each edit, larger ones tried first."""

RowLoss = Callable[[Tensor, Tensor], Tensor]
"""(rows of the items, logits of texts) -> (m,): a value for each text, to be increased."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Beam:
    """The texts that items go on from in one step.

    Attributes:
        rows: The items that still search, (m,).
        texts: Their texts, (m, b, D); greedy search stands at the first one.
        alive: Which of the texts exist, (m, b).
        names: A number for each text's set of edits, equal for equal sets, (m, b).
    """

    rows: Int64[Tensor, " m"]
    texts: Float[Tensor, "m b d"]
    alive: Bool[Tensor, "m b"]
    names: Int64[Tensor, "m b"]

    def keep(self, some: Bool[Tensor, " m"]) -> "_Beam":
        return _Beam(
            rows=self.rows[some],
            texts=self.texts[some],
            alive=self.alive[some],
            names=self.names[some],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EditSearch:
    """What is searched, and how widely.

    Edits are made one by one and never undone, so each path is a set of edits in some order;
    sets that several paths reach are scored once.

    Attributes:
        x: Clean texts of zeros and ones.
        budget: Of norm "edits".
        allowed: Words that may be put in.
        most: Bits that can serve the goal; an item that reaches them all leaves the search.
        beam: Texts that a step goes on from. The greedy one is always among them, so a beam is
            never worse than greedy search.
        candidates: Edits of a text that a step scores; None for all.
    """

    x: Float[Tensor, "n d"]
    budget: Budget
    allowed: Bool[Tensor, " d"]
    most: int
    beam: int = 1
    candidates: int | None = None

    def run(self, score: Score, rank: Rank) -> Float[Tensor, "n d"]:
        """Return the best text found for each item, the clean one included.

        Args:
            score: Decides which text is better.
            rank: Orders the edits of a text before they are scored; asked only where not all
                of them are.
        """
        x = self.x
        words = torch.arange(x.shape[1], device=x.device)
        keys = (item_uniform(words, (1,), seed=0, stream="edits")[:, 0] * 2**53).long()
        rows = torch.arange(len(x), device=x.device)
        best, reached = x.clone(), _in_chunks(score, rows, x)
        beam = _Beam(
            rows=rows,
            texts=x[:, None],
            alive=torch.ones_like(rows[:, None], dtype=torch.bool),
            names=torch.zeros_like(rows[:, None]),
        )
        for step in range(self.budget.insertions + self.budget.deletions):
            beam = beam.keep(reached[beam.rows] < self.most)
            if not len(beam.rows):
                break
            beam, scores = self._extend(beam, step, keys, score, rank)
            top, place = scores.max(1)
            better = top > reached[beam.rows]
            reached[beam.rows[better]] = top[better]
            best[beam.rows[better]] = beam.texts[better, place[better]]
        return best

    def _extend(
        self, beam: _Beam, step: int, keys: Tensor, score: Score, rank: Rank
    ) -> tuple[_Beam, Float64[Tensor, "m b"]]:
        """Make one more edit in every text; return the best results and their scores."""
        legal = self._legal(beam)
        edits = self._ordered(beam, legal, step, rank)  # (m, b, c): the words to change
        valid = legal.gather(2, edits)
        names = torch.where(valid, beam.names[:, :, None] ^ keys[edits], -1)
        valid &= _first_of_equals(names.flatten(1)).view_as(valid)
        item, slot, _ = valid.nonzero(as_tuple=True)
        words = edits[valid]

        def scored(rows: Tensor, made: Tensor) -> Tensor:
            return score(rows, _changed(beam.texts[item[made], slot[made]], words[made]))

        scores = torch.full(edits.shape, -torch.inf, dtype=torch.float64, device=edits.device)
        made = torch.arange(len(item), device=item.device)
        scores[valid] = _in_chunks(scored, beam.rows[item], made)
        flat = scores.flatten(1)
        priority = flat.clone()
        each = torch.arange(len(flat), device=flat.device)
        priority[each, scores[:, 0].argmax(1)] += self.most + 1  # greedy search goes first
        chosen = priority.argsort(dim=1, descending=True, stable=True)[:, : self.beam]
        parents = beam.texts[each[:, None], chosen // edits.shape[2]]
        word, best = edits.flatten(1).gather(1, chosen), flat.gather(1, chosen)
        new = _Beam(
            rows=beam.rows,
            texts=_changed(parents, word),
            alive=best > -torch.inf,
            names=names.flatten(1).gather(1, chosen),
        )
        return new, best

    def _legal(self, beam: _Beam) -> Bool[Tensor, "m b d"]:
        """Return which edits keep the budget, the allowed words and at least one word."""
        there = beam.texts > 0.5
        edited = beam.texts != self.x[beam.rows][:, None]
        inserted = (there & edited).sum(2, keepdim=True)
        deleted = (~there & edited).sum(2, keepdim=True)
        insertable = ~there & self.allowed & (inserted < self.budget.insertions)
        deletable = there & (deleted < self.budget.deletions) & (there.sum(2, keepdim=True) > 1)
        return (insertable | deletable) & ~edited & beam.alive[:, :, None]

    def _ordered(
        self, beam: _Beam, legal: Bool[Tensor, "m b d"], step: int, rank: Rank
    ) -> Int64[Tensor, "m b c"]:
        """Return the words whose edits are scored, legal ones first."""
        count = legal.shape[2] if self.candidates is None else self.candidates
        values = torch.zeros(legal.shape, dtype=torch.float64, device=legal.device)
        if count < legal.shape[2]:
            rows = beam.rows[:, None].expand_as(beam.alive)[beam.alive]
            ranked = _in_chunks(lambda r, t: rank(r, t, step), rows, beam.texts[beam.alive])
            values[beam.alive] = ranked.double()
        values = values.masked_fill(~legal, -torch.inf)
        return values.argsort(dim=2, descending=True, stable=True)[:, :, :count]


def search_of(
    victim: Victim,
    x: Tensor,
    goal: Goal,
    ids: Tensor,
    *,
    budget: Budget,
    words: Collection[int] | None = None,
    beam: int = 1,
    candidates: int | None = None,
) -> EditSearch:
    """Check all that can be checked before the first query, and set up the search.

    Args:
        victim: Who will be asked.
        x: Clean texts.
        goal: What their codes shall be.
        ids: Item ids.
        budget: Of norm "edits".
        words: Positions of the words that may be put in, or None for all.
        beam: See `EditSearch`.
        candidates: See `EditSearch`.

    Raises:
        ConfigError: the budget or a position is larger than the vocabulary.
        ShapeError: items, ids, goal and victim do not fit, or items are no bags of zeros and ones.
    """
    goal.check(victim, x, ids)
    check_words(x)
    size = x.shape[1]
    if words is not None and max(words) >= size:
        raise ConfigError(f"words must be below {size}, the vocabulary, got {max(words)}")
    allowed = torch.full((size,), words is None, device=x.device)
    allowed[list(words or ())] = True
    there = int(allowed.sum())
    if budget.eps > size or budget.insertions > there:
        raise ConfigError(
            f"tag budget larger than the vocabulary: {budget.insertions} insertions and "
            f"{budget.deletions} deletions, {there} words to insert, {size} in all"
        )
    return EditSearch(
        x=x.detach(),
        allowed=allowed,
        budget=budget,
        most=victim.code_length,
        beam=beam,
        candidates=candidates,
    )


def gradient_rank(victim: Victim, loss: RowLoss) -> Rank:
    """Order edits by how much each raises a loss, to first order."""

    def rank(rows: Tensor, texts: Tensor, step: int) -> Tensor:
        leaf = texts.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(rows, victim.logits("text", leaf)).sum(), leaf)
        return gradient * (1 - 2 * texts)

    return rank


def served_bits(goal: Goal, loss: RowLoss) -> RowLoss:
    """Score logits by the bits that serve a goal; among equals a loss in (-K, K) decides."""

    def value(rows: Tensor, logits: Tensor) -> Float64[Tensor, " m"]:
        soft = 0.5 + loss(rows, logits).double() / (2 * logits.shape[1])
        soft = (soft * _GRID).floor().clamp(0, _GRID - 1) / _GRID
        return goal.select(rows).flips(logits) + soft

    return value


def _changed(texts: Float[Tensor, "*n d"], words: Int64[Tensor, "*n"]) -> Float[Tensor, "*n d"]:
    """Return texts with one word each put in or taken out."""
    words = words[..., None]
    return texts.scatter(-1, words, 1 - texts.gather(-1, words))


def _first_of_equals(names: Int64[Tensor, "m p"]) -> Bool[Tensor, "m p"]:
    """Return which names stand in their row for the first time."""
    ordered, places = names.sort(dim=1, stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return torch.zeros_like(first).scatter(1, places, first)


def _in_chunks(function: Callable[[Tensor, Tensor], Tensor], rows: Tensor, of: Tensor) -> Tensor:
    """Call a function of rows and what belongs to them on so many at a time."""
    parts = zip(torch.split(rows, _CHUNK), torch.split(of, _CHUNK), strict=True)
    return torch.cat([function(r, part) for r, part in parts])
