"""Losses on logits and codes, each a plain function; a value per item unless said."""

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "auto_temperature",
    "pairwise_likelihood",
    "prototype_contrast",
    "quantization",
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
