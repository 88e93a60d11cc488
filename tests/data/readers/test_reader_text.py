"""Text files shared by the readers, and the sets that consist of them."""

import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import (
    GENERAL,
    NUS_CONCEPTS,
    NUS_ROWS,
    NUS_WORDS,
    make_coco,
    make_mirflickr,
    make_nus_wide,
    number_of,
    nus_bags,
    nus_labels,
    save_picture,
    write,
)

from hamward.data.readers import (
    lines,
    read_coco,
    read_deephash_list,
    read_mirflickr,
    read_nus_wide,
)
from hamward.data.readers.lines import Problems, read_bits, read_integers, read_lines
from hamward.errors import ConfigError, DataError

# --- text files ---------------------------------------------------------------------------------


def test_only_lf_and_crlf_end_a_line(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "\ufeffone\r\ntwo\u2028half\x0b\n\nlast")
    assert read_lines(file) == ["one", "two\u2028half\x0b", "", "last"]
    file.write_bytes(b"caf\xe9\n")
    assert read_lines(file) == ["caf\ufffd"]
    with pytest.raises(DataError, match=r"cannot read .*b\.txt"):
        read_lines(tmp_path / "b.txt")


def test_integers_name_the_line_that_is_none(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "1\r\n\r\n 22 \nx3\n-4\n5")
    with pytest.raises(DataError, match=r"a\.txt:4: expected one whole number, found 'x3'"):
        read_integers(file, Problems(skip_bad=False))
    problems = Problems(skip_bad=True)
    assert read_integers(file, problems) == [(1, 1), (3, 22), (6, 5)]
    assert [s.line for s in problems.skipped] == [4, 5]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 5)),
    end=st.sampled_from(["\n", "\r\n", "\t\n", " \r\n"]),
    space=st.sampled_from([" ", "\t"]),
    tail=st.sampled_from(["", "\n", "\r\n\n"]),
    chunk=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_bits_come_back_whatever_the_blocks(shape, end, space, tail, chunk, seed, tmp_path_factory):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    matrix = rng.integers(0, 2, shape).astype(np.uint8)
    keep = rng.integers(0, 2, shape[0]).astype(bool)
    text = end.join(space.join(map(str, row)) for row in matrix) + tail
    file = write(tmp_path_factory.mktemp("bits") / "m.txt", text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_CHUNK", chunk)
        whole = read_bits(file, rows=shape[0], columns=shape[1])
        some = read_bits(file, rows=shape[0], columns=shape[1], keep=keep)
    assert whole.dtype == np.uint8
    np.testing.assert_array_equal(whole, matrix)
    np.testing.assert_array_equal(some, matrix[keep])


@pytest.mark.parametrize("chunk", [7, 1 << 20])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1\n1 2\n1 1\n", r"m\.txt:2: only 0 and 1 are allowed, found '2'"),
        ("0 1\n1 1\n1 -1\n", r"m\.txt:3: only 0 and 1 are allowed, found '-'"),
        ("0 1\n1 1\n10 1\n", r"m\.txt:3: values must be single digits"),
        ("0 1\n0x1\n1 1\n", r"m\.txt:2: only 0 and 1 are allowed, found 'x'"),
        ("0 1  \n1 1 x\n1 1  \n", r"m\.txt:2: only 0 and 1 are allowed, found 'x'"),
        ("0 1\n011\n1 1\n", r"m\.txt:2: values must be single digits"),
        ("0 1\n1 1 1\n1 1\n", r"m\.txt:2: expected 2 values 0 or 1, found 3"),
        ("0 1\n\n1 1\n0 0\n", r"m\.txt:2: expected 2 values 0 or 1, found 0"),
        ("0 1\n1 1\n", r"m\.txt has 2 rows, expected 3"),
        ("0 1\n1 1\n1 1\n1 1", r"m\.txt has 4 rows, expected 3"),
        ("", r"m\.txt has 0 rows, expected 3"),
    ],
)
def test_bits_name_the_bad_line(
    text: str, message: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_CHUNK", chunk)
    with pytest.raises(DataError, match=message):
        read_bits(write(tmp_path / "m.txt", text), rows=3, columns=2)


# --- MIRFlickr ----------------------------------------------------------------------------------


@pytest.fixture
def mirflickr(tmp_path: Path) -> Path:
    make_mirflickr(tmp_path)
    return tmp_path


def test_mirflickr_keeps_what_has_a_tag_and_a_label(mirflickr: Path) -> None:
    source = read_mirflickr(mirflickr)
    assert source.ids.tolist() == [1, 2, 5, 6, 7, 8, 9, 10, 11, 12]  # not 1, 10, 11, 12, 2, ..
    assert source.counts["items"] == 10
    assert source.counts["items usually reported"] == 20_015
    assert (source.counts["without vocabulary tag"], source.counts["without label"]) == (1, 1)
    assert source.words == ("sky", "me", "nikon", "blue")  # the file's order
    assert source.pictures is not None and source.bags is not None
    for row, number in enumerate(source.ids):
        assert number_of(source.pictures.read(row)) == number
        assert source.bags[row].tolist() == [int(number % 4 == i) for i in range(4)]
        assert source.texts[row].split() == [source.words[number % 4], "unheardof"]
    assert source.labels[:, source.label_names.index("tree")].tolist() == [1, 0] + [1] * 8
    assert source.labels[1].tolist() == [1] + [0] * 23  # image 2 is an animal only


def test_mirflickr_labels_follow_names_and_readme_is_no_label(
    mirflickr: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listdir, scandir = os.listdir, os.scandir

    class Reversed(list):  # type: ignore[type-arg]
        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda *_: None  # noqa: E731
        close = lambda self: None  # noqa: E731

    def backwards(path: object = ".") -> Reversed:
        with scandir(path) as entries:  # type: ignore[call-overload]
            return Reversed(sorted(entries, key=lambda entry: entry.name, reverse=True))

    monkeypatch.setattr(os, "scandir", backwards)
    monkeypatch.setattr(os, "listdir", lambda path=".": sorted(listdir(path), reverse=True))
    naive = os.listdir(mirflickr / "mirflickr25k_annotations_v080")
    assert naive != sorted(naive) and "README.txt" in naive
    source = read_mirflickr(mirflickr)
    assert source.label_names == GENERAL == tuple(sorted(GENERAL))


def test_mirflickr_has_38_labels_on_request(mirflickr: Path) -> None:
    source = read_mirflickr(mirflickr, relevant_labels=True, rule="all")
    assert len(source.label_names) == 38 and "tree_r1" in source.label_names
    assert source.label_names == tuple(sorted(source.label_names))
    only = source.labels[:, source.label_names.index("baby_r1")]
    assert source.ids[only == 1].tolist() == [5]


def test_mirflickr_rules_and_raw_tags(mirflickr: Path) -> None:
    everything = read_mirflickr(mirflickr, rule="all", texts="tags_raw")
    assert everything.ids.tolist() == list(range(1, 13))
    assert everything.texts[2] == "Unheardof" and everything.texts[0] == "Me Unheardof"
    assert not everything.labels[3].any() and everything.bags is not None
    assert not everything.bags[2].any()
    assert read_mirflickr(mirflickr, rule="label").ids.tolist() == [1, 2, 3, *range(5, 13)]
    with pytest.raises(ConfigError, match="rule must be 'tag-and-label' or 'label' or 'all'"):
        read_mirflickr(mirflickr, rule="some")  # type: ignore[arg-type]


@pytest.mark.parametrize("beside", ["annotations", "mirflickr/annotations"])
def test_mirflickr_finds_annotations_of_every_layout(tmp_path: Path, beside: str) -> None:
    make_mirflickr(tmp_path, beside=beside)
    assert len(read_mirflickr(tmp_path).ids) == 10
    assert len(read_mirflickr(tmp_path / "mirflickr").ids) == 10
    given = read_mirflickr(tmp_path / "mirflickr", annotations=tmp_path / beside)
    assert len(given.ids) == 10


def test_mirflickr_refuses_other_versions(mirflickr: Path) -> None:
    folder = mirflickr / "mirflickr25k_annotations_v080"
    (folder / "baby_r1.txt").unlink()
    with pytest.raises(DataError, match=r"24 label files and 13 \*_r1.*v080 have 24 and 14"):
        read_mirflickr(mirflickr)
    shutil.rmtree(folder)
    write(mirflickr / "mirflickr25k_annotations_v080.zip", "PK")
    with pytest.raises(DataError, match=r"none of annotations, .*unpack mirflickr25k_annot"):
        read_mirflickr(mirflickr)


def test_mirflickr_names_the_bad_place_or_skips_it(mirflickr: Path) -> None:
    (mirflickr / "mirflickr/im7.jpg").unlink()
    with pytest.raises(DataError, match=r"im7\.jpg: the picture of image 7 is missing"):
        read_mirflickr(mirflickr)
    sea = mirflickr / "mirflickr25k_annotations_v080/sea.txt"
    sea.write_text("5\n25001\nsix\n")
    with pytest.raises(DataError, match=r"sea\.txt:3: expected one whole number"):
        read_mirflickr(mirflickr)
    source = read_mirflickr(mirflickr, skip_bad=True)
    assert 7 not in source.ids and 8 in source.ids
    assert [(Path(s.file).name, s.line) for s in source.skipped] == [
        ("sea.txt", 3),
        ("sea.txt", 2),
        ("im7.jpg", None),
    ]
    assert "1..12" in source.skipped[1].reason


# --- NUS-WIDE -----------------------------------------------------------------------------------


@pytest.fixture
def nus_wide(tmp_path: Path) -> Path:
    make_nus_wide(tmp_path)
    return tmp_path


def test_nus_wide_takes_the_most_frequent_concepts_and_shows_them(
    nus_wide: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="hamward"):
        source = read_nus_wide(nus_wide)
    chosen = tuple(sorted(NUS_CONCEPTS[2:23]))  # the alphabet's first 21 are others
    assert not set(chosen) & set(sorted(NUS_CONCEPTS)[:21])
    assert source.label_names == chosen
    assert "concept78 36, concept77 35" in caplog.text
    assert source.ids.tolist() == list(range(1, 37))  # lines; 37.. have none of the 21
    assert source.counts["items usually reported"] == 195_834
    truth = np.stack([nus_labels()[name] for name in chosen], axis=1)[:36]
    np.testing.assert_array_equal(source.labels, truth)
    np.testing.assert_array_equal(source.bags, nus_bags()[:36])
    assert source.words == NUS_WORDS and source.texts[3] == "word3" and source.texts[4] == ""
    assert source.pictures is not None
    assert [number_of(source.pictures.read(row)) for row in (0, 7, 35)] == [0, 7, 15]
    assert read_nus_wide(nus_wide, subset="tc10").label_names == chosen[-10:]


def test_nus_wide_subsets(nus_wide: Path) -> None:
    text = read_nus_wide(nus_wide, subset="tc21-text")
    assert text.ids.tolist() == [i for i in range(1, 37) if i not in (5, 6)]
    assert text.bags is not None and text.bags.any(axis=1).all()
    everything = read_nus_wide(nus_wide, subset="all")
    assert len(everything.ids) == NUS_ROWS and len(everything.label_names) == 81
    assert everything.labels[39].tolist() == [int(n == "lake") for n in everything.label_names]


def test_nus_wide_never_takes_user_tags_for_ground_truth(nus_wide: Path) -> None:
    shutil.rmtree(nus_wide / "Groundtruth/AllLabels")
    with pytest.raises(DataError, match=r"AllTags81.txt is no substitute: .*user tags"):
        read_nus_wide(nus_wide)
    with pytest.raises(DataError, match="user tags"):
        read_nus_wide(nus_wide, labels=nus_wide / "NUS_WID_Tags/AllTags81.txt")
    (nus_wide / "NUS_WID_Tags/AllTags81.txt").unlink()
    with pytest.raises(DataError, match=r"Labels_lake_Train.txt is known to disagree"):
        read_nus_wide(nus_wide)
    with pytest.raises(DataError, match=r"Labels_lake_Train.txt is known to disagree"):
        read_nus_wide(nus_wide, labels=nus_wide / "Groundtruth/TrainTestLabels")


def test_nus_wide_wants_all_81_concepts(nus_wide: Path) -> None:
    (nus_wide / "Groundtruth/AllLabels/Labels_sky.txt").unlink()
    with pytest.raises(DataError, match=r"80 files Labels_<concept>.txt, expected 81"):
        read_nus_wide(nus_wide)


def test_nus_wide_handles_a_picture_listed_twice(nus_wide: Path) -> None:
    kept = read_nus_wide(nus_wide)
    assert kept.counts["rows that share a picture id"] == 2
    assert len(set(kept.ids.tolist())) == 36
    assert kept.groups is not None and kept.groups[2] == kept.groups[7] == 3
    assert len(set(kept.groups.tolist())) == 35
    dropped = read_nus_wide(nus_wide, duplicates="drop")
    assert dropped.ids.tolist() == [i for i in range(1, 37) if i not in (3, 8)]
    assert dropped.groups is None
    assert [s.line for s in dropped.skipped] == [3, 8]
    with pytest.raises(DataError, match=r"Imagelist\.txt:3: picture 2124494002 is listed more"):
        read_nus_wide(nus_wide, duplicates="error")


def test_nus_wide_without_some_or_all_pictures(nus_wide: Path) -> None:
    (nus_wide / "Flickr/zoo/0004_2124494004.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 36 pictures are missing.*Imagelist\.txt:5") as info:
        read_nus_wide(nus_wide)
    assert "missing='text-only'" in str(info.value)
    some = read_nus_wide(nus_wide, missing="skip")
    assert 5 not in some.ids and some.counts["pictures missing"] == 1
    assert some.skipped[0].line == 5 and some.pictures is not None
    assert number_of(some.pictures.read(4)) == 5 and some.texts[5] == "word6"
    shutil.rmtree(nus_wide / "Flickr")
    with pytest.raises(DataError, match="36 of 36 pictures are missing"):
        read_nus_wide(nus_wide)
    with pytest.raises(DataError, match="none of the 36 pictures"):
        read_nus_wide(nus_wide, missing="skip")
    text = read_nus_wide(nus_wide, missing="text-only")
    assert text.pictures is None and len(text.ids) == 36


def test_nus_wide_features_go_by_line(nus_wide: Path) -> None:
    np.save(nus_wide / "f.npy", np.arange(NUS_ROWS * 2).reshape(NUS_ROWS, 2))
    source = read_nus_wide(nus_wide, subset="tc21-text", features=nus_wide / "f.npy")
    assert source.features is not None and source.pictures is None
    assert source.features[:, 0].tolist() == [2.0 * (i - 1) for i in source.ids]
    np.save(nus_wide / "f.npy", np.zeros((NUS_ROWS - 1, 2)))
    with pytest.raises(DataError, match=r"must have 40 rows.*got shape \(39, 2\)"):
        read_nus_wide(nus_wide, features=nus_wide / "f.npy")


def test_nus_wide_all_tags_are_strings_of_the_same_picture(nus_wide: Path) -> None:
    source = read_nus_wide(nus_wide, texts="all_tags")
    assert source.texts[:2] == ("red", "red sky")
    file = nus_wide / "NUS_WID_Tags/All_Tags.txt"
    file.write_text(file.read_text().replace("2124494003 ", "7 "))
    with pytest.raises(
        DataError, match=r"All_Tags\.txt:4: expected the tags of picture 2124494003"
    ):
        read_nus_wide(nus_wide, texts="all_tags")


def test_nus_wide_files_must_have_equally_many_lines(nus_wide: Path) -> None:
    labels = nus_wide / "Groundtruth/AllLabels/Labels_sky.txt"
    labels.write_text("0\n" * (NUS_ROWS - 1))
    with pytest.raises(DataError, match=r"Labels_sky\.txt has 39 rows, expected 40"):
        read_nus_wide(nus_wide)
    listing = nus_wide / "ImageList/Imagelist.txt"
    listing.write_text("no picture\n" + listing.read_text())
    with pytest.raises(DataError, match=r"Imagelist\.txt:1: expected folder"):
        read_nus_wide(nus_wide)


def test_nus_wide_skips_a_bad_line_without_shifting_the_rest(nus_wide: Path) -> None:
    listing = nus_wide / "ImageList/Imagelist.txt"
    content = listing.read_bytes().split(b"\r\n")
    content[1] = b"???"
    listing.write_bytes(b"\r\n".join(content))
    source = read_nus_wide(nus_wide, skip_bad=True)
    assert source.ids.tolist() == [1, *range(3, 37)]
    assert source.texts[1] == "word2" and source.pictures is not None
    assert number_of(source.pictures.read(2)) == 3


# --- MS-COCO ------------------------------------------------------------------------------------


@pytest.mark.parametrize("year", [2014, 2017])
def test_coco_joins_both_splits_by_image_id(tmp_path: Path, year: int) -> None:
    make_coco(tmp_path, year=year)
    source = read_coco(tmp_path)
    assert source.name == f"coco{year}"
    assert source.ids.tolist() == [9, 25, 42, 73, 581929]
    assert source.label_names == ("person", "dog", "toothbrush")  # by id, not by place
    assert source.labels.tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 1, 0]]
    assert source.pictures is not None and source.bags is None
    assert [number_of(source.pictures.read(i)) for i in range(5)] == [9, 5, 2, 13, 9]
    captions = source.texts[1].split("\n")
    assert captions == [f"Caption {k} of 25." for k in (4, 3, 2, 1, 0)]  # by caption id
    assert source.counts["items usually reported"] == 123_287
    assert read_coco(tmp_path, rule="label").ids.tolist() == [25, 42, 73, 581929]


def test_coco_asks_which_year(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds neither 2014 nor 2017"):
        read_coco(tmp_path)
    make_coco(tmp_path, year=2014)
    make_coco(tmp_path, year=2017)
    with pytest.raises(DataError, match=r"holds both 2014 and 2017.*year=2014"):
        read_coco(tmp_path)
    assert read_coco(tmp_path, year=2017).name == "coco2017"
    with pytest.raises(ConfigError, match="year must be 2014 or 2017"):
        read_coco(tmp_path, year=2015)  # type: ignore[arg-type]


def test_coco_pictures_below_images_or_missing(tmp_path: Path) -> None:
    make_coco(tmp_path)
    (tmp_path / "images").mkdir()
    for part in ("train2014", "val2014"):
        (tmp_path / part).rename(tmp_path / "images" / part)
    assert len(read_coco(tmp_path).ids) == 5
    (tmp_path / "images/val2014/COCO_val2014_000000000073.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 5 pictures are missing.*000000000073"):
        read_coco(tmp_path)
    assert read_coco(tmp_path, skip_bad=True).ids.tolist() == [9, 25, 42, 581929]


def test_coco_damage_is_named(tmp_path: Path) -> None:
    make_coco(tmp_path)
    file = tmp_path / "annotations/captions_val2014.json"
    content = json.loads(file.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 42]
    content["annotations"][0]["image_id"] = 11
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"captions_val2014.json: annotation .* unknown image 11"):
        read_coco(tmp_path)
    skipped = read_coco(tmp_path, skip_bad=True)
    assert skipped.ids.tolist() == [9, 25, 73, 581929] and len(skipped.skipped) == 2
    file.write_text('{"images": [],\n"annot')
    with pytest.raises(DataError, match=r"captions_val2014\.json:2: not JSON .*truncated"):
        read_coco(tmp_path)
    file.write_text("[]")
    with pytest.raises(DataError, match="expected an object with lists images, annotations"):
        read_coco(tmp_path)


# --- DeepHash lists -----------------------------------------------------------------------------


def make_lists(root: Path) -> None:
    for number in range(6):
        save_picture(root / f"images/my 0 {number}.jpg", number)
    rows = [f"images/my 0 {i}.jpg {i % 2} 1 0" for i in range(6)]
    write(root / "test.txt", "\r\n".join(rows[:2]))
    write(root / "database.txt", "\n".join(rows[2:5]) + "\n")
    write(root / "train.txt", "\n".join([rows[4], rows[2], rows[5]]) + "\n")


def test_lists_become_items_once(tmp_path: Path) -> None:
    make_lists(tmp_path)
    source = read_deephash_list(tmp_path)
    assert source.split is not None and source.pictures is not None
    assert {name: mine.tolist() for name, mine in source.split.items()} == {
        "query": [0, 1],
        "database": [2, 3, 4],
        "train": [4, 2, 5],  # two of them are database items; concatenating would give eight
    }
    assert [number_of(source.pictures.read(i)) for i in range(6)] == list(range(6))
    assert source.labels.tolist() == [[i % 2, 1, 0] for i in range(6)]
    assert source.ids.tolist() == [0, 1, 2, 3, 4, 7]
    assert source.texts == ("",) * 6


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("images/my 0 0.jpg 0 1 0", r"train\.txt:4: row 4 of train is also row 1 of query"),
        ("images/my 0 3.jpg 0 1 0", r"train\.txt:4: .* has other labels elsewhere"),
        ("images/my 0 5.jpg 1 1 0", r"train\.txt:4: .* is listed twice"),
        ("images/my 0 3.jpg 0 1", r"train\.txt:4: expected 3 labels, found 2"),
        ("images/a.jpg", r"train\.txt:4: expected 'path 0 1 0 \.\.\.'"),
        ("images/b.jpg 0 1 1", r"1 of 7 pictures are missing.*train\.txt:4"),
    ],
)
def test_lists_name_the_bad_line_or_skip_it(tmp_path: Path, row: str, message: str) -> None:
    make_lists(tmp_path)
    with (tmp_path / "train.txt").open("a") as file:
        file.write(row + "\n")
    with pytest.raises(DataError, match=message):
        read_deephash_list(tmp_path)
    source = read_deephash_list(tmp_path, skip_bad=True)
    assert len(source.ids) == 6 and source.skipped[0].line == 4
    assert source.split is not None and source.split["train"].tolist() == [4, 2, 5]


def test_lists_must_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must hold test\.txt and database\.txt"):
        read_deephash_list(tmp_path)
