"""Every importer from its official layout to a prepared set, as the command line does it."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import (
    make_coco,
    make_mirflickr,
    make_nus_wide,
    number_of,
    nus_bags,
    nus_labels,
    picture,
    save_picture,
    save_v73,
    write,
)
from make_folder import make_folder
from PIL import Image
from test_reader_packed import bmc, cmla, dcmh_authors, eqb2a

from hamward.cli.app import main
from hamward.data import IMPORTERS, RetrievalData, load_data, read_source
from hamward.data.pictures import square
from hamward.data.prepared import read_manifest, verify_files

SIDE = 16


def run(*arguments: object) -> int:
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def lists(root: Path) -> None:
    """Ten pictures; training items are not searched, as DeepHash's MIRFlickr lists have it."""
    for number in range(10):
        save_picture(root / f"images/im{number}.jpg", number)
    rows = [f"images/im{i}.jpg {i % 2} {(i + 1) % 2} {int(i == 3)}" for i in range(10)]
    for name, mine in (("test", rows[:3]), ("database", rows[3:6]), ("train", rows[6:])):
        write(root / f"{name}.txt", "\n".join(mine) + "\n")


SMALL = ("--queries", 2, "--train", 4)
PACKED = ("--keep-unlabeled",)  # item 3 of the fixture has no label
CASES: dict[str, tuple[str, Callable[[Path], Any], tuple[object, ...], tuple[int, ...]]] = {
    "folder": ("folder", lambda root: make_folder(root, 12), SMALL, (12, 2, 10, 3)),
    "mirflickr": (
        "mirflickr", make_mirflickr, ("--protocol", "dcmh", *SMALL), (10, 2, 8, 3),
    ),
    "mirflickr, 38 labels": (
        "mirflickr", make_mirflickr,
        ("--protocol", "dchmt", "--relevant-labels", "true", *SMALL), (10, 2, 8, 3),
    ),
    "nus-wide": (
        "nus-wide", make_nus_wide, ("--protocol", "eqb2a", *SMALL, "--duplicates", "drop"),
        (34, 2, 32, 3),
    ),
    "nus-wide, tc10 with text": (
        "nus-wide", make_nus_wide, ("--protocol", "djsrh", *SMALL, "--subset", "tc10",
        "--duplicates", "drop"), (34, 2, 32, 3),
    ),
    "coco": ("coco", make_coco, ("--protocol", "eqb2a", "--queries", 1, "--train", 2,
        "--rule", "label"), (4, 1, 3, 1)),
    "packed, DCMH": ("packed", dcmh_authors, (*SMALL, *PACKED), (11, 2, 9, 3)),
    "packed, EQB2A": ("packed", eqb2a, (*SMALL, *PACKED), (11, 2, 9, 3)),
    "packed, fixed split": ("packed", bmc, ("--protocol", "file", *PACKED), (11, 4, 7, 4)),
    "packed, CMLA": ("packed", cmla, ("--protocol", "cmla", *PACKED), (6, 2, 4, 1)),
    "deephash-list": ("deephash-list", lists, ("--protocol", "deephash"), (10, 3, 3, 3)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_from_the_official_layout_to_a_checked_set(case, tmp_path, capsys):
    name, make, options, counts = CASES[case]
    root, out = tmp_path / "set", tmp_path / "out"
    root.mkdir()
    make(root)
    fixed = ["--out", out, "--image-side", SIDE, "--min-count", 1, "--threads", 1]
    options = (*options, "--validation", 1)
    assert run("data", "prepare", name, "--root", root, *fixed, *options) == 0, capsys.readouterr()
    assert run("data", "check", out, "--threads", 1) == 0, capsys.readouterr().err
    capsys.readouterr()
    data = load_data(str(out))
    split = data.split
    assert (len(data), len(split.query), len(split.database), len(split.train)) == counts
    assert len(split.validation) == 1 and not set(split.query) & set(split.database)
    verify_files(out)
    shown = read_manifest(out)
    assert shown["counts"]["kept"] == len(data) and shown["split_digest"] == data.split_digest
    assert {Path(s["file"]).is_relative_to(root) for s in shown["sources"]} == {True}
    same(data, name, root, shown["read_by"]["options"])


def same(data: RetrievalData, name: str, root: Path, options: dict[str, Any]) -> None:
    """The prepared items are the source's, picture by picture."""
    source = read_source(name, root, options)
    assert source.pictures is not None
    np.testing.assert_array_equal(data.ids, source.ids)
    np.testing.assert_array_equal(data.labels, source.labels)
    assert list(data.texts) == list(source.texts) and data.label_names == source.label_names
    if source.bags is not None:
        np.testing.assert_array_equal(data.bags, source.bags)
    for position in range(len(data)):
        whole = square(source.pictures.read(position), SIDE).astype(int)
        assert np.abs(whole - data.images[position]).mean() < 3, position
        if name != "folder":
            assert number_of(source.pictures.read(position)) >= 0


def test_every_importer_has_a_case():
    assert {name for name, *_ in CASES.values()} == set(IMPORTERS)


def test_lists_without_texts_make_pictures_with_labels(tmp_path, capsys):
    lists(tmp_path)
    out = tmp_path / "out"
    arguments = ["deephash-list", "--root", tmp_path, "--out", out, "--protocol", "deephash"]
    options = ["--image-side", SIDE, "--validation", 1, "--threads", 1]
    assert run("data", "prepare", *arguments, *options) == 0
    data = load_data(str(out))
    assert data.modalities == ("image",) and data.directions == ("i2i",)
    assert not data.split.searched_train and len(data.split.train) == 3
    assert data.labels[3].tolist() == [1, 0, 1]
    capsys.readouterr()
    train = ["--data", out, "--out", tmp_path / "run", "--image-network", "tiny-resnet"]
    assert run("train", "dcmh", *train, "--batch-size", 2, "--threads", 1) == 2
    assert "has no texts" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["nothing", "features"])
def test_nus_wide_without_pictures_says_what_can_be_done(given, tmp_path, capsys):
    make_nus_wide(tmp_path, pictures=False)
    arguments = ["data", "prepare", "nus-wide", "--root", tmp_path, "--out", tmp_path / "out"]
    assert run(*arguments) == 2
    message = capsys.readouterr().err
    assert "pictures are missing, the first is" in message and "missing='skip'" in message
    more = ["--missing", "text-only"]
    if given == "features":
        np.save(tmp_path / "vgg.npy", np.ones((40, 6), np.float32))
        more = ["--features", tmp_path / "vgg.npy"]
    assert run(*arguments, *more) == 2
    message = capsys.readouterr().err
    assert "not prepared, because hamward's image networks read pictures" in message
    assert ("only features of width 6" in message) == (given == "features")
    source = read_source("nus-wide", tmp_path, {"missing": "text-only"})
    assert source.pictures is None and len(source.texts) == 36


# --- traps that only show at the end of the way ---------------------------------------------------


def test_pictures_of_reversed_axes_are_upright_in_the_set(tmp_path):
    """MATLAB's (H, W, 3, N) reads as (N, 3, W, H): taken so, pictures lie on their side."""
    root = tmp_path / "set"
    dcmh_authors(root)
    options = ["--image-side", 16, *SMALL, *PACKED, "--validation", 1, "--threads", 1]
    out = tmp_path / "out"
    assert run("data", "prepare", "packed", "--root", root, "--out", out, *options) == 0
    data = load_data(str(tmp_path / "out"))
    for position in range(len(data)):
        upright = square(Image.fromarray(picture(position)), 16)
        turned = square(Image.fromarray(picture(position).transpose(1, 0, 2)), 16)
        stored = data.images[position].astype(int)
        assert np.abs(stored - upright).mean() < 1 < np.abs(stored - turned).mean()


def test_nus_wide_columns_are_the_ground_truths(tmp_path):
    """AllTags81 is all ones here, and files lie in another order than their names."""
    root = tmp_path / "set"
    make_nus_wide(root)
    assert run("data", "prepare", "nus-wide", "--root", root, "--out", tmp_path / "out", *SMALL,
               "--validation", 1, "--image-side", 16, "--threads", 1) == 0  # fmt: skip
    data = load_data(str(tmp_path / "out"))
    labels, rows = nus_labels(), data.ids - 1
    assert list(data.label_names) == sorted(data.label_names)
    for column, name in enumerate(data.label_names):
        np.testing.assert_array_equal(data.labels[:, column], labels[name][rows])
    np.testing.assert_array_equal(data.bags, nus_bags()[rows])
    twice = np.flatnonzero(np.isin(rows, (2, 7)))
    inside = np.isin(twice, data.split.query)
    assert inside.all() or not inside.any()  # one picture under two rows is on one side


def test_query_rows_copied_into_training_never_get_through(tmp_path, capsys):
    bmc(tmp_path, extra=1)
    arguments = ["packed", "--root", tmp_path, "--protocol", "file", "--out", tmp_path / "out"]
    assert run("data", "prepare", *arguments) == 2
    assert "is also row 1 of query" in capsys.readouterr().err
    more = ["--skip-bad", "--validation", 1, "--image-side", 16, "--threads", 1]
    assert run("data", "prepare", *arguments, *more) == 0
    with (tmp_path / "out" / "skipped.csv").open() as handle:
        reasons = [row["reason"] for row in csv.DictReader(handle)]
    assert "row 6 of train is also row 1 of query" in reasons[0]
    assert reasons[1:] == ["item 3 has no label"]
    data = load_data(str(tmp_path / "out"))
    pixels = {tuple(p) for p in data.images[data.split.query][:, :, 12, 2].tolist()}
    assert not pixels & {tuple(p) for p in data.images[data.split.train][:, :, 12, 2].tolist()}


def test_a_query_that_is_a_copy_of_a_database_picture_is_reported(tmp_path, capsys):
    arrays = {"images": np.stack([picture(i % 5) for i in range(9)]).transpose(1, 2, 3, 0)}
    arrays["YAll"] = np.eye(9, 7) + np.eye(9, 7, k=-7)
    arrays["LAll"] = np.ones((9, 2))
    save_v73(tmp_path / "FLICKR-25K.mat", arrays)
    options = ["--protocol", "dcmh", "--queries", 2, "--train", 4, "--validation", 1]
    assert run("data", "prepare", "packed", "--root", tmp_path / "FLICKR-25K.mat", "--out",
               tmp_path / "out", *options, "--image-side", 16, "--threads", 1) == 0  # fmt: skip
    capsys.readouterr()
    assert run("data", "check", tmp_path / "out", "--threads", 1) == 0
    printed = capsys.readouterr().out
    assert "warning: 2 of 2 queries have an exact copy of their picture" in printed
    facts = json.loads(printed[: printed.index("warning")])
    assert facts["copies"]["pairs"] == [[0, 5], [1, 6]]
