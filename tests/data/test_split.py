import numpy as np
import pytest
from make_data import positions

from hamward.data.split import Split, as_positions, carve_groups, thin
from hamward.errors import ConfigError, DataError

NONE = positions()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"query": positions(3, 8)}, r"query and database share 1 items, first positions \[3\]"),
        ({"query": NONE}, "split 'query' is empty"),
        ({"query": positions(1, 0)}, "split 'query' must be sorted without repetition"),
        ({"query": positions(1, 1)}, "split 'query' must be sorted without repetition"),
        ({"query": np.array([0.0])}, "split 'query' must be one-dimensional int64"),
        ({"train": positions(4, 9)}, r"1 train positions are not in the database, first \[9\]"),
        ({"validation": positions(4)}, r"train and validation share 1 items"),
    ],
)
def test_a_split_that_does_not_hold_is_refused(parts, message):
    good = {"query": positions(0, 1), "database": positions(3, 4, 5), "train": positions(4)}
    good["validation"] = positions(5)
    Split(**good)
    with pytest.raises(DataError, match=message):
        Split(**good | parts)


def test_a_split_cannot_be_changed():
    mine = positions(0, 1)
    split = Split(query=mine, database=positions(2), train=NONE, validation=NONE)
    with pytest.raises(ValueError, match="read-only"):
        split.query[0] = 7
    mine[0] = 0  # the caller's own array stays writable
    with pytest.raises(ConfigError, match="unknown split 'test'"):
        split["test"]


def test_carving_takes_whole_groups_only():
    groups = positions(0, 0, 1, 1, 2, 3, 3, 4, 5)
    candidates = positions(0, 1, 2, 4, 5, 6, 7, 8)  # group 1 is half outside
    seen = set()
    for seed in range(20):
        chosen = carve_groups(candidates, groups, size=3, seed=seed)
        assert len(chosen) == 3 and set(chosen) <= set(candidates.tolist())
        assert (np.diff(chosen) > 0).all()
        rest = np.setdiff1d(np.arange(9), chosen)
        assert not set(groups[chosen]) & set(groups[rest])
        seen.add(tuple(chosen))
    assert len(seen) > 3
    assert len(carve_groups(candidates, groups, size=0, seed=0)) == 0
    with pytest.raises(ConfigError, match=r"cannot carve 8 validation items .* 7 of 8"):
        carve_groups(candidates, groups, size=8, seed=0)


def test_thinning_keeps_ends_and_order():
    assert thin(np.arange(100), 5).tolist() == [0, 25, 50, 74, 99]
    assert thin(np.arange(3), 9).tolist() == [0, 1, 2]
    assert thin(np.arange(3), None).tolist() == [0, 1, 2]
    for size in range(1, 60):
        assert len(set(thin(np.arange(60), size).tolist())) == size


@pytest.mark.parametrize("bad", [[-1], [8], [0.5], [[0, 1]], [True]])
def test_positions_that_do_not_exist_are_refused(bad):
    with pytest.raises(DataError, match="positions must be"):
        as_positions(bad, size=8)


def test_no_positions_are_positions():
    assert as_positions([], size=8).dtype == np.int64
