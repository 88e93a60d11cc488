"""A mixture of attacks: each item meets one of several, pictures others than texts."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hamward.attacks.base import Attack, Goal
from hamward.attacks.budget import Budget
from hamward.errors import ConfigError
from hamward.models import Victim
from hamward.models.victim import Access
from hamward.random import item_uniform
from hamward.types import MODALITIES, Modality

__all__ = ["AttackMixture"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackMixture:
    """Attacks for training and for its validation, one drawn for each item.

    Attributes:
        image: What pictures may meet, each equally likely.
        text: What texts may meet.
    """

    access: ClassVar[Access] = "gradients"
    modalities: ClassVar[tuple[Modality, ...]] = MODALITIES
    targeted: ClassVar[bool] = False

    image: tuple[Attack, ...]
    text: tuple[Attack, ...]

    def __post_init__(self) -> None:
        for modality in MODALITIES:
            members = self.members(modality)
            if not members:
                raise ConfigError(f"a mixture needs an attack on {modality}s")
            if len({a.budget(modality) for a in members}) > 1:
                raise ConfigError(f"attacks on {modality}s must share one budget to be mixed")

    @property
    def needs_references(self) -> bool:
        """Whether one of the attacks does."""
        return any(a.needs_references for a in (*self.image, *self.text))

    def members(self, modality: Modality) -> tuple[Attack, ...]:
        """Return what items of a modality may meet."""
        return self.image if modality == "image" else self.text

    def budget(self, modality: Modality) -> Budget:
        """Return the budget of the modality, that of every attack on it."""
        return self.members(modality)[0].budget(modality)

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial items; see `Attack`."""
        members = self.members(goal.modality)
        if len(members) == 1:
            return members[0](victim, x, goal, ids=ids, seed=seed)
        drawn = (item_uniform(ids, (), seed=seed, stream="mixture") * len(members)).long()
        x_adv = torch.empty_like(x)
        for number, attack in enumerate(members):
            rows = (drawn == number).nonzero()[:, 0]
            if len(rows):
                part = goal.select(rows)
                x_adv[rows] = attack(victim, x[rows], part, ids=ids[rows], seed=seed)
        return x_adv
