"""Ranking metrics for codes: exact, tie-aware, and never sorting."""

from hamward.metrics.counts import DistanceCounts, distance_counts
from hamward.metrics.hubness import expected_ranks, k_occurrence, skewness
from hamward.metrics.legacy import LegacyScore, first_k_relevant_map, stable_order_map
from hamward.metrics.ranking import (
    Normalizer,
    PrecisionRecallCurve,
    RadiusPrecision,
    RankingScore,
    Ties,
    average_precision,
    bootstrap_interval,
    chance_map,
    hit_at,
    mean_average_precision,
    ndcg_at,
    precision_at,
    precision_recall_curve,
    precision_within_radius,
    recall_at,
)
from hamward.metrics.similarity import similarity_counts

__all__ = [
    "DistanceCounts",
    "LegacyScore",
    "Normalizer",
    "PrecisionRecallCurve",
    "RadiusPrecision",
    "RankingScore",
    "Ties",
    "average_precision",
    "bootstrap_interval",
    "chance_map",
    "distance_counts",
    "expected_ranks",
    "first_k_relevant_map",
    "hit_at",
    "k_occurrence",
    "mean_average_precision",
    "ndcg_at",
    "precision_at",
    "precision_recall_curve",
    "precision_within_radius",
    "recall_at",
    "similarity_counts",
    "skewness",
    "stable_order_map",
]
