"""Attacks: one file a paper; importing this package registers them all."""

from hamward.attacks import cmla, own_code, prosgan, tadch
from hamward.attacks.base import (
    ATTACKS,
    Attack,
    Goal,
    References,
    TrainableAttack,
    ascend,
    check_steps,
)
from hamward.attacks.budget import Budget, Distortion, measure, round_to_grid
from hamward.attacks.cmla import CMLA
from hamward.attacks.craft import (
    Crafted,
    craft,
    encode,
    encode_items,
    own_code_goal,
    reference_codes,
)
from hamward.attacks.own_code import OwnCode, RandomNoise
from hamward.attacks.prosgan import FittedProSGAN, ProSGAN
from hamward.attacks.tadch import TADCH, FittedTADCH

__all__ = [
    "ATTACKS",
    "CMLA",
    "TADCH",
    "Attack",
    "Budget",
    "Crafted",
    "Distortion",
    "FittedProSGAN",
    "FittedTADCH",
    "Goal",
    "OwnCode",
    "ProSGAN",
    "RandomNoise",
    "References",
    "TrainableAttack",
    "ascend",
    "check_steps",
    "cmla",
    "craft",
    "encode",
    "encode_items",
    "measure",
    "own_code",
    "own_code_goal",
    "prosgan",
    "reference_codes",
    "round_to_grid",
    "tadch",
]
