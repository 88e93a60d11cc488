"""The tensors of a training as one flat mapping: kept, adopted, compared between ranks."""

import hashlib
import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from hamward.errors import ArtifactError, TrainingError
from hamward.models import HashModel
from hamward.training.objective import Objective
from hamward.training.ranks import Ranks

__all__ = ["adopt", "part_of", "require_equal", "restore", "state_of"]

log = logging.getLogger(__name__)


def state_of(model: HashModel, objective: Objective, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Return copies of the tensors of model and networks, and of some buffers."""
    live = {
        **{f"model/{k}": v for k, v in model.state_dict().items()},
        **{f"modules/{k}": v for k, v in objective.modules.state_dict().items()},
        **{f"buffers/{k}": objective.buffers[k] for k in names},
    }
    return {k: v.detach().clone() for k, v in live.items()}


def part_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors under `name/`, without it."""
    prefix = f"{name}/"
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def restore(buffers: dict[str, Tensor], kept: Mapping[str, Tensor], device: torch.device) -> None:
    """Set buffers to what was kept of them.

    Raises:
        KeyError: one is missing.
        ValueError: one has another shape.
    """
    for name, now in buffers.items():
        if kept[name].shape != now.shape:
            raise ValueError(f"buffer {name} has shape {tuple(kept[name].shape)}")
    buffers.update({name: value.to(device) for name, value in kept.items()})


def adopt(objective: Objective, kept: Mapping[str, Tensor], device: torch.device) -> None:
    """Set the networks and buffers of an objective.

    Raises:
        ArtifactError: they are another objective's.
    """
    if not kept:
        if objective.modules:
            log.warning("no networks were kept beside the model: the objective's start anew")
        return
    try:
        objective.modules.load_state_dict(part_of(kept, "modules"))
        restore(objective.buffers, part_of(kept, "buffers"), device)
    except (KeyError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"the networks kept beside the model are not those of this objective ({error})"
        ) from error


def require_equal(ranks: Ranks, model: HashModel, objective: Objective, *, label: str) -> str:
    """Refuse to go on where ranks have come apart; say what is equal.

    Raises:
        TrainingError: a tensor of the model or of the objective is not the same on all of them.
    """
    if ranks.size == 1:
        return ""
    found = _digests(state_of(model, objective, tuple(objective.buffers)))
    wrong = ranks.differing(found)
    if wrong:
        raise TrainingError(
            f"{label}: the ranks do not hold the same bits in {len(wrong)} tensors, first in "
            f"{wrong[0]!r}: all need the same kind of device, threads and versions"
        )
    return f"{label}: {ranks.size} ranks hold the same bits in all {len(found)} tensors"


def _digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return a SHA-256 of the bits of each tensor."""
    found = {}
    for name, tensor in tensors.items():
        bits = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found[name] = hashlib.sha256(bits.numpy().tobytes()).hexdigest()
    return found
