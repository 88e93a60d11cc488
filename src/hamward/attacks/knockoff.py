"""Knock-off: regress the victim's codes, then attack the copy. AACH's mandatory baseline."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int8
from numpy.typing import NDArray
from torch import Tensor, nn

from hamward.attacks.base import ATTACKS
from hamward.attacks.budget import Budget
from hamward.attacks.own_code import OwnCode
from hamward.attacks.surrogate import OnSurrogate, learn_surrogate, surrogate_fit
from hamward.data import RetrievalData
from hamward.models import HashModel, Victim
from hamward.models.victim import Access
from hamward.progress import SILENT, Progress
from hamward.training.objective import Phase, Step
from hamward.types import MODALITIES, Modality

__all__ = ["CodeRegression", "Knockoff"]


class CodeRegression:
    """Objective: mean squared difference between relaxed codes and the codes received."""

    def __init__(self, modality: Modality, codes: Int8[Tensor, "m k"]) -> None:
        self.buffers: dict[str, Tensor] = {"codes": codes}
        self.modules = nn.ModuleDict()
        self.modality = modality

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The submitted modality alone."""
        return (self.modality,)

    def start(self, model: HashModel, data: RetrievalData, positions: NDArray[np.int64]) -> None:
        """Move the codes to the model's device."""
        device = next(model.parameters()).device
        self.buffers["codes"] = self.buffers["codes"].to(device)

    def loss(self, model: HashModel, step: Step) -> Float[Tensor, ""]:
        """Return the mean squared difference over the batch."""
        x = step.items[self.modality]
        relaxed = torch.tanh(model.logits(self.modality, x, low_precision=True))
        return (relaxed - self.buffers["codes"][step.rows].to(relaxed.dtype)).square().mean()

    def end_epoch(self) -> None:
        """Do nothing."""


@ATTACKS.register(
    "knockoff",
    summary="Regress the codes of M submitted items, then own-code PGD on the copy",
    citation="hamward; the mandatory baseline of AACH where codes are visible",
    access="codes",
    threat="black-box (M codes), untargeted, label-free, query side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Knockoff:
    """Learn a copy of the victim's encoder from M of its codes; the victim is not asked again.

    Source: hamward, after Orekondy, Schiele and Fritz, CVPR 2019 (knock-off networks).
    Differs: the answers that are copied are codes; the submitted items are drawn once.

    The submitted items are training items of the data set. The victim saw them in training,
    which favors the attacker; none of them is attacked later.

    Attributes:
        eps: Image radius in [0, 1].
        text_eps: Radius for bags of words (feature space).
        steps: Gradient steps on the surrogate.
        step_size: First step relative to the radius.
        queries: M, submitted items of the attacked modality.
        image_network: Image trunk of the surrogate; its ImageNet weights are used where there
            are some.
        epochs: Passes over the submitted items.
        batch_size: Items a training step.
        image_rate: Peak learning rate of the image surrogate.
        text_rate: Peak learning rate of the text surrogate.
    """

    name: ClassVar[str] = "knockoff"
    access: ClassVar[Access] = "codes"
    modalities: ClassVar[tuple[Modality, ...]] = MODALITIES
    targeted: ClassVar[bool] = False

    eps: float = 8 / 255
    text_eps: float = 0.05
    steps: int = 100
    step_size: float = 0.1
    queries: int = 300
    image_network: str = "efficientnet-lite0"
    epochs: int = 30
    batch_size: int = 32
    image_rate: float = 1e-3
    text_rate: float = 1e-3

    def __post_init__(self) -> None:
        self._own_code(), surrogate_fit(self)

    @property
    def query_limit(self) -> int:
        """M: all that the attack ever submits."""
        return self.queries

    def budget(self, modality: Modality) -> Budget:
        """Return the l_inf ball of radius eps (images) or text_eps (bags of words)."""
        return self._own_code().budget(modality)

    def _own_code(self) -> OwnCode:
        return OwnCode(
            eps=self.eps, text_eps=self.text_eps, steps=self.steps, step_size=self.step_size
        )

    def fit(
        self,
        victim: Victim,
        data: RetrievalData,
        modality: Modality,
        *,
        seed: int,
        progress: Progress = SILENT,
    ) -> OnSurrogate:
        """Submit M items, learn their codes, return own-code PGD on the copy.

        Raises:
            AccessError: the victim grants ranks only.
            QueryLimitError: the ledger allows fewer than M submissions.
            ConfigError: there are fewer than M training items.
        """
        victim.require(self.access, "knockoff")
        learned = learn_surrogate(
            self,
            victim,
            data,
            modality,
            modalities=(modality,),
            code_length=victim.code_length,
            answer=partial(victim.codes, modality),
            objective=lambda codes: CodeRegression(modality, codes),
            seed=seed,
            progress=progress,
        )
        return OnSurrogate(model=learned.model, attack=self._own_code(), name=self.name)
