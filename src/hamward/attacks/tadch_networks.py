"""TA-DCH's networks: prototypes of labels and texts together, and a generator that reads them."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hamward.attacks.prosgan_networks import ResidualBlock, check_width, down, normalized, up

__all__ = ["AttentionFusion", "TargetGenerator", "TargetPrototypeNet"]

_MAP, _SIDE = 64, 16  # the semantic feature map is 64 x 16 x 16


def _normed(layer: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(layer, nn.InstanceNorm2d(channels), nn.Tanh())


class _Branch(nn.Module):
    """Labels or words -> 64 x 16 x 16."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Sequential(
            nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 16 * 4 * _SIDE**2)
        )
        self.maps = nn.Sequential(
            _normed(nn.Conv2d(16, 32, 4, 2, 1), 32), _normed(nn.Conv2d(32, _MAP, 5, 1, 2), _MAP)
        )

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.maps(self.linear(x).view(-1, 16, 2 * _SIDE, 2 * _SIDE))
        return made


class _Attention(nn.Module):
    """sigmoid(local(a) + global(a)): two bottlenecks, one on each place, one on the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.local = self._bottleneck()
        self.overall = nn.Sequential(nn.AdaptiveAvgPool2d(1), self._bottleneck())

    @staticmethod
    def _bottleneck() -> nn.Sequential:
        inner = _MAP // 4
        return nn.Sequential(
            nn.Conv2d(_MAP, inner, 1),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, _MAP, 1),
            nn.BatchNorm2d(_MAP),
        )

    def forward(self, a: Tensor) -> Tensor:
        return torch.sigmoid(self.local(a) + self.overall(a))


class AttentionFusion(nn.Module):
    """Mix two maps by weights in (0, 1), twice: the first mix decides the second's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = _Attention(), _Attention()

    def forward(self, label: Tensor, text: Tensor) -> Tensor:
        """Return the mix of two maps."""
        w = self.first(label + text)
        w = self.second(w * label + (1 - w) * text)
        fused: Tensor = w * label + (1 - w) * text
        return fused


class TargetPrototypeNet(nn.Module):
    """Target labels and a target text -> feature map, relaxed prototype code, labels again.

    Source: released code of TA-DCH, hidden width 4096.
    Differs: nothing known but the hidden width, which is an option here.
    """

    def __init__(self, *, labels: int, vocabulary: int, code_length: int, hidden: int) -> None:
        super().__init__()
        self.label, self.text = _Branch(labels, hidden), _Branch(vocabulary, hidden)
        self.fusion = AttentionFusion()
        self.maps = nn.Sequential(
            _normed(nn.Conv2d(_MAP, 128, 4, 2, 1), 128),
            _normed(nn.Conv2d(128, 256, 4, 2, 1), 256),
            nn.Flatten(),
        )
        self.hashing = nn.Linear(256 * (_SIDE // 4) ** 2, code_length)
        self.classifier = nn.Linear(256 * (_SIDE // 4) ** 2, labels)

    def forward(
        self, label: Float[Tensor, "t c"], text: Float[Tensor, "t d"]
    ) -> tuple[Float[Tensor, "t 64 16 16"], Float[Tensor, "t k"], Float[Tensor, "t c"]]:
        """Return (feature map, relaxed prototype code, estimated labels)."""
        fused = self.fusion(self.label(label), self.text(text))
        flat = self.maps(fused)
        return fused, torch.tanh(self.hashing(flat)), torch.sigmoid(self.classifier(flat))


class TargetGenerator(nn.Module):
    """(Picture in [-1, 1], feature map) -> raw output; its tanh is the adversarial picture.

    The map becomes one plane that is laid between the color planes; then a U-Net.

    Source: released code of TA-DCH: width 64, side 224.
    Differs: released code is tied to side 224; here the 14 x 14 map inside the translator is
        pooled to ceil(side / 16) and what exceeds the side is cut; at 224 neither happens.
        Kernel of the convolution to 3 channels after the last skip: 3, as INFERRED.
    """

    def __init__(self, *, image_side: int, width: int = 64) -> None:
        super().__init__()
        check_width(width)
        self.image_side = image_side
        seed = math.ceil(image_side / 16)
        self.translator = nn.Sequential(
            normalized(nn.ConvTranspose2d(_MAP, 48, 3, 1, 2, bias=False), 48),
            nn.AdaptiveAvgPool2d(seed),
            normalized(nn.ConvTranspose2d(48, 12, 6, 4, 1, bias=False), 12),
            normalized(nn.ConvTranspose2d(12, 1, 6, 4, 1, bias=False), 1),
        )
        self.stem = normalized(nn.Conv2d(6, width, 7, 1, 3), width)
        self.down1, self.down2 = down(width, 2 * width), down(2 * width, 4 * width)
        self.middle = nn.Sequential(*(ResidualBlock(4 * width) for _ in range(6)))
        self.up2, self.up1 = up(4 * width, 2 * width), up(2 * width, width)
        self.join2 = normalized(nn.Conv2d(4 * width, 2 * width, 3, 1, 1), 2 * width)
        self.join1 = nn.Sequential(
            normalized(nn.Conv2d(2 * width, width, 3, 1, 1), width),
            normalized(nn.Conv2d(width, 3, 3, 1, 1), 3),
        )
        self.output = nn.Conv2d(6, 3, 3, 1, 1)

    def forward(
        self, x: Float[Tensor, "n 3 s s"], feature: Float[Tensor, "n 64 16 16"]
    ) -> Float[Tensor, "n 3 s s"]:
        """Return the raw output."""
        side = self.image_side
        plane = self.translator(feature)[..., :side, :side]
        planes = torch.stack([x, plane.expand_as(x).to(x.dtype)], 2).flatten(1, 2)
        missing = -side % 4
        planes = F.pad(planes, (0, missing, 0, missing), mode="replicate")
        outer = self.stem(planes)
        inner = self.down1(outer)
        y = self.up2(self.middle(self.down2(inner)))
        y = self.up1(self.join2(torch.cat([y, inner], 1)))
        y = self.join1(torch.cat([y, outer], 1))[..., :side, :side]
        raw: Tensor = self.output(torch.cat([y, x], 1))
        return raw
