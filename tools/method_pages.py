"""The pages of the site that the registries make: one a method, and lists of them.

Nothing is written here about a method: a page is its entry, its docstring, its options, its
recipes, its published values and, where a board is given, its rows there.
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any

from docstrings import escaped, option_texts, prose, read, relatives

import hamward.metrics
from hamward.cli.listing import method_tables, option_rows
from hamward.evaluation.published import published_maps
from hamward.models.networks import (
    IMAGE_NETWORKS,
    TEXT_NETWORKS,
    TEXT_TRANSFORMERS,
    comes_pretrained,
)
from hamward.models.text_transformer import TextTransformer
from hamward.recipes import read_recipe, recipe_names
from hamward.registry import Entry

__all__ = ["COMMANDS", "Page", "pages"]

COMMANDS = {
    "victims": "hamward train {name} --out runs/{name}",
    "attacks": "hamward attack {name} --victim runs/victim{required} --out runs/{name}",
    "defenses": "hamward harden {name} --victim runs/victim --out runs/{name}",
    "purifiers": "hamward purify {name} --victim runs/victim --out runs/{name}",
}
_INTRODUCTIONS = {
    "victims": "What is attacked: objectives that train hash models. Measured: "
    "[Victims](../../victims.md).",
    "attacks": "Measured: [Attacks](../../attacks.md). What access and threat mean: "
    "[Concepts](../../concepts.md).",
    "defenses": "How they are compared: [Defenses](../../defenses.md).",
    "purifiers": "Transforms before a trained victim, to compare defenses with: "
    "[Defenses](../../defenses.md#purifiers).",
}


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the site.

    Attributes:
        path: Where it stands below docs/.
        title: Its name in the navigation.
        text: Markdown.
    """

    path: str
    title: str
    text: str


def pages(rows: Mapping[tuple[str, str], Sequence[Mapping[str, str]]] | None = None) -> list[Page]:
    """Make all pages.

    Args:
        rows: Rows of a leaderboard by kind and method, each a cell a column.
    """
    made = []
    for kind, table in method_tables().items():
        made.append(_overview(kind, table))
        for name, entry in table.items():
            text = "\n\n".join(_method(kind, entry, table, (rows or {}).get((kind, name), ())))
            made.append(Page(f"methods/{kind}/{name}.md", name, f"{text}\n"))
    return [*made, _networks(), _metrics()]


def _overview(kind: str, table: Mapping[str, Entry[Any]]) -> Page:
    """List the methods of a kind."""
    rows = (
        [f"[{e.name}]({e.name}.md)", *map(escaped, (e.summary, e.citation, e.threat)), e.access]
        for e in table.values()
    )
    heads = ("name", "what", "citation", "threat model", "access")
    text = f"# {kind.capitalize()}\n\n{_INTRODUCTIONS[kind]}\n\n{_table(heads, rows)}\n"
    return Page(f"methods/{kind}/index.md", kind.capitalize(), text)


def _method(
    kind: str,
    entry: Entry[Any],
    table: Mapping[str, Entry[Any]],
    board: Sequence[Mapping[str, str]],
) -> Iterator[str]:
    linked = partial(_linked, table=table, own=entry)
    docs = [read(thing) for thing in relatives(entry.make)]
    yield f"# {entry.name}"
    yield f"*{kind[:-1].capitalize()}.* {escaped(entry.summary)}."
    yield _table(("", ""), _facts(entry))
    required = "".join(
        f" --{option.replace('_', '-')} runs/surrogate"
        for option, (_, default) in option_rows(entry).items()
        if default == "required"
    )
    command = COMMANDS[kind].format(name=entry.name, required=required)
    yield f"```console\n{command}\n```"
    described = docs[:-1] if isinstance(entry.make, type) else docs[:2]
    own = described[0]
    yield linked(prose(own.text))
    if not isinstance(entry.make, type) and len(docs) > 2:
        yield linked(prose(docs[1].text))
    for section, head in (("Source", "Source"), ("Differs", "Where it differs")):
        words = next((d.sections[section] for d in docs if section in d.sections), None)
        if words is not None:
            yield f"## {head}\n\n{linked(prose(words[0].upper() + words[1:]))}"
    options = option_rows(entry)
    if options:
        texts = option_texts(entry.make)
        shown = (
            [f"`{name}`", f"`{type_}`", f"`{default}`", linked(escaped(texts.get(name, "")))]
            for name, (type_, default) in options.items()
        )
        yield "## Options"
        yield (
            "On the command line `--name value`, with dashes; in Python keyword arguments of "
            f"`{_home(entry.make)}`."
        )
        yield _table(("option", "type", "default", ""), shown)
    if kind == "victims":
        yield from _recipes(entry.name)
        yield from _published(entry.name)
    if board:
        yield "## On the leaderboard"
        if kind == "attacks":
            yield "Robust is the worst case over all attacks of a threat; this is one of them."
        yield _table(tuple(board[0]), (row.values() for row in board))


def _facts(entry: Entry[Any]) -> Iterator[tuple[str, str]]:
    """Yield what the registry and the class variables say."""
    yield "citation", escaped(entry.citation)
    if entry.threat:
        yield "threat model", escaped(entry.threat)
    yield "access", f"`{entry.access}`"
    kind = next((t for t in list(relatives(entry.make))[:2] if isinstance(t, type)), None)
    for name, head in (("modalities", "attacks"), ("modality", "changes"), ("roles", "roles")):
        value = getattr(kind, name, None)
        if isinstance(value, str | tuple) and value:
            yield head, ", ".join([value] if isinstance(value, str) else value)
    yield "file", f"`{_file(entry.make)}`"


def _recipes(victim: str) -> Iterator[str]:
    """Yield the recipes that train a victim, as they ship."""
    names = [name for name in recipe_names() if read_recipe(name)["method"] == victim]
    for name in names:
        text = (files("hamward.recipes") / f"{name}.toml").read_text(encoding="utf-8")
        yield f"## Recipe {name}\n\n```toml\n{text.strip()}\n```"


def _published(victim: str) -> Iterator[str]:
    """Yield the clean MAPs that others printed, as `hamward list` shows them."""
    tables = published_maps(victim)
    if not tables:
        return
    yield "## Published clean MAP"
    yield (
        f"`hamward list {victim} --runs runs` puts yours beside them: "
        "[what the words mean](../../own_model.md#published-maps-beside-yours)."
    )
    for table in tables:
        heads = [f"{bits} bits" if bits else "real-valued" for bits in table.bits]
        rows = [
            [data, direction, *(f"{v:.4f}".removesuffix("0") for v in values)]
            for data, directions in table.maps.items()
            for direction, values in directions.items()
        ]
        yield f"{escaped(table.source)}: {table.status}. {escaped(table.metric)}."
        yield _table(("data", "direction", *heads), rows)


def _networks() -> Page:
    """Describe the trunks that `--image-network` and `--text-network` name."""
    blocks = ["# Networks", "## Image networks", "`--image-network NAME`"]
    for name, make in IMAGE_NETWORKS.items():
        comes = ": comes pretrained with an extra" if comes_pretrained(name) else ""
        blocks += [f"### {name}", *_described(make, note=comes)]
    blocks += ["## Text networks", "`--text-network NAME`"]
    for name, make in TEXT_NETWORKS.items():
        blocks += [f"### {name}", *_described(make, note=": reads bags of words")]
    for name in TEXT_TRANSFORMERS:
        blocks += [f"### {name}", *_described(TextTransformer, note=": reads tokens")]
    return Page("methods/networks.md", "Networks", "\n\n".join(blocks) + "\n")


def _metrics() -> Page:
    """Describe the functions and values of `hamward.metrics`."""
    blocks = ["# Metrics", prose(inspect.getdoc(hamward.metrics) or "")]
    blocks.append("What the numbers of a table mean: [Concepts](../concepts.md#metrics).")
    for name in hamward.metrics.__all__:
        thing = getattr(hamward.metrics, name)
        blocks.append(f"## {name}")
        if inspect.isfunction(thing):
            blocks.append(f"```text\n{name}{_signature(thing)}\n```")
        if isinstance(thing, type) or inspect.isfunction(thing):
            blocks += _described(thing)
        else:
            blocks.append(f"One of {escaped(', '.join(map(str, thing.__args__)))}.")
    return Page("methods/metrics.md", "Metrics", "\n\n".join(blocks) + "\n")


def _signature(function: Any) -> str:
    """Return names and defaults; types are in the text."""
    signature = inspect.signature(function)
    empty = inspect.Parameter.empty
    bare = [p.replace(annotation=empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=empty))


def _described(thing: Any, *, note: str = "") -> Iterator[str]:
    """Yield the docstring of a class or function, with its sections."""
    thing = getattr(thing, "func", thing)  # a partial
    doc = read(thing)
    yield f"`{_home(thing)}`{note}"
    yield prose(doc.text)
    for name, words in doc.sections.items():
        if name in ("Attributes", "Args", "Keys"):
            yield "\n".join(f"- `{item}`: {escaped(text)}" for item, text in doc.items().items())
        elif name == "Example":
            yield f"```pycon\n{words}\n```"
        else:
            yield f"**{name}:** {prose(words)}"


def _linked(text: str, *, table: Mapping[str, Entry[Any]], own: Entry[Any]) -> str:
    """Link the classes that have a page of this kind, and registered names, to it."""
    homes = {e.make.__name__: e.name for e in table.values() if isinstance(e.make, type)}
    homes |= {name: name for name in table}

    def link(match: re.Match[str]) -> str:
        name = homes.get(match[1], own.name)
        return match[0] if name == own.name else f"[{match[0]}]({name}.md)"

    return re.sub(r"`([\w-]+)`", link, text)


def _home(thing: Any) -> str:
    """Return where something is imported from: the package that exports it, or its module."""
    package = ".".join(thing.__module__.split(".")[:2])
    exported = thing.__name__ in getattr(__import__(package, fromlist=["__all__"]), "__all__", ())
    return f"{package if exported else thing.__module__}.{thing.__name__}"


def _file(thing: Any) -> str:
    return f"src/{thing.__module__.replace('.', '/')}.py"


def _table(heads: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
