"""Docstrings in the form that STYLE asks for, taken apart and written as Markdown."""

import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Doc", "escaped", "option_texts", "prose", "read", "relatives"]

_SECTION = re.compile(r"^(Source|Differs|Attributes|Args|Keys|Returns|Raises|Example):[ ]*(.*)$")
_ITEM = re.compile(r"^([\w.]+(?:, [\w.]+)*):\s+(.*)$")
_CODE = re.compile(r"(`[^`]+`)")
_DOUBTFUL = str.maketrans({c: "\\" + c for c in "\\*_[]#"} | {"<": "&lt;", "|": "&#124;"})


@dataclass(frozen=True, slots=True)
class Doc:
    """A docstring.

    Attributes:
        text: What stands before, between and after the sections.
        sections: Their words by name, without the indent.
    """

    text: str
    sections: Mapping[str, str] = field(default_factory=dict)

    def items(self) -> dict[str, str]:
        """Return what "Attributes", "Args" or "Keys" say about each name, on one line."""
        found: dict[str, str] = {}
        for section in ("Attributes", "Args", "Keys"):
            for block in re.split(r"\n(?=\S)", self.sections.get(section, "")):
                match = _ITEM.match(" ".join(block.split()))
                if match:
                    found |= dict.fromkeys(match[1].split(", "), match[2])
        return found


def read(thing: Any) -> Doc:
    """Take the docstring of a class, function or module apart; an empty one if it has none."""
    text: list[str] = []
    sections: dict[str, list[str]] = {}
    lines = text
    own = getattr(thing, "__doc__", None)  # not inherited: relatives speak for themselves
    for line in inspect.cleandoc(own or "").splitlines():
        match = _SECTION.match(line)
        if match:
            lines = sections.setdefault(match[1], [])
        elif line and not line.startswith(" "):
            lines = text
        lines.append("    " + match[2] if match else line)
    return Doc(
        "\n".join(text).strip(),
        {name: inspect.cleandoc("\n" + "\n".join(body)) for name, body in sections.items()},
    )


def relatives(make: Any) -> Iterator[Any]:
    """Yield what else describes a method: its bases, or the class it returns, then its module."""
    yield make
    kind = make
    if not isinstance(make, type):
        kind = typing.get_type_hints(make).get("return")
    for base in getattr(kind, "__mro__", ()):
        if base is not make and base.__module__.startswith("hamward"):
            yield base
    yield inspect.getmodule(make)


def option_texts(make: Any) -> dict[str, str]:
    """Return what is said about each option of a method, by a relative where not by itself."""
    texts: dict[str, str] = {}
    for thing in relatives(make):
        for described in (thing, vars(thing).get("__init__") if isinstance(thing, type) else None):
            for name, words in read(described).items().items():
                texts.setdefault(name, _followed(words, name, inspect.getmodule(make)))
    return texts


def _followed(words: str, name: str, module: Any) -> str:
    """Return what `Class` says where all that is said is "See `Class`."."""
    match = re.fullmatch(r"See `(\w+)`\.", words)
    elsewhere = getattr(module, match[1], None) if match else None
    return read(elsewhere).items().get(name, words)


def escaped(words: str) -> str:
    """Return words in which Markdown finds no marks but code; bars are fit for tables."""
    parts = _CODE.split(words)
    return "".join(p if p.startswith("`") else p.translate(_DOUBTFUL) for p in parts)


def prose(text: str) -> str:
    """Return paragraphs as Markdown: what is indented or a list stays as it is."""
    blocks = []
    for block in re.split(r"\n{2,}", text.strip()):
        if block.startswith("    "):
            blocks.append(f"```text\n{inspect.cleandoc(block)}\n```")
        elif block.startswith("- "):
            blocks.append("\n".join(escaped(line) for line in block.splitlines()))
        else:
            blocks.append(escaped(" ".join(block.split())))
    return "\n\n".join(blocks)
