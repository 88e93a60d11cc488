"""The folder that benchmarks share: cells by content, their records, claims and failures."""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hamward.artifacts import read_json, write_json
from hamward.benchmark.claims import Holder, holder_of
from hamward.errors import ArtifactError

__all__ = ["Store", "evaluations_in"]

_MARK = "bench.json"
_RECORD = "cell.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A folder of cells that any number of benchmarks, processes and hosts share.

    `cells/NAME` is a run folder, with `cell.json` in it once the cell is finished. `bench.json`
    says which store this is: where it is missing, the folder went away (a share that is no longer
    mounted), and nothing is written in its place.
    """

    path: Path
    id: str

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open a store, or make one in an empty or missing folder.

        Raises:
            ArtifactError: the folder holds something else.
        """
        path = path.absolute()
        mark = path / _MARK
        if not mark.exists():
            if path.exists() and (not path.is_dir() or _used(path)):
                raise ArtifactError(
                    f"{path}: not empty, and no folder of benchmarks (it has no {_MARK}); choose "
                    "another --out"
                )
            _make(mark)
        store = cls(path=path, id=str(read_json(mark)["id"]))
        for name in ("cells", "claims", "failures"):
            (path / name).mkdir(exist_ok=True)
        return store

    def check(self) -> None:
        """Refuse to go on where the folder is gone.

        Raises:
            ArtifactError: it is, or another store lies there now.
        """
        try:
            found = read_json(self.path / _MARK).get("id")
        except ArtifactError as error:
            raise ArtifactError(
                f"{self.path}: the folder of benchmarks is gone (a share that is not mounted?). "
                "Finished cells are whole where they are: the same command goes on once it is back"
            ) from error
        if found != self.id:
            raise ArtifactError(f"{self.path}: another folder of benchmarks lies there now")

    def folder(self, name: str) -> Path:
        """Return the run folder of a cell."""
        return self.path / "cells" / name

    def claim(self, name: str) -> Path:
        """Return the file that claims a cell."""
        return self.path / "claims" / f"{name}.json"

    def done(self, name: str) -> bool:
        """Return whether a cell is finished."""
        return (self.folder(name) / _RECORD).exists()

    def finished(self) -> set[str]:
        """Return the names of all finished cells, of any benchmark."""
        return {file.parent.name for file in (self.path / "cells").glob(f"*/{_RECORD}")}

    def record(self, name: str) -> dict[str, Any]:
        """Return what a finished cell measured and cost."""
        return read_json(self.folder(name) / _RECORD)

    def write_record(self, name: str, record: Mapping[str, Any]) -> None:
        """Mark a cell as finished."""
        self.check()
        write_json(self.folder(name) / _RECORD, record)

    def holder(self, name: str) -> Holder | None:
        """Return who works on a cell now."""
        return holder_of(self.claim(name))

    def failure(self, name: str) -> str | None:
        """Return why a cell failed, None if it did not."""
        file = self._failure(name)
        return str(read_json(file)["message"]) if file.exists() else None

    def failures(self) -> set[str]:
        """Return the names of all failed cells, of any benchmark."""
        return {file.stem for file in (self.path / "failures").glob("*.json")}

    def write_failure(self, name: str, *, label: str, message: str, trace: str = "") -> None:
        """Keep why a cell failed."""
        self.check()
        write_json(
            self._failure(name), {"cell": name, "label": label, "message": message, "trace": trace}
        )

    def forget_failure(self, name: str) -> None:
        """Let a failed cell be tried again."""
        self._failure(name).unlink(missing_ok=True)

    def _failure(self, name: str) -> Path:
        return self.path / "failures" / f"{name}.json"


def evaluations_in(folder: Path) -> list[Path] | None:
    """Return the run folders in which victims met attacks crafted on themselves.

    Args:
        folder: A folder of benchmarks.

    Returns:
        Those of finished cells, in order of their labels; None if `folder` is something else.
    """
    if not (folder / _MARK).exists():
        return None
    store = Store.open(folder)
    records = [store.record(name) for name in store.finished()]
    chosen = [
        (record["label"], record["name"])
        for record in records
        if record["kind"] == "evaluate"
        and record["config"]["attacks"]
        and any(m["victim"] == m["crafted_on"] for m in record["measures"])
    ]
    return [store.folder(name) for _, name in sorted(chosen)]


def _used(path: Path) -> bool:
    """Return whether a folder holds anything but what another runner has just begun to write."""
    return any(not file.name.endswith(".part") and file.name != _MARK for file in path.iterdir())


def _make(mark: Path) -> None:
    """Write the mark of a new store; of two that do so at once, the first wins."""
    token = secrets.token_hex(8)
    part = mark.with_name(f".{mark.name}.{token}.part")
    write_json(part, {"kind": "benchmarks", "id": token})
    try:
        os.link(part, mark)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        part.replace(mark)
    finally:
        part.unlink(missing_ok=True)
