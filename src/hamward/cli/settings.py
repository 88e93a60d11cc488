"""From words on the command line to plain configuration values."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hamward.config import from_text, read_toml
from hamward.errors import ConfigError
from hamward.recipes import merged, read_recipe, recipe_names

__all__ = [
    "assemble",
    "attack_options",
    "attack_words",
    "candidate_options",
    "plain_options",
    "unique_names",
]


def assemble(
    file: Path | None,
    words: Sequence[str] | None,
    named: Mapping[str, Any],
    options: Mapping[str, str],
    *,
    recipe: str | None = None,
) -> dict[str, Any]:
    """Merge recipe < TOML file < --set < named flags < method options into nested plain values.

    Without `recipe` the one that is named like the method is taken, where there is one.

    Raises:
        ConfigError: the file or a --set word cannot be read.
    """
    values = read_toml(file) if file is not None else {}
    name = recipe or values.get("method", named.get("method"))
    if recipe is not None or name in recipe_names():
        values = merged(read_recipe(str(name)), values)
    for word in words or ():
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set takes KEY=VALUE, got {word!r}")
        _put(values, key, from_text(value))
    for key, value in named.items():
        if value is not None:
            _put(values, key, value)
    for key, value in plain_options(options).items():
        _put(values, f"options.{key}", value)
    return values


def plain_options(options: Mapping[str, str]) -> dict[str, Any]:
    """Return method options with dashes as underscores and words as values."""
    return {k.replace("-", "_"): from_text(v) for k, v in options.items()}


def attack_words(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read `name:key=value,key=value` into configured attacks with distinct names.

    A value may be a list: `tag-edits:words=3,4,beam=2`.

    Raises:
        ConfigError: a word is malformed or given twice.
    """
    attacks: dict[str, dict[str, Any]] = {}
    for word in words:
        name, _, rest = word.partition(":")
        values: dict[str, str] = {}
        for part in filter(None, rest.split(",")):
            key, equals, value = part.partition("=")
            if equals:
                values[key.strip()] = value.strip()
            elif values:  # one more of the list before it
                values[next(reversed(values))] += f",{part.strip()}"
            else:
                raise ConfigError(f"--attack takes NAME:KEY=VALUE,..., got {word!r}")
        label = f"{name}@{rest}" if rest else name
        if label in attacks:
            raise ConfigError(f"--attack {word!r} is given twice")
        attacks[label] = {"attack": name, **attack_options(values)}
    return attacks


def attack_options(options: Mapping[str, str]) -> dict[str, Any]:
    """Return an attack's options.

    Raises:
        ConfigError: one is called "attack": it would run another method than the table names.
    """
    if "attack" in options:
        raise ConfigError("unknown key 'attack': the method is named already")
    return plain_options(options)


def candidate_options(role: str, **given: Any) -> dict[str, Any] | None:
    """Return the settings of an attack on database items, None where queries are attacked.

    Raises:
        ConfigError: something is given that only an attack on database items has.
    """
    values = {key: value for key, value in given.items() if value is not None}
    if role != "query":
        return {"role": role, **values}
    if values:
        flags = {"count": "--items", "label": "--item-label", "k": "--list-length"}
        words = ", ".join(flags.get(key, f"--{key}") for key in values)
        raise ConfigError(f"{words}: for --role candidate or --role hub, got --role query")
    return None


def unique_names(folders: Sequence[Path]) -> dict[str, str]:
    """Name victims by their folders.

    Raises:
        ConfigError: there are none, or two folders have one name.
    """
    if not folders:
        raise ConfigError("give at least one victim's run folder")
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise ConfigError(f"victims must have distinct folder names, got {names}")
    return dict(zip(names, map(str, folders), strict=True))


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{key}: {parent!r} is a value, not a table")
    values[last] = value
