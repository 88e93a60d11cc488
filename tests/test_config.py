from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from hamward.config import call_with, from_mapping, from_text, read_toml, to_mapping
from hamward.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    rate: float = 0.1
    steps: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    name: str
    kind: Literal["a", "b"] = "a"
    p: Literal[1, 2] = 1
    flag: bool = False
    maybe: int | None = None
    levels: tuple[int, ...] = (1, 2)
    options: dict[str, Any] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    folder: Path = Path("x")


FULL = {
    "name": "n",
    "kind": "b",
    "p": 2,
    "flag": True,
    "maybe": 4,
    "levels": [3, 4],
    "options": {"k": 1},
    "inner": {"rate": "8/255", "steps": 5},
    "folder": "a/b",
}


def test_plain_values_become_typed_ones() -> None:
    outer = from_mapping(Outer, FULL)
    assert outer == Outer(
        name="n",
        kind="b",
        p=2,
        flag=True,
        maybe=4,
        levels=(3, 4),
        options={"k": 1},
        inner=Inner(rate=8 / 255, steps=5),
        folder=Path("a/b"),
    )


def test_it_round_trips_and_defaults_fill_the_rest() -> None:
    outer = from_mapping(Outer, FULL)
    assert from_mapping(Outer, to_mapping(outer)) == outer
    assert from_mapping(Outer, {"name": "n"}) == Outer(name="n")
    assert to_mapping(outer)["levels"] == [3, 4]
    assert to_mapping(outer)["inner"] == {"rate": 8 / 255, "steps": 5}
    assert to_mapping(outer)["folder"] == "a/b"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "missing key 'name'"),
        ({"nam": "n"}, "unknown key 'nam': did you mean 'name'.*known: .*inner, kind"),
        ({"name": "n", "inner": {"step": 1}}, "unknown key 'inner.step': did you mean 'steps'"),
        ({"name": 3}, "name must be str, got int 3"),
        ({"name": "n", "kind": "c"}, r"kind must be one of \['a', 'b'\], got 'c'"),
        ({"name": "n", "p": True}, r"p must be one of \[1, 2\], got True"),
        ({"name": "n", "p": 1.0}, r"p must be one of \[1, 2\], got 1.0"),
        ({"name": "n", "flag": 1}, "flag must be true or false, got int 1"),
        ({"name": "n", "flag": "False"}, "flag must be true or false, got str 'False'"),
        ({"name": "n", "maybe": "4"}, "maybe must be int, got str '4'"),
        ({"name": "n", "maybe": True}, "maybe must be int, got bool True"),
        ({"name": "n", "levels": {}}, "levels must be a list, got {}"),
        ({"name": "n", "levels": "3,x"}, r"levels\[1\] must be int, got str 'x'"),
        ({"name": "n", "levels": "3,2.5"}, r"levels\[1\] must be int, got float 2.5"),
        ({"name": "n", "levels": True}, r"levels\[0\] must be int, got bool True"),
        ({"name": "n", "levels": [1, 2.5]}, r"levels\[1\] must be int, got float 2.5"),
        ({"name": "n", "options": 3}, "options must be a table, got 3"),
        ({"name": "n", "inner": 3}, "inner must be a table, got 3"),
        ({"name": "n", "inner": {"steps": 1.0}}, "inner.steps must be int, got float 1.0"),
        ({"name": "n", "inner": {"rate": "fast"}}, "inner.rate must be a number or a fraction"),
        ({"name": "n", "inner": {"rate": "1/0"}}, "inner.rate must be a number or a fraction"),
        ({"name": "n", "inner": {"rate": "1e400"}}, "inner.rate must be a number or a fraction"),
        ({"name": "n", "inner": {"rate": True}}, "inner.rate must be a number, got bool"),
        ({"name": "n", "inner": {"rate": float("nan")}}, "inner.rate must be finite, got nan"),
        ({"name": "n", "inner": {"rate": 10**400}}, "inner.rate must be finite, got inf"),
        ([("name", "n")], "the configuration must be a table"),
    ],
)
def test_what_does_not_fit_is_an_error_with_its_path(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(Outer, values)


def test_a_word_with_commas_is_a_list() -> None:
    """How the command line names several things: --modalities image,text."""

    @dataclass(frozen=True, kw_only=True)
    class Several:
        sides: tuple[Literal["image", "text"], ...] = ()
        words: tuple[int, ...] | None = None
        rates: tuple[float, ...] = ()
        folders: tuple[str, ...] = ()

    assert from_mapping(Several, {"sides": "text"}).sides == ("text",)
    assert from_mapping(Several, {"sides": "image,text"}).sides == ("image", "text")
    assert from_mapping(Several, {"words": "3,-4"}).words == (3, -4)
    assert from_mapping(Several, {"words": from_text("3")}).words == (3,)
    assert from_mapping(Several, {"rates": "8/255,2"}).rates == (8 / 255, 2.0)
    assert from_mapping(Several, {"rates": from_text("0.5")}).rates == (0.5,)
    assert from_mapping(Several, {"folders": "runs/a,7"}).folders == ("runs/a", "7")
    with pytest.raises(ConfigError, match=r"sides\[1\] must be one of .* got 'sound'"):
        from_mapping(Several, {"sides": "image,sound"})


def test_none_can_be_said_where_it_is_allowed() -> None:
    given = from_mapping(Outer, {"name": "none", "maybe": "none"})
    assert given.maybe is None and given.name == "none"
    with pytest.raises(ConfigError, match="p must be one of"):
        from_mapping(Outer, {"name": "n", "p": "none"})


def test_numbers_for_floats_may_be_whole_or_fractions() -> None:
    assert from_mapping(Inner, {"rate": 1}).rate == 1.0
    assert isinstance(from_mapping(Inner, {"rate": 1}).rate, float)
    assert from_mapping(Inner, {"rate": " 4 / 255 "}).rate == 4 / 255
    assert from_mapping(Inner, {"rate": "1e-3"}).rate == 1e-3


def test_functions_and_plain_classes_are_called_with_checked_keywords() -> None:
    def function(base: object, *, eps: float = 0.5, name: str) -> tuple[object, float, str]:
        return base, eps, name

    class Plain:
        def __init__(self, *, gamma: float = 1.0) -> None:
            self.gamma = gamma

    base = object()
    assert call_with(function, {"eps": "1/4", "name": "n"}, given={"base": base}) == (
        base,
        0.25,
        "n",
    )
    with pytest.raises(ConfigError, match=r"missing key options\.'name'"):
        call_with(function, {}, path="options.", given={"base": base})
    with pytest.raises(ConfigError, match=r"unknown key 'options\.base'.*known: eps, name"):
        call_with(function, {"base": 1, "name": "n"}, path="options.", given={"base": base})
    assert call_with(Plain, {"gamma": 2}).gamma == 2.0
    with pytest.raises(ConfigError, match="did you mean 'gamma'"):
        call_with(Plain, {"gama": 2})
    with pytest.raises(ConfigError, match="known: none"):
        call_with(lambda: None, {"a": 1})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("0.5", 0.5),
        ("1e-3", 1e-3),
        ("true", True),
        ("false", False),
        ("True", "True"),
        ("8/255", "8/255"),
        ("own-code", "own-code"),
        ("", ""),
    ],
)
def test_words_of_a_command_line(text: str, value: object) -> None:
    assert from_text(text) == value
    assert type(from_text(text)) is type(value)


def test_toml_files_are_read_or_named(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('method = "dcmh"\n[fit]\nepochs = 3\n')
    assert read_toml(file) == {"method": "dcmh", "fit": {"epochs": 3}}
    file.write_text("method = \n")
    with pytest.raises(ConfigError, match=r"run.toml: not valid TOML"):
        read_toml(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"run.toml: cannot be read"):
        read_toml(file)
    with pytest.raises(ConfigError, match=r"none.toml: cannot be read"):
        read_toml(tmp_path / "none.toml")


def test_only_dataclasses_are_built_from_mappings() -> None:
    with pytest.raises(TypeError, match="no dataclass"):
        from_mapping(int, {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    parts: dict[str, Inner] = field(default_factory=dict)


def test_a_table_of_dataclasses_is_strict_too() -> None:
    made = from_mapping(Shelf, {"parts": {"a": {"rate": "1/4"}, "b": {}}})
    assert made.parts == {"a": Inner(rate=0.25), "b": Inner()}
    with pytest.raises(ConfigError, match=r"unknown key 'parts\.b\.rat': did you mean 'rate'"):
        from_mapping(Shelf, {"parts": {"a": {}, "b": {"rat": 1}}})
