"""Trunks: from pixels or words to features.

Each names its width, its fast precision and, for pictures, the smallest side it takes.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hamward.errors import ConfigError, unknown_name
from hamward.models.alexnet import AlexNet
from hamward.models.cnn_f import CNNF
from hamward.models.efficientnet_lite import EfficientNetLite0
from hamward.models.resnet import ResNet
from hamward.models.text_transformer import TextTransformer, minilm_folder
from hamward.models.vgg import VGG

__all__ = [
    "IMAGE_NETWORKS",
    "TEXT_NETWORKS",
    "TEXT_TRANSFORMERS",
    "BagOfWordsMLP",
    "MultiScaleText",
    "SmallResNet",
    "bf16_supported",
    "comes_pretrained",
    "image_network",
    "text_network",
    "transformer_folder",
]


def bf16_supported(device: torch.device) -> bool:
    """Return whether bf16 convolutions run in hardware on this device."""
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, 2, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.norm3(self.shortcut(x)))


class SmallResNet(nn.Module):
    """Images in [0, 1], (n, 3, H, W) -> features, (n, 256): 4 stages of 3x3 convolutions, stride 2.

    For training from scratch in minutes (after He et al., CVPR 2016). Normalization to
    [-2, 2] is inside. The last number of channels is the width; a first stride of 1 suits pictures
    of 32 pixels and less. "mini-resnet" has half of the channels and that stride: 0.3 million
    weights, for trials and zoos of a few megabytes.
    """

    fast_in_bf16 = True
    foldable = True
    minimum_side = 8

    def __init__(
        self,
        *,
        channels: tuple[int, int, int, int] = (32, 64, 128, 256),
        first_stride: Literal[1, 2] = 2,
    ) -> None:
        super().__init__()
        first, second, third, self.width = channels
        self.stem = nn.Conv2d(3, first, 3, first_stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(first)
        self.stages = nn.Sequential(
            _Residual(first, second), _Residual(second, third), _Residual(third, self.width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem((x * 4 - 2).to(self.stem.weight.dtype))))
        features: Tensor = self.stages(x)
        return features.mean((2, 3))


class BagOfWordsMLP(nn.Module):
    """Bags of words, (n, D) -> features, (n, width): one linear layer and ReLU.

    Source: DCMH's text network (Jiang and Li, CVPR 2017) has width 8192.
    """

    fast_in_bf16 = False

    def __init__(self, vocabulary: int, *, width: int) -> None:
        super().__init__()
        if vocabulary < 1:
            raise ConfigError(f"vocabulary must hold at least one word, got {vocabulary}")
        self.width = width
        self.hidden = nn.Linear(vocabulary, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.hidden(x))


class MultiScaleText(nn.Module):
    """Bags of words, (n, D) -> features, (n, width): averages at five scales beside the words.

    Each scale averages neighbouring words, multiplies by one learned number (and adds one),
    applies ReLU and stretches back to D; the 6 x D values go through one linear layer and ReLU.

    Source: SSAH's text network (Li et al., CVPR 2018); windows as in the released code, 4096
        units.
    Differs: local response normalization after the linear layer is left out, as in the
        authors' later code (CMLA). The last window may be shorter, so that no word is lost
        (what the released code does there is not known to us), and no window is longer than
        the vocabulary. Neighbours mean something only if the order of words does.
    """

    fast_in_bf16 = False
    windows = (50, 30, 15, 10, 5)

    def __init__(self, vocabulary: int, *, width: int) -> None:
        super().__init__()
        if vocabulary < 1:
            raise ConfigError(f"vocabulary must hold at least one word, got {vocabulary}")
        self.width = width
        self.scale = nn.Parameter(torch.ones(len(self.windows)))
        self.shift = nn.Parameter(torch.zeros(len(self.windows)))
        self.hidden = nn.Linear((1 + len(self.windows)) * vocabulary, width)

    def forward(self, x: Tensor) -> Tensor:
        words, channels = x.shape[1], [x]
        for window, scale, shift in zip(self.windows, self.scale, self.shift, strict=True):
            means = F.avg_pool1d(x[:, None], min(window, words), ceil_mode=True)
            coarse = F.relu(scale * means + shift)
            channels.append(F.interpolate(coarse, words, mode="linear", align_corners=False)[:, 0])
        return F.relu(self.hidden(torch.cat(channels, 1)))


IMAGE_NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "alexnet": AlexNet,
    "cnn-f": CNNF,
    "efficientnet-lite0": EfficientNetLite0,
    "mini-resnet": partial(SmallResNet, channels=(16, 32, 64, 128), first_stride=1),
    "resnet-18": partial(ResNet, 18),
    "resnet-50": partial(ResNet, 50),
    "small-resnet": SmallResNet,
    "vgg-11": partial(VGG, 11),
    "vgg-16": partial(VGG, 16),
}


def image_network(name: str) -> nn.Module:
    """Build an image trunk by name, with random weights.

    Raises:
        UnknownNameError: no trunk has this name.
    """
    if name not in IMAGE_NETWORKS:
        raise unknown_name("image network", name, IMAGE_NETWORKS)
    return IMAGE_NETWORKS[name]()


TEXT_NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "bow-mlp": BagOfWordsMLP,
    "multi-scale": MultiScaleText,
}
"""Networks that read bags of words."""

TEXT_TRANSFORMERS = ("minilm", "transformer")
"""Networks that read tokens: an installed one, and any that a folder holds."""


def comes_pretrained(name: str) -> bool:
    """Return whether an image trunk finds ImageNet weights in an installed package.

    Raises:
        UnknownNameError: no trunk has this name.
    """
    if name not in IMAGE_NETWORKS:
        raise unknown_name("image network", name, IMAGE_NETWORKS)
    return hasattr(IMAGE_NETWORKS[name], "load_pretrained")


def transformer_folder(name: str, weights: str = "") -> Path | None:
    """Return the folder that a text transformer is read from; None for other text networks.

    Raises:
        ConfigError: a folder is missing or not wanted, or a package is not installed.
    """
    if (name == "transformer") != bool(weights):
        raise ConfigError(
            f"text network {name!r} takes no folder, got text_weights = {weights!r}"
            if weights
            else "text network 'transformer' needs text_weights, a folder with config.json, "
            "tokenizer.json and model.safetensors"
        )
    if name == "minilm":
        return minilm_folder()
    return Path(weights) if weights else None


def text_network(
    name: str, *, vocabulary: int, width: int, length: int = 32, folder: Path | None = None
) -> nn.Module:
    """Build a text trunk by name, with random weights.

    Args:
        name: A key of `TEXT_NETWORKS`, or one of `TEXT_TRANSFORMERS`.
        vocabulary: Words of a bag.
        width: Hidden units of a network that reads bags.
        length: Tokens of a text.
        folder: Description of a transformer; see `transformer_folder`.

    Raises:
        UnknownNameError: no trunk has this name.
        ConfigError: a package is not installed, or a transformer's folder is not given.
        ArtifactError: the folder describes no transformer.
    """
    if name in TEXT_TRANSFORMERS:
        folder = transformer_folder(name) if folder is None else folder
        assert folder is not None
        return TextTransformer.from_folder(folder, length=length)
    if name not in TEXT_NETWORKS:
        raise unknown_name("text network", name, [*TEXT_NETWORKS, *TEXT_TRANSFORMERS])
    return TEXT_NETWORKS[name](vocabulary, width=width)
