import naive_metrics as naive
import numpy as np
import pytest
import torch

from hamward.errors import ConfigError, DataError, ShapeError, UnknownNameError
from hamward.metrics import (
    average_precision,
    distance_counts,
    first_k_relevant_map,
    mean_average_precision,
    stable_order_map,
)


def make(seed, *, q=12, n=40, code_length=6, labels=3):
    rng = np.random.default_rng(seed)
    codes = [
        torch.from_numpy(rng.choice([-1, 1], (m, code_length)).astype(np.int8)) for m in (q, n)
    ]
    sets = [(rng.random((m, labels)) < 0.3).astype(np.float32) for m in (q, n)]
    sets[0][0] = 0  # at least one query without relevant items
    return codes, {"query_labels": sets[0], "database_labels": sets[1]}


def lists(codes, sets):
    return naive.ranked(codes[0].numpy(), codes[1].numpy(), *sets.values())


@pytest.mark.parametrize("normalizer", ["relevant", "min", "hits"])
@pytest.mark.parametrize("k", [1, 5, 39, 100, None])
def test_stable_order_equals_the_loop(normalizer, k, monkeypatch):
    monkeypatch.setattr("hamward.metrics.legacy._CHUNK_PAIRS", 150)
    codes, sets = make(0)
    want = [
        naive.average_precision(ranked, k=k, normalizer=normalizer, total=sum(ranked))
        for ranked in lists(codes, sets)
        if any(ranked)
    ]
    score = stable_order_map(*codes, **sets, k=k, normalizer=normalizer)
    assert score.value == pytest.approx(float(sum(want) / len(want)), rel=1e-12)
    assert (score.queries, score.without_relevant) == (len(want), 12 - len(want))
    assert (score.convention, score.k, score.normalizer) == ("stable order", k, normalizer)


@pytest.mark.parametrize("k", [1, 5, 39, 100, None])
def test_first_k_relevant_equals_calc_map_k(k, monkeypatch):
    monkeypatch.setattr("hamward.metrics.legacy._CHUNK_PAIRS", 150)
    codes, sets = make(1)
    total = 0.0
    for ranked in lists(codes, sets):  # calc_map_k of DCMH, line by line
        positions = np.flatnonzero(ranked) + 1
        if positions.size == 0:
            continue
        used = positions.size if k is None else min(k, positions.size)
        total += (np.arange(1, used + 1) / positions[:used]).mean()
    score = first_k_relevant_map(*codes, **sets, k=k)
    assert score.value == pytest.approx(total / 12, rel=1e-12)
    assert score.queries == 12 and score.without_relevant >= 1
    assert score.normalizer is None


def test_the_two_conventions_differ_and_the_first_is_larger_in_hindsight():
    codes = [torch.tensor([[1, 1]], dtype=torch.int8)]
    codes.append(torch.tensor([[1, 1], [1, -1], [-1, -1]], dtype=torch.int8))
    sets = {"query_labels": np.ones((1, 1)), "database_labels": np.array([[0], [0], [1]])}
    assert first_k_relevant_map(*codes, **sets, k=1).value == pytest.approx(1 / 3)
    assert stable_order_map(*codes, **sets, k=1).value == 0


@pytest.mark.parametrize("k", [3, 20, None])
def test_stable_order_lies_within_the_bounds_of_all_orders(k):
    codes, sets = make(2)
    counts = distance_counts(*codes, **sets)
    for normalizer in ("relevant", "min", "hits"):
        score = mean_average_precision(counts, k=k, normalizer=normalizer)
        legacy = stable_order_map(*codes, **sets, k=k, normalizer=normalizer)
        assert score.pessimistic - 1e-12 <= legacy.value <= score.optimistic + 1e-12
        assert legacy.queries == score.queries


def test_the_mean_over_database_orders_is_the_expectation():
    codes, sets = make(3, q=3, n=8, code_length=2)
    counts = distance_counts(*codes, **sets)
    rng = np.random.default_rng(0)
    values = []
    for _ in range(800):
        order = rng.permutation(8)
        shuffled = {**sets, "database_labels": sets["database_labels"][order]}
        values.append(stable_order_map(codes[0], codes[1][order], **shuffled, k=4).value)
    expected = np.nanmean(average_precision(counts, k=4, normalizer="hits"))
    assert abs(np.mean(values) - expected) < 4 * np.std(values) / np.sqrt(len(values))


def test_long_codes_keep_their_order():
    rng = np.random.default_rng(0)
    codes = [torch.from_numpy(rng.choice([-1, 1], (m, 300)).astype(np.int8)) for m in (2, 9)]
    codes[1][0] = -codes[0][0]  # distance 300 does not fit 8 bits
    sets = {"query_labels": np.ones((2, 1)), "database_labels": np.eye(9, 1)}
    want = [naive.average_precision(r, k=9, normalizer="min", total=1) for r in lists(codes, sets)]
    assert stable_order_map(*codes, **sets).value == pytest.approx(float(sum(want) / 2))


def test_errors_teach():
    codes, sets = make(4)
    with pytest.raises(ConfigError, match="got 0"):
        stable_order_map(*codes, **sets, k=0)
    with pytest.raises(ConfigError, match="got -1"):
        first_k_relevant_map(*codes, **sets, k=-1)
    with pytest.raises(UnknownNameError, match="hits"):
        stable_order_map(*codes, **sets, normalizer="hit")
    with pytest.raises(ShapeError, match=r"6 bits.* 5"):
        first_k_relevant_map(codes[0], codes[1][:, :5], **sets)
    with pytest.raises(DataError, match="none of the 12"):
        stable_order_map(*codes, **{**sets, "query_labels": np.zeros((12, 3))})
    none = {**sets, "query_labels": np.zeros((0, 3))}
    with pytest.raises(DataError, match="no query"):
        first_k_relevant_map(codes[0][:0], codes[1], **none)
