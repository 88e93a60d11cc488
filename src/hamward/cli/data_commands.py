"""Bodies of `hamward data prepare`, `check` and `fetch`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hamward.config import to_mapping
from hamward.data import IMPORTERS, PrepareConfig, audit, find_prepared, load_data, prepare
from hamward.data.fetching import fetch, file_name
from hamward.data.importers import Importer, read_source
from hamward.data.prepared import data_home, read_manifest, verify_files
from hamward.errors import ConfigError, unknown_name
from hamward.progress import Progress

__all__ = ["check_set", "fetch_archives", "prepare_set"]


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
    for note in manifest["notes"][len(source.notes) :]:
        progress.say(f"{source.name}: {note}")
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


def fetch_archives(
    name: str,
    addresses: Sequence[str],
    folder: Path,
    *,
    md5: str | None,
    yes: bool,
    progress: Progress,
) -> None:
    """Print what the owners publish; download what the user names and confirms.

    Raises:
        UnknownNameError: no such importer.
        ConfigError: an address that names no file, or one checksum for several files.
        DataError: a download failed, or is another file than expected.
    """
    if name not in IMPORTERS:
        raise unknown_name("importer", name, IMPORTERS)
    entry = IMPORTERS[name]
    if md5 is not None and len(addresses) != 1:
        raise ConfigError(f"--md5 is the checksum of one file, got {len(addresses)} addresses")
    known = {archive.name: archive.md5 for archive in entry.archives}
    files = {address: folder / file_name(address) for address in addresses}
    if not files:
        _show_archives(entry)
        return
    for address, file in files.items():
        expected = md5 or known.get(file.name)
        if not yes:
            check = f"MD5 {expected} is checked" if expected else "no checksum is known"
            print(f"would fetch {address} as {file} ({check}); add --yes to do so")
            continue
        if file.name not in known:
            progress.say(f"{file.name} is none of the archives of {name}: {', '.join(known)}")
        found = fetch(address, file, md5=expected, progress=progress)
        print(f"{file}: {file.stat().st_size:,} bytes, MD5 {found}"
              + (" as expected" if expected else " (nothing to compare it with)"))  # fmt: skip


def _show_archives(entry: Importer) -> None:
    print(f"{entry.name}: {entry.summary}\n")
    if entry.archives:
        print(f"The owners publish these; their site is named in {entry.citation}:")
        for archive in entry.archives:
            known = f"MD5 {archive.md5}" if archive.md5 else "no checksum known"
            print(f"  {archive.name}: {archive.holds} ({known})")
        print(f"To get one: hamward data fetch {entry.name} --from ADDRESS --out DIR --yes")
    else:
        print(f"There is nothing to get from owners. See: {entry.citation}")
    if entry.items:
        print("Items: " + ", ".join(f"{rule} {count:,}" for rule, count in entry.items.items()))
    print("\nNeeded in --root:")
    for file in entry.needs:
        print(f"  {file}")
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
    if labels["items_without"]:
        found.append(f"{labels['items_without']} items have no label; nothing is relevant to them")
    for key in ("without_train", "without_query", "without_database"):
        if labels[key]:
            found.append(f"labels {key.replace('_', ' ')} item: {', '.join(labels[key][:8])}")
    if facts["texts"]["without_words"]:
        found.append(f"{facts['texts']['without_words']} items have no word of the vocabulary")
    return found
