"""Defenses: objectives that call an attack, one file a paper."""

from hamward.defenses.adversarial import AdversarialLearning, AdversarialObjective

__all__ = ["AdversarialLearning", "AdversarialObjective"]
