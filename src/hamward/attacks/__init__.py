"""Attacks: one file a paper; importing this package registers them all."""

from hamward.attacks import cmla, own_code, tag_edits
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
from hamward.attacks.tag_edits import TagEdits, TagEditsByCodes, positions_of_words
from hamward.attacks.targets import TargetProtocol, choose_targets

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
    "TagEdits",
    "TagEditsByCodes",
    "TargetProtocol",
    "TrainableAttack",
    "ascend",
    "check_steps",
    "choose_targets",
    "cmla",
    "craft",
    "encode",
    "encode_items",
    "measure",
    "own_code",
    "own_code_goal",
    "positions_of_words",
    "reference_codes",
    "round_to_grid",
    "tag_edits",
]
