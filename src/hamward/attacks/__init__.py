"""Attacks: one file a paper; importing this package registers them all."""

from hamward.attacks import cgat, cmla, dhta, fpad, hag, infonce, own_code, saat, sdha, tha
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
from hamward.attacks.cgat import CgAT
from hamward.attacks.cmla import CMLA
from hamward.attacks.craft import (
    Crafted,
    craft,
    encode,
    encode_items,
    own_code_goal,
    reference_codes,
)
from hamward.attacks.dhta import DHTA
from hamward.attacks.fpad import FPAD
from hamward.attacks.hag import HAG
from hamward.attacks.infonce import InfoNCE
from hamward.attacks.own_code import OwnCode, RandomNoise
from hamward.attacks.saat import SAAT, SAATTargeted
from hamward.attacks.sdha import SDHA, SDHATargeted
from hamward.attacks.targets import TargetProtocol, choose_targets
from hamward.attacks.tha import THA

__all__ = [
    "ATTACKS",
    "CMLA",
    "DHTA",
    "FPAD",
    "HAG",
    "SAAT",
    "SDHA",
    "THA",
    "Attack",
    "Budget",
    "CgAT",
    "Crafted",
    "Distortion",
    "Goal",
    "InfoNCE",
    "OwnCode",
    "RandomNoise",
    "References",
    "SAATTargeted",
    "SDHATargeted",
    "TargetProtocol",
    "TrainableAttack",
    "ascend",
    "cgat",
    "check_steps",
    "choose_targets",
    "cmla",
    "craft",
    "dhta",
    "encode",
    "encode_items",
    "fpad",
    "hag",
    "infonce",
    "measure",
    "own_code",
    "own_code_goal",
    "reference_codes",
    "round_to_grid",
    "saat",
    "sdha",
    "tha",
]
