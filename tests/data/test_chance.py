from itertools import combinations

import numpy as np
import pytest
from make_data import make_data, positions

from hamward.data import Split
from hamward.data.chance import expected_average_precision, relevant_counts
from hamward.errors import DataError


def average_precision(ranks):
    """Naive: `ranks` are the 1-based ranks of the relevant items."""
    return sum(hits / rank for hits, rank in enumerate(sorted(ranks), start=1)) / len(ranks)


@pytest.mark.parametrize("n", range(1, 9))
def test_equals_the_mean_over_all_rankings(n):
    for r in range(1, n + 1):
        every = [average_precision(ranks) for ranks in combinations(range(1, n + 1), r)]
        formula = expected_average_precision(np.array([r]), size=n)[0]
        assert formula == pytest.approx(np.mean(every), abs=1e-12)


def test_equals_a_simulation():
    rng = np.random.default_rng(0)
    drawn = [average_precision(rng.permutation(300)[:40] + 1) for _ in range(2000)]
    formula = expected_average_precision(np.array([40]), size=300)[0]
    assert formula == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 2000**0.5)


def test_all_relevant_is_one_and_none_is_refused():
    assert expected_average_precision(np.array([5]), size=5)[0] == pytest.approx(1)
    for bad in (0, 6):
        with pytest.raises(DataError, match=r"must be in 1\.\.5"):
            expected_average_precision(np.array([bad]), size=5)


def test_counts_equal_a_naive_loop():
    rng = np.random.default_rng(1)
    query, database = rng.integers(0, 2, (300, 5)), rng.integers(0, 2, (20, 5))
    naive = [sum(bool((q & d).any()) for d in database) for q in query]
    assert relevant_counts(query.astype(np.uint8), database.astype(np.uint8)).tolist() == naive


def test_chance_of_a_set_by_hand():
    data = make_data()
    # Relevant among items 3-7: query 0 (red) 3, query 1 (blue) 3, query 2 (both) 5.
    three, five = (expected_average_precision(np.array([r]), size=5)[0] for r in (3, 5))
    assert data.chance("i2t") == pytest.approx((three + three + five) / 3)
    assert data.relevant_rate("i2t") == pytest.approx(11 / 15)
    # Query 1 has no word, so it asks no text question.
    assert data.chance("t2i") == pytest.approx((three + five) / 2)
    assert data.relevant_rate("t2t") == pytest.approx(8 / 10)


def test_queries_without_relevant_items_are_skipped():
    split = Split(
        query=positions(0, 1), database=positions(3, 5), train=positions(), validation=positions()
    )
    data = make_data(split=split)
    assert data.chance("i2t") == pytest.approx(1.0)  # query 1 (blue) finds nothing
    assert data.relevant_rate("i2t") == pytest.approx(0.5)
    alone = Split(
        query=positions(1), database=positions(3), train=positions(), validation=positions()
    )
    with pytest.raises(DataError, match="no i2t query of eight has a relevant"):
        make_data(split=alone).chance("i2t")
