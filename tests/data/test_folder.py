import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make_folder import make_folder, make_rows, write_csv, write_picture
from PIL import Image

from hamward.data.folder import read_folder
from hamward.errors import ConfigError, DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "pets", 8)


def test_a_folder_with_a_table_is_read(root):
    source = read_folder(root)
    assert source.name == "pets" and source.label_names == ("car", "cat", "dog", "tree")
    assert source.ids.tolist() == list(range(8)) and source.ids.dtype == np.int64
    assert source.labels[0].tolist() == [0, 1, 1, 0]  # "dog;cat"
    assert source.texts[5] == "a cat and a tree seen"
    assert source.pictures.read(3).size == (60, 40)
    assert source.groups is None and source.split is None and source.files[0].name == "captions.csv"
    assert source.counts == {"rows": 8, "items": 8, "skipped": 0, "labels": 4}
    assert "text: column 'caption', guessed" in source.notes
    assert "group: no column" in source.notes


def test_columns_that_are_not_used_are_named(root):
    rows = [[*row[:2], "pets", row[2]] for row in make_rows(8)]
    write_csv(root / "captions.csv", rows, ("file", "caption", "album", "themes"))
    source = read_folder(root)
    assert source.label_names == () and "not used: 'album', 'themes'" in source.notes
    assert "not used: 'album'" in read_folder(root, label_column="themes").notes


def test_captions_may_hold_quotes_separators_and_line_breaks(root):
    rows = make_rows(4)
    rows[1][1] = 'He said "sit, dog",\nand it; sat.'
    write_csv(root / "captions.csv", [*rows, ["gone.jpg", "x", "dog"]])
    with pytest.raises(DataError, match=r"captions\.csv line 7: .*gone\.jpg: no such file"):
        read_folder(root)  # the fifth row stands on line 7: one caption has two lines
    write_csv(root / "captions.csv", rows)
    assert read_folder(root).texts[1] == 'He said "sit, dog",\nand it; sat.'


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_a_bom_and_crlf_do_not_matter(root, delimiter):
    lines = [("file", "caption", "labels"), ("0.jpg", "a dog", '"dog;cat"'), ("1.jpg", "b", "cat")]
    text = "\ufeff" + "\r\n".join(delimiter.join(line) for line in lines) + "\r\n\r\n"
    (root / "captions.csv").write_bytes(text.encode())
    source = read_folder(root)
    assert source.texts == ("a dog", "b") and source.labels.tolist() == [[1, 1], [1, 0]]


def test_json_lines_and_parquet_give_the_same_items(root):
    rows = [
        {"image": name, "caption": text, "labels": str(labels).split(";")}
        for name, text, labels in make_rows(8)
    ]
    expected = read_folder(root)
    (root / "captions.csv").unlink()
    (root / "t.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    by_json = read_folder(root)
    (root / "t.jsonl").unlink()
    pq.write_table(pa.Table.from_pylist(rows), root / "t.parquet")
    for found in (by_json, read_folder(root)):
        assert found.texts == expected.texts and found.label_names == expected.label_names
        np.testing.assert_array_equal(found.labels, expected.labels)


def test_backslashes_subfolders_and_spaces(root):
    write_picture(root / "sub" / "deep" / "a.jpg", 1)
    write_csv(root / "captions.csv", [["sub\\deep\\a.jpg", " dog ", " dog ; ;cat;dog "]])
    source = read_folder(root)
    assert source.pictures.read(0).size == (60, 40)
    assert source.label_names == ("cat", "dog") and source.texts == ("dog",)


def test_split_group_and_id_columns(root):
    header = ("id", "file", "caption", "labels", "split", "group")
    rows = [
        [100 - i, f"{i}.jpg", "x", "dog", s, g]
        for i, (s, g) in enumerate(
            [("train", "b"), ("Test", "a"), ("gallery", ""), ("training", "b"), ("query", "")]
        )
    ]
    write_csv(root / "captions.csv", rows, header)
    source = read_folder(root)
    assert source.ids.tolist() == [100, 99, 98, 97, 96]
    assert {k: v.tolist() for k, v in source.split.items()} == {
        "query": [1, 4],
        "train": [0, 3],
        "database": [0, 2, 3],
    }
    groups = source.groups.tolist()
    assert groups[0] == groups[3] and len(set(groups)) == 4  # empty: a group of its own


def test_ids_that_are_no_numbers_become_rows_and_say_so(root):
    header = ("id", "file", "caption", "labels")
    write_csv(
        root / "captions.csv", [["a7", "0.jpg", "x", "dog"], ["b", "1.jpg", "y", "dog"]], header
    )
    source = read_folder(root)
    assert source.ids.tolist() == [0, 1] and "numbered by row" in source.notes[-1]


def test_without_a_label_column_there_are_no_labels(root):
    write_csv(root / "captions.csv", [["0.jpg", "x"]], ("file", "caption"))
    assert read_folder(root).labels.shape == (1, 0)


def test_labels_that_differ_in_case_are_told(root):
    write_csv(root / "captions.csv", [["0.jpg", "x", "Dog"], ["1.jpg", "x", "dog"]])
    source = read_folder(root)
    assert source.label_names == ("Dog", "dog") and "Dog, dog" in source.notes[-1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["9.jpeg", "x", "dog"], r"line 3: .*9\.jpeg: no such file"),
        (["0.JPG", "x", "dog"], r"line 3: .*0\.JPG: no such file \(there is '0\.jpg'\)"),
        (["0.jpg", "x", "dog"], r"line 3: names '0\.jpg', as line 2 does: one row a picture"),
        (["", "x", "dog"], "line 3: no picture file is named"),
        (["1.jpg", " ", "dog"], "line 3: column 'caption' is empty"),
        (["1.jpg", "x", " ; "], "line 3: column 'labels' holds no label, at least one is needed"),
        (["1.jpg", "x"], "line 3: has 2 cells, the header 3: put text with separators"),
        (["1.jpg", "x", "dog", "y"], "line 3: has 4 cells, the header 3"),
    ],
)
def test_a_bad_row_is_named_with_its_line_or_skipped(root, row, message):
    rows = [["0.jpg", "x", "dog"], row, ["2.jpg", "y", "cat"]]
    write_csv(root / "captions.csv", rows)
    with pytest.raises(DataError, match=message):
        read_folder(root)
    if len(row) == 3:
        source = read_folder(root, skip_bad=True)
        assert source.ids.tolist() == [0, 2] and len(source.skipped) == 1
        assert source.skipped[0].line == 3
        assert re.search(message.removeprefix("line 3: "), source.skipped[0].reason)
        assert source.counts["skipped"] == 1


def test_two_rows_with_one_id_are_named_both(root):
    header = ("id", "file", "caption", "labels")
    rows = [[5, "0.jpg", "x", "dog"], [6, "1.jpg", "x", "dog"], [5, "2.jpg", "x", "dog"]]
    write_csv(root / "captions.csv", rows, header)
    with pytest.raises(DataError, match=r"line 4: id '5' occurs before, on line 2"):
        read_folder(root)


def test_unknown_splits_and_labels_say_what_is_allowed(root):
    write_csv(
        root / "captions.csv", [["0.jpg", "x", "dog", "dev"]], ("file", "text", "label", "split")
    )
    with pytest.raises(DataError, match=r"line 2: unknown split 'dev', allowed: query, test, "):
        read_folder(root)
    (root / "labels.txt").write_text("cat\ndog\n")
    write_csv(root / "captions.csv", [["0.jpg", "x", "dgo"]])
    with pytest.raises(DataError, match="unknown label 'dgo': did you mean 'dog'"):
        read_folder(root, label_names="labels.txt")
    write_csv(root / "captions.csv", [["0.jpg", "x", "dog"]])
    assert read_folder(root, label_names="labels.txt").label_names == ("cat", "dog")


def test_tables_that_do_not_fit_are_refused(root, tmp_path):
    with pytest.raises(DataError, match="has no column 'captoin': did you mean 'caption'"):
        read_folder(root, text_column="captoin")
    write_csv(root / "captions.csv", [["0.jpg", "x"]], ("file", "remark"))
    with pytest.raises(DataError, match=r"no column for the text: it has \['file', 'remark'\]"):
        read_folder(root)
    write_csv(root / "captions.csv", [], ("file", "file"))
    with pytest.raises(DataError, match=r"names columns twice: \['file'\]"):
        read_folder(root)
    write_csv(root / "captions.csv", [])
    with pytest.raises(DataError, match="has no usable row"):
        read_folder(root)
    (root / "captions.csv").write_text('file,caption,labels\n0.jpg,"open,dog\n1.jpg,x,cat\n')
    with pytest.raises(DataError, match="line 2: not valid CSV"):
        read_folder(root)
    (root / "captions.csv").write_bytes("file,caption,labels\n0.jpg,Bär,dog\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_folder(root)
    (root / "b.jsonl").write_text('{"file": "0.jpg"\n')
    with pytest.raises(DataError, match=r"found b\.jsonl, captions\.csv: name it with --table"):
        read_folder(root)
    with pytest.raises(DataError, match=r"b\.jsonl line 1: not valid JSON"):
        read_folder(root, table="b.jsonl")
    (root / "b.jsonl").write_text("[1]\n")
    with pytest.raises(DataError, match="line 1: must be an object"):
        read_folder(root, table="b.jsonl")
    (root / "c.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match="not a readable Parquet table"):
        read_folder(root, table="c.parquet")
    with pytest.raises(DataError, match="no such file"):
        read_folder(root, table="d.csv")
    with pytest.raises(DataError, match="a table must end in"):
        read_folder(root, table="0.jpg")
    with pytest.raises(DataError, match="no such folder"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="separator must not be empty"):
        read_folder(root, separator="")


def test_a_bad_picture_names_the_row_that_asked_for_it(root):
    whole = (root / "1.jpg").read_bytes()
    for content in (whole[: len(whole) // 2], b"<html>no picture</html>", b""):
        (root / "1.jpg").write_bytes(content)
        with pytest.raises(DataError, match=r"1\.jpg \(named in captions\.csv line 3\): not a "):
            read_folder(root).pictures.read(1)


def test_photographs_are_turned_upright_and_transparency_is_white(root):
    turned = Image.new("RGB", (60, 40), (255, 0, 0))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(root / "0.jpg", exif=exif)
    clear = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
    clear.save(root / "clear.png")
    write_csv(root / "captions.csv", [["0.jpg", "x", "dog"], ["clear.png", "x", "dog"]])
    pictures = read_folder(root).pictures
    assert pictures.read(0).size == (40, 60)
    assert pictures.read(1).getpixel((5, 5)) == (255, 255, 255)  # a bare convert("RGB") says 0
