"""DPH: the pairwise hashing of pictures that comes with HAG."""

from jaxtyping import Float
from torch import Tensor

from hamward.training.image_memory import ImageMemory
from hamward.training.objective import OBJECTIVES

__all__ = ["dph_loss", "dph_objective"]


def dph_loss(
    outputs: Float[Tensor, "b k"], memory: Float[Tensor, "n k"], similar: Float[Tensor, "b n"]
) -> Float[Tensor, ""]:
    """Return mean_ij (u_i . U_j / K - (2 S_ij - 1))^2.

    Source: as re-implemented in CgAT and SAAT.

    Args:
        outputs: Relaxed outputs u of the batch.
        memory: Those of all training pictures, U.
        similar: S.
    """
    agreement = outputs @ memory.T / outputs.shape[1]
    return (agreement - (2 * similar - 1)).square().mean()


@OBJECTIVES.register(
    "dph",
    summary="Pictures alone: scaled inner products regress onto +1 and -1, no quantization",
    citation="Yang et al., IEEE TCYB 50(4), 2020 (HAG), as in SAAT",
    access="training",
)
def dph_objective() -> ImageMemory:
    """Return DPH's objective over pictures, the default victim of SAAT.

    Source: the pairwise hashing of HAG (Yang et al., IEEE TCYB 2020), by a comment in CgAT's
        code; the loss is the one of CgAT's and SAAT's code.
    Differs: not Deep Priority Hashing, which shares the abbreviation. No official code of HAG
        was found: its own settings are UNKNOWN. The codes train by SGD for 100 epochs, here
        whatever `fit` runs.
    """
    return ImageMemory(pair_loss=dph_loss)
