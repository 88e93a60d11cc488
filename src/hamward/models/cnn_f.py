"""CNN-F (VGG-F), the image trunk of DCMH, DPSH, SSAH and FPAD, and its MATLAB weights."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hamward.errors import ArtifactError
from hamward.process import optional_module

__all__ = ["CNNF", "local_response"]

_SIDE = 224
_MEAN = (123.68, 116.779, 103.939)  # ImageNet, until a file brings its mean image


def local_response(x: Tensor) -> Tensor:
    """Divide each value by (2 + 1e-4 x the sum of squares of 5 neighboring channels)^0.75.

    Source: Krizhevsky et al., NeurIPS 2012, Sec. 3.3, with MatConvNet's parameters (5, 2, 1e-4,
        0.75) of imagenet-vgg-f.mat. PyTorch divides alpha by the window, hence 5e-4; its ports
        of DCMH, EQB2A, DADH and FPAD use `size=2` and alpha 1e-4, a window and strength of
        their own.
    """
    # In float32 at least: the fourth root of a cube amplifies rounding of the sums.
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return F.local_response_norm(wide, size=5, alpha=5e-4, beta=0.75, k=2).to(x.dtype)


class CNNF(nn.Module):
    """Images in [0, 1], (n, 3, H, W) -> activations of fc7, (n, 4096). Normalization is inside.

    The network sees 0..255 minus a mean image, which is resized to the input. Made for side
    224; smaller pictures, down to 39, reach fc6 through adaptive pooling.

    Source: Chatfield et al., "Return of the Devil in the Details", BMVC 2014, CNN-F;
        `imagenet-vgg-f.mat` of MatConvNet, layers up to relu7.
    Differs: no fc8; poolings round up, which at every side equals MatConvNet's padding of one
        row below and one column to the right; adaptive pooling before fc6 changes nothing
        at side 224.
    """

    fast_in_bf16 = True
    foldable = True  # nothing to fold, but weights are cast once
    minimum_side = 39
    mean: Tensor

    def __init__(self, *, hidden: int = 4096) -> None:
        super().__init__()
        self.width = hidden
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1).repeat(1, _SIDE, _SIDE))
        self.conv1 = nn.Conv2d(3, 64, 11, 4)
        self.conv2 = nn.Conv2d(64, 256, 5, padding=2)
        self.conv3 = nn.Conv2d(256, 256, 3, padding=1)
        self.conv4 = nn.Conv2d(256, 256, 3, padding=1)
        self.conv5 = nn.Conv2d(256, 256, 3, padding=1)
        self.fc6 = nn.Linear(256 * 6 * 6, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        for layer in self.children():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = (x * 255 - self._mean_at(x)).to(self.conv1.weight.dtype)
        x = _pool(local_response(F.relu(self.conv1(x))))
        x = _pool(local_response(F.relu(self.conv2(x))))
        x = F.relu(self.conv3(x))
        x = F.relu(self.conv4(x))
        x = _pool(F.relu(self.conv5(x)))
        x = torch.flatten(F.adaptive_avg_pool2d(x, (6, 6)), 1)
        return F.relu(self.fc7(F.relu(self.fc6(x))))

    def _mean_at(self, x: Tensor) -> Tensor:
        mean = self.mean.to(x.dtype)
        if x.shape[-2:] == mean.shape[-2:]:
            return mean
        return F.interpolate(mean[None], size=x.shape[-2:], mode="bilinear", antialias=True)[0]

    def load_weights(self, file: Path) -> None:
        """Load `imagenet-vgg-f.mat` as MatConvNet published it, old or new layout.

        Filters are stored (H, W, in, out) and become (out, in, H, W). Several ports make
        (out, in, W, H) of them, which fits transposed pictures only.

        Raises:
            ConfigError: scipy is not installed.
            ArtifactError: the file is damaged or holds something else.
        """
        content = _read_mat(file)
        layers = {str(getattr(la, "name", "")): la for la in np.ravel(content.get("layers", ()))}
        state = {"mean": _mean_of(content, file)}
        for name, module in self.named_children():
            if name not in layers:
                raise ArtifactError(
                    f"{file}: not imagenet-vgg-f.mat: no layer {name!r} among "
                    f"{sorted(filter(None, layers)) or 'none'}"
                )
            weight = module.weight
            assert isinstance(weight, Tensor)
            # fc6 is a 6x6 convolution there, fc7 a 1x1 one.
            sides = (6, 6) if name == "fc6" else (*weight.shape[2:], 1, 1)[:2]
            shape = (*sides, weight[0].numel() // (sides[0] * sides[1]), weight.shape[0])
            filters, bias = _parts(layers[name])
            if _long(filters.shape) != _long(shape) or bias.size != shape[3]:
                raise ArtifactError(
                    f"{file}: not imagenet-vgg-f.mat: {name} has filters {filters.shape} and "
                    f"{bias.size} biases, expected {shape} and {shape[3]}"
                )
            moved = filters.reshape(shape).transpose(3, 2, 0, 1)
            state[f"{name}.weight"] = _tensor(moved).reshape(weight.shape)
            state[f"{name}.bias"] = _tensor(bias.reshape(-1))
        self.load_state_dict(state)


def _pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2, ceil_mode=True)


def _tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes longer than 1: reading drops the others."""
    return tuple(side for side in shape if side != 1)


def _read_mat(file: Path) -> dict[str, Any]:
    scipy_io = optional_module("scipy.io", extra="data")
    try:
        content: dict[str, Any] = scipy_io.loadmat(file, struct_as_record=False, squeeze_me=True)
    except Exception as error:
        raise ArtifactError(f"{file}: not a readable MATLAB file ({error})") from error
    return content


def _parts(layer: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return filters and biases: one cell in newer files, two fields in older ones."""
    held = getattr(layer, "weights", None)
    if held is None or len(held) != 2:
        held = (getattr(layer, "filters", ()), getattr(layer, "biases", ()))
    return np.asarray(held[0]), np.asarray(held[1])


def _mean_of(content: dict[str, Any], file: Path) -> Tensor:
    """Return the mean image, (3, 224, 224); one color an image is spread out."""
    holder = content.get("normalization", getattr(content.get("meta"), "normalization", None))
    mean = np.asarray(getattr(holder, "averageImage", ()))
    if mean.shape != (3,) and not (mean.ndim == 3 and mean.shape[2] == 3):
        raise ArtifactError(
            f"{file}: not imagenet-vgg-f.mat: normalization.averageImage must be (H, W, 3) or "
            f"three colors, got {mean.shape}"
        )
    image = _tensor(mean.reshape((1, 1, 3) if mean.ndim == 1 else mean.shape).transpose(2, 0, 1))
    if image.shape[-2:] == (_SIDE, _SIDE):
        return image
    return F.interpolate(image[None], size=(_SIDE, _SIDE), mode="bilinear")[0]
