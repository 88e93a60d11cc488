import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import naive_metrics as naive
import numba
import numpy as np
import pytest
import torch

from hamward.errors import ConfigError, DataError, ShapeError
from hamward.index import PackedCodes
from hamward.metrics import DistanceCounts, distance_counts
from hamward.metrics._kernel import WORDS, _compile
from hamward.metrics._task import RetrievalTask
from hamward.metrics.counts import _count_torch

BLOCK = 64 * WORDS


def make(seed, *, q=5, n=30, code_length=16, labels=4, density=0.3):
    rng = np.random.default_rng(seed)
    codes = [
        torch.from_numpy(rng.choice([-1, 1], (m, code_length)).astype(np.int8)) for m in (q, n)
    ]
    sets = [(rng.random((m, labels)) < density).astype(np.float32) for m in (q, n)]
    sets[1][0, 0] = 1
    return {
        "query_codes": codes[0],
        "database_codes": codes[1],
        "query_labels": sets[0],
        "database_labels": sets[1],
    }


def count(case, **changes):
    case = {**case, **changes}
    return distance_counts(case.pop("query_codes"), case.pop("database_codes"), **case)


def expected(case):
    return naive.counts(
        case["query_codes"].numpy(),
        case["database_codes"].numpy(),
        case["query_labels"],
        case["database_labels"],
    )


def fast_counts(case):
    """The same by matrix products, for cases too large for the loops."""
    distance = (case["query_codes"].numpy()[:, None] != case["database_codes"].numpy()).sum(2)
    shared = case["query_labels"] @ case["database_labels"].T > 0
    values = np.arange(case["query_codes"].shape[1] + 1)
    hits = distance[:, :, None] == values
    return hits.sum(1), (hits & shared[:, :, None]).sum(1)


@pytest.mark.parametrize("code_length", [1, 2, 7, 8, 9, 15, 16, 33, 64, 65, 128, 300])
def test_counts_equal_the_pairwise_loop(code_length):
    case = make(code_length, code_length=code_length)
    counts = count(case)
    items, relevant = expected(case)
    np.testing.assert_array_equal(counts.items, items)
    np.testing.assert_array_equal(counts.relevant, relevant)
    assert counts.code_length == code_length


@pytest.mark.parametrize("labels", [1, 7, 8, 9, 64, 65, 130])
def test_any_number_of_labels(labels):
    case = make(labels, labels=labels, density=0.05)
    np.testing.assert_array_equal(count(case).relevant, expected(case)[1])


@pytest.mark.parametrize("n", [1, 63, 64, 65, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 77])
def test_block_borders(n):
    case = make(n, n=n, q=3, code_length=12)
    counts = count(case)
    items, relevant = fast_counts(case)
    np.testing.assert_array_equal(counts.items, items)
    np.testing.assert_array_equal(counts.relevant, relevant)


def test_extreme_codes():
    ones = torch.ones((1, 40), dtype=torch.int8)
    database = torch.cat([ones, -ones, -ones])
    labels = np.ones((3, 1))
    counts = distance_counts(ones, database, query_labels=labels[:1], database_labels=labels)
    assert counts.items[0, [0, 40]].tolist() == [1, 2]
    assert counts.items.sum() == counts.relevant.sum() == 3


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads):
    case = make(3, q=300, n=500)
    before = torch.get_num_threads()
    counts, one = count(case, threads=threads), count(case, threads=1)
    np.testing.assert_array_equal(counts.items, one.items)
    np.testing.assert_array_equal(counts.relevant, one.relevant)
    np.testing.assert_array_equal(one.items, fast_counts(case)[0])
    assert torch.get_num_threads() == before


def test_torch_path_equals_the_kernel(monkeypatch):
    monkeypatch.setattr("hamward.metrics.counts._CHUNK_PAIRS", 700)
    case = make(5, q=9, n=301, code_length=33)
    counts = count(case)
    items, relevant = _count_torch(RetrievalTask.check(*case.values()))
    np.testing.assert_array_equal(counts.items, items)
    np.testing.assert_array_equal(counts.relevant, relevant)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu():
    case = make(5, q=9, n=301, code_length=33)
    cuda = {key: torch.as_tensor(value).cuda() for key, value in case.items()}
    np.testing.assert_array_equal(count(case).relevant, count(cuda).relevant)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float64])
def test_label_dtypes_and_containers(dtype):
    case = make(6)
    want = count(case).relevant
    sets = {key: case[key].astype(dtype) for key in ("query_labels", "database_labels")}
    np.testing.assert_array_equal(count(case, **sets).relevant, want)
    tensors = {key: torch.from_numpy(value) for key, value in sets.items()}
    np.testing.assert_array_equal(count(case, **tensors).relevant, want)


def test_packed_codes_count_the_same():
    case = make(7, code_length=13)
    packed = {key: PackedCodes.from_codes(case[key]) for key in ("query_codes", "database_codes")}
    np.testing.assert_array_equal(count(case, **packed).items, count(case).items)


def test_inputs_stay_as_they_were():
    case = make(8)
    before = {
        key: value.clone() if key.endswith("codes") else value.copy() for key, value in case.items()
    }
    count(case)
    assert all(bool((case[key] == before[key]).all()) for key in case)


def test_no_query_gives_no_row_and_an_unlabeled_query_no_relevant():
    case = make(9)
    none = count(case, query_codes=case["query_codes"][:0], query_labels=case["query_labels"][:0])
    assert none.items.shape == (0, 17)
    unlabeled = count(case, query_labels=np.zeros((5, 4)))
    assert unlabeled.relevant.sum() == 0
    assert (unlabeled.items.sum(1) == 30).all()


def test_counts_on_other_threads_of_the_caller():
    case = make(10, q=50)
    want = count(case).relevant
    with ThreadPoolExecutor(4) as pool:
        for counts in pool.map(lambda _: count(case), range(8)):
            np.testing.assert_array_equal(counts.relevant, want)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"query_codes": torch.ones((5, 8), dtype=torch.int8)}, ShapeError, "8 bits.* 16"),
        ({"query_codes": torch.ones((5, 16))}, ShapeError, "int8"),
        ({"query_codes": torch.zeros((5, 16), dtype=torch.int8)}, ShapeError, r"\{-1, \+1\}"),
        ({"query_codes": torch.ones(16, dtype=torch.int8)}, ShapeError, r"\(16,\)"),
        ({"query_labels": np.ones((5, 3))}, ShapeError, "3 columns.* 4"),
        ({"query_labels": np.ones((4, 4))}, ShapeError, "5 codes"),
        ({"database_labels": np.ones(30)}, ShapeError, r"\(n, C\)"),
        ({"database_labels": np.zeros((30, 4))}, DataError, "no item"),
        ({"query_labels": np.full((5, 4), np.nan)}, DataError, "query labels contain NaN"),
        ({"threads": 0}, ConfigError, "at least 1, got 0"),
        (
            {
                "database_codes": torch.ones((0, 16), dtype=torch.int8),
                "database_labels": np.ones((0, 4)),
            },
            ShapeError,
            "empty",
        ),
    ],
)
def test_errors_teach(changes, error, match):
    with pytest.raises(error, match=match):
        count(make(1), **changes)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"items": np.zeros((2, 3), np.int64)}, "0 and items"),
        ({"relevant": -np.ones((2, 3), np.int64)}, "0 and items"),
        ({"items": np.ones((2, 4), np.int64)}, r"items must be \(q, 3\)"),
        ({"relevant": np.ones((1, 3), np.int64)}, "items has 2 queries, relevant 1"),
        ({"items": np.ones((2, 3))}, "items must be int64, got float64"),
    ],
)
def test_distance_counts_checks_itself(changes, match):
    good = {"items": np.ones((2, 3), np.int64), "relevant": np.ones((2, 3), np.int64)}
    with pytest.raises(ShapeError, match=match):
        DistanceCounts(**{**good, **changes}, code_length=2)


def test_select_keeps_rows():
    counts = count(make(2))
    chosen = counts.select(np.array([False, True, False, True, False]))
    np.testing.assert_array_equal(chosen.items, counts.items[[1, 3]])
    np.testing.assert_array_equal(chosen.relevant, counts.relevant[[1, 3]])
    assert len(counts.select(slice(1, 4))) == 3


def test_import_does_not_load_numba():
    code = "import sys, hamward.metrics; sys.exit('numba' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_that_cannot_be_written_costs_the_cache_only(monkeypatch):
    real = numba.njit

    def njit(function, *, nogil, cache=False):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(function, nogil=nogil)

    monkeypatch.setattr(numba, "njit", njit)
    assert _compile(lambda x: x + 1)(2) == 3
