"""Defenses: objectives that call an attack, one file a paper."""

from hamward.defenses.adversarial import (
    DEFENSES,
    AdversarialLearning,
    AdversarialObjective,
    cmla_learning,
    control,
)

__all__ = ["DEFENSES", "AdversarialLearning", "AdversarialObjective", "cmla_learning", "control"]
