"""Bodies of `hamward data prepare`, `check` and `fetch`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hamward.config import to_mapping
from hamward.data import IMPORTERS, PrepareConfig, audit, find_prepared, load_data, prepare
from hamward.data.importers import read_source
from hamward.data.prepared import data_home, read_manifest, verify_files
from hamward.errors import unknown_name
from hamward.progress import Progress

__all__ = ["check_set", "prepare_set", "show_archives"]


def prepare_set(
    name: str,
    root: Path,
    out: Path | None,
    *,
    config: PrepareConfig,
    options: Mapping[str, Any],
    resume: bool,
    skip_bad: bool,
    threads: int | None,
    progress: Progress,
) -> None:
    """Read, prepare, and say what was done.

    Raises:
        HamwardError: anything in the options, the files or the folder does not fit.
    """
    source = read_source(name, root, options, skip_bad=skip_bad)
    for note in source.notes:
        progress.say(f"{source.name}: {note}")
    folder = out or data_home() / name
    data = prepare(
        source,
        folder,
        config=config,
        read_by={"importer": name, "root": str(root), "options": dict(options)},
        resume=resume,
        skip_bad=skip_bad,
        threads=threads,
        progress=progress,
    )
    manifest = read_manifest(folder)
    console = Console()
    table = Table("", "", title=f"prepared {data.name}", show_header=False)
    for key, value in manifest["counts"].items():
        table.add_row(key, f"{value:,}")
    for split, count in manifest["protocol"]["counts"].items():
        table.add_row(split, f"{count:,}")
    used = to_mapping(config)
    table.add_row("pictures", f"{used['image_side']} x {used['image_side']}")
    table.add_row("relevance", data.relevance)
    table.add_row("protocol", data.protocol or "")
    table.add_row("split digest", data.split_digest[:16])
    table.add_row("digest", data.digest[:16])
    console.print(table)
    if manifest["counts"]["skipped"]:
        print(f"skipped: {folder / 'skipped.csv'}")
    print(f"prepared set: {folder} (use it with --data {folder if out else name})")


def check_set(name: str, *, progress: Progress) -> None:
    """Verify checksums, audit the split, the pictures, the labels and the texts.

    Raises:
        HamwardError: the set is damaged.
    """
    folder = find_prepared(name)
    if folder is not None:
        verify_files(folder)
        progress.say(f"{folder}: all checksums agree with the manifest")
    facts = audit(load_data(name), progress=progress)
    console = Console()
    console.print_json(json.dumps(facts))
    for warning in _warnings(facts):
        print(f"warning: {warning}")


def show_archives(name: str) -> None:
    """Print what the owners publish and what is known of it; nothing is downloaded.

    Raises:
        UnknownNameError: no such importer.
    """
    if name not in IMPORTERS:
        raise unknown_name("importer", name, IMPORTERS)
    entry = IMPORTERS[name]
    print(f"{entry.name}: {entry.summary}\n")
    if entry.archives:
        print(f"The owners publish these; their site is named in {entry.citation}:")
        for archive in entry.archives:
            known = f"MD5 {archive.md5}" if archive.md5 else "no checksum known"
            print(f"  {archive.name}: {archive.holds} ({known})")
    else:
        print(f"There is nothing to get from owners. See: {entry.citation}")
    print(f"\nNeeded in --root: {entry.layout}")
    print(f"Then: hamward data prepare {entry.name} --root DIR")
    print("Options: " + (", ".join(f"--{k.replace('_', '-')}" for k in entry.options) or "none"))


def _warnings(facts: Mapping[str, Any]) -> list[str]:
    queries = facts["splits"]["query"]
    found = []
    for key, what in (
        ("copies", "have an exact copy of their picture"),
        ("near_copies", "have a near copy of their picture"),
    ):
        if facts[key]["queries"]:
            found.append(
                f"{facts[key]['queries']} of {queries} queries {what} among the searched or "
                f"training items, such as ids {facts[key]['pairs'][:3]}"
            )
    if facts["groups_on_both_sides"]:
        found.append(f"{facts['groups_on_both_sides']} groups are on both sides of the split")
    labels = facts["labels"]
    if labels["queries_without_relevant"]:
        found.append(f"{labels['queries_without_relevant']} queries have no relevant item")
    for key in ("without_train", "without_query", "without_database"):
        if labels[key]:
            found.append(f"labels {key.replace('_', ' ')} item: {', '.join(labels[key][:8])}")
    if facts["texts"]["without_words"]:
        found.append(f"{facts['texts']['without_words']} items have no word of the vocabulary")
    return found
