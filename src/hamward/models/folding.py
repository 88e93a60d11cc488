"""The attacked network as gradients need it: BatchNorm folded away, bf16 where it pays."""

import copy

import torch
from torch import nn

from hamward.models.hash_model import Encoder
from hamward.models.networks import bf16_supported

__all__ = ["fold"]


def fold(encoder: nn.Module, *, low_precision: bool = False) -> nn.Module:
    """Return an encoder of the same function in eval mode that is faster to differentiate.

    Each BatchNorm that follows a convolution is a fixed affine map in eval mode and becomes
    part of the convolution's weights. With `low_precision` the trunk's weights are cast to
    bf16 once, not in every step. Trunks take part that say `foldable`: in them a BatchNorm
    registered right after a convolution also follows it in `forward`.

    Args:
        encoder: Left as it is; the result shares its neck and head.
        low_precision: Run the trunk in bf16 where that is faster.

    Returns:
        A frozen copy, or `encoder` itself where there is nothing to gain.
    """
    if not isinstance(encoder, Encoder) or not getattr(encoder.trunk, "foldable", False):
        return encoder
    trunk = copy.deepcopy(encoder.trunk).requires_grad_(False).eval()
    for module in trunk.modules():
        before: nn.Module | None = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d) and isinstance(before, nn.Conv2d):
                _absorb(before, child)
                setattr(module, name, nn.Identity())
            before = child
    weight = next(trunk.parameters())
    casts = low_precision and encoder.trunk.fast_in_bf16 and bf16_supported(weight.device)
    if casts and weight.dtype == torch.float32:
        trunk = trunk.to(torch.bfloat16)
    quick = copy.copy(encoder)
    quick._modules = {**encoder._modules, "trunk": trunk}
    return quick


def _absorb(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("a BatchNorm without running statistics cannot be folded")
    weight, bias = nn.utils.fusion.fuse_conv_bn_weights(
        convolution.weight, convolution.bias, mean, variance, norm.eps, norm.weight, norm.bias
    )
    convolution.weight = nn.Parameter(
        weight.detach().contiguous(memory_format=torch.channels_last), requires_grad=False
    )
    convolution.bias = nn.Parameter(bias.detach(), requires_grad=False)
