"""Fast tag edits: several words changed at every gradient, cheap enough to train against."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hamward.attacks.base import ATTACKS, Goal, Rule, ascend, check_steps
from hamward.attacks.budget import Budget
from hamward.errors import ConfigError
from hamward.losses import auto_temperature
from hamward.models import Victim
from hamward.models.victim import Access
from hamward.random import item_uniform
from hamward.types import Modality

__all__ = ["FastEdits", "edit_limits", "edit_steps", "make_edits"]


def make_edits(
    text: Float[Tensor, "n d"],
    x: Float[Tensor, "n d"],
    gradient: Float[Tensor, "n d"],
    *,
    limits: Int64[Tensor, "n 2"],
    share: float = 1.0,
) -> Float[Tensor, "n d"]:
    """Make the edits that raise a loss most, to first order: +g_k to insert word k, -g_k to delete.

    Only edits with a gain are made, none is undone, and a text that has words keeps one.

    Source: first-order scores of single flips are those of HotFlip (Ebrahimi et al., ACL 2018).

    Args:
        text: Texts as they are now, within the limits around `x`.
        x: Clean texts of zeros and ones.
        gradient: Of the loss at `text`.
        limits: Most insertions and most deletions of each text.
        share: Share of the edits that are left to make now, rounded up.
    """
    there, edited = text > 0.5, text != x
    insertions = limits[:, 0] - (there & edited).sum(1)
    deletions = limits[:, 1] - (~there & edited).sum(1)
    most = ((insertions + deletions) * share).ceil()
    deletions = torch.minimum(deletions, (there.sum(1) - 1).clamp_min(0))
    gain = gradient * (1 - 2 * text)
    open_ = ~edited & (gain > 0)
    chosen = _largest(gain, open_ & ~there, insertions) | _largest(gain, open_ & there, deletions)
    return torch.where(_largest(gain, chosen, most), 1 - text, text)


def _largest(
    gain: Float[Tensor, "n d"], among: Bool[Tensor, "n d"], most: Tensor
) -> Bool[Tensor, "n d"]:
    """Return the so many largest gains of each text; equal ones go by vocabulary order."""
    order = gain.masked_fill(~among, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return among & (order.argsort(1) < most[:, None])


def edit_limits(
    ids: Int64[Tensor, " n"], budget: Budget, *, seed: int | None = None
) -> Int64[Tensor, "n 2"]:
    """Return most insertions and deletions of each text: the budget, or drawn up to it.

    Args:
        ids: Item ids.
        budget: Of norm "edits".
        seed: Draw both numbers, from 0 to the budget, each equally likely; None takes it whole.
    """
    whole = torch.tensor([budget.insertions, budget.deletions], device=ids.device)
    if seed is None:
        return whole.expand(len(ids), 2)
    return (item_uniform(ids, (2,), seed=seed, stream="edits") * (whole + 1)).long()


def edit_steps(x: Float[Tensor, "n d"], limits: Int64[Tensor, "n 2"], *, steps: int) -> Rule:
    """Return the rule of `ascend` that spreads edits evenly over the steps."""
    text = x

    def rule(gradient: Tensor, step: int) -> Tensor:
        nonlocal text
        before = text
        text = make_edits(before, x, gradient, limits=limits, share=1 / (steps - step))
        return text - before

    return rule


@ATTACKS.register(
    "tag-edits-fast",
    summary="Words inserted and deleted by the gradient alone, several at a time",
    citation="hamward; first-order scores as in Ebrahimi et al., ACL 2018",
    access="gradients",
    threat="white-box, untargeted, label-free, query side, texts as typed",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class FastEdits:
    """Flip bits of the clean code (or reach a given code) with few gradients: for training.

    Each step spends its share of the edits on those of the largest first-order gain in
    `losses.auto_temperature`; the text that serves most bits is kept, the clean one included.
    One step is one gradient for all edits. `TagEdits` scores edits exactly, one at a time, and
    is the one to evaluate with.

    Source: hamward.
    Differs: nothing known.

    Attributes:
        insertions: Words that may be put in.
        deletions: Words that may be taken out; a text that has words keeps at least one.
        steps: Gradients.
        drawn: Draw each text's numbers of insertions and deletions up to these, so that training
            meets texts with few edits, too.
    """

    access: ClassVar[Access] = "gradients"
    modalities: ClassVar[tuple[Modality, ...]] = ("text",)
    targeted: ClassVar[bool] = False
    needs_references: ClassVar[bool] = False

    insertions: int = 3
    deletions: int = 3
    steps: int = 2
    drawn: bool = False

    def __post_init__(self) -> None:
        check_steps(self.steps)
        self.budget("text")

    def budget(self, modality: Modality) -> Budget:
        """Return the budget of edits.

        Raises:
            ConfigError: pictures have no words.
        """
        if modality != "text":
            raise ConfigError(
                f"edits of words are for texts, not for items of modality {modality!r}"
            )
        return Budget.edits(insertions=self.insertions, deletions=self.deletions)

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return edited texts; see `Attack`."""
        victim.require(self.access, "tag-edits-fast")
        budget = self.budget(goal.modality)
        goal.check(victim, x, ids, budget=budget)
        sign, x = 1.0 if goal.toward else -1.0, x.detach()
        steps = self.steps if budget.eps > 0 else 0
        limits = edit_limits(ids, budget, seed=seed if self.drawn else None)

        def loss(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
            return sign * auto_temperature(logits, goal.anchor)

        with victim.attacked():
            return ascend(
                victim,
                x,
                goal,
                loss=loss,
                budget=budget,
                steps=steps,
                step_size=1.0,
                start=x,
                rule=edit_steps(x, limits, steps=steps),
            )
