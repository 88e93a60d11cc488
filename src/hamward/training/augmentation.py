"""Pictures of a training step, varied: the same for a seed and an epoch, whatever the batch."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from hamward.random import item_uniform

__all__ = ["augment"]


def augment(
    pictures: Float[Tensor, "b c h w"],
    ids: Int64[Tensor, " b"],
    *,
    flip: bool,
    crop: float,
    seed: int,
    epoch: int,
) -> Float[Tensor, "b c h w"]:
    """Mirror half of the pictures and stretch a random square of each back to the full side.

    Args:
        pictures: In [0, 1].
        ids: Their ids in the data set: what is drawn belongs to (seed, epoch, id).
        flip: Whether to mirror.
        crop: Largest share of a side that is cut away, in [0, 1); 0 cuts nothing. The share is
            uniform up to it, the place uniform within the picture.
        seed: Seed of the training.
        epoch: Every epoch draws anew.
    """
    if flip:
        coin = item_uniform(ids, (1, 1, 1), seed=seed, stream=f"flip{epoch}") < 0.5
        pictures = torch.where(coin.to(pictures.device), pictures.flip(3), pictures)
    if crop:
        drawn = item_uniform(ids, (3,), seed=seed, stream=f"crop{epoch}").to(pictures)
        cut = crop * drawn[:, 0]
        where = (2 * drawn[:, 1:] - 1) * cut[:, None]
        frame = torch.zeros(len(pictures), 2, 3, dtype=pictures.dtype, device=pictures.device)
        frame[:, 0, 0] = frame[:, 1, 1] = 1 - cut
        frame[:, :, 2] = where
        grid = F.affine_grid(frame, list(pictures.shape), align_corners=False)
        pictures = F.grid_sample(
            pictures, grid, mode="bilinear", padding_mode="border", align_corners=False
        )
    return pictures
