import csv
import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from make_folder import make_folder, make_rows, write_csv, write_picture
from PIL import Image

from hamward.attacks import OwnCode
from hamward.data import RetrievalData, decoding, load_data, preparing
from hamward.data.audit import audit
from hamward.data.folder import read_folder
from hamward.data.pictures import open_picture, square
from hamward.data.prepared import open_prepared, prepared_sets, read_manifest, verify_files
from hamward.data.preparing import PrepareConfig, prepare
from hamward.data.source import Source
from hamward.data.words import tokens, vocabulary
from hamward.errors import ArtifactError, ConfigError, DataError, UnknownNameError
from hamward.evaluation import evaluate
from hamward.evaluation.configs import TrainConfig
from hamward.evaluation.scoring import validation_scores
from hamward.evaluation.training_runs import train_run
from hamward.models import ModelSpec, build_hash_model
from hamward.training import FitConfig

CONFIG = PrepareConfig(image_side=16, queries=6, train=20, validation=4, min_count=1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "pets")


@pytest.fixture
def source(root: Path) -> Source:
    return read_folder(root)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_CHUNK_ROWS", 8)


def files_of(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.name != "manifest.json"}


def test_a_prepared_set_is_the_set(source, tmp_path):
    data = prepare(source, tmp_path / "out", config=CONFIG)
    assert repr(data).startswith("RetrievalData('pets', 40 items: query 6, database 34")
    assert len(data.split.train) == 16 and len(data.split.validation) == 4
    assert data.image_side == 16 and data.label_names == ("car", "cat", "dog", "tree")
    assert data.words == ("a", "and", "car", "cat", "dog", "seen", "tree")
    assert list(data.texts) == list(source.texts) and data.texts[-1] == source.texts[-1]
    assert data.texts[1:3] == source.texts[1:3] and data.sources[7] == "7.jpg"
    assert isinstance(data.images, np.memmap)
    for i in (0, 17, 39):
        np.testing.assert_array_equal(data.images[i], square(source.pictures.read(i), 16))
        assert {data.words[j] for j in np.flatnonzero(data.bags[i])} == set(tokens(data.texts[i]))
    in_memory = RetrievalData(
        name="copy",
        images=np.array(data.images),
        bags=np.array(data.bags),
        texts=tuple(data.texts),
        labels=np.array(data.labels),
        words=data.words,
        label_names=data.label_names,
        ids=data.ids,
        split=data.split,
    )
    assert in_memory.digest == data.digest  # the same content is the same set, however stored
    verify_files(tmp_path / "out")
    assert not (tmp_path / "out" / ".preparing").exists()


def test_the_manifest_proves_what_was_read(source, tmp_path):
    data = prepare(source, tmp_path / "out", config=CONFIG, read_by={"importer": "folder"})
    manifest = read_manifest(tmp_path / "out")
    assert manifest["digest"] == data.digest and manifest["split_digest"] == data.split_digest
    assert manifest["protocol"]["name"] == "random" and manifest["protocol"]["seed"] == 0
    assert manifest["protocol"]["counts"]["query"] == 6
    assert manifest["sources"][0]["size"] == source.files[0].stat().st_size
    assert len(manifest["sources"][0]["sha256"]) == 64
    assert manifest["pictures"]["files"] == 40
    assert manifest["environment"]["packages"]["hamward"]
    assert manifest["read_by"] == {"importer": "folder"}
    assert data.protocol == "random, seed 0"


def test_the_vocabulary_is_that_of_the_training_texts(root, tmp_path):
    rows = make_rows(40)
    rows = [[*row, "query" if i < 6 else "train"] for i, row in enumerate(rows)]
    rows[0][1] = "secret word of a query dog cat"
    write_csv(root / "captions.csv", rows, ("file", "caption", "labels", "split"))
    config = replace(CONFIG, protocol="file", queries=None, train=None)
    data = prepare(read_folder(root), tmp_path / "out", config=config)
    assert "secret" not in data.words and "dog" in data.words
    assert data.split.query.tolist() == list(range(6))
    assert vocabulary(["b a", "a", "c c"], min_count=2) == ("a",)
    assert vocabulary(["b a", "a", "c c"], min_count=1, max_words=2) == ("a", "b")


def test_damage_is_found(source, tmp_path):
    out = tmp_path / "out"
    prepare(source, out, config=CONFIG)
    content = (out / "images.npy").read_bytes()
    flipped = bytearray(content)
    flipped[4000] ^= 1
    (out / "images.npy").write_bytes(flipped)
    open_prepared(out)  # opens: nothing is read
    with pytest.raises(ArtifactError, match=r"images\.npy: damaged: sha256"):
        verify_files(out)
    (out / "images.npy").write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match=r"images\.npy: damaged: \d+ bytes, the manifest says"):
        open_prepared(out)
    (out / "images.npy").write_bytes(content)
    (out / "bag_words.npy").unlink()
    with pytest.raises(ArtifactError, match=r"bag_words\.npy: cannot be read"):
        open_prepared(out)
    (out / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="not a readable JSON file"):
        open_prepared(out)
    (out / "manifest.json").write_text(json.dumps({"schema_version": 1, "name": "x"}))
    with pytest.raises(ArtifactError, match="lacks"):
        open_prepared(out)
    with pytest.raises(ArtifactError, match="no prepared set"):
        open_prepared(tmp_path)


@dataclass(frozen=True, kw_only=True)
class Breaking:
    """Pictures that a fault stops."""

    stop: int
    error: BaseException
    seen: list[int]

    def __len__(self) -> int:
        return 40

    def read(self, position: int) -> Image.Image:
        if position == self.stop:
            raise self.error
        self.seen.append(position)
        return Image.new("RGB", (20, 30), (position, 0, 0))


@pytest.mark.usefixtures("small_chunks")
def test_an_interrupted_preparation_goes_on_to_the_same_bytes(source, tmp_path):
    whole = replace(source, pictures=Breaking(stop=-1, error=OSError(), seen=[]))
    prepare(whole, tmp_path / "whole", config=CONFIG)
    broken = Breaking(stop=30, error=KeyboardInterrupt(), seen=[])
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare(replace(source, pictures=broken), out, config=CONFIG, threads=1)
    with pytest.raises(ArtifactError, match="interrupted: run `hamward data prepare` again"):
        load_data(str(out))
    with pytest.raises(ArtifactError, match="holds an unfinished preparation already"):
        prepare(whole, out, config=CONFIG)
    with pytest.raises(ArtifactError, match=r"cannot resume: .* \(differing: config\)"):
        prepare(whole, out, config=replace(CONFIG, image_side=24), resume=True)
    journal = out / ".preparing" / "chunks.jsonl"
    assert [json.loads(line)["chunk"] for line in journal.read_text().splitlines()] == [0, 1, 2]
    with journal.open("a") as log:
        log.write('{"chunk": 3, "cr')  # a line torn by the kill
    with (out / "images.npy").open("r+b") as handle:  # a row lost with the page cache
        handle.seek(128 + 9 * 3 * 16 * 16)
        handle.write(b"lost")
    rest = Breaking(stop=-1, error=OSError(), seen=[])
    data = prepare(replace(source, pictures=rest), out, config=CONFIG, resume=True)
    assert sorted(rest.seen) == [*range(8, 16), *range(24, 40)]
    assert files_of(out) == files_of(tmp_path / "whole")
    again = prepare(whole, out, config=CONFIG, resume=True)  # finished: only opened
    assert again.digest == data.digest == open_prepared(tmp_path / "whole").digest


def test_a_kill_leaves_nothing_that_opens_and_is_resumed(root, tmp_path):
    program = """
        import os, signal, sys
        from pathlib import Path
        from hamward.data import decoding, pictures
        from hamward.data.folder import read_folder
        from hamward.data.preparing import PrepareConfig, prepare
        decoding._CHUNK_ROWS = 8
        count, whole = [0], decoding.square
        def square(picture, side):
            count[0] += 1
            if count[0] == 21:
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(picture, side)
        decoding.square = square
        config = PrepareConfig(image_side=16, queries=6, train=20, validation=4, min_count=1)
        prepare(read_folder(Path(sys.argv[1])), Path(sys.argv[2]), config=config, threads=1)
    """
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program), root, out], check=False)
    assert done.returncode == -9
    with pytest.raises(ArtifactError, match="interrupted"):
        open_prepared(out)
    data = prepare(read_folder(root), out, config=CONFIG, resume=True)
    assert data.digest == prepare(read_folder(root), tmp_path / "b", config=CONFIG).digest


@pytest.mark.parametrize("call", ["pwrite", "posix_fallocate"])
def test_a_full_disk_is_said_and_leaves_nothing_that_opens(source, tmp_path, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(DataError, match=r"the disk is full .* run again with --resume"):
            prepare(source, out, config=CONFIG)
    with pytest.raises(ArtifactError, match="interrupted"):
        open_prepared(out)
    monkeypatch.setattr(preparing.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(DataError, match=r"40 pictures of side 512 need 0\.0 GB, the disk has"):
        prepare(source, tmp_path / "b", config=replace(CONFIG, image_side=512))
    monkeypatch.undo()
    assert len(prepare(source, out, config=CONFIG, resume=True)) == 40


def test_folders_that_hold_something_else_are_left_alone(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match="not empty and no prepared set"):
        prepare(source, out, config=CONFIG)
    with pytest.raises(ArtifactError, match="not a folder"):
        prepare(source, out / "thesis.tex", config=CONFIG)
    assert [f.name for f in out.iterdir()] == ["thesis.tex"]
    prepare(source, tmp_path / "b", config=CONFIG)
    with pytest.raises(ArtifactError, match="holds a prepared set already"):
        prepare(source, tmp_path / "b", config=CONFIG)


@pytest.mark.usefixtures("small_chunks")
def test_bad_pictures_stop_or_are_skipped_and_listed(root, tmp_path):
    (root / "11.jpg").write_bytes((root / "11.jpg").read_bytes()[:300])
    (root / "30.jpg").write_text("not found")
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"11\.jpg \(named in captions\.csv line 13\): not a read"):
        prepare(read_folder(root), out, config=CONFIG)
    data = prepare(read_folder(root), out, config=CONFIG, resume=True, skip_bad=True)
    assert len(data) == 38 and 11 not in data.ids and 30 not in data.ids
    position = int(np.flatnonzero(data.ids == 31)[0])
    expected = square(open_picture((root / "31.jpg").read_bytes()), 16)
    np.testing.assert_array_equal(data.images[position], expected)
    assert data.sources[position] == "31.jpg" and data.texts[position] == make_rows(32)[31][1]
    verify_files(out)
    with (out / "skipped.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [Path(row["file"]).name for row in rows] == ["11.jpg", "30.jpg"]
    assert read_manifest(out)["counts"]["skipped"] == 2


def test_sources_that_cannot_be_used_say_why(source, tmp_path):
    for changes, message in (
        ({"pictures": None}, r"has no pictures\. It can be read .* but not prepared"),
        (
            {"pictures": None, "features": np.zeros((40, 9), np.float32)},
            "only features of width 9",
        ),
        (
            {
                "labels": np.zeros((40, 0), np.uint8),
                "label_names": (),
                "texts": ("",) * 40,
            },
            "has neither labels nor texts",
        ),
        ({"labels": np.zeros((40, 4), np.uint8)}, "no item has a label"),
        ({"texts": ("...",) * 40}, "no word occurs in 1 of the 20 training texts"),
    ):
        with pytest.raises(DataError, match=message):
            prepare(replace(source, **changes), tmp_path / "out" / str(len(message)), config=CONFIG)
    labels = source.labels.copy()
    labels[5] = 0
    bare = replace(source, labels=labels)
    with pytest.raises(DataError, match=r"1 of 40 items have no label, first ids \[5\].*--keep-un"):
        prepare(bare, tmp_path / "bare", config=CONFIG)
    assert not (tmp_path / "bare").exists()  # said before the work
    assert len(prepare(bare, tmp_path / "skip", config=CONFIG, skip_bad=True)) == 39
    kept = prepare(bare, tmp_path / "keep", config=replace(CONFIG, keep_unlabeled=True))
    assert len(kept) == 40 and not kept.labels[5].any()
    assert audit(kept)["labels"]["items_without"] == 1
    assert len(kept.subset(np.arange(20))) == 20
    with pytest.raises(ConfigError, match=r"image_side must be in 8\.\.1024, got 4"):
        PrepareConfig(image_side=4)


def test_pictures_with_labels_alone_make_a_set_of_one_modality(source, tmp_path):
    data = prepare(replace(source, texts=("",) * 40), tmp_path / "out", config=CONFIG)
    assert data.words == () and data.bags.shape == (40, 0) and data.modalities == ("image",)
    assert data.directions == ("i2i",) and 0 < data.chance("i2i") < 1
    verify_files(tmp_path / "out")
    facts = audit(open_prepared(tmp_path / "out"))
    assert facts["texts"]["without_words"] == 40 and set(facts["chance_map"]) == {"i2i"}
    assert any("no texts" in note for note in read_manifest(tmp_path / "out")["notes"])
    config = TrainConfig(data=str(tmp_path / "out"), fit=FitConfig(epochs=1, batch_size=8))
    with pytest.raises(ConfigError, match=r"has no texts: train a model that reads pictures only"):
        train_run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    spec = ModelSpec(
        code_length=8, vocabulary=1, image_side=16, image_network="tiny-resnet", text_network=""
    )
    model = build_hash_model(spec, seed=0)
    assert set(validation_scores(model, data)) == {"i2i", "select"}
    result = evaluate({"v": model}, data, {"own-code": OwnCode(steps=1)})
    assert {row.direction for row in result.rows} == {"i2i"}


def test_a_sources_own_words_and_groups_are_kept(source, tmp_path):
    bags = np.zeros((40, 3), np.uint8)
    bags[:, 1] = 1
    own = replace(
        source, bags=bags, words=("x", "y", "z"), groups=np.arange(40, dtype=np.int64) // 2
    )
    data = prepare(own, tmp_path / "out", config=CONFIG)
    assert data.words == ("x", "y", "z") and data.bags.sum() == 40
    assert data.groups.tolist() == own.groups.tolist()
    assert not set(data.groups[data.split.query]) & set(data.groups[data.split.database])


def test_sets_are_found_by_folder_and_by_name(source, tmp_path, monkeypatch):
    monkeypatch.setenv("HAMWARD_DATA", str(tmp_path / "home"))
    assert prepared_sets() == {}
    prepare(source, tmp_path / "home" / "pets", config=CONFIG)
    by_name = load_data("pets")
    assert by_name.digest == load_data(str(tmp_path / "home" / "pets")).digest
    assert load_data("pets", image_side=16).digest == by_name.digest
    with pytest.raises(ConfigError, match="a prepared set has no options"):
        load_data("pets", image_side=32)
    with pytest.raises(UnknownNameError, match="did you mean 'pets'"):
        load_data("pet")
    with pytest.raises(ArtifactError, match=r"it has no manifest\.json"):
        load_data(str(tmp_path))


def test_a_smaller_copy_stays_on_disk(source, tmp_path):
    data = prepare(source, tmp_path / "out", config=CONFIG)
    few = data.limit(queries=3)
    assert isinstance(few.images, np.memmap) and len(few.split.query) == 3
    assert few.digest != data.digest and few.digest == data.limit(queries=3).digest
    assert data.limit(queries=99).digest == data.digest
    part = data.subset(np.union1d(few.split.query, few.split.database))
    assert len(part) == 37 and part.texts == tuple(
        data.texts[i] for i in np.union1d(few.split.query, few.split.database)
    )


def test_opening_reads_no_item(source, tmp_path, monkeypatch):
    prepare(source, tmp_path / "out", config=CONFIG)
    out = tmp_path / "out"
    for name, count in (("images", 40 * 3 * 16 * 16), ("bag_words", 8), ("labels", 40)):
        content = bytearray((out / f"{name}.npy").read_bytes())
        content[-count:] = b"\xff" * count
        (out / f"{name}.npy").write_bytes(content)
    (out / "items.arrow").write_bytes(bytes((out / "items.arrow").stat().st_size))
    start = time.perf_counter()
    data = open_prepared(out)
    assert time.perf_counter() - start < 0.5
    with pytest.raises(ArtifactError, match=r"items\.arrow: damaged"):
        data.texts[0]


def test_pictures_are_cut_to_the_middle_and_drafts_stay_close(tmp_path):
    wide = Image.new("RGB", (300, 100), (0, 0, 0))
    wide.paste((255, 255, 255), (100, 0, 200, 100))
    assert square(wide, 10).mean() > 250  # squeezing instead of cutting gives 85
    assert square(wide.rotate(90, expand=True), 10).mean() > 250
    write_picture(tmp_path / "a.jpg", 3, size=(500, 375))
    content = (tmp_path / "a.jpg").read_bytes()
    draft = open_picture(content, at_least=64)
    assert min(draft.size) >= 128 and draft.size != (500, 375)
    difference = square(draft, 64).astype(int) - square(open_picture(content), 64)
    assert np.abs(difference).mean() < 1 and np.abs(difference).max() <= 8


def test_the_audit_finds_copies_across_the_split(root, tmp_path):
    rows = [[*row, "query" if i < 6 else "train"] for i, row in enumerate(make_rows(40))]
    shutil.copy(root / "0.jpg", root / "20.jpg")  # a query's exact copy among the training items
    with Image.open(root / "1.jpg") as picture:  # and another's, compressed again
        picture.save(root / "21.jpg", quality=60)
    shutil.copy(root / "30.jpg", root / "31.jpg")  # a copy on one side harms nobody
    rows[0][2] = "zebra"
    write_csv(root / "captions.csv", rows, ("file", "caption", "labels", "split"))
    config = replace(CONFIG, protocol="file", queries=None, train=None)
    data = prepare(read_folder(root), tmp_path / "out", config=config)
    facts = audit(data)
    assert facts["copies"] == {"items": 4, "queries": 1, "pairs": [[0, 20]]}
    assert facts["near_copies"] == {"queries": 2, "pairs": [[0, 20], [1, 21]]}
    assert facts["labels"]["without_train"] == ["zebra"]
    assert facts["labels"]["queries_without_relevant"] == 1
    assert facts["texts"]["queries_with_copied_text"] == 6
    assert facts["groups_on_both_sides"] is None
    assert 0 < facts["chance_map"]["i2t"] < 1
    json.dumps(facts)
