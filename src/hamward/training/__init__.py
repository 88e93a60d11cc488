"""Training: objectives (one file a paper) and the loop that runs them."""

from hamward.training import acmr, csq, dcmh, dph, dpsh, hashnet, ssah
from hamward.training.acmr import ACMR
from hamward.training.dcmh import DCMH
from hamward.training.djsrh import DJSRH
from hamward.training.dual_encoder import DualEncoder
from hamward.training.fit import FitConfig, Fitted, fit
from hamward.training.fpad import FPAD
from hamward.training.objective import OBJECTIVES, Objective, Phase, Step, modalities_in
from hamward.training.ranks import ALONE, Ranks, joined
from hamward.training.ssah import SSAH

__all__ = [
    "ACMR",
    "ALONE",
    "DCMH",
    "DJSRH",
    "FPAD",
    "OBJECTIVES",
    "SSAH",
    "DualEncoder",
    "FitConfig",
    "Fitted",
    "Objective",
    "Phase",
    "Ranks",
    "Step",
    "acmr",
    "csq",
    "dcmh",
    "dph",
    "dpsh",
    "fit",
    "hashnet",
    "joined",
    "modalities_in",
    "ssah",
]
