"""One file from an address that the user gives: resumed, checked, renamed when it is whole."""

import hashlib
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

from hamward.errors import ArtifactError, ConfigError, DataError
from hamward.progress import SILENT, Progress

__all__ = ["fetch", "file_name"]

_BLOCK = 1 << 20
_TIMEOUT = 30.0


def file_name(address: str) -> str:
    """Return the file name that an address ends in.

    Raises:
        ConfigError: not a http or https address, or it names no file.
    """
    parts = urllib.parse.urlsplit(address)
    name = urllib.parse.unquote(parts.path).rpartition("/")[2]
    if parts.scheme not in ("http", "https") or not parts.netloc or name in ("", ".", ".."):
        raise ConfigError(
            f"{address!r} is no address of a file: it must begin with http:// or https:// and end "
            "in the file's name"
        )
    return name


def fetch(address: str, file: Path, *, md5: str | None = None, progress: Progress = SILENT) -> str:
    """Download a file, or the rest of it.

    What has arrived is kept as `FILE.part` with `FILE.part.json`, which says what the server had,
    and gets its name when it is whole and its checksum is right. A later call goes on behind
    what is there, if the server still has the same file and can send a part of it.

    Args:
        address: Where it is; http or https.
        file: Where it goes. A file that is there already is only checked.
        md5: Expected checksum in hexadecimal; None compares nothing.
        progress: Watches the blocks.

    Returns:
        The MD5 of the file, in hexadecimal.

    Raises:
        ConfigError: the address is no http or https address of a file.
        DataError: the server refused, the connection ended early (what came is kept), or the
            checksum is wrong (what came is removed).
        ArtifactError: the file is there already with another checksum.
    """
    file_name(address)
    if file.exists():
        found = _md5_of(file)
        if md5 is not None and found != md5.lower():
            raise ArtifactError(
                f"{file}: is there already with MD5 {found}, expected {md5.lower()}: move it away"
            )
        return found
    file.parent.mkdir(parents=True, exist_ok=True)
    part, facts = file.with_name(file.name + ".part"), file.with_name(file.name + ".part.json")
    try:
        _receive(address, part, facts, progress)
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        have = part.stat().st_size if part.exists() else 0
        raise DataError(
            f"{address}: {getattr(error, 'reason', None) or error}; {have:,} bytes are kept, the "
            "same command goes on after them"
        ) from error
    found = _md5_of(part)
    if md5 is not None and found != md5.lower():
        part.unlink()
        facts.unlink(missing_ok=True)
        raise DataError(
            f"{address}: has MD5 {found}, expected {md5.lower()}: it is another file or was "
            "damaged on the way; what came was removed"
        )
    part.replace(file)
    facts.unlink(missing_ok=True)
    return found


def _receive(address: str, part: Path, facts: Path, progress: Progress) -> None:
    """Append what is missing; start over if the server's file is another one now."""
    known = _read_facts(facts)
    have = part.stat().st_size if part.exists() and known.get("address") == address else 0
    if have and have == known.get("size"):
        return
    request = urllib.request.Request(address, headers={"Accept-Encoding": "identity"})
    if have and known.get("version"):
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", known["version"])
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        going_on = answer.status == 206
        if going_on and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise DataError(f"{address}: the server sent another part than bytes {have}-")
        start = have if going_on else 0
        length = answer.headers.get("Content-Length")
        size = None if length is None else start + int(length)
        etag = answer.headers.get("ETag")
        weak = etag is None or etag.startswith("W/")
        version = answer.headers.get("Last-Modified") if weak else etag
        facts.write_text(json.dumps({"address": address, "size": size, "version": version}))
        total = -(-int(length or 0) // _BLOCK)
        with part.open("ab" if going_on else "wb") as out:
            blocks = progress.track(_blocks(answer), total=total, label=f"fetch {part.stem} (MB)")
            for block in blocks:
                out.write(block)
    if size is not None and part.stat().st_size != size:
        raise ConnectionError(f"the connection ended before the file's {size:,} bytes had come")


def _read_facts(file: Path) -> dict[str, Any]:
    try:
        facts = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _blocks(stream: Any) -> Iterator[bytes]:
    while block := stream.read(_BLOCK):
        yield block


def _md5_of(file: Path) -> str:
    md5 = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as stream:
        for block in _blocks(stream):
            md5.update(block)
    return md5.hexdigest()
