"""Prepared sets: a folder of memory-mapped arrays that opens at once or not at all.

    manifest.json     what was read, by which rule, what came out; written last
    images.npy        uint8 (n, 3, S, S)
    bag_starts.npy, bag_words.npy   bags of words in compressed rows, see `SparseBags`
    labels.npy        uint8 (n, ceil(C / 8)): packed bits, first label in the highest
    ids.npy, query.npy, database.npy, train.npy, validation.npy, groups.npy
    names.json        the D words and the C label names
    items.arrow       per item: text, picture file and its sha256
    skipped.csv       what was left out, and why

While it is being made, `.preparing/` records the finished chunks.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final, overload

import numpy as np
from numpy.typing import NDArray

from hamward.artifacts import read_json
from hamward.data.retrieval_data import RetrievalData, content_digest
from hamward.data.sparse_bags import SparseBags
from hamward.data.split import SPLIT_NAMES, Split
from hamward.errors import ArtifactError, ConfigError, HamwardError

__all__ = [
    "ITEM_FILE",
    "MANIFEST",
    "NAMES_FILE",
    "WORK",
    "StoredColumn",
    "array_file",
    "data_home",
    "file_digest",
    "open_prepared",
    "prepared_sets",
    "read_bags",
    "read_labels",
    "read_manifest",
    "stored_digest",
    "verify_files",
]

MANIFEST = "manifest.json"
WORK = ".preparing"
ITEM_FILE = "items.arrow"
NAMES_FILE = "names.json"
_ARRAYS = ("images", "bags", "labels", "ids", *SPLIT_NAMES)
_BLOCK = 8 << 20


def array_file(folder: Path, name: str) -> Path:
    """Return where an array of a prepared set is."""
    return folder / f"{name}.npy"


def data_home() -> Path:
    """Return the folder whose prepared sets are found by name: HAMWARD_DATA, or the default."""
    given = os.environ.get("HAMWARD_DATA")
    return Path(given) if given else Path.home() / ".local" / "share" / "hamward"


def prepared_sets() -> dict[str, Path]:
    """Return the prepared sets in the data home by name."""
    home = data_home()
    if not home.is_dir():
        return {}
    return {f.name: f for f in sorted(home.iterdir()) if (f / MANIFEST).is_file()}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a prepared set.

    Raises:
        ArtifactError: there is none, or it is damaged; the message says if a preparation was
            interrupted.
    """
    if not (folder / MANIFEST).is_file():
        if (folder / WORK).is_dir():
            raise ArtifactError(
                f"{folder}: its preparation was interrupted: run `hamward data prepare` again with "
                "--resume"
            )
        raise ArtifactError(f"{folder}: no prepared set (it has no {MANIFEST})")
    manifest = read_json(folder / MANIFEST)
    wanted = {"name", "digest", "protocol", "files", "items", "searched_train"}
    if missing := wanted - manifest.keys():
        raise ArtifactError(f"{folder / MANIFEST}: lacks {sorted(missing)}")
    return manifest


def open_prepared(folder: Path) -> RetrievalData:
    """Open a prepared set without reading its items; sizes are checked, contents are not.

    `hamward data check` reads everything.

    Raises:
        ArtifactError: not a finished prepared set, or a file is missing or has another size.
    """
    manifest = read_manifest(folder)
    for name, facts in manifest["files"].items():
        try:
            size = (folder / name).stat().st_size
        except OSError as error:
            raise ArtifactError(f"{folder / name}: cannot be read ({error.strerror})") from error
        if size != facts["size"]:
            raise ArtifactError(
                f"{folder / name}: damaged: {size} bytes, the manifest says {facts['size']}; "
                "prepare the set again"
            )
    names = read_json(folder / NAMES_FILE)
    count = int(manifest["items"])
    try:
        ids = np.load(array_file(folder, "ids"))
        groups = array_file(folder, "groups")
        return RetrievalData(
            name=manifest["name"],
            images=_map(array_file(folder, "images")),
            bags=read_bags(folder, len(names["words"])),
            labels=read_labels(folder, len(names["labels"])),
            texts=StoredColumn(folder / ITEM_FILE, "text", size=count),
            words=tuple(names["words"]),
            label_names=tuple(names["labels"]),
            ids=ids,
            split=Split(
                **{name: np.load(array_file(folder, name)) for name in SPLIT_NAMES},
                searched_train=manifest["searched_train"],
                searched_query=manifest.get("searched_query", False),
            ),
            groups=np.load(groups) if groups.exists() else None,
            sources=StoredColumn(folder / ITEM_FILE, "picture", size=count),
            protocol=_protocol_line(manifest["protocol"]),
            digest=manifest["digest"],
        )
    except (OSError, ValueError, KeyError, HamwardError) as error:
        raise ArtifactError(f"{folder}: damaged ({error}); prepare the set again") from error


def verify_files(folder: Path) -> None:
    """Read a prepared set as a whole and compare it with its manifest.

    Raises:
        ArtifactError: a file has other bytes, or together they are not the recorded set.
    """
    manifest = read_manifest(folder)
    for name, facts in manifest["files"].items():
        found = file_digest(folder / name)
        if found != facts["sha256"]:
            raise ArtifactError(
                f"{folder / name}: damaged: sha256 {found}, the manifest says {facts['sha256']}; "
                "prepare the set again"
            )
    texts = StoredColumn(folder / ITEM_FILE, "text", size=int(manifest["items"]))
    if stored_digest(folder, texts) != manifest["digest"]:
        raise ArtifactError(f"{folder}: its files are not those of digest {manifest['digest']}")


def stored_digest(folder: Path, texts: Sequence[str]) -> str:
    """Return what `RetrievalData.digest` is for these files, read as a stream."""

    def parts() -> Iterator[tuple[str, str, tuple[int, ...], Iterator[bytes]]]:
        names = read_json(folder / NAMES_FILE)
        bags, labels = (
            read_bags(folder, len(names["words"])),
            read_labels(folder, len(names["labels"])),
        )
        for name in _ARRAYS:
            if name in ("bags", "labels"):
                array = bags if name == "bags" else labels
                rows = range(0, len(array), 4096)
                blocks = (np.ascontiguousarray(array[i : i + 4096]).tobytes() for i in rows)
                yield name, array.dtype.str, array.shape, blocks
                continue
            file = array_file(folder, name)
            mapped = _map(file)
            start = file.stat().st_size - mapped.nbytes
            yield name, mapped.dtype.str, mapped.shape, _blocks(file, start)

    return content_digest(parts(), texts)


def file_digest(file: Path) -> str:
    """Return the sha256 of a file, read as a stream."""
    sha = hashlib.sha256()
    for block in _blocks(file):
        sha.update(block)
    return sha.hexdigest()


@final
class StoredColumn(Sequence[str]):
    """Strings in a memory-mapped Arrow file, read when asked for.

    Args:
        file: The file.
        name: The column.
        size: Number of rows, so that nothing need be opened to know it.
    """

    def __init__(self, file: Path, name: str, *, size: int) -> None:
        self.file, self.name, self.size = file, name, size
        self._column: Any = None

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        """Return one string, or several as a tuple."""
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(self.size)))
        if not -self.size <= index < self.size:
            raise IndexError(f"row {index} of {self.size}")
        text: str = self._open()[int(index) % self.size].as_py()
        return text

    def __iter__(self) -> Iterator[str]:
        """Yield all strings, block by block."""
        for chunk in self._open().chunks:
            yield from chunk.to_pylist()

    def _open(self) -> Any:
        if self._column is None:
            import pyarrow as pa

            try:
                table = pa.ipc.open_file(pa.memory_map(str(self.file))).read_all()
                self._column = table[self.name]
            except (OSError, KeyError, pa.ArrowException) as error:
                raise ArtifactError(f"{self.file}: damaged ({error})") from error
        return self._column


def read_bags(folder: Path, vocabulary: int) -> SparseBags:
    """Map the bags of words of a prepared set."""
    starts, words = (_map(array_file(folder, name)) for name in ("bag_starts", "bag_words"))
    return SparseBags(starts, words, vocabulary=vocabulary)


def read_labels(folder: Path, count: int) -> NDArray[np.uint8]:
    """Unpack the labels of a prepared set, uint8 (n, C).

    Raises:
        ValueError: the file holds another number of labels.
    """
    packed = _map(array_file(folder, "labels"))
    if packed.shape[1] != -(-count // 8):
        raise ValueError(f"labels.npy has {packed.shape[1]} bytes an item for {count} labels")
    return np.unpackbits(packed, axis=1, count=count)


def _map(file: Path) -> NDArray[Any]:
    mapped: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    return mapped


def _blocks(file: Path, start: int = 0) -> Iterator[bytes]:
    with file.open("rb") as handle:
        handle.seek(start)
        while block := handle.read(_BLOCK):
            yield block


def _protocol_line(protocol: Any) -> str:
    if not isinstance(protocol, dict) or "name" not in protocol:
        raise ConfigError(f"protocol must be a table with a name, got {protocol!r}")
    return f"{protocol['name']}, seed {protocol.get('seed')}"
