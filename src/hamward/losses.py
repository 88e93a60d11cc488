"""Losses on logits and codes, each a plain function; a value per item unless said."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "auto_temperature",
    "info_nce",
    "pairwise_likelihood",
    "prototype_contrast",
    "quantization",
    "reverse_gradient",
    "soft_average_precision",
    "unit_logits",
]


def unit_logits(logits: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """Logits divided by their median magnitude in the item, which gets no gradient.

    tanh of these is a relaxed code that no positive factor on the logits can saturate. Where
    half of the logits are 0, the divisor is their mean magnitude; where all are, 1.
    """
    size = logits.detach().abs()
    tau = size.median(dim=1, keepdim=True).values
    tau = torch.where(tau > 0, tau, size.mean(dim=1, keepdim=True))
    tau = torch.where(tau > 0, tau, 1.0)
    return logits / tau


def auto_temperature(
    logits: Float[Tensor, "n k"], anchor: Int8[Tensor, "n k"] | Float[Tensor, "n k"]
) -> Float[Tensor, " n"]:
    """Soft agreement with an anchor code that no rescaling of the logits can hide.

    sum_k a_k tanh(u_k / tau), tau = median_k |u_k| of the item, detached; see `unit_logits`. In
    (-K, K); K - 2 x (soft count of differing bits).

    Source: hamward; compare the annealed tanh of DHTA and SAAT, which is not invariant.
    """
    return (anchor.to(logits.dtype) * torch.tanh(unit_logits(logits))).sum(1)


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


def info_nce(
    similarity: Float[Tensor, "n m"], matches: Float[Tensor, "n m"]
) -> Float[Tensor, " n"]:
    """Contrast of a query with all candidates: -sum_j q_ij log softmax_j(s_ij).

    q_i is row i of `matches` divided by its sum: several matches share the target evenly, one
    match gives InfoNCE. A query without a match costs 0. The other direction is the transposes.

    Source: van den Oord et al., 2018; soft targets for shared labels as INFERRED for RoCMR
        (Zhang, Sun and Zhao, IJCNN 2022).
    """
    share = matches / matches.sum(1, keepdim=True).clamp(min=1e-12)
    return -(share * similarity.log_softmax(1)).sum(1)


def pairwise_likelihood(
    inner: Float[Tensor, "n m"], similar: Float[Tensor, "n m"]
) -> Float[Tensor, "n m"]:
    """Negative log-likelihood of each pair: log(1 + exp(theta)) - s theta, stable for any theta.

    Source: Jiang and Li, CVPR 2017, Eq. (1); the same term in SSAH and CMLA.
    """
    return F.softplus(inner) - similar * inner


def prototype_contrast(
    relaxed: Float[Tensor, "n k"],
    anchors: Int8[Tensor, "c k"] | Float[Tensor, "c k"],
    near: Bool[Tensor, "n c"] | Float[Tensor, "n c"],
    *,
    far: Bool[Tensor, "n c"] | Float[Tensor, "n c"],
    tau: float = 20.0,
) -> Float[Tensor, " n"]:
    """Contrast of a relaxed code with anchors: near the mean of some, far from the nearest other.

    log(1 + s- / s+) with sim_j = (h . a_j - K) / 2, s+ the exponential of tau / K times the
    mean sim over `near`, s- the sum over `far` of exp(tau sim_j / K). Training: near = classes of
    the item, far = the others. FPAD's attack: the two exchanged, minimized. Targeted: near =
    wanted classes. An item without far classes costs 0; one without near classes has s+ = 1.

    Source: FPAD (Yu et al., IEEE TCSVT 2025), the released code's loss; the paper's own equation
        could not be read.
    Differs: a value per item (released code: the mean of the batch); softplus instead of
        exponentials that may overflow.

    Args:
        relaxed: h in (-1, 1), (n, K).
        anchors: Codes of the classes, (C, K).
        near: 1 for the classes to come to, (n, C).
        far: 1 for the classes to leave, (n, C).
        tau: Temperature; 20 in the released code.
    """
    length = anchors.shape[1]
    scaled = tau / length * 0.5 * (relaxed @ anchors.to(relaxed.dtype).T - length)
    near = near.to(relaxed.dtype)
    mean = (near * scaled).sum(1) / (near.sum(1) + 1e-5)
    none = torch.finfo(relaxed.dtype).min / 4  # finite: the gradient of an empty sum is 0, not NaN
    others = scaled.masked_fill(far == 0, none).logsumexp(1)
    return F.softplus(others - mean)


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
