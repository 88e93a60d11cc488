"""Published MAPs are told apart by certainty; ours stand beside them only where they belong."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hamward.artifacts import write_json
from hamward.cli.listing import show
from hamward.errors import ArtifactError, ConfigError
from hamward.evaluation.published import Ours, Published, our_maps, published_maps
from hamward.training import OBJECTIVES


def test_every_table_is_of_a_victim_and_no_cell_is_given_twice() -> None:
    tables = published_maps()
    assert {t.victim for t in tables} <= set(OBJECTIVES)
    assert not published_maps("fpad"), "its tables could not be read"
    cells = Counter(
        (t.victim, t.source, data, direction, bits)
        for t in tables
        for data, directions in t.maps.items()
        for direction in directions
        for bits in t.bits
    )
    assert max(cells.values()) == 1 and len(cells) > 200


def test_values_stand_under_their_bits() -> None:
    """Spot checks against the sources; a column shifted by one would be seen."""
    by_source = {(t.victim, t.source): t for t in published_maps()}
    ssah = by_source["ssah", "SSAH paper (CVPR 2018), CNN-F"]
    assert ssah.bits == (16, 32, 64) and ssah.status == "seen"
    assert ssah.maps["nus-wide"]["i2t"] == [0.642, 0.636, 0.639]
    own = by_source["dcmh", "DCMH paper (CVPR 2017)"]
    assert own.status == "unverified" and own.maps["mirflickr"]["t2i"][1] == 0.7900
    djsrh = published_maps("djsrh")[0]
    assert djsrh.bits[-1] == 128 and djsrh.maps["mirflickr"]["i2t"][-1] == 0.876
    assert "@50" in djsrh.metric


def test_rows_that_are_no_maps_are_refused() -> None:
    good: dict[str, Any] = {"source": "s", "status": "seen", "metric": "m", "bits": (16,)}
    Published(victim="v", maps={"d": {"i2t": [0.5]}}, **good)
    for maps in ({"d": {"i2t": [0.5, 0.6]}}, {"d": {"i2x": [0.5]}}, {"d": {"i2t": [55.0]}}):
        with pytest.raises(ConfigError, match="is no row of MAPs"):
            Published(victim="v", maps=maps, **good)


def card(folder: Path, **values: Any) -> None:
    facts = {
        "method": "dcmh",
        "data": "mirflickr",
        "code_length": 32,
        "retrieval": "hamming",
        "scores": {"i2t": {"map": 0.7123}, "t2i": {"map": 0.7456}},
    }
    write_json(folder / "card.json", {**facts, **values})


def test_ours_stand_beside_the_same_data_bits_and_direction_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    card(tmp_path / "a")
    card(tmp_path / "b", data="/somewhere/mirflickr", code_length=64)
    card(tmp_path / "hard", hardened=[{"defense": "cmla"}])
    card(tmp_path / "other", data="openclipart27")
    card(tmp_path / "real", retrieval="cosine")
    found = our_maps([tmp_path])
    assert found["dcmh", "mirflickr", "i2t", 32] == [Ours(run="a", map=0.7123)]
    assert found["dcmh", "mirflickr", "t2i", 64] == [Ours(run="b", map=0.7456)]
    assert ("dcmh", "mirflickr", "i2t", 0) in found, "real-valued"
    assert our_maps([tmp_path / "a"]).keys() < found.keys()

    show("dcmh", runs=(tmp_path,))
    lines = capsys.readouterr().out.splitlines()
    ours = [[c.strip() for c in line.split("│")[1:-1]] for line in lines if "│ ours" in line]
    assert len(ours) == 6, "three data sets, two directions"
    filled = {(row[0], row[1]): row[5:] for row in ours if any(row[5:])}
    assert filled == {
        ("mirflickr", "i2t"): ["", "0.712 (a)", "", "0.712 (b)"],
        ("mirflickr", "t2i"): ["", "0.746 (a)", "", "0.746 (b)"],
    }
    text = "\n".join(lines)
    assert "0.7465" in text and "unverified" in text and "CVPR 2017" in text

    show("victims")
    assert "published clean MAP" not in capsys.readouterr().out
    show("victims", published=True)
    text = capsys.readouterr().out
    assert "fpad: no published clean MAP" in text and "│ ours" not in text


def test_a_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no victim's run folder, and none in it"):
        our_maps([tmp_path])
    write_json(tmp_path / "card.json", {"method": "dcmh"})
    with pytest.raises(ArtifactError, match=r"card.json: lacks \['code_length'"):
        our_maps([tmp_path])
