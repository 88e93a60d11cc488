"""Every row of the table of packed files, each written by the library that writes it."""

import logging
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import (
    ITEMS,
    LABELS,
    SIDE,
    WORDS,
    number_of,
    packed_arrays,
    save_h5,
    save_picture,
    save_v5,
    save_v73,
    write,
)

from hamward.data.readers import array_pictures, read_packed
from hamward.data.readers.arrays import Stored, count_items, item_axis_of
from hamward.data.source import Source
from hamward.errors import ConfigError, DataError

ARRAYS = packed_arrays()
BAGS, LABEL_ROWS = ARRAYS["bags"], ARRAYS["labels"]
HWCN = ARRAYS["pictures"].transpose(1, 2, 3, 0)  # as MATLAB holds pictures
NAMES = np.array([f"im{3 * i + 1}.jpg" for i in range(ITEMS)], dtype=object)
FEATURES = np.arange(ITEMS * 4.0).reshape(ITEMS, 4)


def dcmh_authors(root: Path) -> None:
    save_v73(
        root / "FLICKR-25K.mat",
        {"images": HWCN, "YAll": BAGS.astype(float), "LAll": LABEL_ROWS.astype(float)},
    )


def dcmh_split_files(root: Path) -> None:
    save_v73(root / "IAll/mirflickr25k-iall.mat", {"IAll": HWCN, "param": np.ones((1, 3))})
    save_v5(root / "YAll/mirflickr25k-yall.mat", {"YAll": BAGS.astype(float)})
    save_v5(root / "LAll/mirflickr25k-lall.mat", {"LAll": LABEL_ROWS})
    save_v73(root / "FAll/mirflickr25k-fall.mat", {"FAll": NAMES[:, None]})


def dcmh_nus(root: Path) -> None:
    save_v73(root / "nus-wide-tc21-iall.mat", {"IAll": HWCN})
    save_v73(root / "nus-wide-tc21-yall.mat", {"YAll": BAGS})  # h5py shows (D, N)
    save_v5(root / "nus-wide-tc21-lall.mat", {"LAll": LABEL_ROWS})
    save_v5(root / "nus-wide-tc21-xall.mat", {"XAll": FEATURES})


def wendell(root: Path) -> None:
    pictures = ARRAYS["pictures"].transpose(0, 3, 1, 2).astype(np.float64)
    save_h5(root / "FLICKR-25K.mat", {"IAll": pictures, "YAll": BAGS, "LAll": LABEL_ROWS})


def eqb2a(root: Path) -> None:
    """MATLAB shape (N, 3, b, a): h5py shows (a, b, 3, N), which loaders take as height, width."""
    stored = ARRAYS["pictures"].transpose(0, 3, 2, 1).astype(np.float32)
    save_v73(root / "IAPR-TC12.mat", {"IAll": stored, "TAll": BAGS, "LAll": LABEL_ROWS})


def dcmh_authors_copied(root: Path) -> None:
    """The authors' file without MATLAB's marks: the matrices still tell."""
    save_h5(root / "F.h5", {"images": HWCN.T, "YAll": BAGS.T, "LAll": LABEL_ROWS.T})


ROWS_WITH_PICTURES = [dcmh_authors, dcmh_authors_copied, dcmh_split_files, dcmh_nus, wendell, eqb2a]


def check(source: Source) -> None:
    np.testing.assert_array_equal(source.bags, BAGS)
    np.testing.assert_array_equal(source.labels, LABEL_ROWS)
    assert source.bags is not None and source.bags.dtype == source.labels.dtype == np.uint8
    assert source.bags.flags.c_contiguous and source.labels.flags.c_contiguous
    assert source.label_names == tuple("01234")
    if source.pictures is not None:
        assert len(source.pictures) == ITEMS
        for position in (ITEMS - 1, *range(ITEMS)):
            assert number_of(source.pictures.read(position)) == position


@pytest.mark.parametrize("make", ROWS_WITH_PICTURES, ids=lambda make: make.__name__)
def test_pictures_come_out_upright_and_rows_in_place(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path)
    source = read_packed(tmp_path)
    assert source.pictures is not None
    check(source)
    if make is dcmh_split_files:
        assert source.ids.tolist() == [3 * i + 1 for i in range(ITEMS)]
    if make is dcmh_nus:
        np.testing.assert_array_equal(source.features, FEATURES)


def test_a_file_alone_is_named_by_itself_and_axes_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dcmh_authors(tmp_path)
    with caplog.at_level(logging.INFO, logger="hamward"):
        source = read_packed(tmp_path / "FLICKR-25K.mat")
    check(source)
    assert source.name == "FLICKR-25K" and source.files == (tmp_path / "FLICKR-25K.mat",)
    assert "axis 1 of FLICKR-25K.mat:YAll (7, 11)" in caplog.text


def test_naive_loaders_would_transpose_pictures_and_matrices(tmp_path: Path) -> None:
    """The same key in two files in circulation has its axes in another order."""
    import h5py

    dcmh_authors(tmp_path / "a")
    wendell(tmp_path / "b")
    with (
        h5py.File(tmp_path / "a/FLICKR-25K.mat") as a,
        h5py.File(tmp_path / "b/FLICKR-25K.mat") as b,
    ):
        assert a["YAll"].shape == b["YAll"].shape[::-1] == (WORDS, ITEMS)
        assert a["images"].shape == (ITEMS, 3, *SIDE[::-1])
        assert b["IAll"].shape == (ITEMS, 3, *SIDE)


def test_what_is_inferred_of_pictures_can_be_overruled(tmp_path: Path) -> None:
    eqb2a(tmp_path)
    source = read_packed(tmp_path, transposed=True)
    assert source.pictures is not None
    assert source.pictures.read(2).size == SIDE  # Pillow's size is (width, height)


@pytest.mark.parametrize("keys", [("images", "YAll", "LAll"), ("image", "text", "label")])
@pytest.mark.parametrize("turned", [False, True])
def test_dadh_and_cpah_features(tmp_path: Path, keys: tuple[str, ...], turned: bool) -> None:
    values = (FEATURES, BAGS.astype(float), LABEL_ROWS)
    save_v5(
        tmp_path / "FLICKR-25K.mat",
        {k: v.T if turned else v for k, v in zip(keys, values, strict=True)},
    )
    source = read_packed(tmp_path)
    check(source)
    assert source.pictures is None and source.features is not None
    np.testing.assert_array_equal(source.features, FEATURES)
    assert source.features.dtype == np.float32


def test_sparse_matrices_and_word_counts_become_bags(tmp_path: Path) -> None:
    from scipy.sparse import csc_array

    save_v5(
        tmp_path / "a.mat", {"images": FEATURES, "YAll": csc_array(BAGS * 3.0), "LAll": LABEL_ROWS}
    )
    check(read_packed(tmp_path))


def test_torchcmh_lists_lead_to_picture_files(tmp_path: Path) -> None:
    for i in range(ITEMS):
        save_picture(tmp_path / f"jpg/im{3 * i + 1}.jpg", i)
    save_v5(tmp_path / "imgList.mat", {"FAll": NAMES[:, None]})
    save_v5(tmp_path / "tagList.mat", {"YAll": BAGS})
    save_v5(tmp_path / "labelList.mat", {"LAll": LABEL_ROWS})
    source = read_packed(tmp_path, pictures=tmp_path / "jpg")
    check(source)
    assert source.ids[1] == 4 and source.pictures is not None
    (tmp_path / "jpg/im4.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 11 pictures are missing.*imgList\.mat:2"):
        read_packed(tmp_path, pictures=tmp_path / "jpg")
    some = read_packed(tmp_path, pictures=tmp_path / "jpg", missing="skip")
    assert some.ids.tolist() == [3 * i + 1 for i in range(ITEMS) if i != 1]
    np.testing.assert_array_equal(some.bags, np.delete(BAGS, 1, axis=0))
    assert read_packed(tmp_path, missing="text-only").pictures is None


@pytest.mark.parametrize("cells", [True, False])
def test_torchcmh_nus_lists_have_folder_and_file(tmp_path: Path, cells: bool) -> None:
    pairs = np.array([[f"zoo{i % 2}", f"000{i}_7.jpg"] for i in range(ITEMS)])
    for i, (folder, name) in enumerate(pairs):
        save_picture(tmp_path / "images" / folder / name, i)
    save_v5(tmp_path / "imgList21.mat", {"imgs": pairs.astype(object) if cells else pairs})
    save_v5(tmp_path / "tagList21.mat", {"tags": BAGS})
    save_v5(tmp_path / "labelList21.mat", {"labels": LABEL_ROWS})
    check(read_packed(tmp_path))


@pytest.mark.parametrize("form", ["matrix", "cells", "ragged", "txt"])
def test_dchmt_index_caption_label(tmp_path: Path, form: str) -> None:
    """Paths of the author's machine; captions as padded matrix, cells, several a cell, or text."""
    paths = [f"/home/author/data/mirflickr/im{i + 1}.jpg" for i in range(ITEMS)]
    for i in range(ITEMS):
        save_picture(tmp_path / f"mirflickr/im{i + 1}.jpg", i)
    save_v5(tmp_path / "index.mat", {"index": paths})
    save_v5(tmp_path / "label.mat", {"category": LABEL_ROWS})
    captions = [f"tag{i} {'sky' * (i % 3)}".strip() for i in range(ITEMS)]
    if form == "txt":
        write(tmp_path / "caption.txt", "".join(f"{caption}\r\n" for caption in captions))
    elif form == "ragged":
        cells = np.empty(ITEMS, dtype=object)
        cells[:] = [[c, "second"] + ["third"] * (i % 2) for i, c in enumerate(captions)]
        save_v5(tmp_path / "caption.mat", {"caption": cells})
    else:
        value = (
            np.array(captions, dtype=object)[None] if form == "cells" else [[c] for c in captions]
        )
        save_v5(tmp_path / "caption.mat", {"caption": value})
    source = read_packed(tmp_path)
    assert source.bags is None and source.pictures is not None
    assert [text.split("\n")[0] for text in source.texts] == captions
    assert form != "ragged" or source.texts[1].split("\n")[1:] == ["second", "third"]
    assert source.ids.tolist() == list(range(1, ITEMS + 1))
    save_v5(tmp_path / "label.mat", {"category": LABEL_ROWS[:, :1]})
    np.testing.assert_array_equal(read_packed(tmp_path).labels, LABEL_ROWS[:, :1])
    assert [number_of(source.pictures.read(i)) for i in range(ITEMS)] == list(range(ITEMS))


# --- splits in the file -------------------------------------------------------------------------


def bmc(root: Path, *, train: slice = slice(0, 5), extra: int = 0) -> None:
    """Queries 0..3, database 4..10; training rows are the database's first, or as given.

    The database has as many rows as there are words; the other splits tell how its bags lie.
    """
    query, base = packed_arrays(0, 4), packed_arrays(4, 7)
    learned = {k: np.concatenate([v[train], query[k][:extra]]) for k, v in base.items()}
    save_v73(
        root / "raw_mir.mat",
        {
            f"{letter}_{part}": (
                mine[kind].transpose(0, 3, 2, 1) if letter == "I" else mine[kind].astype(float)
            )
            for part, mine in (("tr", learned), ("te", query), ("db", base))
            for letter, kind in (("I", "pictures"), ("T", "bags"), ("L", "labels"))
        },
    )


def test_bmc_training_rows_are_database_items(tmp_path: Path) -> None:
    bmc(tmp_path)
    source = read_packed(tmp_path / "raw_mir.mat")
    check(source)  # 11 items, not 16
    assert source.split is not None
    assert {k: v.tolist() for k, v in source.split.items()} == {
        "query": [0, 1, 2, 3],
        "database": list(range(4, 11)),
        "train": list(range(4, 9)),
    }
    assert source.counts["rows of train"] == 5
    assert source.ids.tolist() == list(range(11))


def test_bmc_queries_inside_training_rows_are_refused(tmp_path: Path) -> None:
    bmc(tmp_path, extra=2)
    with pytest.raises(DataError, match=r"raw_mir\.mat:6: row 6 of train is also row 1 of query"):
        read_packed(tmp_path)
    source = read_packed(tmp_path, skip_bad=True)
    check(source)
    assert len(source.skipped) == 2
    assert source.split is not None and source.split["train"].tolist() == list(range(4, 9))


def cmla(root: Path) -> None:
    names = {"Query": [0, 1], "Train": [5, 3], "DataBase": [2, 3, 4, 5]}
    for number in range(6):
        save_picture(root / f"mirflickr/im{number}.jpg", number)
    for file, prefix in (("Img.h5", "Img"), ("Tag.h5", "Tag"), ("Lab.h5", "Lab")):
        values = {
            "Img": lambda rows: [b"/data/mirflickr/im%d.jpg" % i for i in rows],
            "Tag": lambda rows: BAGS[rows].astype(float),
            "Lab": lambda rows: LABEL_ROWS[rows],
        }[prefix]
        save_h5(root / file, {f"{prefix}{part}": values(rows) for part, rows in names.items()})
    save_h5(root / "Mean.h5", {"Mean": np.zeros((224, 224, 3))})


def test_cmla_paths_identify_items(tmp_path: Path) -> None:
    cmla(tmp_path)
    source = read_packed(tmp_path)
    assert source.split is not None and source.pictures is not None
    assert {k: v.tolist() for k, v in source.split.items()} == {
        "query": [0, 1],
        "database": [2, 3, 4, 5],
        "train": [5, 3],
    }
    assert source.ids.tolist() == [number_of(source.pictures.read(i)) for i in range(6)]
    np.testing.assert_array_equal(source.bags, BAGS[:6])
    (tmp_path / "mirflickr/im3.jpg").unlink()
    some = read_packed(tmp_path, missing="skip")
    assert some.split is not None and some.ids.tolist() == [0, 1, 2, 4, 5]
    assert some.split["database"].tolist() == [2, 3, 4] and some.split["train"].tolist() == [4]


def test_splits_must_have_the_same_arrays(tmp_path: Path) -> None:
    cmla(tmp_path)
    with pytest.raises(ConfigError, match="items can not be stated for files with splits"):
        read_packed(tmp_path, items=6)
    wendell(tmp_path)
    with pytest.raises(DataError, match="files with and without splits"):
        read_packed(tmp_path)


# --- orientation --------------------------------------------------------------------------------


def stored(*shape: int) -> Stored:
    return Stored(file=Path("a.mat"), key="x", shape=shape, strings=False, by_matlab=False)


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(4, 400), min_size=5, max_size=5, unique=True),
    orders=st.tuples(*(st.permutations(range(n)) for n in (4, 2, 2))),
)
def test_distinct_sizes_tell_the_axis_whatever_the_order(sizes, orders):  # type: ignore[no-untyped-def]
    n, height, width, words, labels = sizes
    shapes = ((n, height, width, 3), (n, words), (n, labels))
    arrays = {
        name: stored(*(shape[axis] for axis in order))
        for name, shape, order in zip(("picture", "bag", "label"), shapes, orders, strict=True)
    }
    assert count_items(arrays, None) == n
    for (name, array), order in zip(arrays.items(), orders, strict=True):
        assert item_axis_of(array, n, None) == order.index(0), name


@settings(max_examples=100, deadline=None)
@given(n=st.integers(2, 50), other=st.integers(2, 50))
def test_sizes_that_leave_a_choice_are_refused(n: int, other: int) -> None:
    arrays = {"bag": stored(n, other), "label": stored(other, n)}
    with pytest.raises(DataError, match="cannot tell"):
        item_axis_of(arrays["bag"], count_items(arrays, None), None)
    if n != other:
        assert count_items(arrays, n) == n
        assert item_axis_of(arrays["label"], n, None) == 1
    else:
        assert item_axis_of(arrays["bag"], n, "last") == 1


def test_a_column_is_as_many_items_as_it_has_rows() -> None:
    assert count_items({"names": stored(5, 1), "label": stored(5, 1)}, None) == 5


def test_ambiguous_files_list_shapes_and_take_the_answer(tmp_path: Path) -> None:
    square = np.eye(ITEMS)[:, ::-1]
    square[0, 0] = 1
    save_v5(tmp_path / "a.mat", {"images": FEATURES, "YAll": square, "LAll": LABEL_ROWS})
    with pytest.raises(DataError, match=r"a\.mat:YAll \(11, 11\).*item_axis='first' or 'last'"):
        read_packed(tmp_path)
    np.testing.assert_array_equal(read_packed(tmp_path, item_axis="first").bags, square)
    np.testing.assert_array_equal(read_packed(tmp_path, item_axis="last").bags, square.T)
    with pytest.raises(ConfigError, match="item_axis must be 'first' or 'last'"):
        read_packed(tmp_path, item_axis="0")  # type: ignore[arg-type]

    both = {"images": np.ones((6, 4)), "YAll": np.ones((4, 6)), "LAll": np.ones((6, 4))}
    save_v5(tmp_path / "a.mat", both)
    with pytest.raises(DataError, match=r"\[4, 6\] are all possible; .*state it with items"):
        read_packed(tmp_path)
    assert read_packed(tmp_path, items=4).labels.shape == (4, 6)
    with pytest.raises(DataError, match="items=5 is no axis"):
        read_packed(tmp_path, items=5)
    save_v5(tmp_path / "a.mat", both | {"LAll": np.ones((9, 2))})
    with pytest.raises(DataError, match="no size is common to all"):
        read_packed(tmp_path)


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 255])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_are_0_to_255_or_0_to_1(tmp_path: Path, scale: int, dtype: type) -> None:
    pictures = HWCN.astype(dtype) / dtype(scale)
    save_v73(tmp_path / "a.mat", {"IAll": pictures, "YAll": BAGS, "LAll": LABEL_ROWS})
    check(read_packed(tmp_path))


def test_values_that_are_no_pictures_bags_or_labels_are_named(tmp_path: Path) -> None:
    arrays = {"IAll": HWCN - 120.0, "YAll": BAGS, "LAll": LABEL_ROWS}
    save_v73(tmp_path / "a.mat", arrays)
    source = read_packed(tmp_path)
    assert source.pictures is not None
    with pytest.raises(DataError, match=r"a\.mat:IAll .*outside 0\.\.255; mean-subtracted"):
        source.pictures.read(0)
    with pytest.raises(DataError, match="no picture 11"):
        source.pictures.read(11)
    save_v73(tmp_path / "a.mat", arrays | {"YAll": BAGS * 0.5})
    with pytest.raises(DataError, match=r"expected 0 and 1 or counts, found 0\.5 at"):
        read_packed(tmp_path)
    save_v73(tmp_path / "a.mat", arrays | {"LAll": LABEL_ROWS * 2})
    with pytest.raises(DataError, match=r"LAll \(5, 11\): expected 0 and 1, found 2 at"):
        read_packed(tmp_path)
    save_v73(tmp_path / "a.mat", arrays | {"IAll": HWCN[:, :, :2]})
    with pytest.raises(DataError, match="exactly one axis of size 3 for RGB"):
        read_packed(tmp_path)


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file, or a folder without"):
        read_packed(tmp_path)
    write(tmp_path / "a.mat", "<html>not found</html>")
    with pytest.raises(DataError, match=r"a\.mat: neither a MATLAB v5 file nor HDF5"):
        read_packed(tmp_path)
    save_v5(tmp_path / "a.mat", {"net": np.ones(3)})
    with pytest.raises(DataError, match=r"no known array in a\.mat; known names are .*yall"):
        read_packed(tmp_path)
    save_v5(tmp_path / "a.mat", {"IAll": FEATURES, "YAll": BAGS})
    with pytest.raises(DataError, match="no label found, only"):
        read_packed(tmp_path)
    save_v5(tmp_path / "b.mat", {"YAll": BAGS, "LAll": LABEL_ROWS})
    with pytest.raises(DataError, match=r"both a\.mat:YAll .* and b\.mat:YAll .* hold bag"):
        read_packed(tmp_path)
    (tmp_path / "b.mat").unlink()
    dcmh_authors(tmp_path)
    whole = (tmp_path / "FLICKR-25K.mat").read_bytes()
    (tmp_path / "a.mat").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.mat: cannot be read .*truncated"):
        read_packed(tmp_path / "a.mat")


def test_missing_libraries_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dcmh_authors(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"needs h5py.*pip install 'hamward\[data\]'"):
        read_packed(tmp_path)


@pytest.mark.parametrize("block", [1, 3 * SIDE[0] * SIDE[1] * 4, 1 << 25])
def test_threads_read_the_same_pictures_in_any_order(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_pictures, "_BLOCK", block)
    eqb2a(tmp_path)
    pictures = read_packed(tmp_path).pictures
    assert pictures is not None
    load = array_pictures.ArrayPictures._load
    inside = threading.Semaphore(1)

    def watched(self: array_pictures.ArrayPictures, number: int) -> np.ndarray:
        assert inside.acquire(blocking=False), "two threads load blocks at once"
        time.sleep(0.001)
        try:
            return load(self, number)
        finally:
            inside.release()

    monkeypatch.setattr(array_pictures.ArrayPictures, "_load", watched)
    order = np.random.default_rng(0).permutation(np.arange(ITEMS).repeat(6)).tolist()
    barrier = threading.Barrier(4)
    with ThreadPoolExecutor(4, initializer=barrier.wait) as pool:
        found = list(pool.map(lambda i: number_of(pictures.read(i)), order))
    assert found == order


def test_the_shapes_of_these_tests_are_distinct() -> None:
    assert len({ITEMS, WORDS, LABELS, *SIDE, 3, FEATURES.shape[1]}) == 7
