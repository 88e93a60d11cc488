"""ProS-GAN's generator and discriminator, for pictures of any side."""

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from hamward.errors import ConfigError

__all__ = ["Discriminator", "Generator", "ResidualBlock", "check_width", "down", "normalized", "up"]


def normalized(layer: nn.Module, channels: int) -> nn.Sequential:
    """Return a layer with instance normalization (no affine part) and ReLU behind it."""
    return nn.Sequential(layer, nn.InstanceNorm2d(channels), nn.ReLU())


def down(inputs: int, outputs: int) -> nn.Sequential:
    """Return a 4x4 convolution that halves the side, normalized."""
    return normalized(nn.Conv2d(inputs, outputs, 4, 2, 1), outputs)


def up(inputs: int, outputs: int) -> nn.Sequential:
    """Return a transposed 4x4 convolution that doubles the side, normalized."""
    return normalized(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False), outputs)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with instance normalization, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = normalized(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.InstanceNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps of the same shape."""
        y: Tensor = self.norm(self.second(self.first(x)))
        return x + y


def check_width(width: int) -> None:
    """Refuse a number of channels that the networks cannot be built with.

    Raises:
        ConfigError: not a positive multiple of 8.
    """
    if width < 8 or width % 8:
        raise ConfigError(f"width must be a positive multiple of 8, got {width}")


class Generator(nn.Module):
    """(Picture in [-1, 1], semantic vector) -> raw output; its tanh is the adversarial picture.

    The vector becomes a 3-channel "label image" that is stacked on the picture, then an
    encoder, residual blocks and a decoder; the picture is stacked again before the last layer.

    Source: released code of ProS-GAN: width 64, side 224, 3 + 3 blocks.
    Differs: released code is tied to side 224 by a seed of 14 x 14; here the seed is
        ceil(side / 16) and what exceeds the side is cut, with sides padded to a multiple of 4
        inside; at 224 nothing is cut or padded.
    """

    def __init__(self, *, image_side: int, features: int = 512, width: int = 64) -> None:
        super().__init__()
        check_width(width)
        self.image_side = image_side
        self.seed = (2 * width, math.ceil(image_side / 16), math.ceil(image_side / 16))
        self.label_seed = nn.Linear(features, math.prod(self.seed))
        sizes = [2 * width, width, width // 2, width // 4, width // 8]
        self.label_image = nn.Sequential(
            *(up(a, b) for a, b in pairwise(sizes)),
            nn.Conv2d(sizes[-1], 3, 3, 1, 1, bias=False),
        )
        self.encoder = nn.Sequential(
            normalized(nn.Conv2d(6, width, 7, 1, 3), width),
            down(width, 2 * width),
            down(2 * width, 4 * width),
            *(ResidualBlock(4 * width) for _ in range(3)),
        )
        self.decoder = nn.Sequential(
            *(ResidualBlock(4 * width) for _ in range(3)),
            up(4 * width, 2 * width),
            up(2 * width, width),
        )
        self.output = nn.Conv2d(width + 3, 3, 3, 1, 1, bias=False)

    def forward(
        self, x: Float[Tensor, "n 3 s s"], feature: Float[Tensor, "n f"]
    ) -> Float[Tensor, "n 3 s s"]:
        """Return the raw output."""
        side = self.image_side
        seed = F.relu(self.label_seed(feature)).view(-1, *self.seed)
        label_image = self.label_image(seed)[..., :side, :side]
        y = torch.cat([label_image, x], 1)
        missing = -side % 4
        y = self.decoder(self.encoder(F.pad(y, (0, missing, 0, missing), mode="replicate")))
        raw: Tensor = self.output(torch.cat([y[..., :side, :side], x], 1))
        return raw


class Discriminator(nn.Module):
    """Pictures in [-1, 1] -> C + 1 numbers: their labels, and 0 for real or 1 for fake.

    Source: released code of ProS-GAN (also TA-DCH): five spectrally normalized 4x4
        convolutions with stride 2 from 64 to 1024 channels, LeakyReLU 0.01, then one kernel
        over the whole 7 x 7 map.
    Differs: released code keeps the vectors of the power iteration as parameters, which Adam
        then moves; here they are buffers. Here sides below 64 get fewer halvings, down to a
        map of 2 x 2 or 3 x 3; at 224 the map is 7 x 7.
    """

    def __init__(self, *, image_side: int, labels: int, width: int = 64) -> None:
        super().__init__()
        halvings = min(5, int(math.log2(image_side)) - 1)
        sizes = [3, *(width * 2**i for i in range(halvings))]
        self.trunk = nn.Sequential()
        for inputs, outputs in pairwise(sizes):
            self.trunk.append(spectral_norm(nn.Conv2d(inputs, outputs, 4, 2, 1)))
            self.trunk.append(nn.LeakyReLU(0.01))
        side = image_side // 2**halvings
        self.output = nn.Conv2d(sizes[-1], labels + 1, side, bias=False)

    def forward(self, x: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n c"]:
        """Return the C + 1 outputs; no sigmoid."""
        judged: Tensor = self.output(self.trunk(x))
        return judged.flatten(1)
