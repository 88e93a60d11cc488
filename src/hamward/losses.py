"""Losses on logits and codes, each a plain function; a value per item unless said."""

from typing import Any

import torch
from jaxtyping import Float, Int8
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "annealed_tanh",
    "auto_temperature",
    "pairwise_likelihood",
    "quantization",
    "reverse_gradient",
    "soft_average_precision",
]


def auto_temperature(
    logits: Float[Tensor, "n k"], anchor: Int8[Tensor, "n k"] | Float[Tensor, "n k"]
) -> Float[Tensor, " n"]:
    """Soft agreement with an anchor code that no rescaling of the logits can hide.

    sum_k a_k tanh(u_k / tau), tau = median_k |u_k| of the item, detached. In (-K, K);
    K - 2 x (soft count of differing bits). Where half of the logits are 0, tau is their mean
    magnitude; where all are, 1.

    Source: hamward; compare the annealed tanh of DHTA and SAAT, which is not invariant.
    """
    size = logits.detach().abs()
    tau = size.median(dim=1, keepdim=True).values
    tau = torch.where(tau > 0, tau, size.mean(dim=1, keepdim=True))
    tau = torch.where(tau > 0, tau, 1.0)
    return (anchor.to(logits.dtype) * torch.tanh(logits / tau)).sum(1)


def annealed_tanh(
    logits: Float[Tensor, "n k"],
    anchor: Int8[Tensor, "n k"] | Float[Tensor, "n k"],
    *,
    share: float,
) -> Float[Tensor, " n"]:
    """Agreement of tanh(alpha u) with an anchor code, alpha growing with the share of steps done.

    alpha is 0.1 in the first half, then 0.2, 0.3, 0.5, 0.7 and 1.0 for a tenth of the steps
    each. Not invariant to the scale of the logits.

    Source: Bai et al., ECCV 2020 (DHTA), released code; generalized to any number of steps in
        SAAT's.
    """
    schedule = (0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
    alpha = schedule[min(int(share * 10 + 1e-9), 9)]
    return (anchor.to(logits.dtype) * torch.tanh(alpha * logits)).sum(1)


def soft_average_precision(
    relaxed: Float[Tensor, "n k"],
    codes: Int8[Tensor, "m k"] | Float[Tensor, "m k"],
    relevant: Float[Tensor, "n m"],
    *,
    width: float = 1.0,
) -> Float[Tensor, " n"]:
    """Average precision of soft distances to a database, differentiable; 0 without relevant items.

    Each item falls on the distances 0..K with the triangular weight max(0, 1 - |d - c| / width);
    with soft counts c_d and C_d, AP = 1/R sum_d c+_d (C+_{d-1} + C+_d + 1) / (C_{d-1} + C_d + 1).

    Source: He et al., CVPR 2018 (TALR), as in its released code.

    Args:
        relaxed: Relaxed codes of the queries in [-1, 1].
        codes: Database codes.
        relevant: 1 where an item is relevant for a query.
        width: Half width of the triangle, in bits.
    """
    k = codes.shape[1]
    distance = 0.5 * (k - relaxed @ codes.to(relaxed.dtype).T)
    total, hits = [], []
    for center in range(k + 1):  # K + 1 passes over (n, m) instead of one (n, m, K + 1) tensor
        weight = (1 - (distance - center).abs() / width).clamp_min(0)
        total.append(weight.sum(1))
        hits.append((weight * relevant).sum(1))
    every, found = torch.stack(total, 1), torch.stack(hits, 1)
    above, found_above = every.cumsum(1), found.cumsum(1)
    ratio = (2 * found_above - found + 1) / (2 * above - every + 1)
    return (found * ratio).sum(1) / relevant.sum(1).clamp_min(1)


def pairwise_likelihood(
    inner: Float[Tensor, "n m"], similar: Float[Tensor, "n m"]
) -> Float[Tensor, "n m"]:
    """Negative log-likelihood of each pair: log(1 + exp(theta)) - s theta, stable for any theta.

    Source: Jiang and Li, CVPR 2017, Eq. (1); the same term in SSAH and CMLA.
    """
    return F.softplus(inner) - similar * inner


def quantization(
    logits: Float[Tensor, "n k"], codes: Int8[Tensor, "n k"] | Float[Tensor, "n k"]
) -> Float[Tensor, " n"]:
    """Squared distance between outputs and codes, per item."""
    return (logits - codes.to(logits.dtype)).square().sum(1)


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, coefficient: float) -> Tensor:
        ctx.coefficient = coefficient
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.coefficient * gradients[0], None


def reverse_gradient(x: Float[Tensor, "..."], coefficient: float) -> Float[Tensor, "..."]:
    """Return `x`; on the way back its gradient is multiplied by -coefficient.

    What comes after descends a loss that what comes before climbs: a min-max game in one
    backward pass. With coefficient 0 nothing passes back, with -1 both descend.

    Source: Ganin and Lempitsky, ICML 2015, Sec. 3.
    """
    reversed_: Tensor = _Reversal.apply(x, coefficient)  # type: ignore[no-untyped-call]
    return reversed_
