import hashlib
import io
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hamward.data
from hamward.data import DATASETS, load_data, load_openclipart27
from hamward.data.openclipart27 import FILE, SHA256, keywords_of, read_packed
from hamward.errors import ConfigError, DataError, UnknownNameError

BAGS_LABELS_IDS = "fad49fe74fb6febc17eddc540442948f7192322b169464a20e116bda08ac749e"
SPLIT = "f0b019f14a8220e657bee6891b2d9de4394675ec1bc2b78bbadba0a4abc451a5"
MEAN = 192.572


@pytest.fixture(scope="module")
def data():
    return load_openclipart27()


@pytest.fixture(scope="module")
def harder():
    return load_openclipart27(text="harder", image_side=8)


def sha256(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


def test_golden_counts(data):
    assert data.images.shape == (3762, 3, 64, 64)
    assert data.bags.shape == (3762, 497) and data.labels.shape == (3762, 27)
    sizes = {name: len(data.split[name]) for name in ("query", "database", "train", "validation")}
    assert sizes == {"query": 500, "database": 3262, "train": 2200, "validation": 200}
    assert data.words == tuple(sorted(data.words)) and data.label_names[0] == "animal"
    assert data.bags.sum() == 11461 and (~data.bags.any(1)).sum() == 80
    assert data.labels.sum() == 6158
    assert data.ids[:3].tolist() == [1, 3, 6]
    assert data.texts[0] == "biology dna double gene genetics helix study"
    assert data.creators[0] == "Anthony Liekens"


def test_all_but_the_decoded_pictures_is_pinned(data):
    split = data.split
    assert sha256(data.bags, data.labels, data.ids) == BAGS_LABELS_IDS
    assert sha256(split.query, split.database, split.train, split.validation) == SPLIT


def test_pictures_are_pictures(data):
    # Decoders may differ in the last bit, so means, not bytes: white ground, some ink.
    assert data.images.mean() == pytest.approx(MEAN, abs=0.5)
    assert (data.images.max((1, 2, 3)) - data.images.min((1, 2, 3)) > 20).all()  # none is blank
    raw = read_packed()["image"][7].as_py()
    alone = Image.open(io.BytesIO(raw)).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(data.images[7], np.asarray(alone).transpose(2, 0, 1))


def test_no_group_on_both_sides(data):
    groups, split = data.groups, data.split
    assert not set(groups[split.query]) & set(groups[split.database])
    rest = np.setdiff1d(np.arange(len(data)), split.validation)
    assert not set(groups[split.validation]) & set(groups[rest])


def test_chance_is_the_documented_one(data):
    assert data.relevant_rate("i2t") == pytest.approx(0.1240, abs=5e-5)
    assert data.chance("i2t") == data.chance("i2i") == pytest.approx(0.12610, abs=5e-6)
    assert data.chance("t2i") == pytest.approx(0.12485, abs=5e-6)  # 9 queries have no word
    assert len(data.positions("query", "text")) == 491


def test_the_original_size_is_the_decoded_file():
    data = load_openclipart27(image_side=96, validation=0)
    raw = read_packed()["image"][0].as_py()
    np.testing.assert_array_equal(
        data.images[0], np.asarray(Image.open(io.BytesIO(raw))).transpose(2, 0, 1)
    )
    assert len(data.split.train) == 2400 and len(data.split.validation) == 0


def test_validation_follows_the_seed_and_nothing_else_does(data):
    other = load_openclipart27(image_side=8, seed=1)
    assert other.split.validation.tolist() != data.split.validation.tolist()
    assert len(other.split.validation) == 200
    np.testing.assert_array_equal(other.bags, data.bags)
    again = load_openclipart27()
    assert again.digest == data.digest != other.digest


def test_min_count_sets_the_vocabulary(data):
    fewer = load_openclipart27(image_side=8, min_count=10)
    counts = Counter(w for i in np.flatnonzero(_learned(data)) for w in data.texts[i].split())
    assert set(fewer.words) == {word for word, count in counts.items() if count >= 10}
    assert set(fewer.words) < set(data.words)


def _learned(data):
    learned = np.zeros(len(data), dtype=bool)
    learned[data.split.train] = learned[data.split.validation] = True
    return learned


def test_the_harder_text(data, harder):
    assert harder.name == "openclipart27-harder"
    assert harder.words == data.words
    assert harder.bags.sum(1).mean() == pytest.approx(1.113, abs=5e-4)
    assert (~harder.bags.any(1)).sum() == 1288
    assert (harder.bags <= data.bags).all()
    np.testing.assert_array_equal(harder.labels, data.labels)
    np.testing.assert_array_equal(harder.split.train, data.split.train)
    plant = data.label_names.index("plant")
    for words, label in zip(harder.texts, data.labels[:, plant], strict=True):
        assert not (label and "plant" in words.split())


def test_keywords_by_hand():
    words = [["dog", "red"]] * 11 + [["dog", "cat", "red"], ["cat", "tool"], ["red"]]
    labels = [["animal"]] * 12 + [["animal", "office-tool"], ["office-tool"]]
    assert keywords_of(words, labels) == {
        "animal": {"animal", "dog"},  # "cat" is too rare, "red" also occurs elsewhere
        "office-tool": {"office", "tool"},
    }


def test_a_damaged_file_is_named(tmp_path):
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == SHA256
    copy = tmp_path / "copy.parquet"
    shutil.copyfile(FILE, copy)
    assert read_packed(copy).num_rows == 3762
    content = bytearray(copy.read_bytes())
    content[5_000_000] ^= 1
    copy.write_bytes(content)
    with pytest.raises(DataError, match=rf"copy\.parquet is damaged.*expected {SHA256}"):
        read_packed(copy)
    with pytest.raises(DataError, match=r"cannot read .*absent\.parquet: No such file"):
        read_packed(tmp_path / "absent.parquet")


def test_the_license_travels_with_the_file():
    metadata = read_packed().schema.metadata
    assert b"public-domain mark" in metadata[b"license"]
    assert "public-domain mark" in FILE.with_suffix(".md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_side": 4}, r"image_side must be an integer in 8\.\.512, got 4"),
        ({"image_side": 64.0}, r"image_side must be an integer in 8\.\.512, got 64\.0"),
        ({"image_side": True}, "image_side must be an integer"),
        ({"text": "hard"}, "text must be 'full' or 'harder', got 'hard'"),
        ({"min_count": 0}, "min_count must be an integer in 1"),
        ({"validation": -1}, r"validation must be an integer in 0\.\.1000"),
        ({"seed": -1}, "seed must be an integer"),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        load_data("openclipart27", **options)


def test_unknown_names_get_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'openclipart27'"):
        load_data("openclipart")
    with pytest.raises(UnknownNameError, match=r"option .*'image_size': did you mean 'image_side'"):
        load_data("openclipart27", image_size=64)


def test_the_registry_describes_its_loader():
    entry = DATASETS["openclipart27"]
    assert entry.shipped and entry.license == "public domain"
    assert entry.options["image_side"] == 64 and entry.options["text"] == "full"
    assert hamward.data.__all__ == sorted(hamward.data.__all__)
    with pytest.raises(TypeError):
        DATASETS["mine"] = entry


def test_loading_never_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path(hamward.data.__file__).parent
    before = {f: f.stat().st_mtime_ns for f in folder.iterdir() if f.is_file()}
    state = torch.random.get_rng_state()
    load_data("openclipart27", image_side=8)
    assert {f: f.stat().st_mtime_ns for f in folder.iterdir() if f.is_file()} == before
    assert not list(tmp_path.iterdir())
    assert torch.equal(state, torch.random.get_rng_state())
