"""Files that are whole or absent: tensors, tables, summaries and run folders."""

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hamward.errors import ArtifactError

__all__ = [
    "SCHEMA_VERSION",
    "RunFolder",
    "digest_of",
    "environment",
    "parse_json",
    "read_json",
    "read_table",
    "read_tensors",
    "write_atomically",
    "write_json",
    "write_table",
    "write_tensors",
]

SCHEMA_VERSION = 1


def write_atomically(file: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary name beside `file`, then rename it.

    A kill or a full disk leaves the old file, or none, never half of one.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        write(part)
        part.chmod(0o666 & ~_umask())  # safetensors makes files that only their owner reads
        with part.open("rb") as handle:
            os.fsync(handle.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    from safetensors.torch import save_file

    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_atomically(file, lambda part: save_file(plain, part))


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        ArtifactError: missing, damaged or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(file))
    except (OSError, SafetensorError, ValueError) as error:
        raise ArtifactError(f"{file}: not a readable safetensors file ({error})") from error


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write a summary as JSON with the schema version, atomically."""
    text = json.dumps({"schema_version": SCHEMA_VERSION, **value}, indent=2, allow_nan=False)

    def write(part: Path) -> None:
        part.write_text(text + "\n", encoding="utf-8")

    write_atomically(file, write)


def read_json(file: Path) -> dict[str, Any]:
    """Read a summary that `write_json` wrote.

    Raises:
        ArtifactError: missing, damaged, or of another schema version.
    """
    try:
        text = file.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{file}: not a readable JSON file ({error})") from error
    return parse_json(text, where=str(file))


def parse_json(text: bytes, *, where: str) -> dict[str, Any]:
    """Return the summary that the bytes of a JSON file hold.

    Args:
        text: UTF-8.
        where: Names the file in errors.

    Raises:
        ArtifactError: damaged, or of another schema version.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ArtifactError(f"{where}: not a readable JSON file ({error})") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{where}: schema version {version!r}, this hamward reads {SCHEMA_VERSION}"
        )
    return dict(value)


def write_table(file: Path, columns: Mapping[str, Any]) -> None:
    """Write columns (lists or arrays of one length) as Parquet, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(dict(columns))
    write_atomically(file, lambda part: pq.write_table(table, part))


def read_table(file: Path) -> dict[str, list[Any]]:
    """Read a Parquet table as columns.

    Raises:
        ArtifactError: missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns: dict[str, list[Any]] = pq.read_table(file).to_pydict()
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"{file}: not a readable Parquet table ({error})") from error
    return columns


def digest_of(value: Any) -> str:
    """Return a short SHA-256 of plain values, equal for equal content."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def environment() -> dict[str, Any]:
    """Return what a reader needs to repeat a run: versions, machine, threads."""
    packages = {}
    for name in ("hamward", "torch", "numpy", "numba", "pillow"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.is_available(),
        "packages": packages,
    }


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A folder that holds one run: what was asked, in which environment, and what came out.

    `run.json` is written first (status "started") and last (status "done"); a run is only
    read by others when it is done.
    """

    path: Path

    @property
    def done(self) -> bool:
        """Whether the run finished."""
        return (self.path / "run.json").exists() and self.info()["status"] == "done"

    def info(self) -> dict[str, Any]:
        """Return the content of run.json.

        Raises:
            ArtifactError: the folder is no run folder, or its run.json is damaged.
        """
        if not (self.path / "run.json").exists():
            raise ArtifactError(f"{self.path}: no run folder (it has no run.json)")
        info = read_json(self.path / "run.json")
        missing = {"kind", "status", "config", "config_digest"} - info.keys()
        if missing:
            raise ArtifactError(f"{self.path / 'run.json'}: lacks {sorted(missing)}")
        return info

    def start(self, kind: str, config: Mapping[str, Any], *, resume: bool) -> None:
        """Claim the folder for one run.

        Raises:
            ArtifactError: the folder holds a run already and `resume` is off, or the run
                in it was started with another configuration.
        """
        if (self.path / "run.json").exists():
            old = self.info()
            if not resume:
                raise ArtifactError(
                    f"{self.path}: holds a run of kind {old['kind']!r} already; choose another "
                    "folder, or --resume to continue it"
                )
            if old["kind"] != kind or old["config_digest"] != digest_of(config):
                changed = [
                    k
                    for k in sorted({*old["config"], *config})
                    if digest_of(old["config"].get(k)) != digest_of(config.get(k))
                ]
                raise ArtifactError(
                    f"{self.path}: cannot resume: it was started with another configuration "
                    f"(kind {old['kind']!r} against {kind!r}; differing keys: "
                    f"{', '.join(changed) or 'none'})"
                )
            return
        if self.path.exists() and not self.path.is_dir():
            raise ArtifactError(f"{self.path}: not a folder; choose another")
        if self.path.exists() and any(p.suffix != ".part" for p in self.path.iterdir()):
            raise ArtifactError(f"{self.path}: not empty and no run folder; choose another")
        self._write(kind, config, "started", {})

    def finish(self, **facts: Any) -> None:
        """Mark the run as done and store its facts."""
        old = self.info()
        self._write(old["kind"], old["config"], "done", facts)

    def require(self, kind: str) -> dict[str, Any]:
        """Return run.json of a finished run of this kind.

        Raises:
            ArtifactError: another kind, or not finished.
        """
        info = self.info()
        if info["kind"] != kind:
            raise ArtifactError(f"{self.path}: holds a {info['kind']!r} run, expected {kind!r}")
        if info["status"] != "done":
            raise ArtifactError(f"{self.path}: this run is not finished; continue with --resume")
        return info

    def _write(
        self, kind: str, config: Mapping[str, Any], status: str, facts: Mapping[str, Any]
    ) -> None:
        write_json(
            self.path / "run.json",
            {
                "kind": kind,
                "status": status,
                "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "command": sys.argv[:],
                "config": dict(config),
                "config_digest": digest_of(config),
                "environment": environment(),
                **facts,
            },
        )
