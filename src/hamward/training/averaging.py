"""A running mean of the weights, which generalizes better than the last step's."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """Exponential moving average of a model's weights and BatchNorm statistics.

    The decay starts small, min(decay, (1 + t) / (10 + t)) after t steps, so that the first
    weights are forgotten. With decay 0 the average is the model itself and costs nothing.

    Attributes:
        state: The averaged state, by the model's own names; empty with decay 0.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.state: dict[str, Tensor] = (
            {k: v.detach().clone() for k, v in model.state_dict().items()} if decay else {}
        )

    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        if not self.decay:
            return
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        now = self.model.state_dict()
        moving = [k for k, v in now.items() if v.is_floating_point()]
        torch._foreach_lerp_([self.state[k] for k in moving], [now[k] for k in moving], weight)
        for name in now.keys() - set(moving):
            self.state[name].copy_(now[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averaged weights into the model for a block."""
        if not self.decay:
            yield
            return
        kept = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.state)
        try:
            yield
        finally:
            self.model.load_state_dict(kept)
