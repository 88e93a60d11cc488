"""Adversarial pictures as files: lossless, indexed, read back for the score; JPEG beside."""

import csv
from pathlib import Path

import pytest
import torch

from hamward.attacks import OwnCode
from hamward.data import RetrievalData
from hamward.errors import ArtifactError, ConfigError
from hamward.evaluation import evaluate
from hamward.evaluation.pictures import as_jpeg, check_transform, read_pictures, write_pictures
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
