"""Defenses: objectives that call an attack, one file a paper."""

from hamward.defenses.adversarial import DEFENSES, AdversarialLearning, AdversarialObjective

__all__ = ["DEFENSES", "AdversarialLearning", "AdversarialObjective"]
