"""Training: objectives (one file a paper) and the loop that runs them."""

from hamward.training import dcmh
from hamward.training.dcmh import DCMH
from hamward.training.djsrh import DJSRH
from hamward.training.dual_encoder import DualEncoder
from hamward.training.fit import FitConfig, Fitted, fit
from hamward.training.fpad import FPAD
from hamward.training.objective import OBJECTIVES, Objective, Phase, Step, modalities_in

__all__ = [
    "DCMH",
    "DJSRH",
    "FPAD",
    "OBJECTIVES",
    "DualEncoder",
    "FitConfig",
    "Fitted",
    "Objective",
    "Phase",
    "Step",
    "dcmh",
    "fit",
    "modalities_in",
]
