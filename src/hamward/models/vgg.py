"""VGG-11 and VGG-16 as image trunks, with the names of torchvision's state dict."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from hamward.models.imagenet import ImageNetColors, load_checkpoint

__all__ = ["VGG"]

# Channels of the convolutions between poolings.
_STAGES: dict[int, tuple[tuple[int, ...], ...]] = {
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3),
}


class VGG(nn.Module):
    """Images in [0, 1], (n, 3, H, W) -> activations of fc7, (n, 4096). Normalization is inside.

    Made for side 224; smaller pictures, down to 32, reach fc6 through adaptive pooling.

    Source: Simonyan and Zisserman, ICLR 2015, configurations A and D.
    Differs: no last classifier layer; initial weights as in torchvision.
    """

    fast_in_bf16 = True
    foldable = True  # nothing to fold, but weights are cast once
    minimum_side = 32

    def __init__(self, depth: Literal[11, 16], *, hidden: int = 4096) -> None:
        super().__init__()
        self.width = hidden
        self.depth = depth
        self.colors = ImageNetColors()
        layers: list[nn.Module] = []
        inputs = 3
        for stage in _STAGES[depth]:
            for outputs in stage:
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(self.colors(x).to(self.features[0].weight.dtype))
        activations: Tensor = self.classifier(torch.flatten(self.avgpool(x), 1))
        return activations

    def load_weights(self, file: Path) -> None:
        """Load a checkpoint of torchvision's `vgg11` or `vgg16`; `features` alone will do.

        Raises:
            ArtifactError: the file is damaged or holds other weights.
        """
        load_checkpoint(
            self,
            file,
            name=f"VGG-{self.depth}",
            unused="classifier.6.",
            optional="classifier.",
        )
