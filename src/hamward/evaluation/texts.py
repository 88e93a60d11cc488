"""Adversarial texts as a person reads them: a table of every text before and after."""

import csv
from collections.abc import Iterable
from pathlib import Path

from hamward.artifacts import write_atomically
from hamward.errors import ArtifactError

__all__ = ["read_texts", "write_texts"]


def write_texts(
    folder: Path, victim: str, attack: str, *, ids: Iterable[int], texts: Iterable[Iterable[str]]
) -> None:
    """Write id, before and after of every item that an attack on token ids was given.

    Args:
        folder: The evaluation's folder.
        victim: Name of the victim.
        attack: Name of the attack.
        ids: Ids of the items.
        texts: The clean texts, and the adversarial ones.
    """
    rows = zip(ids, *texts, strict=True)

    def fill(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="") as lines:
            csv.writer(lines).writerows([("id", "before", "after"), *rows])

    write_atomically(_file(folder, victim, attack), fill)


def read_texts(folder: Path, victim: str, attack: str) -> dict[int, tuple[str, str]]:
    """Return the texts before and after an attack by the id of their item.

    Raises:
        ArtifactError: the table is missing or damaged.
    """
    file = _file(folder, victim, attack)
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return {int(r["id"]): (r["before"], r["after"]) for r in csv.DictReader(lines)}
    except (OSError, KeyError, ValueError) as error:
        raise ArtifactError(f"{file}: not a table of adversarial texts ({error})") from error


def _file(folder: Path, victim: str, attack: str) -> Path:
    return folder / "texts" / victim / f"{attack.replace('/', '_')}.csv"
