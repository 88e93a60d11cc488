"""CgAT: leave the center code of one's own labels."""

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hamward.attacks.anchors import CodeSource, Pool, center_codes
from hamward.attacks.base import ATTACKS, Goal
from hamward.attacks.options import FormOptions
from hamward.attacks.stepping import pursue, sign_steps
from hamward.losses import auto_temperature
from hamward.models import Victim

__all__ = ["CgAT", "cgat_official"]


@ATTACKS.register(
    "cgat",
    summary="Leave the center code of one's own labels, scale-free",
    citation="Wang, Lin, Li, Zhang and Zhang, WWW 2023",
    access="gradients",
    threat="white-box, untargeted, knows query labels and reference codes, query side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class CgAT(FormOptions):
    """Descend on the agreement with `anchors.center_codes`.

    Source: Wang et al., "CgAT: Center-Guided Adversarial Training for Deep Hashing-Based
        Retrieval", WWW 2023: the attack inside its training.
    Differs: `cgat` uses `losses.auto_temperature` and decaying steps; `cgat-official` tanh(u) and
        7 steps of 2/255 from a random start, as its training does (an attack for evaluation is
        not in the released code). That the paper means Jaccard weights is INFERRED from code
        that is overwritten there: `jaccard`. Ties and items without labels leave their own bits.

    Attributes:
        codes: Modality of the reference codes.
        jaccard: Weigh positives by the Jaccard index of the labels.
    """

    codes: CodeSource = "other"
    jaccard: bool = False

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial items; see `Attack`."""
        victim.require(self.access, "cgat")
        goal.check(victim, x, ids)
        pool = Pool.of(goal, self.codes, who="cgat")
        center = center_codes(pool, goal.anchor, jaccard=self.jaccard)
        published = self.form == "published"

        def loss(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
            if published:
                return -(torch.tanh(logits) * center).mean(1)
            return -auto_temperature(logits, center)

        step = self.step_size * self.budget(goal.modality).eps
        return pursue(
            self,
            victim,
            x,
            dataclasses.replace(goal, anchor=center),
            ids=ids,
            seed=seed,
            loss=loss,
            rule=sign_steps(step) if published else None,
        )


@ATTACKS.register(
    "cgat-official",
    summary="CgAT's attack with tanh(u) and the seven steps of its training",
    citation="Wang et al., WWW 2023; released code",
    access="gradients",
    threat="white-box, untargeted, knows query labels and reference codes, query side",
)
def cgat_official(*, eps: float = 8 / 255, text_eps: float = 0.05, steps: int = 7) -> CgAT:
    """Return the attack inside CgAT's released training; see `CgAT` for what that means."""
    return CgAT(
        eps=eps, text_eps=text_eps, steps=steps, step_size=0.25, random_start=True, form="published"
    )
