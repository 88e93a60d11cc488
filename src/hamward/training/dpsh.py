"""DPSH: deep pairwise-supervised hashing of pictures."""

from functools import partial

from jaxtyping import Float
from torch import Tensor

from hamward.codes import binarize
from hamward.errors import ConfigError
from hamward.losses import pairwise_likelihood, quantization
from hamward.training.image_memory import ImageMemory
from hamward.training.objective import OBJECTIVES

__all__ = ["dpsh_loss", "dpsh_objective"]


def dpsh_loss(
    outputs: Float[Tensor, "b k"],
    memory: Float[Tensor, "n k"],
    similar: Float[Tensor, "b n"],
    *,
    weight: float,
) -> Float[Tensor, ""]:
    """Return mean_ij [log(1 + e^theta) - S theta] + weight mean (u - sign u)^2.

    theta_ij = u_i . U_j / 2.

    Source: Li, Wang and Kang, IJCAI 2016, as the victim codes of ProS-GAN and SAAT have it.

    Args:
        outputs: Relaxed outputs u of the batch.
        memory: Those of all training pictures, U.
        similar: S.
        weight: Of the quantization term.
    """
    likelihood = pairwise_likelihood(0.5 * outputs @ memory.T, similar).mean()
    binary = quantization(outputs, binarize(outputs.detach())).mean() / outputs.shape[1]
    return likelihood + weight * binary


@OBJECTIVES.register(
    "dpsh",
    summary="Pictures alone: pairwise likelihood of a batch against a memory of all outputs",
    citation="Li, Wang and Kang, IJCAI 2016",
    access="training",
)
def dpsh_objective(*, quantization: float = 0.1) -> ImageMemory:
    """Return DPSH's objective over pictures.

    Source: Li, Wang and Kang, "Feature Learning Based Deep Supervised Hashing with Pairwise
        Labels", IJCAI 2016; the form with relaxed outputs and a memory of DeepHash-pytorch,
        ProS-GAN and SAAT.
    Differs: weight of the quantization on its mean: 0.1 in DeepHash-pytorch and here, 0.001 in
        CgAT, 50 K / n in ProS-GAN and SAAT (0.32 at 32 bits and 5,000 training pictures). The
        codes' optimizers are SGD or RMSprop over 100 to 150 epochs, here what `fit` runs. The
        paper's own settings: UNKNOWN. Binary targets count an output of 0 as +1.

    Args:
        quantization: Weight of the mean squared distance between outputs and codes.

    Raises:
        ConfigError: the weight is negative.
    """
    if quantization < 0:
        raise ConfigError(f"quantization must be at least 0, got {quantization}")
    return ImageMemory(pair_loss=partial(dpsh_loss, weight=quantization))
