import logging

import numpy as np
import pytest
import torch
from make_data import make_data, make_parts, positions

from hamward.data import RetrievalData, Split
from hamward.errors import ConfigError, DataError

LABELS = make_parts()["labels"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ids": positions(5, 15, 5, 15, 1, 2, 3, 4)},
            r"ids must be unique, 2 occur more than once, first \[5, 15\]",
        ),
        ({"ids": np.arange(8.0)}, r"ids must be int64 \(8,\), got float64"),
        (
            {"images": np.zeros((8, 4, 4, 3), np.uint8)},
            r"images must be uint8 \(8, 3, 3, 3\), got uint8 \(8, 4, 4, 3\)",
        ),
        ({"images": np.zeros((8, 3, 4, 4), np.float32)}, "images must be uint8 .* got float32"),
        ({"bags": np.zeros((8, 2), np.uint8)}, r"bags must be uint8 \(8, 3\), got uint8 \(8, 2\)"),
        ({"bags": np.full((8, 3), 2, np.uint8)}, "bags must hold 0 and 1 only, found 2"),
        ({"labels": LABELS * 3}, "labels must hold 0 and 1 only, found 3"),
        (
            {"labels": LABELS * 0},
            "no item has a label: nothing can be relevant",
        ),
        ({"words": ("a", "b", "a")}, r"words must be distinct, these occur twice: \['a'\]"),
        ({"texts": ("a",)}, "texts has 1 entries for 8 items"),
        ({"creators": ("a",)}, "creators has 1 entries for 8 items"),
        ({"groups": positions(1)}, r"groups must be int64 \(8,\)"),
        (
            {
                "split": Split(
                    query=positions(0),
                    database=positions(8),
                    train=positions(),
                    validation=positions(),
                )
            },
            r"split positions must be in \[0, 8\), found 0\.\.8",
        ),
    ],
)
def test_a_set_that_does_not_hold_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        make_data(**changes)


def test_a_set_cannot_be_changed_and_does_not_lock_the_callers_arrays():
    parts = make_parts()
    data = RetrievalData(**parts)
    for name in ("images", "bags", "labels", "ids", "groups"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(data, name)[0] = 0
        assert parts[name].flags.writeable


def test_batches_hold_floats_in_range_in_the_order_asked():
    data = make_data()
    batch = data.batch([6, 0])
    assert batch["id"].tolist() == [65, 5] and batch["id"].dtype == torch.int64
    for key in ("image", "text", "label"):
        assert batch[key].dtype == torch.float32
        assert batch[key].min() >= 0 and batch[key].max() <= 1
    assert batch["image"].shape == (2, 3, 4, 4)
    torch.testing.assert_close(batch["image"][1], torch.tensor(data.images[0]) / 255)
    assert batch["text"].tolist() == [[0, 1, 0], [1, 0, 0]]
    assert batch["label"].tolist() == [[0, 1], [1, 0]]
    batch["image"].zero_()  # a copy
    assert data.images[6].any()
    assert data.array("text") is data.bags and data.image_side == 4 and len(data) == 8


def test_items_without_words_are_no_text_queries(caplog):
    data = make_data()
    with caplog.at_level(logging.INFO, logger="hamward"):
        assert data.positions("query", "text").tolist() == [0, 2]
    assert "1 of 3 query items have no word" in caplog.text
    assert data.positions("query", "image").tolist() == [0, 1, 2]
    assert data.positions("query").tolist() == [0, 1, 2]
    assert 4 in data.positions("database", "text") and 4 in data.positions("train", "text")


def test_the_digest_covers_what_decides_results():
    data = make_data()
    assert data.digest == make_data().digest and len(data.digest) == 64
    assert make_data(name="other", sources=None).digest == data.digest
    parts = make_parts()
    for name in ("images", "bags", "labels"):
        changed = parts[name].copy()
        changed[7] = 0
        changed[7, 0] = 1
        assert make_data(**{name: changed}).digest != data.digest, name
    assert make_data(ids=parts["ids"] + 1).digest != data.digest
    assert make_data(texts=("x", *parts["texts"][1:])).digest != data.digest
    split = Split(
        query=positions(0, 1, 2),
        database=positions(3, 4, 5, 6, 7),
        train=positions(3, 4),
        validation=positions(6),
    )
    assert make_data(split=split).digest != data.digest
    assert make_data(digest="recorded").digest == "recorded"


def test_memory_mapped_pictures_give_the_same_set(tmp_path):
    file = tmp_path / "images.npy"
    np.save(file, make_parts()["images"])
    data = make_data(images=np.load(file, mmap_mode="r"))
    assert data.digest == make_data().digest
    torch.testing.assert_close(data.batch([1])["image"], make_data().batch([1])["image"])


def test_a_subset_keeps_ids_and_renumbers_positions():
    data = make_data()
    part = data.subset([7, 1, 3, 6])
    assert part.ids.tolist() == [15, 35, 65, 75]
    assert part.split.query.tolist() == [0] and part.split.database.tolist() == [1, 2, 3]
    assert part.split.train.tolist() == [1] and part.split.validation.tolist() == [2]
    assert part.texts == tuple(data.texts[i] for i in (1, 3, 6, 7))
    assert part.sources == ("1.svg", "3.svg", "6.svg", "7.svg") and part.creators is None
    assert part.groups.tolist() == [1, 3, 5, 6]
    assert part.digest != data.digest
    assert data.subset(range(8)).digest == data.digest
    with pytest.raises(DataError, match="split 'query' is empty"):
        data.subset([3, 4])


def test_validation_items_ask_and_training_items_are_searched():
    data = make_data()
    held = data.on_validation()
    ids = {name: data.ids[data.split[name]].tolist() for name in ("train", "validation", "query")}
    assert held.ids[held.split.query].tolist() == ids["validation"]
    assert held.ids[held.split.database].tolist() == ids["train"]
    assert not set(held.ids) & set(ids["query"]), "queries are not even in it"
    assert held.digest != data.digest and held.split_digest != data.split_digest
    assert "validation items ask" in held.protocol
    with pytest.raises(ConfigError, match="has no validation items"):
        held.on_validation()


def test_limits_are_upper_bounds_per_split():
    data = make_data()
    small = data.limit(queries=2, database=4, train=1)
    assert small.ids.tolist() == [5, 25, 35, 45, 65, 75]
    assert len(small.split.query) == 2 and len(small.split.database) == 4
    assert small.split.train.tolist() == [2] and small.split.validation.tolist() == [4]
    assert data.limit().digest == data.limit(queries=99).digest == data.digest
    assert len(data.limit(train=2).split.database) == 5  # the third stays to be found
    with pytest.raises(ConfigError, match="queries must be at least 1, got 0"):
        data.limit(queries=0)
