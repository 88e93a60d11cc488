"""DHTA and P2P: reach the voted code of database items that have the target label."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hamward.attacks.anchors import CodeSource, Pool, draw_by_label, vote
from hamward.attacks.base import ATTACKS, Goal
from hamward.attacks.options import FormOptions, check_options
from hamward.attacks.stepping import annealing, pursue, unit_steps
from hamward.errors import ConfigError
from hamward.losses import auto_temperature
from hamward.models import Victim

__all__ = ["DHTA", "dhta_official", "p2p", "p2p_official"]


@ATTACKS.register(
    "dhta",
    summary="Reach the bitwise majority code of nine items with the target label, scale-free",
    citation="Bai, Chen, Li, Wu, Guo and Xia, ECCV 2020",
    access="gradients",
    threat="white-box, targeted, knows reference codes, query side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class DHTA(FormOptions):
    """Ascend on the agreement with a code voted by `votes` drawn references.

    Source: Bai et al., "Targeted Attack for Deep Hashing based Retrieval", ECCV 2020. P2P is its
        baseline with one vote.
    Differs: `dhta` and `p2p` use `losses.auto_temperature` and decaying sign steps at 8/255, as
        later papers compare it. `dhta-official` and `p2p-official`: annealed tanh, 2,000 steps of
        length 1 along the gradient; the released eps of 0.032 holds after ImageNet
        normalization, which is 1.83/255 to 1.87/255 in pixels: 1.84/255 here. In all: the
        cross-modal form, where codes are those of the retrieved modality; where fewer than
        `votes` items have exactly the target's labels, those with the nearest labels vote too;
        tied bits (even `votes`) keep the clean bit; best iterate returned.

    Attributes:
        votes: Number of drawn references, n_t.
        codes: Modality of the reference codes.
    """

    targeted: ClassVar[bool] = True

    steps: int = 50
    votes: int = 9
    codes: CodeSource = "other"

    def __post_init__(self) -> None:
        check_options(self)
        if self.votes < 1:
            raise ConfigError(f"votes must be at least 1, got {self.votes}")

    def anchors(self, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return the voted code of each item's target, (n, K)."""
        pool = Pool.of(goal, self.codes, who="dhta", targeted=True)
        chosen = draw_by_label(pool, count=self.votes, ids=ids, seed=seed)
        return vote(chosen, pool.codes, goal.anchor)

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial items; see `Attack`."""
        victim.require(self.access, "dhta")
        goal.check(victim, x, ids)
        voted = self.anchors(goal, ids=ids, seed=seed)
        published = self.form == "published"

        def loss(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
            if published:
                return (torch.tanh(logits) * voted).mean(1)
            return auto_temperature(logits, voted)

        return pursue(
            self,
            victim,
            x,
            dataclasses.replace(goal, anchor=voted, toward=True),
            ids=ids,
            seed=seed,
            loss=loss,
            rule=unit_steps(1.0) if published else None,
            alpha=annealing if published else None,
        )


@ATTACKS.register(
    "p2p",
    summary="Reach the code of one item with the target label, scale-free",
    citation="Bai et al., ECCV 2020, the baseline of DHTA",
    access="gradients",
    threat="white-box, targeted, knows one reference code, query side",
)
def p2p(
    *,
    eps: float = 8 / 255,
    text_eps: float = 0.05,
    steps: int = 50,
    step_size: float = 0.4,
    codes: CodeSource = "other",
) -> DHTA:
    """Return DHTA with one vote; see `DHTA`."""
    return DHTA(eps=eps, text_eps=text_eps, steps=steps, step_size=step_size, codes=codes, votes=1)


@ATTACKS.register(
    "dhta-official",
    summary="DHTA with the annealed tanh, steps and the small radius of the released code",
    citation="Bai et al., ECCV 2020; released code",
    access="gradients",
    threat="white-box, targeted, knows reference codes, query side",
)
def dhta_official(
    *, eps: float = 1.84 / 255, text_eps: float = 0.05, steps: int = 2000, votes: int = 9
) -> DHTA:
    """Return DHTA as its released code runs it; see `DHTA` for what that means."""
    return DHTA(eps=eps, text_eps=text_eps, steps=steps, votes=votes, form="published")


@ATTACKS.register(
    "p2p-official",
    summary="P2P with the annealed tanh, steps and the small radius of the released code",
    citation="Bai et al., ECCV 2020; released code",
    access="gradients",
    threat="white-box, targeted, knows one reference code, query side",
)
def p2p_official(*, eps: float = 1.84 / 255, text_eps: float = 0.05, steps: int = 2000) -> DHTA:
    """Return P2P as DHTA's released code runs it; see `DHTA` for what that means."""
    return DHTA(eps=eps, text_eps=text_eps, steps=steps, votes=1, form="published")
