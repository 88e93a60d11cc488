"""The report of an evaluation: one page that needs nothing else, and its numbers."""

from hamward.evaluation.report.write import write_report

__all__ = ["write_report"]
