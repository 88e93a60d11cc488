import dataclasses

import numpy as np
import pytest
import torch

from hamward.codes import pack
from hamward.errors import ConfigError, ShapeError
from hamward.index import HammingIndex, PackedCodes


def random_codes(seed, n, code_length):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.choice([-1, 1], (n, code_length)).astype(np.int8))


@pytest.mark.parametrize("code_length", [1, 7, 8, 9, 33, 64, 130, 300])
@pytest.mark.parametrize("k", [1, 5, 60, 99])
def test_search_equals_sorting_by_distance_then_position(code_length, k, monkeypatch):
    monkeypatch.setattr("hamward.index._CHUNK_ITEMS", 17)
    query, database = random_codes(0, 7, code_length), random_codes(1, 60, code_length)
    distances, positions = HammingIndex.build(database).search(query, k)
    assert distances.dtype == torch.int32 and positions.dtype == torch.int64
    for i in range(7):
        every = (query[i] != database).sum(1).tolist()
        order = sorted(range(60), key=lambda j: (every[j], j))[:k]
        assert positions[i].tolist() == order
        assert distances[i].tolist() == [every[j] for j in order]


def test_flipping_the_same_bits_everywhere_changes_nothing():
    query, database = random_codes(2, 5, 24), random_codes(3, 40, 24)
    mask = random_codes(4, 1, 24)
    plain = HammingIndex.build(database).search(query, 10)
    flipped = HammingIndex.build(database * mask).search(query * mask, 10)
    assert all(torch.equal(a, b) for a, b in zip(plain, flipped, strict=True))


def test_packed_and_plain_codes_search_alike():
    query, database = random_codes(5, 4, 13), random_codes(6, 30, 13)
    packed = PackedCodes(bytes=pack(database), code_length=13)
    plain = HammingIndex.build(database).search(query, 8)
    from_packed = HammingIndex.build(packed).search(PackedCodes.from_codes(query), 8)
    assert all(torch.equal(a, b) for a, b in zip(plain, from_packed, strict=True))
    assert (len(packed), HammingIndex.build(packed).code_length) == (30, 13)


def test_no_query_gives_no_row():
    index = HammingIndex.build(random_codes(0, 9, 8))
    distances, positions = index.search(random_codes(0, 0, 8), 4)
    assert distances.shape == positions.shape == (0, 4)


@pytest.mark.parametrize("code_length", [1, 8, 12, 64])
def test_from_codes_is_pack_and_rows_undo_it(code_length):
    codes = random_codes(7, 11, code_length)
    packed = PackedCodes.from_codes(codes)
    assert torch.equal(packed.bytes, pack(codes))
    assert torch.equal(packed.rows(2, 9), codes[2:9])


def test_the_index_is_frozen():
    index = HammingIndex.build(random_codes(0, 3, 8))
    with pytest.raises(dataclasses.FrozenInstanceError):
        index.packed = index.packed


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda i: i.search(random_codes(0, 2, 9), 1), ShapeError, "have 9 bits, the index 8"),
        (lambda i: i.search(random_codes(0, 2, 8), 0), ConfigError, "got 0"),
        (lambda i: i.search(torch.ones(2, 8), 1), ShapeError, "int8"),
        (lambda i: HammingIndex.build(random_codes(0, 0, 8)), ShapeError, "empty"),
        (
            lambda i: HammingIndex.build(torch.zeros((3, 8), dtype=torch.int8)),
            ShapeError,
            "torch.sign",
        ),
        (
            lambda i: PackedCodes(bytes=torch.zeros((3, 2), dtype=torch.uint8), code_length=8),
            ShapeError,
            r"\(n, 1\)",
        ),
        (
            lambda i: PackedCodes(bytes=torch.ones((3, 1), dtype=torch.uint8), code_length=7),
            ShapeError,
            "last 1 bits",
        ),
        (
            lambda i: PackedCodes(bytes=torch.ones((3, 0), dtype=torch.uint8), code_length=0),
            ShapeError,
            "at least 1, got 0",
        ),
    ],
)
def test_errors_teach(call, error, match):
    with pytest.raises(error, match=match):
        call(HammingIndex.build(random_codes(0, 3, 8)))
