"""Defenses: objectives that call an attack, one file a paper."""

from hamward.defenses.adversarial import (
    DEFENSES,
    AdversarialLearning,
    AdversarialObjective,
    HardeningObjective,
    control,
)
from hamward.defenses.cmla import cmla_learning
from hamward.defenses.overfitting import OverfittingMonitor
from hamward.defenses.rocmr import RoCMR, rocmr

__all__ = [
    "DEFENSES",
    "AdversarialLearning",
    "AdversarialObjective",
    "HardeningObjective",
    "OverfittingMonitor",
    "RoCMR",
    "cmla_learning",
    "control",
    "rocmr",
]
