from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hamward.data.protocols import PROTOCOLS, split_source
from hamward.data.source import Source
from hamward.data.split import split_digest
from hamward.errors import ConfigError, DataError, UnknownNameError


def make_source(size: int, *, name: str = "mine", labels: int = 4, **changes: Any) -> Source:
    columns = np.arange(size) % labels
    return Source(
        **{
            "name": name,
            "ids": np.arange(size, dtype=np.int64) + 500,
            "pictures": None,
            "texts": ("",) * size,
            "labels": np.eye(labels, dtype=np.uint8)[columns],
            "label_names": tuple(f"l{i}" for i in range(labels)),
            **changes,
        }
    )


def sizes(split):
    return [len(split.query), len(split.train) + len(split.validation), len(split.database)]


@pytest.mark.parametrize(
    ("protocol", "name", "items", "expected"),
    [
        ("dcmh", "mirflickr25k", 20_015, [2000, 10_000, 18_015]),
        ("dcmh", "nus-wide-tc21", 190_421, [2100, 10_500, 188_321]),
        ("dcmh", "FLICKR-25K", 20_015, [2000, 10_000, 18_015]),
        ("eqb2a", "MS-COCO", 123_287, [2000, 10_000, 121_287]),
        ("eqb2a", "mirflickr25k", 20_015, [2000, 5000, 18_015]),
        ("eqb2a", "nus-wide-tc21", 195_834, [2100, 10_500, 193_734]),
        ("eqb2a", "coco", 123_287, [2000, 10_000, 121_287]),
        ("dadh", "mirflickr25k", 20_015, [2000, 10_000, 18_015]),
        ("dadh", "nus-wide-tc21", 195_834, [2100, 10_000, 193_734]),
        ("djsrh", "mirflickr25k", 20_015, [2000, 5000, 18_015]),
        ("djsrh", "nus-wide-tc10", 186_577, [2000, 5000, 184_577]),
        ("dchmt", "mirflickr25k", 24_581, [5000, 10_000, 19_581]),
        ("deephash", "mirflickr25k", 25_000, [1000, 4000, 20_000]),
        ("deephash", "nus-wide-tc21", 195_834, [2100, 10_500, 193_734]),
    ],
)
def test_protocols_give_the_counts_of_their_papers(protocol, name, items, expected):
    labels = {"mirflickr25k": 24, "nus-wide-tc10": 10}.get(name, 21)
    split = split_source(make_source(items, name=name, labels=labels), protocol)
    assert sizes(split) == expected
    assert len(split.validation) == min(1000, expected[1] // 10)
    assert split.searched_train == (protocol != "deephash" or "nus" in name)


def test_first_and_last_rows_are_what_the_code_takes():
    source = make_source(30, name="mirflickr25k")
    for protocol, query, train in (
        ("dcmh", range(5), range(5, 15)),
        ("eqb2a", range(5), range(5, 15)),
        ("dadh", range(25, 30), range(10)),
    ):
        split = split_source(source, protocol, queries=5, train=10)
        assert split.query.tolist() == list(query), protocol
        learned = np.union1d(split.train, split.validation)
        assert learned.tolist() == list(train), protocol
    nus = split_source(make_source(30, name="nus-wide-tc21"), "dadh", queries=5, train=10)
    assert nus.query.tolist() == list(range(5))


def test_dchmt_uses_numpys_legacy_permutation():
    split = split_source(make_source(50, name="coco"), "dchmt", queries=5, train=10)
    order = np.random.RandomState(1814).permutation(50)
    assert split.query.tolist() == sorted(order[:5].tolist())
    learned = np.union1d(split.train, split.validation)
    assert learned.tolist() == sorted(order[5:15].tolist())


def test_djsrh_balances_labels_the_first_of_mirflickr_double():
    source = make_source(20_000, name="mirflickr25k", labels=24)
    split = split_source(source, "djsrh")
    assert source.labels[split.query].sum(0).tolist() == [160] + [80] * 23
    learned = np.union1d(split.train, split.validation)
    assert source.labels[learned].sum(0).tolist() == [400] + [200] * 23
    rare = np.zeros((60, 3), np.uint8)
    rare[:, 0] = 1
    rare[:2, 2] = 1  # two items of the last label, none of the second: padded
    padded = split_source(
        replace(make_source(60, labels=3), labels=rare), "djsrh", queries=12, train=24
    )
    assert sizes(padded) == [12, 24, 48]


def test_seeds_decide_and_are_repeatable():
    source = make_source(200)
    digests = {split_digest(split_source(source, "random", seed=s), source.ids) for s in (0, 1, 2)}
    assert len(digests) == 3
    again = split_source(source, "random", seed=0)
    assert split_digest(again, source.ids) in digests
    other = make_source(200, ids=np.arange(200, dtype=np.int64))
    assert split_digest(again, other.ids) != split_digest(again, source.ids)


def test_groups_stay_on_one_side():
    groups = np.arange(100, dtype=np.int64) // 4
    source = make_source(100, groups=groups)
    split = split_source(source, "random", queries=20, train=40)
    sides = [set(groups[split[name]]) for name in ("query", "train", "validation")]
    assert not sides[0] & set(groups[split.database])
    assert not sides[1] & sides[2]
    assert len(split.query) == 20
    with pytest.raises(DataError, match="items of 1 groups both among the queries"):
        split_source(source, "dcmh", queries=5, train=10)


def test_a_sources_own_split_is_taken_as_it_is():
    def own(**parts: list[int]) -> Source:
        return make_source(20, split={k: np.array(v, dtype=np.int64) for k, v in parts.items()})

    split = split_source(own(query=[3, 1], train=[5, 6, 7]), "file", validation=1)
    assert split.query.tolist() == [1, 3] and sizes(split) == [2, 3, 18]
    apart = split_source(own(query=[0], train=[1, 2, 3], database=[4, 5]), "file", validation=0)
    assert not apart.searched_train and apart.database.tolist() == [4, 5]
    listed = split_source(own(query=[0], train=[1, 2], database=[1, 2, 3]), "deephash")
    assert listed.searched_train and listed.query.tolist() == [0]
    with pytest.raises(DataError, match="1 of 2 training items are in the database"):
        split_source(own(query=[0], train=[1, 2], database=[2, 3]), "file")
    with pytest.raises(DataError, match="query and database share 1 items"):
        split_source(own(query=[0], train=[1], database=[0, 1]), "file")
    with pytest.raises(DataError, match="has no split of its own"):
        split_source(make_source(20), "file")
    with pytest.raises(ConfigError, match="queries comes from the source, got 3"):
        split_source(own(query=[0]), "file", queries=3)


def test_a_set_too_small_or_unknown_says_the_numbers():
    with pytest.raises(DataError, match=r"takes 2,000 queries and 10,000 training items, .* 900"):
        split_source(make_source(900, name="mirflickr25k"), "dcmh")
    with pytest.raises(ConfigError, match="has counts for mirflickr, nus-wide, not for 'mine'"):
        split_source(make_source(900), "dcmh")
    with pytest.raises(UnknownNameError, match="did you mean 'dcmh'"):
        split_source(make_source(9), "dmch")
    with pytest.raises(ConfigError, match=r"validation must be in 0\.\.9 .* got 10"):
        split_source(make_source(90), "random", queries=5, train=10, validation=10)


def test_every_protocol_says_its_rule_and_what_is_unknown():
    for name, entry in PROTOCOLS.items():
        assert entry.name == name and entry.summary.endswith(".") and entry.citation
    for name, word in (("cmla", "UNKNOWN"), ("eqb2a", "INFERRED"), ("djsrh", "Unseeded")):
        assert word in PROTOCOLS[name].summary
