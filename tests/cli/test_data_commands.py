from pathlib import Path

import numpy as np
import pytest
import torch
from make_folder import make_folder, make_rows, write_csv

from hamward.artifacts import read_tensors
from hamward.cli.app import main
from hamward.data import load_data
from hamward.data.words import tokens

OPTIONS = ["--queries", "8", "--train", "40", "--validation", "6", "--min-count", "1"]


def run(*arguments: object) -> int:
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "pets", 60)


def test_a_folder_is_prepared_checked_trained_on_and_attacked(root, tmp_path, capsys):
    out = tmp_path / "set"
    options = [*OPTIONS, "--image-side", "16", "--threads", "1"]
    assert run("data", "prepare", "folder", "--root", root, "--out", out, *options) == 0
    printed = capsys.readouterr()
    assert "column 'caption', guessed" in printed.err
    assert "protocol" in printed.out and f"--data {out}" in printed.out.replace("\n", "")
    assert run("data", "prepare", "folder", "--root", root, "--out", out, *options) == 2
    assert "holds a prepared set already" in capsys.readouterr().err
    assert run("data", "prepare", "folder", "--root", root, "--out", out, *options, "--resume") == 0
    capsys.readouterr()
    assert run("data", "check", out, "--threads", "1") == 0
    assert '"without_words": 0' in capsys.readouterr().out
    assert run("data", "info", out) == 0
    victim = tmp_path / "victim"
    network = ["--image-network", "tiny-resnet", "--set", "model.text_width=16", "--threads", "1"]
    arguments = ["--data", out, "--out", victim, "--epochs", "1", "--batch-size", "8", *network]
    assert run("train", "dcmh", *arguments) == 0
    attack = ["--victim", victim, "--queries", "4", "--steps", "1", "--threads", "1"]
    assert run("attack", "own-code", *attack, "--out", tmp_path / "attack") == 0
    assert "4 queries, 52 database items" in capsys.readouterr().out
    attack[3] = 8
    for method, options in (("own-code", []), ("tag-edits", ["--insertions", 1])):
        name = tmp_path / method
        words = ["attack", method, *attack[:4], *options, "--out", name, "--threads", 1]
        assert run(*words, "--no-diagnose") == 0
        exported = name / "pictures" / "victim" / method
        assert run("data", "prepare", "folder", "--root", exported, "--out", name / "set",
                   "--queries", 2, "--train", 4, "--validation", 1, "--min-count", 1,
                   "--image-side", 16, "--threads", 1) == 0  # fmt: skip
        side = "text" if method == "tag-edits" else "image"
        stored = read_tensors(name / "adversarial" / "victim" / f"{method}-{side}.safetensors")
        original, again = load_data(str(out)), load_data(str(name / "set"))
        assert again.ids.tolist() == sorted(stored["ids"].tolist())
        places = [int(np.flatnonzero(original.ids == i)[0]) for i in again.ids]
        rows = [stored["ids"].tolist().index(i) for i in again.ids.tolist()]
        made = stored["x_adv"][rows]
        if method == "own-code":
            assert np.array_equal(again.images, (made * 255).round().to(torch.uint8).numpy())
            assert [again.texts[i] for i in range(8)] == [original.texts[i] for i in places]
        else:
            assert np.array_equal(again.images, original.images[places])
            expected = [{w for w, x in zip(original.words, bag, strict=True) if x} for bag in made]
            held = [{*tokens(text)} & {*original.words} for text in again.texts]
            assert held == expected and list(again.texts) != [original.texts[i] for i in places]
    (out / "manifest.json").unlink()
    assert run("attack", "own-code", *attack, "--out", tmp_path / "again") == 2
    assert "no prepared set" in capsys.readouterr().err


def test_a_victim_is_not_scored_on_another_split(root, tmp_path, capsys):
    out, victim = tmp_path / "set", tmp_path / "victim"
    options = [*OPTIONS, "--image-side", "16", "--threads", "1"]
    run("data", "prepare", "folder", "--root", root, "--out", out, *options)
    network = ["--image-network", "tiny-resnet", "--set", "model.text_width=16", "--threads", "1"]
    arguments = ["--data", out, "--out", victim, "--epochs", "1", "--batch-size", "8", *network]
    assert run("train", "dcmh", *arguments) == 0
    out.rename(tmp_path / "old")
    run("data", "prepare", "folder", "--root", root, "--out", out, *options, "--seed", "5")
    attack = ["--victim", victim, "--queries", "4", "--threads", "1", "--out", tmp_path / "a"]
    capsys.readouterr()
    assert run("attack", "own-code", *attack) == 2
    assert "may be among the items it was trained on" in capsys.readouterr().err


def test_prepared_sets_live_in_the_data_home(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HAMWARD_DATA", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    assert run("data", "list") == 0
    assert not (tmp_path / "home").exists()  # nothing is written but by prepare
    options = [*OPTIONS, "--image-side", "8", "--threads", "1"]
    assert run("data", "prepare", "folder", "--root", root, *options) == 0
    assert "--data folder" in capsys.readouterr().out
    assert run("data", "list") == 0
    assert str(tmp_path / "home" / "folder")[:30] in capsys.readouterr().out
    assert run("data", "check", "folder") == 0


def test_skipping_writes_the_list(root, tmp_path, capsys):
    (root / "3.jpg").write_text("broken")
    out = tmp_path / "set"
    arguments = ["data", "prepare", "folder", "--root", root, "--out", out, *OPTIONS]
    assert run(*arguments) == 2
    assert "3.jpg (named in captions.csv line 5): not a readable picture" in capsys.readouterr().err
    assert run(*arguments, "--skip-bad", "--resume") == 0
    assert "skipped.csv" in capsys.readouterr().out
    assert "3.jpg" in (out / "skipped.csv").read_text()


def test_mistakes_are_explained(root, tmp_path, capsys):
    for arguments, message in (
        (["foldr", "--root", root], "unknown importer 'foldr': did you mean 'folder'"),
        (["folder", "--root", tmp_path / "no"], "no such file or folder; folder needs pictures"),
        (
            ["folder", "--root", root, "--text", "x"],
            "unknown key 'folder: text': known: group_column",
        ),
        (["folder", "--root", root, "--protocol", "dmch"], "did you mean 'dcmh'"),
        (["folder", "--root", root, "--protocol", "dcmh"], "give both --queries and --train"),
        (["folder", "--root", root, "--protocol", "file"], "has no split of its own"),
        (["folder", "--root", root, "--image-side", "2"], "image_side must be in 8..1024"),
    ):
        assert run("data", "prepare", *arguments, "--out", tmp_path / "set") == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "set").exists()


def test_captions_alone_are_prepared_and_shown(root, tmp_path, capsys):
    rows = [row[:2] for row in make_rows(60)]
    write_csv(root / "captions.csv", rows, ("file", "caption"))
    out = tmp_path / "set"
    options = [*OPTIONS, "--image-side", "16", "--threads", "1"]
    assert run("data", "prepare", "folder", "--root", root, "--out", out, *options) == 0
    printed = capsys.readouterr()
    assert "label: no column, so relevance is own pair" in printed.err
    assert "own pair" in printed.out
    assert run("data", "info", out, "--picture", tmp_path / "sheet.png") == 0
    assert run("data", "check", out, "--threads", "1") == 0
    assert '"relevance": "own pair"' in capsys.readouterr().out
    network = ["--image-network", "tiny-resnet", "--set", "model.text_width=16", "--threads", "1"]
    arguments = ["--data", out, "--epochs", "1", "--batch-size", "8", *network]
    assert run("train", "dcmh", *arguments, "--out", tmp_path / "victim") == 2
    assert "dcmh learns from labels, and pets has none" in capsys.readouterr().err
    assert not (tmp_path / "victim").exists()


def test_fetch_names_archives_and_downloads_nothing(capsys):
    assert run("data", "fetch", "mirflickr") == 0
    printed = capsys.readouterr().out
    assert "mirflickr25k.zip" in printed and "a23d0a8564ee84cda5622a6c2f947785" in printed
    assert "://" not in printed
    assert run("data", "fetch", "folder") == 0
    assert "--separator" in capsys.readouterr().out
    assert run("data", "fetch", "mirflick") == 2
    assert run("data", "check", "openclipart28") == 2


def test_every_reader_has_a_command_and_every_command_a_reader():
    from hamward.data import IMPORTERS, readers

    functions = {entry.reader for entry in IMPORTERS.values()}
    assert {getattr(readers, name) for name in readers.__all__} < functions
    for name, entry in IMPORTERS.items():
        assert entry.name == name and entry.summary.endswith(".") and entry.needs
        assert "skip_bad" not in entry.options
    assert IMPORTERS["nus-wide"].items["tc21"] == 195_834
