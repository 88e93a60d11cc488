"""Defenses: objectives that call an attack, one file a paper."""

from hamward.defenses.adversarial import DEFENSES, AdversarialObjective, HardeningObjective, control
from hamward.defenses.anchored import anchored_training
from hamward.defenses.atrdh import atrdh_training
from hamward.defenses.cgat import cgat_training
from hamward.defenses.cmla import cmla_learning
from hamward.defenses.fpad import FPADObjective, fpad_defense
from hamward.defenses.guided import CodePGD, GuidedObjective
from hamward.defenses.multi_attack import multi_attack_training
from hamward.defenses.overfitting import OverfittingMonitor
from hamward.defenses.rocmr import RoCMR, rocmr
from hamward.defenses.saat import saat_training
from hamward.defenses.sampler import AdversarialLearning

__all__ = [
    "DEFENSES",
    "AdversarialLearning",
    "AdversarialObjective",
    "CodePGD",
    "FPADObjective",
    "GuidedObjective",
    "HardeningObjective",
    "OverfittingMonitor",
    "RoCMR",
    "anchored_training",
    "atrdh_training",
    "cgat_training",
    "cmla_learning",
    "control",
    "fpad_defense",
    "multi_attack_training",
    "rocmr",
    "saat_training",
]
