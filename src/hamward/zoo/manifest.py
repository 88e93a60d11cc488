"""What a zoo holds: one manifest.json with every model's card, data and files."""

import re
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any, final
from urllib.parse import quote, unquote, urlsplit

from hamward.artifacts import parse_json, read_json
from hamward.config import from_mapping
from hamward.data.prepared import file_digest
from hamward.errors import ArtifactError, ConfigError, DataError, unknown_name

__all__ = [
    "MANIFEST",
    "StoredFile",
    "Zoo",
    "ZooModel",
    "address_of",
    "file_of",
    "folder_of",
    "read_zoo",
]

MANIFEST = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SUFFIXES = (".json", ".safetensors")
_TIMEOUT = 30.0
_LARGEST_MANIFEST = 64 << 20


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file that must be what it was.

    Attributes:
        path: Below the folder it belongs to, with "/".
        sha256: Of its bytes, in hexadecimal.
        size: In bytes.
    """

    path: str
    sha256: str
    size: int

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path).parts
        inside = bool(parts) and not self.path.startswith("/") and "\\" not in self.path
        if not inside or ".." in parts or ":" in self.path or "/".join(parts) != self.path:
            raise ConfigError(f"path must lie below its folder, got {self.path!r}")
        if not self.path.endswith(_SUFFIXES):
            raise ConfigError(
                f"{self.path!r} is none of {', '.join(_SUFFIXES)}: weights travel as safetensors "
                "only, which cannot hold code"
            )
        if not _SHA256.fullmatch(self.sha256):
            raise ConfigError(f"sha256 of {self.path!r} must be 64 hex digits, got {self.sha256!r}")
        if self.size < 0:
            raise ConfigError(f"size of {self.path!r} must be at least 0, got {self.size}")

    def trouble(self, file: Path) -> str | None:
        """Return in what a file differs from this one; None if in nothing."""
        if not file.is_file():
            return f"is missing, expected {self.size:,} bytes"
        if file.stat().st_size != self.size:
            return f"has {file.stat().st_size:,} bytes, expected {self.size:,}"
        found = file_digest(file)
        return None if found == self.sha256 else f"has sha256 {found}, expected {self.sha256}"


def file_of(folder: Path, path: str) -> StoredFile:
    """Return what a file is now."""
    file = folder / path
    return StoredFile(path=path, sha256=file_digest(file), size=file.stat().st_size)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ZooModel:
    """One model of a zoo.

    Attributes:
        name: Its folder's name.
        data: Data set it was trained on.
        data_digest: Digest of these data.
        items_digest: Digest of their vocabulary and split.
        files: All that makes its run folder; run.json is the last.
        card: Its model card, without the epochs.
    """

    name: str
    data: str
    data_digest: str
    items_digest: str
    files: tuple[StoredFile, ...]
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"a model's name has letters, digits and ._+- and begins with a letter or digit, "
                f"got {self.name!r}"
            )
        if not self.files or self.files[-1].path != "run.json":
            raise ConfigError(f"the last file of {self.name!r} must be run.json")

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Zoo:
    """All models of a folder or address, in the order of their names."""

    models: tuple[ZooModel, ...] = ()

    def __getitem__(self, name: str) -> ZooModel:
        for model in self.models:
            if model.name == name:
                return model
        raise unknown_name("model of this zoo", name, [m.name for m in self.models])

    def __contains__(self, name: object) -> bool:
        return any(model.name == name for model in self.models)

    def with_model(self, model: ZooModel) -> "Zoo":
        """Return a zoo that holds this one, too."""
        kept = [m for m in self.models if m.name != model.name]
        return Zoo(models=tuple(sorted([*kept, model], key=lambda m: m.name)))


def read_zoo(source: str | Path) -> Zoo:
    """Read the manifest of a zoo.

    Args:
        source: A folder, or a http, https or file address of one.

    Raises:
        ArtifactError: there is none, it is damaged or of another schema version, or it names a
            file that a zoo may not hold.
        DataError: the server refused or is not there.
    """
    folder = folder_of(source)
    where = str(folder / MANIFEST) if folder is not None else address_of(str(source), MANIFEST)
    if folder is not None:
        if not (folder / MANIFEST).is_file():
            raise ArtifactError(
                f"{folder}: no zoo (it has no {MANIFEST}); `hamward zoo push` fills one"
            )
        content = read_json(folder / MANIFEST)
    else:
        content = _download(where)
    try:
        return from_mapping(Zoo, {k: v for k, v in content.items() if k != "schema_version"})
    except ConfigError as error:
        raise ArtifactError(f"{where}: no manifest of a zoo ({error})") from error


def folder_of(source: str | Path) -> Path | None:
    """Return the folder that a source is; None for a http or https address.

    Raises:
        ConfigError: an address of another kind.
    """
    if isinstance(source, Path):
        return source
    parts = urlsplit(source)
    if parts.scheme in ("http", "https"):
        return None
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if "://" in source:
        raise ConfigError(f"a zoo is a folder or a http, https or file address, got {source!r}")
    return Path(source)


def address_of(base: str, path: str) -> str:
    """Return the address of a file of a zoo."""
    return f"{base.rstrip('/')}/{quote(path)}"


def _download(address: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT) as answer:
            content = answer.read(_LARGEST_MANIFEST)
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise DataError(f"{address}: {getattr(error, 'reason', None) or error}") from error
    return parse_json(content, where=address)
