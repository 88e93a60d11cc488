"""Strict configuration: dataclass defaults < TOML file < command line."""

import dataclasses
import difflib
import inspect
import math
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from hamward.errors import ConfigError

__all__ = ["call_with", "from_mapping", "from_text", "read_toml", "to_mapping"]

C = TypeVar("C")


def read_toml(file: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: the file is missing or not TOML.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from error


def from_mapping(cls: type[C], values: Any, *, path: str = "") -> C:
    """Build a dataclass from plain values; unknown keys and wrong types are errors.

    Args:
        cls: A dataclass type; nested dataclasses are built from nested mappings.
        values: Plain values as TOML or JSON give them. Fractions such as "8/255" are
            accepted for floats.
        path: Where the values stand, for messages.

    Returns:
        An instance of `cls`.

    Raises:
        ConfigError: a key is unknown, a value has the wrong type or is not finite.
    """
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls} is no dataclass")
    if not isinstance(values, Mapping):
        where = path.rstrip(".") or "the configuration"
        raise ConfigError(f"{where} must be a table, got {values!r}")
    built: C = call_with(cls, values, path=path)
    return built


def call_with(
    make: Callable[..., Any],
    values: Mapping[str, Any],
    *,
    path: str = "",
    given: Mapping[str, Any] | None = None,
) -> Any:
    """Call a class or function with plain values for its keyword parameters.

    Args:
        make: What to call; its annotations decide what is allowed.
        values: Plain values as TOML or JSON give them.
        path: Where the values stand, for messages.
        given: Arguments that are not configuration, passed as they are.

    Raises:
        ConfigError: as in `from_mapping`, or a required value is missing.
    """
    given = given or {}
    is_class = isinstance(make, type) and not dataclasses.is_dataclass(make)
    hints = typing.get_type_hints(make.__init__ if is_class else make)
    parameters = inspect.signature(make).parameters
    names = [name for name in parameters if name not in given]
    arguments: dict[str, Any] = dict(given)
    for key, value in values.items():
        where = f"{path}{key}"
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            known = ", ".join(sorted(names)) or "none"
            raise ConfigError(f"unknown key {where!r}: {hint}known: {known}")
        arguments[key] = _convert(hints[key], value, where)
    empty = inspect.Parameter.empty
    missing = [n for n in names if n not in arguments and parameters[n].default is empty]
    if missing:
        raise ConfigError(f"missing key {path}{missing[0]!r}")
    return make(**arguments)


def from_text(text: str) -> Any:
    """Return the value that a command-line word stands for: a number, true, false or text."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def to_mapping(config: Any) -> dict[str, Any]:
    """Return a dataclass as plain values that `from_mapping` reads back."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config) if f.init}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _convert(hint: Any, value: Any, where: str) -> Any:  # noqa: PLR0911, PLR0912
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if type(None) in arguments and (
            value is None or (value == "none" and str not in arguments)
        ):
            return None  # TOML and the command line have no other word for it
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if origin is typing.Literal:
        for allowed in arguments:  # True == 1, so types are compared too
            if type(allowed) is type(value) and allowed == value:
                return allowed
        raise ConfigError(f"{where} must be one of {list(arguments)}, got {value!r}")
    if origin is tuple:
        if isinstance(value, str):  # a word of the command line
            words = value.split(",")
            value = words if arguments[0] not in (int, float) else [from_text(w) for w in words]
        elif isinstance(value, int | float):  # a word that named one thing
            value = [value]
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} must be a list, got {value!r}")
        return tuple(_convert(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a table, got {value!r}")
        if dataclasses.is_dataclass(arguments[1]):
            return {k: _convert(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
        return dict(value)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, typing.cast(type[Any], hint)):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a table, got {value!r}")
        return from_mapping(typing.cast(type[Any], hint), value, path=f"{where}.")
    if hint is float:
        return _number(value, where)
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    allowed = "true or false" if hint is bool else hint.__name__
    raise ConfigError(f"{where} must be {allowed}, got {type(value).__name__} {value!r}")


def _number(value: Any, where: str) -> float:
    if isinstance(value, str):
        try:
            value = float(Fraction(value.replace(" ", "")))
        except (ValueError, ArithmeticError) as error:
            raise ConfigError(
                f'{where} must be a number or a fraction such as "8/255", got {value!r}'
            ) from error
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where} must be a number, got {type(value).__name__} {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an int beyond 1e308
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError(f"{where} must be finite, got {number}")
    return number
