"""Relevance by group: a caption and its own picture."""

import numpy as np
import pytest
import torch

from hamward.errors import ConfigError, DataError, ShapeError
from hamward.metrics import (
    average_precision,
    distance_counts,
    hit_at,
    recall_at,
    similarity_counts,
)
from hamward.metrics._task import RetrievalTask
from hamward.metrics.counts import _count_matches


def made(seed: int, *, q: int = 9, n: int = 40, code_length: int = 19, groups: int = 12):
    rng = np.random.default_rng(seed)
    codes = [
        torch.from_numpy(rng.choice([-1, 1], (m, code_length)).astype(np.int8)) for m in (q, n)
    ]
    return codes, [rng.integers(-5, groups - 5, m) for m in (q, n)]


@pytest.mark.parametrize("code_length", [1, 8, 19, 70])
def test_groups_count_as_one_label_each_would(code_length):
    (query, database), (asked, known) = made(code_length, code_length=code_length)
    found = distance_counts(query, database, query_groups=asked, database_groups=known)
    names = np.unique(np.concatenate([asked, known]))
    labels = [(part[:, None] == names).astype(np.float32) for part in (asked, known)]
    expected = distance_counts(query, database, query_labels=labels[0], database_labels=labels[1])
    np.testing.assert_array_equal(found.items, expected.items)
    np.testing.assert_array_equal(found.relevant, expected.relevant)
    task = RetrievalTask.unlabeled(query, database)
    np.testing.assert_array_equal(_count_matches(task, asked, known), expected.relevant)
    floats = query.float() + 0.3, database.float()
    by_group = similarity_counts(*floats, query_groups=asked, database_groups=known, levels=65)
    by_label = similarity_counts(
        *floats, query_labels=labels[0], database_labels=labels[1], levels=65
    )
    np.testing.assert_array_equal(by_group.items, by_label.items)
    np.testing.assert_array_equal(by_group.relevant, by_label.relevant)


def test_own_pair_scores_by_hand():
    """Query 0: its pair is alone at 0. Query 1: its pair shares distance 1 with one other."""
    database = torch.tensor([[1, 1], [1, -1], [-1, 1]], dtype=torch.int8)
    query = torch.tensor([[1, 1], [1, 1]], dtype=torch.int8)
    counts = distance_counts(
        query, database, query_groups=np.array([7, 9]), database_groups=np.array([7, 8, 9])
    )
    assert counts.relevant.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert hit_at(counts, 1).tolist() == [1, 0]
    assert hit_at(counts, 2).tolist() == [1, 0.5]  # tie-aware: one of two orders
    assert recall_at(counts, 3).tolist() == [1, 1]
    np.testing.assert_allclose(average_precision(counts), [1, (1 / 2 + 1 / 3) / 2])


def test_groups_that_do_not_fit_are_refused():
    (query, database), (asked, known) = made(0)

    def count(**given):
        return distance_counts(query, database, **given)

    with pytest.raises(ConfigError, match="query_groups and database_groups, and not both"):
        count()
    with pytest.raises(ConfigError, match="not both kinds"):
        count(query_groups=asked)
    with pytest.raises(ConfigError, match="not both kinds"):
        count(query_groups=asked, database_groups=known, query_labels=np.eye(9))
    with pytest.raises(ShapeError, match=r"query groups must be whole numbers \(9,\)"):
        count(query_groups=asked[:-1], database_groups=known)
    with pytest.raises(ShapeError, match=r"got float64 \(40,\)"):
        count(query_groups=asked, database_groups=known.astype(float))
    with pytest.raises(DataError, match="no query has an item of its group"):
        count(query_groups=asked + 100, database_groups=known)
    with pytest.raises(ShapeError, match="the database is empty"):
        distance_counts(query, database[:0], query_groups=asked, database_groups=known[:0])
