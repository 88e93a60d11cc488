"""SDHA: leave (or reach) the codes of all relevant items, the near ones first."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from hamward.attacks.anchors import CodeSource, Pool, relevance
from hamward.attacks.base import ATTACKS, Goal
from hamward.attacks.options import FormOptions, check_options
from hamward.attacks.stepping import adam, annealing, pursue
from hamward.errors import ConfigError
from hamward.losses import auto_temperature
from hamward.models import Victim

__all__ = ["SDHA", "SDHATargeted", "sdha_distance", "sdha_official", "sdha_targeted_official"]


def sdha_distance(
    relaxed: Float[Tensor, "n k"],
    codes: Float[Tensor, "m k"],
    relevant: Float[Tensor, "n m"],
    *,
    targeted: bool = False,
) -> Float[Tensor, " n"]:
    """Return mean_{r in R} w(q, r) D(q, r) per item, without a loop over queries.

    Untargeted: D = 1/2 sum |q_k - r_k| s(5 q_k r_k) + sum (1 - s(5 q_k r_k)) and
    w = (d(sign q, r) + 1e-8)^(-1/2). Targeted: D = 1/2 sum |q_k - r_k| s(-10 q_k r_k) and
    w = d^0.3. s is the logistic function. Since r_k is +1 or -1, |q - r| = 1 - q r and D is
    linear in r, so that sums over R are matrix products.

    Source: SDHA (Lu et al., ICMR 2021) as re-implemented in SAAT's code.

    Args:
        relaxed: q, (n, K).
        codes: r, in {-1, +1}, (m, K).
        relevant: 1 where the reference counts for the item, (n, m); a row without any gives 0.
        targeted: Which D and w.
    """

    def bit(z: Tensor) -> Tensor:
        if targeted:
            return (1 - z) / 2 * torch.sigmoid(-10 * z)
        return (1 - z) / 2 * torch.sigmoid(5 * z) + torch.sigmoid(-5 * z)

    weights = _weights(relaxed, codes, relevant, targeted=targeted, least=1e-8)
    weights = weights / relevant.sum(1, keepdim=True).clamp_min(1)
    plus, minus = bit(relaxed), bit(-relaxed)
    center = weights @ codes
    return weights.sum(1) * (plus + minus).sum(1) / 2 + (center * (plus - minus)).sum(1) / 2


def _weights(
    relaxed: Tensor, codes: Tensor, relevant: Tensor, *, targeted: bool, least: float
) -> Tensor:
    signs = torch.where(relaxed.detach() >= 0, 1, -1).to(codes.dtype)
    distance = (codes.shape[1] - signs @ codes.T) / 2
    weight = distance**0.3 if targeted else (distance.clamp_min(0) + least) ** -0.5
    return weight * relevant


@dataclass(frozen=True, slots=True, kw_only=True)
class _Relevant:
    """Codes r and who counts them, with each item's own code for items without relevant ones."""

    codes: Float64[Tensor, "m k"]
    relevant: Float64[Tensor, "n m"]

    @classmethod
    def of(cls, goal: Goal, source: CodeSource, *, who: str, targeted: bool) -> "_Relevant":
        pool = Pool.of(goal, source, who=who, targeted=targeted)
        relevant = relevance(pool.wanted, pool.label) * pool.visible
        none = relevant.sum(1) == 0
        if targeted and bool(none.any()):
            raise ConfigError(
                f"no reference shares a label with {int(none.sum())} of {len(none)} target "
                "labels: choose targets among the labels of the references"
            )
        own = torch.diag(none.double())[:, none]
        codes = torch.cat([pool.codes, goal.anchor[none].double()])
        return cls(codes=codes, relevant=torch.cat([relevant, own], dim=1))

    def like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.codes.to(x.dtype), self.relevant.to(x.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ByDistance(FormOptions):
    """What the untargeted and the targeted form share.

    Attributes:
        rate: Rate of the published Adam.
        codes: Modality of the reference codes.
    """

    rate: float = 0.01
    codes: CodeSource = "other"

    def __post_init__(self) -> None:
        check_options(self, rate=self.rate)

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial items; see `Attack`."""
        who = "sdha-targeted" if self.targeted else "sdha"
        victim.require(self.access, who)
        goal.check(victim, x, ids)
        held = _Relevant.of(goal, self.codes, who=who, targeted=self.targeted)
        codes, relevant = held.like(x)
        sign = -1.0 if self.targeted else 1.0
        published = self.form == "published"
        factor = 25.0 / victim.code_length

        def published_loss(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
            relaxed = torch.tanh(logits)
            return sign * factor * sdha_distance(relaxed, codes, relevant, targeted=self.targeted)

        def scale_free_loss(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
            weights = _weights(logits, codes, relevant, targeted=self.targeted, least=1.0)
            center = weights @ codes / weights.sum(1, keepdim=True).clamp_min(1e-6)
            return -sign * auto_temperature(logits, center)

        def merit(logits: Float[Tensor, "n k"]) -> Tensor:
            signs = torch.where(logits >= 0, 1.0, -1.0).double()
            distance = ((held.codes.shape[1] - signs @ held.codes.T) / 2).clamp_min(0)
            power = 1.3 if self.targeted else 0.5
            worth = sign * (distance**power * held.relevant).sum(1) / held.relevant.sum(1)
            return (worth * 1e9).round()  # a sum in another order is no other code

        return pursue(
            self,
            victim,
            x,
            goal,
            ids=ids,
            seed=seed,
            loss=published_loss if published else scale_free_loss,
            merit=merit,
            rule=adam(self.rate) if published else None,
            alpha=annealing if published else None,
            penalty=(lambda delta: delta.flatten(1).square().mean(1)) if published else None,
        )


@ATTACKS.register(
    "sdha",
    summary="Leave the codes of all relevant items, weighted by nearness, scale-free",
    citation="Lu, Chen, Sun, Wang and Zhou, ICMR 2021",
    access="gradients",
    threat="white-box, untargeted, knows query labels and reference codes, query side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class SDHA(_ByDistance):
    """Grow the distance to every relevant reference code, weighted by d^(-1/2).

    Source: Lu et al., "Smart Deep Hashing Attack", ICMR 2021, as re-implemented in the released
        code of SAAT; the paper's own settings are UNKNOWN.
    Differs: `sdha` approaches the same goal through the weighted mean of the relevant codes,
        recomputed every step, with `losses.auto_temperature` and sign steps; its weights are
        (d + 1)^(-1/2), since at the published 1e-8 one exact hit outweighs all other items.
        `sdha-official` keeps D, weights, MSE term, annealed tanh and Adam. Both: an item without
        relevant references leaves its own code; codes are those of the retrieved modality unless
        `codes` says otherwise (the paper has one modality); best iterate returned.
    """


@ATTACKS.register(
    "sdha-targeted",
    summary="Reach the codes of all items with the target label, far ones first, scale-free",
    citation="Lu et al., ICMR 2021; targeted form of SAAT's released code",
    access="gradients",
    threat="white-box, targeted, knows reference codes, query side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class SDHATargeted(_ByDistance):
    """Shrink the distance to every reference that has the target label, weighted by d^0.3.

    Source: the targeted form of SDHA in SAAT's released code.
    Differs: as in `SDHA`; without references of the target label it refuses.
    """

    targeted: ClassVar[bool] = True

    steps: int = 50


@ATTACKS.register(
    "sdha-official",
    summary="SDHA with the distance, annealed tanh and Adam of the released code",
    citation="Lu et al., ICMR 2021; released code of SAAT",
    access="gradients",
    threat="white-box, untargeted, knows query labels and reference codes, query side",
)
def sdha_official(
    *, eps: float = 8 / 255, text_eps: float = 0.05, steps: int = 1500, rate: float = 0.01
) -> SDHA:
    """Return SDHA as SAAT's released code runs it; see `SDHA` for what that means."""
    return SDHA(eps=eps, text_eps=text_eps, steps=steps, rate=rate, form="published")


@ATTACKS.register(
    "sdha-targeted-official",
    summary="Targeted SDHA with the distance, annealed tanh and Adam of the released code",
    citation="Lu et al., ICMR 2021; released code of SAAT",
    access="gradients",
    threat="white-box, targeted, knows reference codes, query side",
)
def sdha_targeted_official(
    *, eps: float = 8 / 255, text_eps: float = 0.05, steps: int = 1500, rate: float = 0.01
) -> SDHATargeted:
    """Return targeted SDHA as SAAT's released code runs it; see `SDHATargeted`."""
    return SDHATargeted(eps=eps, text_eps=text_eps, steps=steps, rate=rate, form="published")
