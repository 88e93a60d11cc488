"""What the trunks of torchvision's layout share: normalization and checkpoint files."""

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hamward.artifacts import read_tensors
from hamward.errors import ArtifactError

__all__ = ["ImageNetColors", "load_checkpoint", "read_checkpoint"]

log = logging.getLogger(__name__)


class ImageNetColors(nn.Module):
    """Pixels in [0, 1] -> (x - mean) / std per color, the statistics of torchvision's weights.

    Buffers that are not saved, so that state dicts keep torchvision's names.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a PyTorch or safetensors file, without a "module." before names.

    Raises:
        ArtifactError: missing, damaged or not a state dict.
    """
    content: Any
    if file.suffix == ".safetensors":
        content = read_tensors(file)
    else:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ArtifactError(f"{file}: not a readable PyTorch state dict ({error})") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(torch.is_tensor(v) for v in content.values()):
        raise ArtifactError(f"{file}: not a state dict of tensors but {type(content).__name__}")
    return {str(k).removeprefix("module."): v for k, v in content.items()}


def load_checkpoint(
    trunk: nn.Module, file: Path, *, name: str, unused: str, optional: str = ""
) -> None:
    """Load a user's checkpoint with torchvision's names into a trunk.

    Args:
        trunk: Filled in place, wholly or, on an error, not at all.
        file: State dict (.pth, .pt or .safetensors).
        name: Name of the architecture, for messages.
        unused: Prefix of the last classifier layer, which the trunk does not have.
        optional: Prefix of layers that a file may lack as a whole; they stay random then.

    Raises:
        ArtifactError: the file is damaged or holds the weights of something else.
    """
    state = read_checkpoint(file)
    own = trunk.state_dict()
    needed = [k for k in own if not k.endswith("num_batches_tracked")]  # older files lack it
    if optional and not any(k.startswith(optional) for k in state if not k.startswith(unused)):
        log.warning("%s: holds no %s layers: they stay random", file, optional.rstrip("."))
        needed = [k for k in needed if not k.startswith(optional)]
    missing = [k for k in needed if k not in state]
    extra = [k for k in state if k not in own and not k.startswith(unused)]
    wrong = [k for k in needed if k in state and own[k].shape != state[k].shape]
    if missing or extra or wrong:
        first = next(itertools.chain(missing, wrong, extra))
        raise ArtifactError(
            f"{file}: not {name} weights with torchvision's names: {len(missing)} tensors missing, "
            f"{len(extra)} unexpected, {len(wrong)} of another shape, the first is {first!r}"
        )
    trunk.load_state_dict({k: state.get(k, own[k]) for k in own})
