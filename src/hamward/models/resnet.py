"""ResNet-18 and ResNet-50 as image trunks, with the names of torchvision's state dict."""

from pathlib import Path
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from hamward.models.imagenet import ImageNetColors, load_checkpoint

__all__ = ["ResNet"]

_BLOCKS: dict[int, tuple[int, ...]] = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class _Basic(nn.Module):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; the 3x3 one has the stride (torchvision's v1.5)."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.downsample = _shortcut(inputs, planes * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Images in [0, 1], (n, 3, H, W) -> pooled features, (n, 512) or (n, 2048).

    Normalization is inside. Made for side 224; the pooling over the last stage takes any side.

    Source: He et al., CVPR 2016.
    Differs: no classifier; depth 50 has the stride in the 3x3 convolutions, as torchvision.
    """

    fast_in_bf16 = True
    foldable = True
    minimum_side = 8

    def __init__(self, depth: Literal[18, 50]) -> None:
        super().__init__()
        block = _Basic if depth == 18 else _Bottleneck
        self.depth = depth
        self.width = 512 * block.expansion
        self.colors = ImageNetColors()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for number, count in enumerate(_BLOCKS[depth]):
            planes = 64 * 2**number
            blocks = []
            for place in range(count):
                stride = 2 if number and not place else 1
                blocks.append(block(inputs, planes, stride))
                inputs = planes * block.expansion
            setattr(self, f"layer{number + 1}", nn.Sequential(*blocks))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.colors(x).to(self.conv1.weight.dtype)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.max_pool2d(x, 3, 2, 1)
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
        return x.mean((2, 3))

    def load_weights(self, file: Path) -> None:
        """Load a checkpoint of torchvision's `resnet18` or `resnet50`.

        Raises:
            ArtifactError: the file is damaged or holds other weights.
        """
        load_checkpoint(self, file, name=f"ResNet-{self.depth}", unused="fc.")
