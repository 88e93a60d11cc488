"""Losses on logits and codes, each a plain function; a value per item unless said."""

from typing import Any

import torch
from jaxtyping import Float, Int8
from torch import Tensor
from torch.nn import functional as F

__all__ = ["auto_temperature", "pairwise_likelihood", "quantization", "reverse_gradient"]


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
