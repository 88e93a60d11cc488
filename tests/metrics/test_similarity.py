"""Cosine counts by hand, and against Hamming counts on codes."""

import numpy as np
import pytest
import torch

from hamward.errors import ConfigError, DataError, ShapeError
from hamward.metrics import distance_counts, similarity_counts


def test_levels_by_hand() -> None:
    query = torch.tensor([[2.0, 0.0]])
    database = torch.tensor([[1.0, 0.0], [0.0, 5.0], [-3.0, 0.0], [0.0, -1.0]])
    labels = torch.tensor([[1], [1], [0], [0]])
    counts = similarity_counts(
        query, database, query_labels=torch.ones(1, 1), database_labels=labels, levels=5
    )
    assert counts.items.tolist() == [[1, 0, 2, 0, 1]]
    assert counts.relevant.tolist() == [[1, 0, 1, 0, 0]]


def test_on_codes_they_are_the_hamming_counts() -> None:
    """The cosine distance (1 - b.b' / K) / 2 of codes is their Hamming distance over K."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2, (40, 16), generator=generator).mul(2).sub(1).to(torch.int8)
    labels = torch.randint(0, 2, (40, 3), generator=generator)
    labels[0] = 1
    hamming = distance_counts(codes[:9], codes, query_labels=labels[:9], database_labels=labels)
    cosine = similarity_counts(
        codes[:9].float(),
        codes.float() * 7,
        query_labels=labels[:9],
        database_labels=labels,
        levels=17,
    )
    assert np.array_equal(cosine.items, hamming.items)
    assert np.array_equal(cosine.relevant, hamming.relevant)


def test_what_does_not_fit_is_refused() -> None:
    x, labels = torch.eye(3), torch.ones(3, 2)

    def count(
        a: torch.Tensor, b: torch.Tensor, known: torch.Tensor = labels, levels: int = 9
    ) -> None:
        similarity_counts(a, b, query_labels=labels, database_labels=known, levels=levels)

    with pytest.raises(ShapeError, match="3 dimensions, those of the database 2"):
        count(x, x[:, :2])
    with pytest.raises(ShapeError, match="database embeddings hold values that are not finite"):
        count(x, x / 0)
    with pytest.raises(DataError, match="nothing can be relevant"):
        count(x, x, labels * 0)
    with pytest.raises(ConfigError, match="levels must be at least 2, got 1"):
        count(x, x, levels=1)
