"""Named recipes: how a victim is trained, as TOML files that ship with the package."""

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from hamward.errors import unknown_name

__all__ = ["merged", "read_recipe", "recipe_names"]


def recipe_names() -> list[str]:
    """Return the names of the recipes, e.g. "dcmh" (ours) and "dcmh-paper" (as published)."""
    names = (f.name for f in files("hamward.recipes").iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def read_recipe(name: str) -> dict[str, Any]:
    """Return a recipe as plain values of `TrainConfig`.

    Raises:
        UnknownNameError: there is no recipe of this name.
    """
    if name not in recipe_names():
        raise unknown_name("recipe", name, recipe_names())
    file = files("hamward.recipes") / f"{name}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over` in their place, tables merged key by key.

    Example:
        >>> merged({"fit": {"epochs": 1, "seed": 0}}, {"fit": {"epochs": 3}})
        {'fit': {'epochs': 3, 'seed': 0}}
    """
    result = dict(base)
    for key, value in over.items():
        held = result.get(key)
        both = isinstance(held, Mapping) and isinstance(value, Mapping)
        result[key] = merged(held, value) if both else value  # type: ignore[arg-type]
    return result
