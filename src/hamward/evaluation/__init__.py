"""Evaluation: from victims and attacks to run folders, tables and reports."""

from hamward.evaluation.candidates import Candidates
from hamward.evaluation.compare import Comparison, Standing, compare_runs
from hamward.evaluation.configs import EvaluateConfig, HardenConfig, ModelConfig, TrainConfig
from hamward.evaluation.demo import DemoResult, demo_run
from hamward.evaluation.evaluate import CLEAN, Curve, Evaluation, Row, evaluate
from hamward.evaluation.exporting import (
    ExportConfig,
    ImportConfig,
    Parity,
    export_onnx,
    export_run,
    import_run,
)
from hamward.evaluation.purifying import PurifyConfig, purify_run
from hamward.evaluation.report import write_report
from hamward.evaluation.report.comparison import comparison_markdown, write_comparison
from hamward.evaluation.runs import evaluate_run, load_victim, make_attack, report_run
from hamward.evaluation.scoring import validation_scores
from hamward.evaluation.table import markdown_table
from hamward.evaluation.training_runs import harden_run, hardening_fit, train_run

__all__ = [
    "CLEAN",
    "Candidates",
    "Comparison",
    "Curve",
    "DemoResult",
    "EvaluateConfig",
    "Evaluation",
    "ExportConfig",
    "HardenConfig",
    "ImportConfig",
    "ModelConfig",
    "Parity",
    "PurifyConfig",
    "Row",
    "Standing",
    "TrainConfig",
    "compare_runs",
    "comparison_markdown",
    "demo_run",
    "evaluate",
    "evaluate_run",
    "export_onnx",
    "export_run",
    "harden_run",
    "hardening_fit",
    "import_run",
    "load_victim",
    "make_attack",
    "markdown_table",
    "purify_run",
    "report_run",
    "train_run",
    "validation_scores",
    "write_comparison",
    "write_report",
]
