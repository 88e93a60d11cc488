"""APGD on Hamming objectives: a step size that finds itself, the best iterate kept per item."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from hamward.attacks.base import Goal
from hamward.attacks.budget import Budget
from hamward.models import Victim

__all__ = ["apgd", "checkpoints"]

Loss = Callable[[Float[Tensor, "n k"], float], Float[Tensor, " n"]]
Score = Callable[[Float[Tensor, "n k"]], Float[Tensor, " n"]]


def checkpoints(steps: int) -> set[int]:
    """Return after which steps the step size is reconsidered.

    p_1 = 0.22 and p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), times the number of steps.

    Source: Croce and Hein, ICML 2020, Sec. 3.

    Example:
        >>> sorted(checkpoints(100))
        [22, 41, 57, 70, 80, 87, 93, 99]
    """
    shares, places = [0.0, 0.22], []
    while shares[-1] <= 1:
        places.append(round(shares[-1] * steps))
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return {p for p in places if 0 < p <= steps}


def apgd(
    victim: Victim,
    x: Tensor,
    goal: Goal,
    *,
    loss: Loss,
    score: Score,
    budget: Budget,
    steps: int,
    start: Tensor,
) -> tuple[Tensor, Float[Tensor, " n"]]:
    """Ascend a loss of the logits with momentum and per-item halving of the step size.

    Source: Croce and Hein, ICML 2020, Algorithm 1 (momentum mix 0.75, rho 0.75, first step
        2 eps).
    Differs: the iterate that is returned is the best under `score`, the discrete objective that
        retrieval sees; the loss decides only about step sizes and restarts. l2 steps follow the
        direction of the gradient.

    Args:
        victim: Held by `victim.attacked()` by the caller.
        x: Clean items.
        goal: Names the modality.
        loss: (logits, share of the steps done) -> value per item, to be increased.
        score: Logits -> value per item; decides which iterate is kept.
        budget: The ball to stay in.
        steps: Gradient steps; the victim sees steps + 1 forward passes.
        start: First iterate.

    Returns:
        The best items, detached, and their scores.
    """
    layout = torch.channels_last if x.dim() == 4 else torch.contiguous_format
    x = x.contiguous(memory_format=layout)
    x_adv = budget.project(start, x).contiguous(memory_format=layout)
    before = x_adv
    wide = (-1, *[1] * (x.dim() - 1))
    size = torch.full((len(x),), 2 * budget.eps, dtype=x.dtype, device=x.device)
    peak = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    peak_x, peak_gradient, rises = x_adv, torch.zeros_like(x), torch.zeros_like(size)
    last_size, last_peak = size.clone(), peak.clone()
    best, best_score = x_adv, torch.full_like(peak, -torch.inf)
    value_before = peak.clone()
    turns, window = checkpoints(steps), 0
    for step in range(steps + 1):
        x_adv = x_adv.detach().requires_grad_(step < steps)
        logits = victim.logits(goal.modality, x_adv)
        value = loss(logits, step / max(steps, 1))
        reached = score(logits.detach()).to(x.dtype)
        better = reached > best_score
        best = torch.where(better.view(wide), x_adv.detach(), best)
        best_score = torch.where(better, reached, best_score)
        if step == steps:
            break
        (gradient,) = torch.autograd.grad(value.sum(), x_adv)
        now, x_adv = value.detach(), x_adv.detach()
        higher = now > peak
        peak = torch.where(higher, now, peak)
        peak_x = torch.where(higher.view(wide), x_adv, peak_x)
        peak_gradient = torch.where(higher.view(wide), gradient, peak_gradient)
        rises += now > value_before
        value_before, window = now, window + 1
        if step in turns:
            few = rises < 0.75 * window
            stuck = (size == last_size) & (peak <= last_peak)
            halve = few | stuck
            last_size, last_peak = size.clone(), peak.clone()
            size = torch.where(halve, size / 2, size)
            x_adv = torch.where(halve.view(wide), peak_x, x_adv)
            before = torch.where(halve.view(wide), peak_x, before)
            gradient = torch.where(halve.view(wide), peak_gradient, gradient)
            rises, window = torch.zeros_like(rises), 0
        if budget.norm == "linf":
            direction = gradient.sign()
        else:
            length = gradient.flatten(1).norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny)
            direction = gradient / length.view(wide)
        ahead = budget.project(x_adv + size.view(wide) * direction, x)
        if step:
            ahead = budget.project(x_adv + 0.75 * (ahead - x_adv) + 0.25 * (x_adv - before), x)
        before, x_adv = x_adv, ahead
    return best.detach().contiguous(), best_score
