"""Defenses: objectives that call an attack, one file a paper."""

from hamward.defenses.adversarial import (
    DEFENSES,
    AdversarialLearning,
    AdversarialObjective,
    HardeningObjective,
    control,
)
from hamward.defenses.cmla import cmla_learning

__all__ = [
    "DEFENSES",
    "AdversarialLearning",
    "AdversarialObjective",
    "HardeningObjective",
    "cmla_learning",
    "control",
]
