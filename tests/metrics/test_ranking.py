from fractions import Fraction

import naive_metrics as naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hamward.errors import ConfigError, DataError, UnknownNameError
from hamward.metrics import (
    DistanceCounts,
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

NORMALIZERS = ["relevant", "min", "hits"]


def counts_of(*queries):
    """Build counts from (items, relevant) pairs."""
    items, relevant = (np.array(side, np.int64) for side in zip(*queries, strict=True))
    return DistanceCounts(items=items, relevant=relevant, code_length=items.shape[1] - 1)


WORKED = counts_of(([2, 3, 4], [1, 2, 1]))


@st.composite
def tiny_rankings(draw):
    items = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    items[draw(st.integers(0, len(items) - 1))] += 1
    return items, [draw(st.integers(0, n)) for n in items]


@pytest.mark.parametrize(
    ("ties", "value"),
    [("expected", 0.6391865079), ("optimistic", 0.7708333333), ("pessimistic", 0.5111111111)],
)
def test_worked_example(ties, value):
    assert average_precision(WORKED, ties=ties)[0] == pytest.approx(value, abs=1e-10)


@pytest.mark.parametrize(
    ("normalizer", "value"),
    [("relevant", 0.4027777778), ("min", 0.4027777778), ("hits", 0.6851851852)],
)
def test_worked_example_cut_at_four(normalizer, value):
    score = average_precision(WORKED, k=4, normalizer=normalizer)[0]
    assert score == pytest.approx(value, abs=1e-10)


def test_worked_example_by_hand():
    # Two items, one relevant, in either order: (1 + 1/2) / 2.
    assert average_precision(counts_of(([2, 0], [1, 0])))[0] == pytest.approx(0.75)
    # Without ties: relevant at ranks 1 and 3.
    no_ties = counts_of(([1, 1, 1], [1, 0, 1]))
    assert average_precision(no_ties)[0] == pytest.approx((1 + 2 / 3) / 2)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(tiny_rankings())
def test_every_score_equals_the_enumeration_of_all_tie_orders(ranking):
    items, relevant = ranking
    counts = counts_of(ranking)
    total, size = sum(relevant), sum(items)
    orders = list(naive.arrangements(items, relevant))
    for k in [*range(1, size + 2), None]:
        length = size if k is None else min(k, size)
        for normalizer in NORMALIZERS:
            scores = [
                naive.average_precision(order, k=length, normalizer=normalizer, total=total)
                for order in orders
            ]
            want = {
                "expected": sum(scores) / len(scores),
                "optimistic": max(scores),
                "pessimistic": min(scores),
            }
            for ties, value in want.items():
                got = average_precision(counts, k=k, normalizer=normalizer, ties=ties)[0]
                if total == 0:
                    assert np.isnan(got)
                else:
                    assert got == pytest.approx(float(value), abs=1e-12), (k, normalizer, ties)
        if k is None:
            continue
        hits = [sum(order[:length]) for order in orders]
        gains = [
            sum(1 / np.log2(i + 2) for i, flag in enumerate(order[:length]) if flag)
            for order in orders
        ]
        ideal = sum(1 / np.log2(i + 2) for i in range(min(total, length)))
        for function, values in {
            precision_at: [Fraction(h, length) for h in hits],
            recall_at: [Fraction(h, total) if total else 0 for h in hits],
            hit_at: [h > 0 for h in hits],
            ndcg_at: [gain / ideal if total else 0 for gain in gains],
        }.items():
            got = function(counts, k)[0]
            if total == 0:
                assert np.isnan(got)
            else:
                assert got == pytest.approx(float(sum(values) / len(orders)), abs=1e-12)


def random_counts(seed, *, queries=20, buckets=9, largest=400):
    rng = np.random.default_rng(seed)
    items = rng.integers(0, largest, (queries, buckets))
    items[:, 0] += 1
    return DistanceCounts(items=items, relevant=rng.binomial(items, 0.2), code_length=buckets - 1)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("k", [1, 50, 700, None])
def test_large_buckets_agree_with_sampled_orders(normalizer, k):
    counts = random_counts(0, queries=1)
    rng = np.random.default_rng(1)
    scores = []
    for _ in range(400):
        order = np.concatenate(
            [
                rng.permutation(np.arange(n) < r)
                for n, r in zip(counts.items[0], counts.relevant[0], strict=True)
            ]
        )
        listed = order[:k]
        precision = listed.cumsum() / np.arange(1, len(listed) + 1)
        divisor = {
            "relevant": order.sum(),
            "min": min(order.sum(), len(listed)),
            "hits": max(1, listed.sum()),
        }[normalizer]
        scores.append(precision[listed].sum() / divisor)
    error = np.std(scores) / np.sqrt(len(scores)) + 1e-12
    got = average_precision(counts, k=k, normalizer=normalizer)[0]
    assert abs(got - np.mean(scores)) < 4 * error


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("k", [1, 7, 300, 1500, None])
def test_bounds_hold_and_rows_do_not_mix(normalizer, k, monkeypatch):
    counts = random_counts(2)
    low, middle, high = (
        average_precision(counts, k=k, normalizer=normalizer, ties=ties)
        for ties in ("pessimistic", "expected", "optimistic")
    )
    assert (low <= middle + 1e-12).all() and (middle <= high + 1e-12).all()
    assert (low >= 0).all() and (high <= 1 + 1e-12).all()
    monkeypatch.setattr("hamward.metrics._buckets._CHUNK_CELLS", 100)
    alone = [
        average_precision(counts.select([row]), k=k, normalizer=normalizer)[0]
        for row in range(len(counts))
    ]
    np.testing.assert_allclose(middle, alone, rtol=1e-12)
    chunked = average_precision(counts, k=k, normalizer=normalizer)
    np.testing.assert_allclose(middle, chunked, rtol=1e-12)


def test_hypergeometric_stays_exact_for_large_buckets():
    # All items tied: the expected hits-AP of k items is a mean over j that must stay in [0, 1], and
    # with k = 1 it is the share of relevant items exactly.
    counts = counts_of(([200_000, 0], [70_000, 0]))
    assert average_precision(counts, k=1, normalizer="hits")[0] == pytest.approx(0.35, rel=1e-13)
    # With r = n every order is perfect.
    full = counts_of(([200_000, 0], [200_000, 0]))
    assert average_precision(full, k=90_000, normalizer="hits")[0] == pytest.approx(1, rel=1e-12)


def test_a_relevant_item_that_comes_closer_never_hurts():
    base = average_precision(counts_of(([3, 4, 5], [1, 2, 3])))[0]
    closer = average_precision(counts_of(([3, 5, 4], [1, 3, 2])))[0]
    closest = average_precision(counts_of(([4, 4, 4], [2, 2, 2])))[0]
    assert base < closer < closest


def test_without_ties_the_bounds_meet():
    counts = counts_of(([1, 1, 1, 1], [0, 1, 0, 1]))
    score = mean_average_precision(counts)
    assert score.value == score.optimistic == score.pessimistic == pytest.approx(0.5)


def test_mean_skips_queries_without_relevant_items_and_says_so():
    counts = counts_of(([2, 3, 4], [1, 2, 1]), ([2, 3, 4], [0, 0, 0]))
    score = mean_average_precision(counts, k=4, normalizer="hits", ties="optimistic")
    assert (score.queries, score.skipped) == (1, 1)
    assert (score.k, score.normalizer, score.ties) == (4, "hits", "optimistic")
    assert score.value == score.optimistic
    assert score.pessimistic < score.optimistic
    assert mean_average_precision(counts).value == pytest.approx(0.6391865079, abs=1e-10)
    assert np.isnan(average_precision(counts)[1])


def test_optimistic_hits_is_not_relevant_first():
    # Rank 1 is relevant, then nine misses; the cut keeps one of two tied items. The late hit lowers
    # the mean of precisions from 1 to (1 + 2/11) / 2.
    counts = counts_of(([1, 9, 2], [1, 0, 1]))
    high = average_precision(counts, k=11, normalizer="hits", ties="optimistic")[0]
    low = average_precision(counts, k=11, normalizer="hits", ties="pessimistic")[0]
    assert high == pytest.approx(1)
    assert low == pytest.approx((1 + 2 / 11) / 2)


def test_chance_by_hand():
    # Three items, one relevant: 1, 1/2 or 1/3, equally likely. Distances do not matter.
    counts = counts_of(([1, 1, 1], [1, 0, 0]), ([0, 0, 3], [0, 0, 1]))
    assert chance_map(counts).value == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert chance_map(counts, k=1).value == pytest.approx(1 / 3)
    assert chance_map(counts).pessimistic == pytest.approx(1 / 3)


def test_chance_is_near_the_base_rate_of_a_large_database():
    score = chance_map(counts_of(([30_000, 70_000], [6_000, 14_000])))
    assert score.value == pytest.approx(0.2, abs=1e-3)
    assert score.value > 0.2


def test_precision_recall_curve_by_hand():
    counts = counts_of(([0, 2, 2], [0, 1, 2]), ([1, 1, 2], [1, 0, 0]), ([2, 1, 1], [0, 0, 0]))
    curve = precision_recall_curve(counts)
    np.testing.assert_allclose(
        curve.precision, [(0 + 1) / 2, (1 / 2 + 1 / 2) / 2, (3 / 4 + 1 / 4) / 2]
    )
    np.testing.assert_allclose(curve.recall, [(0 + 1) / 2, (1 / 3 + 1) / 2, 1])
    np.testing.assert_allclose(curve.empty_rate, [1 / 2, 0, 0])
    assert (curve.queries, curve.skipped) == (2, 1)


def test_precision_within_radius_by_hand():
    counts = counts_of(([0, 0, 0, 9], [0, 0, 0, 3]), ([1, 1, 2, 5], [1, 0, 0, 0]))
    lookup = precision_within_radius(counts)
    assert (lookup.value, lookup.empty_rate, lookup.radius) == (1 / 8, 1 / 2, 2)
    assert precision_within_radius(counts, radius=3).empty_rate == 0
    with pytest.raises(ConfigError, match=r"\[0, 3\], got 4"):
        precision_within_radius(counts, radius=4)


def test_recall_grows_and_ends_at_one():
    counts = random_counts(4)
    recall = np.stack([recall_at(counts, k) for k in (1, 10, 100, 1000, 10_000)])
    hit = np.stack([hit_at(counts, k) for k in (1, 10, 100, 1000, 10_000)])
    assert (np.diff(recall, axis=0) >= -1e-12).all()
    assert (np.diff(hit, axis=0) >= -1e-12).all()
    np.testing.assert_allclose(recall[-1], 1)
    np.testing.assert_allclose(precision_at(counts, 1), hit[0])


def test_bootstrap_interval_covers_the_mean_and_replays():
    values = np.append(np.random.default_rng(0).normal(0.5, 0.1, 400), np.nan)
    low, high = bootstrap_interval(values, seed=1)
    error = 0.1 / np.sqrt(400)
    assert low == pytest.approx(np.nanmean(values) - 1.96 * error, abs=error / 3)
    assert high == pytest.approx(np.nanmean(values) + 1.96 * error, abs=error / 3)
    assert bootstrap_interval(values, seed=1) == (low, high)
    assert bootstrap_interval(values, seed=2) != (low, high)
    narrow = bootstrap_interval(values, seed=1, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    assert bootstrap_interval(np.array([0.3]), seed=0, draws=5) == (0.3, 0.3)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: average_precision(WORKED, k=0), ConfigError, "at least 1"),
        (lambda: average_precision(WORKED, normalizer="hit"), UnknownNameError, "'hits'"),
        (lambda: average_precision(WORKED, ties="best"), UnknownNameError, "optimistic"),
        (lambda: mean_average_precision(WORKED, ties="best"), UnknownNameError, "optimistic"),
        (lambda: precision_at(WORKED, 0), ConfigError, "got 0"),
        (lambda: bootstrap_interval(np.array([np.nan]), seed=0), DataError, "all values are NaN"),
        (lambda: bootstrap_interval(np.ones(2), seed=0, level=95), ConfigError, "got 95"),
        (lambda: bootstrap_interval(np.ones(2), seed=0, draws=0), ConfigError, "got 0"),
        (
            lambda: mean_average_precision(counts_of(([2, 3], [0, 0]))),
            DataError,
            "none of the 1 queries",
        ),
    ],
)
def test_errors_teach(call, error, match):
    with pytest.raises(error, match=match):
        call()
