"""What a training writes after each epoch, so that it can go on with the same bits."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hamward.artifacts import read_tensors, write_tensors
from hamward.errors import ArtifactError
from hamward.models import HashModel
from hamward.training.averaging import WeightAverage
from hamward.training.objective import Objective
from hamward.training.ranks import Ranks
from hamward.training.states import part_of, restore

__all__ = ["Checkpoint", "Fitted"]


@dataclass(slots=True, kw_only=True)
class Fitted:
    """What a training run leaves: the best epoch and the log.

    Attributes:
        best_epoch: Epoch whose weights the model holds, from 1.
        best: Validation scores of that epoch; "select" decided.
        history: One row an epoch: epoch, loss, seconds and the validation scores.
        objective: Networks ("modules/NAME") and buffers ("buffers/NAME") that the objective had
            after the best epoch; empty where it has no networks.
    """

    best_epoch: int = 0
    best: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    objective: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The parts of a training that change, and the file that keeps them.

    Attributes:
        file: Where they are kept; None keeps nothing.
        model: The model.
        optimizer: Its optimizer.
        objective: The objective, with buffers and networks.
        average: The running mean of the weights.
    """

    file: Path | None
    model: HashModel
    optimizer: torch.optim.Optimizer
    objective: Objective
    average: WeightAverage

    def save(self, fitted: Fitted, best: Mapping[str, Tensor]) -> None:
        """Write the state after an epoch."""
        if self.file is None:
            return
        state = self.optimizer.state_dict()["state"]
        tensors = {
            **{f"model/{k}": v for k, v in self.model.state_dict().items()},
            **{f"best/{k}": v for k, v in best.items()},
            **{f"average/{k}": v for k, v in self.average.state.items()},
            **{f"buffers/{k}": v for k, v in self.objective.buffers.items()},
            **{f"modules/{k}": v for k, v in self.objective.modules.state_dict().items()},
            **{
                f"optimizer/{i}/{k}": v
                for i, part in state.items()
                for k, v in part.items()
                if v is not None  # sgd without momentum
            },
        }
        rows = {"best_epoch": fitted.best_epoch, "best": fitted.best, "history": fitted.history}
        text = torch.frombuffer(bytearray(json.dumps(rows).encode()), dtype=torch.uint8)
        write_tensors(self.file, {**tensors, "log": text})

    def load(self, ranks: Ranks) -> tuple[Fitted, dict[str, Tensor]]:
        """Put back what the file holds; return the log and the best state so far, if any.

        Raises:
            ArtifactError: the file is damaged or of another training, or not every rank sees it.
        """
        found = self.file is not None and self.file.exists()
        if ranks.differing({"checkpoint": found}):
            raise ArtifactError(f"{self.file}: not every rank sees it: they must share the folder")
        if self.file is None or not found:
            return Fitted(), {}
        tensors = read_tensors(self.file)
        device = next(self.model.parameters()).device
        try:
            log: dict[str, Any] = json.loads(bytes(tensors["log"].tolist()))
            self.model.load_state_dict(part_of(tensors, "model"))
            self.objective.modules.load_state_dict(part_of(tensors, "modules"))
            restore(self.objective.buffers, part_of(tensors, "buffers"), device)
            restore(self.average.state, part_of(tensors, "average"), device)
            self._load_optimizer(part_of(tensors, "optimizer"))
            best = {k: v.to(device) for k, v in part_of(tensors, "best").items()}
            return Fitted(**log), best
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise ArtifactError(
                f"{self.file}: not a checkpoint of this training run ({error})"
            ) from error

    def _load_optimizer(self, kept: Mapping[str, Tensor]) -> None:
        state = self.optimizer.state_dict()
        for key, value in kept.items():
            index, name = key.split("/")
            state["state"].setdefault(int(index), {})[name] = value.clone()
        self.optimizer.load_state_dict(state)
        for parameter, moments in self.optimizer.state.items():
            for name, value in moments.items():
                if value.shape == parameter.shape:  # fused kernels read both in one layout
                    moments[name] = torch.empty_like(parameter).copy_(value)
