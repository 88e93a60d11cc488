"""Attacks: one file a paper; importing this package registers them all."""

from hamward.attacks import (
    aach,
    cgat,
    cmla,
    dhta,
    eqb2a,
    fast_edits,
    fpad,
    hag,
    hotflip,
    infonce,
    knockoff,
    own_code,
    prosgan,
    saat,
    sdha,
    square,
    strongest,
    tadch,
    tag_edits,
    tha,
    transfer,
    universal,
)
from hamward.attacks.aach import AACH
from hamward.attacks.base import (
    ATTACKS,
    Attack,
    Goal,
    References,
    Role,
    TrainableAttack,
    ascend,
    check_steps,
)
from hamward.attacks.budget import Budget, Distortion, measure, round_to_grid
from hamward.attacks.cgat import CgAT
from hamward.attacks.cmla import CMLA
from hamward.attacks.craft import (
    Crafted,
    attacked_items,
    craft,
    encode,
    encode_items,
    moved_texts,
    own_code_goal,
    reference_codes,
)
from hamward.attacks.dhta import DHTA
from hamward.attacks.eqb2a import EQB2A
from hamward.attacks.fast_edits import FastEdits, edit_limits, edit_steps, make_edits
from hamward.attacks.fpad import FPAD
from hamward.attacks.generative import FittedGenerator
from hamward.attacks.hag import HAG
from hamward.attacks.hotflip import HotFlip, HotFlipTargeted
from hamward.attacks.infonce import InfoNCE
from hamward.attacks.knockoff import Knockoff
from hamward.attacks.mixture import AttackMixture
from hamward.attacks.own_code import OwnCode, RandomNoise
from hamward.attacks.prosgan import ProSGAN
from hamward.attacks.saat import SAAT, SAATTargeted
from hamward.attacks.sdha import SDHA, SDHATargeted
from hamward.attacks.square import Square, SquareList
from hamward.attacks.strongest import Strongest, StrongestTargeted
from hamward.attacks.tadch import TADCH
from hamward.attacks.tag_edits import TagEdits, TagEditsByCodes, positions_of_words
from hamward.attacks.targets import TargetProtocol, choose_targets
from hamward.attacks.tha import THA
from hamward.attacks.transfer import Transfer
from hamward.attacks.universal import FittedUniversal, Universal

__all__ = [
    "Strongest",
    "StrongestTargeted",
    "strongest",
    "AACH",
    "ATTACKS",
    "CMLA",
    "EQB2A",
    "DHTA",
    "FPAD",
    "FastEdits",
    "HAG",
    "SAAT",
    "SDHA",
    "THA",
    "TADCH",
    "Attack",
    "AttackMixture",
    "Budget",
    "CgAT",
    "Crafted",
    "Distortion",
    "FittedGenerator",
    "Goal",
    "HotFlip",
    "HotFlipTargeted",
    "Knockoff",
    "OwnCode",
    "ProSGAN",
    "RandomNoise",
    "References",
    "Role",
    "TagEdits",
    "TagEditsByCodes",
    "TargetProtocol",
    "Square",
    "SquareList",
    "InfoNCE",
    "SAATTargeted",
    "SDHATargeted",
    "TrainableAttack",
    "Transfer",
    "Universal",
    "FittedUniversal",
    "aach",
    "ascend",
    "attacked_items",
    "cgat",
    "check_steps",
    "choose_targets",
    "cmla",
    "craft",
    "dhta",
    "encode",
    "encode_items",
    "edit_limits",
    "edit_steps",
    "eqb2a",
    "fast_edits",
    "knockoff",
    "fpad",
    "hag",
    "hotflip",
    "infonce",
    "make_edits",
    "measure",
    "moved_texts",
    "own_code",
    "own_code_goal",
    "positions_of_words",
    "reference_codes",
    "round_to_grid",
    "square",
    "transfer",
    "universal",
    "tag_edits",
    "saat",
    "sdha",
    "tha",
    "prosgan",
    "tadch",
]
