"""AlexNet as an image trunk, with the names of torchvision's state dict."""

from pathlib import Path

import torch
from torch import Tensor, nn

from hamward.models.imagenet import ImageNetColors, load_checkpoint

__all__ = ["AlexNet"]


class AlexNet(nn.Module):
    """Images in [0, 1], (n, 3, H, W) -> activations of fc7, (n, 4096). Normalization is inside.

    Made for side 224; smaller pictures, down to 63, reach fc6 through adaptive pooling.

    Source: Krizhevsky, "One weird trick", 2014: the one-column form that torchvision and the
        deep-hashing literature use.
    Differs: no last classifier layer; initial weights after He et al., ICCV 2015.
    """

    fast_in_bf16 = True
    foldable = True  # nothing to fold, but weights are cast once
    minimum_side = 63

    def __init__(self, *, hidden: int = 4096) -> None:
        super().__init__()
        self.width = hidden
        self.colors = ImageNetColors()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(256 * 6 * 6, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(self.colors(x).to(self.features[0].weight.dtype))
        activations: Tensor = self.classifier(torch.flatten(self.avgpool(x), 1))
        return activations

    def load_weights(self, file: Path) -> None:
        """Load a checkpoint of torchvision's `alexnet`; one of `features` alone will do.

        Raises:
            ArtifactError: the file is damaged or holds other weights.
        """
        load_checkpoint(self, file, name="AlexNet", unused="classifier.6.", optional="classifier.")
