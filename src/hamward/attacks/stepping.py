"""How attacks step: the published optimizers, and the annealed tanh."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hamward.attacks.base import Goal, Rule, ascend
from hamward.attacks.options import StepOptions
from hamward.models import Victim
from hamward.random import item_uniform

__all__ = [
    "adam",
    "annealing",
    "momentum",
    "pursue",
    "sign_steps",
    "unit_steps",
]


def annealing(share: float) -> float:
    """Return the factor alpha on the logits in tanh(alpha u) after a share of the steps.

    Source: released codes of DHTA and SAAT: 0.1 for the first half, then 0.2, 0.3, 0.5, 0.7 and
        1 for a tenth each. Absolute factors: useless on a victim whose logits are in the hundreds.

    Example:
        >>> [annealing(share) for share in (0, 0.5, 0.6, 0.7, 0.8, 0.9, 1)]
        [0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.0]
    """
    if share < 0.5:
        return 0.1
    return (0.2, 0.3, 0.5, 0.7, 1.0, 1.0)[int((share - 0.5) * 10 + 1e-9)]


def sign_steps(size: float) -> Rule:
    """Return steps of one size along the sign of the gradient."""
    return lambda gradient, step: size * gradient.sign()


def unit_steps(size: float) -> Rule:
    """Return steps of one length along the gradient of each item."""

    def rule(gradient: Tensor, step: int) -> Tensor:
        length = gradient.flatten(1).norm(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
        move: Tensor = size * gradient / length.view(-1, *[1] * (gradient.dim() - 1))
        return move

    return rule


def momentum(rate: float, decay: float = 0.9) -> Rule:
    """Return gradient steps with momentum: v = decay v + g, move = rate v."""
    velocity: list[Tensor] = []

    def rule(gradient: Tensor, step: int) -> Tensor:
        velocity[:] = [decay * velocity[0] + gradient if velocity else gradient]
        return rate * velocity[0]

    return rule


def adam(rate: float, betas: tuple[float, float] = (0.9, 0.999)) -> Rule:
    """Return the steps of Adam with its usual constants."""
    moments: list[Tensor] = []

    def rule(gradient: Tensor, step: int) -> Tensor:
        first, second = moments or (torch.zeros_like(gradient), torch.zeros_like(gradient))
        first = first.lerp(gradient, 1 - betas[0])
        second = second.lerp(gradient.square(), 1 - betas[1])
        moments[:] = [first, second]
        corrected = (second / (1 - betas[1] ** (step + 1))).sqrt() + 1e-8
        return rate * first / (1 - betas[0] ** (step + 1)) / corrected

    return rule


def pursue(
    attack: StepOptions,
    victim: Victim,
    x: Tensor,
    goal: Goal,
    *,
    ids: Int64[Tensor, " n"],
    seed: int,
    loss: Callable[[Float[Tensor, "n k"]], Float[Tensor, " n"]],
    merit: Callable[[Float[Tensor, "n k"]], Tensor] | None = None,
    rule: Rule | None = None,
    alpha: Callable[[float], float] | None = None,
    penalty: Callable[[Tensor], Float[Tensor, " n"]] | None = None,
) -> Tensor:
    """Run `ascend` with an attack's own steps, budget and start; see there."""
    budget, x = attack.budget(goal.modality), x.detach()
    start = x
    if attack.random_start:
        noise = item_uniform(ids, x.shape[1:], seed=seed, stream="start").to(x.dtype)
        start = x + (2 * noise - 1) * budget.eps
    with victim.attacked():
        return ascend(
            victim,
            x,
            goal,
            loss=loss,
            budget=budget,
            steps=attack.steps if budget.eps > 0 else 0,
            step_size=attack.step_size * budget.eps,
            start=start,
            merit=merit,
            rule=rule,
            alpha=alpha,
            penalty=penalty,
        )
