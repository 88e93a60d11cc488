"""Training: objectives (one file a paper) and the loop that runs them."""

from hamward.training import csq, dcmh, dph, dpsh, hashnet
from hamward.training.dcmh import DCMH
from hamward.training.fit import FitConfig, Fitted, fit
from hamward.training.objective import OBJECTIVES, Objective, Phase, Step, modalities_in

__all__ = [
    "DCMH",
    "OBJECTIVES",
    "FitConfig",
    "Fitted",
    "Objective",
    "Phase",
    "Step",
    "csq",
    "dcmh",
    "dph",
    "dpsh",
    "fit",
    "hashnet",
    "modalities_in",
]
