import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hamward.codes import binarize, hamming_distance, pack, unpack
from hamward.errors import ShapeError


def random_codes(n: int, code_length: int, seed: int) -> torch.Tensor:
    bits = np.random.default_rng(seed).integers(0, 2, (n, code_length))
    return torch.from_numpy((2 * bits - 1).astype(np.int8))


sizes = st.tuples(st.integers(0, 9), st.integers(1, 130), st.integers(0, 10_000))


def test_zero_is_plus_one_and_negative_zero_too() -> None:
    codes = binarize(torch.tensor([[0.0, -0.0, -1e-30, 1e-30, -torch.inf, torch.inf]]))
    assert codes.tolist() == [[1, 1, -1, 1, -1, 1]]
    assert codes.dtype == torch.int8


def test_nan_is_refused() -> None:
    with pytest.raises(ShapeError, match="NaN"):
        binarize(torch.tensor([[1.0, torch.nan]]))


@given(sizes)
def test_packing_equals_numpy_and_comes_back(size: tuple[int, int, int]) -> None:
    n, code_length, seed = size
    codes = random_codes(n, code_length, seed)
    packed = pack(codes)
    assert packed.dtype == torch.uint8
    assert np.array_equal(packed.numpy(), np.packbits(codes.numpy() > 0, axis=1))
    again = unpack(packed, code_length=code_length)
    assert again.dtype == torch.int8 and torch.equal(again, codes)


def test_unpacking_with_another_length_is_refused() -> None:
    packed = pack(random_codes(2, 16, 0))
    with pytest.raises(ShapeError, match=r"2 bytes per row, but code_length 17 needs 3"):
        unpack(packed, code_length=17)


@given(sizes, st.integers(1, 9))
def test_hamming_distance_counts_differing_bits(size: tuple[int, int, int], m: int) -> None:
    n, code_length, seed = size
    query, database = random_codes(n, code_length, seed), random_codes(m, code_length, seed + 1)
    naive = [
        [sum(a != b for a, b in zip(q, d, strict=True)) for d in database.tolist()]
        for q in query.tolist()
    ]
    distances = hamming_distance(query, database)
    assert distances.dtype == torch.int32
    assert distances.tolist() == naive


def test_codes_of_two_lengths_have_no_distance() -> None:
    with pytest.raises(ShapeError, match="16 bits, database codes 8"):
        hamming_distance(random_codes(1, 16, 0), random_codes(1, 8, 0))
