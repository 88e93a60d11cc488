"""Attack, harden, certify and audit cross-modal Hamming retrieval.

Names below load on first use, so that `import hamward` and `hamward --help` stay instant.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hamward.attacks import ATTACKS, CMLA, Budget, Goal, OwnCode, RandomNoise
    from hamward.codes import binarize
    from hamward.data import DATASETS, RetrievalData, load_data
    from hamward.defenses import DEFENSES, cmla_learning
    from hamward.evaluation import (
        EvaluateConfig,
        Evaluation,
        HardenConfig,
        TrainConfig,
        evaluate,
        evaluate_run,
        export_onnx,
        harden_run,
        markdown_table,
        train_run,
        validation_scores,
        write_report,
    )
    from hamward.metrics import distance_counts, mean_average_precision
    from hamward.models import (
        HashModel,
        ModelSpec,
        Victim,
        build_hash_model,
        load_model,
        save_model,
        wrap,
        wrap_onnx,
    )
    from hamward.process import tune_process
    from hamward.training import DCMH, OBJECTIVES, FitConfig, fit

__version__ = "0.1.0"

_HOMES = {
    "attacks": ("ATTACKS", "CMLA", "Budget", "Goal", "OwnCode", "RandomNoise"),
    "codes": ("binarize",),
    "data": ("DATASETS", "RetrievalData", "load_data"),
    "defenses": ("DEFENSES", "cmla_learning"),
    "evaluation": (
        "EvaluateConfig",
        "Evaluation",
        "HardenConfig",
        "TrainConfig",
        "evaluate",
        "evaluate_run",
        "export_onnx",
        "harden_run",
        "markdown_table",
        "train_run",
        "validation_scores",
        "write_report",
    ),
    "process": ("tune_process",),
    "metrics": ("distance_counts", "mean_average_precision"),
    "models": (
        "HashModel",
        "ModelSpec",
        "Victim",
        "build_hash_model",
        "load_model",
        "save_model",
        "wrap",
        "wrap_onnx",
    ),
    "training": ("DCMH", "OBJECTIVES", "FitConfig", "fit"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "ATTACKS",
    "CMLA",
    "DATASETS",
    "DCMH",
    "DEFENSES",
    "OBJECTIVES",
    "Budget",
    "EvaluateConfig",
    "Evaluation",
    "FitConfig",
    "Goal",
    "HardenConfig",
    "HashModel",
    "ModelSpec",
    "OwnCode",
    "RandomNoise",
    "RetrievalData",
    "TrainConfig",
    "Victim",
    "__version__",
    "binarize",
    "build_hash_model",
    "cmla_learning",
    "distance_counts",
    "evaluate",
    "evaluate_run",
    "export_onnx",
    "fit",
    "harden_run",
    "load_data",
    "load_model",
    "markdown_table",
    "mean_average_precision",
    "save_model",
    "train_run",
    "tune_process",
    "validation_scores",
    "wrap",
    "wrap_onnx",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'hamward' has no attribute {name!r}")
    return getattr(importlib.import_module(f"hamward.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
