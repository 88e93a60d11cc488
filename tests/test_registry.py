import pytest

from hamward.errors import ConfigError, UnknownNameError, unknown_name
from hamward.registry import Registry


def filled() -> Registry[object]:
    registry: Registry[object] = Registry("attack")
    for name in ("own-code", "cmla", "random-noise"):
        registry.register(name, summary="s.", citation="c", access="ranks")(lambda: None)
    return registry


def test_it_is_a_sorted_mapping() -> None:
    registry = filled()
    assert list(registry) == ["cmla", "own-code", "random-noise"]
    assert len(registry) == 3 and "cmla" in registry and "x" not in registry
    assert registry["cmla"].name == "cmla" and registry["cmla"].summary == "s."


def test_the_decorator_returns_what_it_registers() -> None:
    def method() -> None: ...

    registry = filled()
    register = registry.register("new", summary="", citation="", access="codes", threat="t")
    assert register(method) is method
    assert registry["new"].make is method and registry["new"].threat == "t"


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown attack 'cmal': did you mean 'cmla'") as e:
        filled()["cmal"]
    assert "known: cmla, own-code, random-noise" in str(e.value)
    assert isinstance(e.value, ConfigError)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="attack 'cmla' is registered twice"):
        filled().register("cmla", summary="", citation="", access="ranks")(lambda: None)


def test_no_near_name_no_guess() -> None:
    assert str(unknown_name("data set", "zzz", ["b", "a"])) == (
        "unknown data set 'zzz': known: a, b"
    )
