"""Attacks: one file a paper; importing this package registers them all."""

from hamward.attacks import cmla, own_code
from hamward.attacks.base import ATTACKS, Attack, Goal, References
from hamward.attacks.budget import Budget, Distortion, measure, round_to_grid
from hamward.attacks.cmla import CMLA
from hamward.attacks.craft import Crafted, craft, encode, own_code_goal
from hamward.attacks.own_code import OwnCode, RandomNoise

__all__ = [
    "ATTACKS",
    "CMLA",
    "Attack",
    "Budget",
    "Crafted",
    "Distortion",
    "Goal",
    "OwnCode",
    "RandomNoise",
    "References",
    "cmla",
    "craft",
    "encode",
    "measure",
    "own_code",
    "own_code_goal",
    "round_to_grid",
]
