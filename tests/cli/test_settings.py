from pathlib import Path

import pytest

from hamward.attacks import TagEdits
from hamward.cli.settings import assemble, attack_options, attack_words, unique_names
from hamward.errors import ConfigError
from hamward.evaluation.runs import make_attack


def test_later_sources_win_and_tables_are_made(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("seed = 1\n[fit]\nepochs = 1\nbatch_size = 4\n")
    values = assemble(
        file,
        ["fit.epochs=2", "a.b.c=x", "fit.seed=5"],
        {"fit.seed": 7, "fit.batch_size": None},
        {"text-eps": "4/255", "steps": "3"},
    )
    assert values == {
        "seed": 1,
        "fit": {"epochs": 2, "batch_size": 4, "seed": 7},
        "a": {"b": {"c": "x"}},
        "options": {"text_eps": "4/255", "steps": 3},
    }
    assert assemble(None, None, {}, {}) == {}


def test_a_value_may_hold_an_equals_sign() -> None:
    assert assemble(None, ["name=a=b"], {}, {}) == {"name": "a=b"}


def test_attack_words_are_labelled_by_what_was_asked() -> None:
    words = ["own-code:eps=4/255,text-eps=0.1,steps=20", "own-code:eps=8/255", "cmla"]
    assert attack_words(words) == {
        "own-code@eps=4/255,text-eps=0.1,steps=20": {
            "attack": "own-code",
            "eps": "4/255",
            "text_eps": 0.1,
            "steps": 20,
        },
        "own-code@eps=8/255": {"attack": "own-code", "eps": "8/255"},
        "cmla": {"attack": "cmla"},
    }


def test_a_list_of_words_reaches_an_attack() -> None:
    given = attack_words(["tag-edits:words=3,4,beam=2", "tag-edits:words=5"])
    made = [make_attack(name, options) for name, options in given.items()]
    assert made == [TagEdits(words=(3, 4), beam=2), TagEdits(words=(5,))]
    assert make_attack("tag-edits", attack_options({"words": "3,4"})) == TagEdits(words=(3, 4))
    with pytest.raises(ConfigError, match=r"--attack takes NAME:KEY=VALUE,\.\.\., got 'cmla:3'"):
        attack_words(["cmla:3"])
    with pytest.raises(ConfigError, match=r"tag-edits: words\[1\] must be int, got str 'sky'"):
        make_attack("tag-edits", attack_options({"words": "3,sky"}))


def test_options_of_an_attack_do_not_name_another() -> None:
    assert attack_options({"text-eps": "0.1"}) == {"text_eps": 0.1}
    with pytest.raises(ConfigError, match="unknown key 'attack'"):
        attack_options({"attack": "cmla"})


def test_victims_are_named_by_their_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert unique_names([Path("a/b"), Path("c")]) == {"b": "a/b", "c": "c"}
    assert unique_names([Path(".")]) == {tmp_path.name: "."}
    with pytest.raises(ConfigError, match=r"distinct folder names, got \['b', 'b'\]"):
        unique_names([Path("a/b"), Path("c/b")])
    with pytest.raises(ConfigError, match="at least one victim"):
        unique_names([])
