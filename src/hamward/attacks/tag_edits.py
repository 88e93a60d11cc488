"""Tag edits: a few words put into or taken out of a bag of words, as a person could type."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from hamward.attacks.base import ATTACKS, Goal
from hamward.attacks.budget import Budget
from hamward.attacks.edit_search import gradient_rank, search_of, served_bits
from hamward.errors import ConfigError, unknown_name
from hamward.losses import auto_temperature
from hamward.models import Victim
from hamward.models.victim import Access
from hamward.random import item_uniform
from hamward.types import Modality

__all__ = ["TagEdits", "TagEditsByCodes", "positions_of_words"]


def positions_of_words(words: Sequence[str], vocabulary: Sequence[str]) -> tuple[int, ...]:
    """Return where words stand in a vocabulary, for the option `words` of tag attacks.

    Raises:
        UnknownNameError: a word is not in the vocabulary.

    Example:
        >>> positions_of_words(["sky", "cat"], ("cat", "dog", "sky"))
        (2, 0)
    """
    place = {word: i for i, word in enumerate(vocabulary)}
    for word in words:
        if word not in place:
            raise unknown_name("word", word, vocabulary)
    return tuple(place[word] for word in words)


@ATTACKS.register(
    "tag-edits",
    summary="Words inserted and deleted, ranked by the gradient and scored exactly",
    citation="hamward",
    access="gradients",
    threat="white-box, untargeted, label-free, query side, texts as typed",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class TagEdits:
    """Flip most bits of the clean code (or reach a given code) with a few edits of words.

    Edits are made one by one. In each step the gradient of `losses.auto_temperature` ranks
    all edits that are still allowed, the first `candidates` of them are put through the victim,
    and the one that serves most bits is made; among equals that loss decides, then vocabulary
    order. The best text of all steps is returned, the clean one included, so the
    result is never worse than it, and texts whose bits all serve the goal leave the search.
    Beam search goes on from the best `beam` texts of each step and always from the greedy one
    too, so it is never worse than greedy search.

    Source: hamward.
    Differs: nothing known; the encoder may be any, its first layer is not looked into.

    Attributes:
        insertions: Words that may be put in.
        deletions: Words that may be taken out; a text that has words keeps at least one.
        method: "greedy", "beam" or "exhaustive": every edit is scored, for a budget of one.
        beam: Texts that beam search goes on from.
        candidates: Edits of a text that are scored in a step of greedy and beam search.
        words: Positions of the words that may be put in, or None for all. Any may be taken out.
    """

    access: ClassVar[Access] = "gradients"
    modalities: ClassVar[tuple[Modality, ...]] = ("text",)
    targeted: ClassVar[bool] = False
    needs_references: ClassVar[bool] = False

    insertions: int = 3
    deletions: int = 3
    method: Literal["greedy", "beam", "exhaustive"] = "greedy"
    beam: int = 8
    candidates: int = 50
    words: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        budget = self.budget("text")
        _check_options(self.candidates, self.words)
        if self.beam < 1:
            raise ConfigError(f"beam must be at least 1, got {self.beam}")
        if self.method == "exhaustive" and budget.eps > 1:
            raise ConfigError(
                "exhaustive search needs insertions + deletions = 1, got "
                f"{self.insertions} + {self.deletions}: take 'beam'"
            )

    def budget(self, modality: Modality) -> Budget:
        """Return the budget of edits.

        Raises:
            ConfigError: pictures have no words.
        """
        return _budget(modality, self.insertions, self.deletions)

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return edited texts; see `Attack`.

        Raises:
            ConfigError: the budget is larger than the vocabulary.
        """
        victim.require(self.access, "tag-edits")
        search = search_of(
            victim,
            x,
            goal,
            ids,
            budget=self.budget(goal.modality),
            words=self.words,
            beam=self.beam if self.method == "beam" else 1,
            candidates=None if self.method == "exhaustive" else self.candidates,
        )
        sign = 1.0 if goal.toward else -1.0
        victim = dataclasses.replace(victim, low_precision=False)  # bits are decided here

        def loss(rows: Tensor, logits: Tensor) -> Float[Tensor, " m"]:
            return sign * auto_temperature(logits, goal.anchor[rows])

        bits = served_bits(goal, loss)

        def score(rows: Tensor, texts: Tensor) -> Float64[Tensor, " m"]:
            with torch.no_grad():
                return bits(rows, victim.logits("text", texts))

        with victim.attacked():
            return search.run(score, gradient_rank(victim, loss))


@ATTACKS.register(
    "tag-edits-codes",
    summary="Words inserted and deleted by trial, seeing nothing but codes",
    citation="hamward",
    access="codes",
    threat="black-box (codes), untargeted, label-free, query side, texts as typed",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class TagEditsByCodes:
    """Greedy search that tries random edits and keeps the one that serves most bits.

    At most 1 + (insertions + deletions) x candidates submissions a text.

    Source: hamward.
    Differs: nothing known.

    Attributes:
        insertions: Words that may be put in.
        deletions: Words that may be taken out; a text that has words keeps at least one.
        candidates: Edits that are tried in a step, drawn without repetition; None tries all.
        words: Positions of the words that may be put in, or None for all. Any may be taken out.
    """

    access: ClassVar[Access] = "codes"
    modalities: ClassVar[tuple[Modality, ...]] = ("text",)
    targeted: ClassVar[bool] = False
    needs_references: ClassVar[bool] = False

    insertions: int = 3
    deletions: int = 3
    candidates: int | None = 50
    words: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        self.budget("text")
        _check_options(self.candidates, self.words)

    def budget(self, modality: Modality) -> Budget:
        """Return the budget of edits.

        Raises:
            ConfigError: pictures have no words.
        """
        return _budget(modality, self.insertions, self.deletions)

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return edited texts; see `Attack`.

        Raises:
            ConfigError: the budget is larger than the vocabulary.
        """
        victim.require(self.access, "tag-edits-codes")
        search = search_of(
            victim,
            x,
            goal,
            ids,
            budget=self.budget(goal.modality),
            words=self.words,
            candidates=self.candidates,
        )

        def score(rows: Tensor, texts: Tensor) -> Float64[Tensor, " m"]:
            return goal.select(rows).flips(victim.codes("text", texts).float()).double()

        def rank(rows: Tensor, texts: Tensor, step: int) -> Float64[Tensor, "m d"]:
            return item_uniform(ids[rows], texts.shape[1:], seed=seed, stream=f"edit-{step}")

        return search.run(score, rank)


def _budget(modality: Modality, insertions: int, deletions: int) -> Budget:
    if modality != "text":
        raise ConfigError(f"edits of words are for texts, not for items of modality {modality!r}")
    return Budget.edits(insertions=insertions, deletions=deletions)


def _check_options(candidates: int | None, words: tuple[int, ...] | None) -> None:
    if candidates is not None and candidates < 1:
        raise ConfigError(f"candidates must be at least 1, got {candidates}")
    if words is not None and (not words or min(words) < 0):
        raise ConfigError(f"words must be positions in the vocabulary, at least one, got {words}")
