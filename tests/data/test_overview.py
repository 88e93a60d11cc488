import json

import numpy as np
import pytest
from make_data import make_data

from hamward.data import contact_sheet, describe
from hamward.data.drawing import _CARD, _PICTURE, _chip_lines, _chips_width, _font, _wrap
from hamward.errors import ConfigError


def test_facts_by_hand():
    data = make_data()
    facts = json.loads(json.dumps(describe(data)))
    assert facts["items"] == 8 and facts["vocabulary"] == 3 and facts["labels"] == 2
    assert facts["digest"] == data.digest
    assert facts["items_without_words"] == 2
    assert facts["words_per_item"] == 10 / 8 and facts["labels_per_item"] == 10 / 8
    assert facts["splits"]["query"] == {
        "items": 3,
        "without_words": 1,
        "labels": {"red": 2, "blue": 2},
    }
    assert facts["splits"]["database"]["labels"] == {"red": 3, "blue": 3}
    assert facts["splits"]["validation"]["items"] == 1
    assert facts["chance_map"]["t2i"] == data.chance("t2i")
    assert facts["relevant_rate"]["i2t"] == 11 / 15


def test_a_sheet_is_the_same_for_the_same_seed():
    data = make_data()
    sheet = contact_sheet(data, seed=3, rows=2, columns=2)
    assert sheet.mode == "RGB" and sheet.width >= 2 * _CARD
    assert len(np.unique(np.asarray(sheet))) > 50
    assert sheet.tobytes() == contact_sheet(data, seed=3, rows=2, columns=2).tobytes()
    assert sheet.tobytes() != contact_sheet(data, seed=4, rows=2, columns=2).tobytes()


def test_a_sheet_outside_its_range_is_refused():
    with pytest.raises(ConfigError, match=r"rows must be in 1\.\.2, got 3"):
        contact_sheet(make_data(), rows=3, columns=1)
    with pytest.raises(ConfigError, match=r"columns must be in 1\.\.12, got 0"):
        contact_sheet(make_data(), rows=1, columns=0)


def test_text_stays_inside_its_card():
    font = _font(15)
    words = ["x" * 60, "short", "y" * 60, "never"]
    lines = _wrap(words, font, _PICTURE, lines=2)
    assert len(lines) == 2 and lines[0].endswith("…") and lines[1].endswith("…")
    assert all(font.getlength(line) <= _PICTURE for line in lines)
    assert _wrap([], font, _PICTURE, lines=2) == []
    chips = _chip_lines(["africa-asia-oceania", "flag", "office-education", "map", "people", "sky"])
    assert len(chips) == 2 and chips[-1][-1].startswith("+")
    assert all(_chips_width(line) <= _PICTURE for line in chips)
    assert sum(map(len, chips)) - 1 + int(chips[-1][-1]) == 6
