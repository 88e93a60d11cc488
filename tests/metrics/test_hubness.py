"""k-occurrence and ranks by hand, and against every order of the tied items."""

from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from hamward.errors import ConfigError, ShapeError
from hamward.metrics import (
    DistanceCounts,
    distance_counts,
    expected_ranks,
    k_occurrence,
    similarity_counts,
    skewness,
)


def codes_of(*rows: str) -> Tensor:
    return torch.tensor([[1 if bit == "1" else -1 for bit in row] for row in rows]).to(torch.int8)


QUERY = codes_of("111", "110", "000")
DATABASE = codes_of("111", "110", "101", "011", "000", "111")


def counts_of(query: Tensor, database: Tensor) -> DistanceCounts:
    ones = torch.ones(max(len(query), len(database)), 1)
    count = similarity_counts if query.is_floating_point() else distance_counts
    extra = {"levels": 33} if query.is_floating_point() else {}
    return count(
        query, database, query_labels=ones[: len(query)], database_labels=ones[: len(database)],
        **extra,
    )  # fmt: skip


def naive(query: Tensor, database: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean over all orders of the database that sort by distance, found by trying all orders."""
    lists = np.zeros(len(database))
    ranks = np.zeros((len(query), len(database)))
    for number, asked in enumerate(query):
        distances = [int((asked != row).sum()) for row in database]
        orders = [
            order
            for order in permutations(range(len(database)))
            if all(distances[a] <= distances[b] for a, b in pairwise(order))
        ]
        for order in orders:
            for place, item in enumerate(order):
                lists[item] += (place < k) / len(orders)
                ranks[number, item] += (place + 1) / len(orders)
    return lists, ranks


def test_by_hand() -> None:
    """Distances of the first query: 0 1 1 1 3 0; of the second: 1 0 2 2 2 1; third: 3 2 2 2 0 3."""
    counts = counts_of(QUERY, DATABASE)
    lists = k_occurrence(counts, QUERY, DATABASE, k=3)
    expected = [1 + 1, 1 / 3 + 1 + 2 / 3, 1 / 3 + 2 / 3, 1 / 3 + 2 / 3, 1, 1 + 1]
    assert lists == pytest.approx(expected) and lists.sum() == pytest.approx(9)
    ranks = expected_ranks(counts, QUERY, DATABASE[[0, 4]])
    assert ranks == pytest.approx([(1.5 + 2.5 + 5.5) / 3, (6 + 5 + 1) / 3])
    among = np.array([[True, False], [True, False], [False, False]])
    ranks = expected_ranks(counts, QUERY, DATABASE[[0, 4]], among=among)
    assert ranks[0] == pytest.approx(2.0) and np.isnan(ranks[1])


@pytest.mark.parametrize("k", [1, 2, 4, 6, 9])
def test_equal_to_every_order_of_the_ties(k: int) -> None:
    lists, ranks = naive(QUERY, DATABASE, k)
    counts = counts_of(QUERY, DATABASE)
    assert k_occurrence(counts, QUERY, DATABASE, k=k) == pytest.approx(lists, abs=1e-12)
    assert expected_ranks(counts, QUERY, DATABASE) == pytest.approx(ranks.mean(0), abs=1e-12)


def test_order_of_items_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2, (60, 8), generator=generator).mul(2).sub(1).to(torch.int8)
    query, database = codes[:20], codes[20:]
    counts = counts_of(query, database)
    whole = k_occurrence(counts, query, database, k=7)
    assert whole.sum() == pytest.approx(20 * 7)
    order = torch.randperm(40, generator=generator)
    assert np.array_equal(k_occurrence(counts, query, database[order], k=7), whole[order])
    monkeypatch.setattr("hamward.metrics._buckets._CHUNK_CELLS", 130)  # three queries at a time
    assert k_occurrence(counts, query, database, k=7) == pytest.approx(whole, abs=1e-12)


def test_on_codes_cosine_gives_the_same() -> None:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 2, (50, 32), generator=generator).mul(2).sub(1).to(torch.int8)
    query, database = codes[:9], codes[9:]
    real = query.float(), database.float() * 3
    expected = k_occurrence(counts_of(query, database), query, database, k=5)
    assert k_occurrence(counts_of(*real), *real, k=5) == pytest.approx(expected)


def test_skewness_is_the_third_standardized_moment() -> None:
    assert skewness(np.full(5, 0.3)) == 0.0
    assert skewness(np.array([1.0, 2.0, 3.0])) == pytest.approx(0.0)
    values = np.random.default_rng(0).exponential(size=50)
    z = (values - values.mean()) / values.std()
    assert skewness(values) == pytest.approx((z**3).mean())
    assert skewness(-values) == pytest.approx(-skewness(values))


def test_what_does_not_fit_is_refused() -> None:
    counts = counts_of(QUERY, DATABASE)
    with pytest.raises(ConfigError, match="k must be at least 1"):
        k_occurrence(counts, QUERY, DATABASE, k=0)
    with pytest.raises(ShapeError, match="counts are of 3 queries, got codes of 2"):
        k_occurrence(counts, QUERY[:2], DATABASE, k=1)
    with pytest.raises(ShapeError, match="codes with 3 bits, got 2"):
        expected_ranks(counts, QUERY[:, :2], DATABASE[:, :2])
