"""Training: objectives (one file a paper) and the loop that runs them."""

from hamward.training import dcmh
from hamward.training.dcmh import DCMH, DCMHConfig
from hamward.training.fit import FitConfig, Fitted, fit
from hamward.training.objective import OBJECTIVES, Objective

__all__ = ["DCMH", "OBJECTIVES", "DCMHConfig", "FitConfig", "Fitted", "Objective", "dcmh", "fit"]
