"""HashNet: weighted pairwise likelihood, and a tanh that turns into a sign (continuation)."""

import math
from functools import partial

from jaxtyping import Float
from torch import Tensor

from hamward.errors import ConfigError
from hamward.losses import pairwise_likelihood
from hamward.training.image_memory import ImageMemory
from hamward.training.objective import OBJECTIVES

__all__ = ["continuation_scale", "hashnet_loss", "hashnet_objective"]


def hashnet_loss(
    outputs: Float[Tensor, "b k"],
    memory: Float[Tensor, "n k"],
    similar: Float[Tensor, "b n"],
    *,
    slope: float | None = None,
) -> Float[Tensor, ""]:
    """Return the mean of w_ij [log(1 + e^theta) - S theta], theta_ij = slope u_i . U_j.

    w is N / N_pos for similar and N / N_neg for dissimilar pairs, counted in the batch: both
    kinds weigh the same however rare one is.

    Source: Cao, Long, Wang and Yu, ICCV 2017, Eq. (2) to (5), as in ProS-GAN, CgAT and SAAT.

    Args:
        outputs: Relaxed outputs u of the batch.
        memory: Those of all training pictures, U.
        similar: S.
        slope: Factor of the inner product; None is 10 / K.
    """
    theta = (10 / outputs.shape[1] if slope is None else slope) * outputs @ memory.T
    positive = similar.sum().clamp_min(1)
    negative = (1 - similar).sum().clamp_min(1)
    weight = similar.numel() * (similar / positive + (1 - similar) / negative)
    return (weight * pairwise_likelihood(theta, similar)).mean()


def continuation_scale(number: int, *, growth: float, every: int) -> float:
    """Return sqrt(1 + growth x steps), with the steps rounded down to a multiple of `every`.

    Example:
        >>> [continuation_scale(n, growth=0.005, every=200) for n in (0, 199, 600)]
        [1.0, 1.0, 2.0]
    """
    return math.sqrt(1 + growth * (number - number % every))


@OBJECTIVES.register(
    "hashnet",
    summary="Pictures alone: weighted pairwise likelihood, continuation from tanh to sign",
    citation="Cao, Long, Wang and Yu, ICCV 2017",
    access="training",
)
def hashnet_objective(
    *, slope: float | None = None, growth: float = 0.005, every: int = 200
) -> ImageMemory:
    """Return HashNet's objective over pictures.

    Source: Cao, Long, Wang and Yu, "HashNet: Deep Learning to Hash by Continuation", ICCV
        2017; memory and schedule as in ProS-GAN and SAAT.
    Differs: slope 0.1 in ProS-GAN, CgAT and DeepHash-pytorch, 10 / K in SAAT and here.
        Continuation sqrt(1 + 0.005 x step), refreshed every 200 steps, in ProS-GAN, SAAT and
        here; sqrt(1 + epoch // 20) in DeepHash-pytorch; none in CgAT (growth = 0). The memory
        keeps outputs at the scale they were made with, as there. Under a defense that forms the
        loss itself the scale stays 1, as in SAAT's adversarial training. Codes do not depend on
        the scale; the model's relaxed code has scale 1.

    Args:
        slope: Factor of the inner product; 10 / K if not given.
        growth: Of the squared scale per step; 0 switches the continuation off.
        every: Steps between two changes of the scale.

    Raises:
        ConfigError: a value is out of range.
    """
    if slope is not None and slope <= 0:
        raise ConfigError(f"slope must be positive, got {slope}")
    if growth < 0:
        raise ConfigError(f"growth must be at least 0, got {growth}")
    if every < 1:
        raise ConfigError(f"every must be at least 1, got {every}")
    return ImageMemory(
        pair_loss=partial(hashnet_loss, slope=slope),
        scale=partial(continuation_scale, growth=growth, every=every),
    )
