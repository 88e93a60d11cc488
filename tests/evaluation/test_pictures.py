"""Adversarial pictures as files: lossless, indexed, read back for the score; JPEG beside."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from hamward.artifacts import read_tensors
from hamward.attacks import OwnCode, TagEdits
from hamward.data import RetrievalData, Split
from hamward.data.folder import read_folder
from hamward.data.pictures import as_jpeg
from hamward.errors import ArtifactError, ConfigError
from hamward.evaluation import evaluate
from hamward.evaluation.evaluate import adversarial_file
from hamward.evaluation.pictures import (
    check_transform,
    edited_texts,
    read_pictures,
    read_texts,
    write_pictures,
)
from hamward.models import HashModel


def grid(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, 16, 16), generator=generator).float() / 255


def test_pictures_come_back_bit_by_bit_with_their_facts(
    data: RetrievalData, tmp_path: Path
) -> None:
    ids = torch.tensor(data.ids[[5, 0, 7]])
    x = grid(3)
    write_pictures(tmp_path, x, data, ids)
    assert torch.equal(read_pictures(tmp_path, ids), x)
    assert torch.equal(read_pictures(tmp_path, ids.flip(0)), x.flip(0))
    with (tmp_path / "index.csv").open(encoding="utf-8", newline="") as lines:
        first = next(csv.DictReader(lines))
    assert first["id"] == str(data.ids[5]) and first["text"] == data.texts[5]
    assert first["labels"] == "green"
    (tmp_path / first["file"]).unlink()
    with pytest.raises(ArtifactError, match=f"picture of item {data.ids[5]} is missing"):
        read_pictures(tmp_path, ids)
    with pytest.raises(ArtifactError, match="not an index of adversarial pictures"):
        read_pictures(tmp_path / "none", ids)


def test_an_evaluation_scores_what_it_reads_from_the_files(
    model: HashModel, data: RetrievalData, tmp_path: Path
) -> None:
    attacks = {"own-code@8/255": OwnCode(steps=3)}
    plain = evaluate({"v": model}, data, attacks, modalities=("image",))
    files = evaluate(
        {"v": model}, data, attacks, modalities=("image",), folder=tmp_path, pictures=True,
        transforms=("jpeg-50",),
    )  # fmt: skip
    folder = tmp_path / "pictures" / "v" / "own-code@8_255"
    assert len(list(folder.glob("*.png"))) == len(data.split.query)
    stored = files.find("v", "own-code@8/255", "i2t")
    assert stored.map == plain.find("v", "own-code@8/255", "i2t").map
    jpeg = files.find("v", "own-code@8/255", "i2t", stored="jpeg-50")
    assert jpeg.linf > stored.linf and not jpeg.counts and stored.counts


def test_edited_texts_are_written_beside_the_clean_pictures_and_scored_as_read(
    model: HashModel, data: RetrievalData, tmp_path: Path
) -> None:
    attacks = {"tag-edits": TagEdits(insertions=2, deletions=1)}
    options = {"folder": tmp_path, "pictures": True, "modalities": ("text",)}
    files = evaluate({"v": model}, data, attacks, **options)  # type: ignore[arg-type]
    plain = evaluate({"v": model}, data, attacks, modalities=("text",))
    assert files.find("v", "tag-edits", "t2i").map == plain.find("v", "tag-edits", "t2i").map
    folder = tmp_path / "pictures" / "v" / "tag-edits"
    ids = torch.tensor(data.ids[data.positions("query", "text")])
    crafted = read_tensors(adversarial_file(tmp_path, "v", "tag-edits", "text"))["x_adv"]
    assert torch.equal(read_texts(folder, ids, data.words), crafted)
    assert torch.equal(
        read_pictures(folder, ids), data.inputs("image", data.positions("query", "text"))
    )
    with pytest.raises(ArtifactError, match="the text of item 5 is missing"):
        read_texts(folder, torch.tensor([5]), data.words)
    # Another text in the file is another score: it is the file that is scored.
    index = folder / "index.csv"
    index.write_text(index.read_text().replace("w0", "w11"))
    assert not torch.equal(read_texts(folder, ids, data.words), crafted)


def test_edited_texts_read_as_the_bag_says(data: RetrievalData) -> None:
    place = data.split.query[0]
    told = dataclasses.replace(
        data,
        texts=tuple("W1, the w2!" if i == place else t for i, t in enumerate(data.texts)),
        bags=np.stack([np.eye(12, dtype=np.uint8)[[1, 2]].sum(0) if i == place else b
                       for i, b in enumerate(data.bags)]).astype(np.uint8),
        digest="",
    )  # fmt: skip
    bag = torch.zeros(1, 12)
    bag[0, [2, 7, 5]] = 1
    ids = torch.tensor([int(data.ids[place])])
    assert edited_texts(told, ids, bag) == ["the w2 w5 w7"]
    tags = dataclasses.replace(told, words=("two words", *data.words[1:]), digest="")
    bag[0, 0] = 1
    assert edited_texts(tags, ids, bag) is None, "no reader finds 'two words' again"


def test_data_without_labels_get_no_such_column(data: RetrievalData, tmp_path: Path) -> None:
    both = np.arange(72)
    split = Split(
        query=data.split.query, database=both, train=both[24:], validation=both[:0],
        searched_query=True,
    )  # fmt: skip
    none = np.zeros((len(data), 0), np.uint8)
    bare = dataclasses.replace(data, labels=none, label_names=(), split=split, digest="")
    write_pictures(tmp_path, grid(3), bare, torch.tensor(data.ids[[5, 0, 7]]))
    source = read_folder(tmp_path)
    assert source.label_names == () and source.ids.tolist() == data.ids[[5, 0, 7]].tolist()
    assert list(source.texts) == [data.texts[i] for i in (5, 0, 7)]


def test_jpeg_changes_little_at_high_quality_and_more_at_low() -> None:
    x = torch.nn.functional.interpolate(grid(2), scale_factor=4, mode="bicubic").clamp(0, 1)
    x = torch.round(x * 255) / 255
    high, low = ((as_jpeg(x, q) - x).abs().mean() for q in (95, 10))
    assert 0 < high < 0.05 < low
    assert as_jpeg(x[:0], 50).shape == (0, 3, 64, 64)


def test_unknown_transforms_are_refused() -> None:
    assert check_transform("jpeg-75") == 75
    for name in ("jpeg-0", "jpeg-99", "jpeg", "blur"):
        with pytest.raises(ConfigError, match="transforms are jpeg-1 to jpeg-95"):
            check_transform(name)
