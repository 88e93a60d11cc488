"""Data sets: pictures, words and labels, split for retrieval.

`DATASETS` names those that load at once; `IMPORTERS` names those that `prepare` makes from files
of the user's. `load_data` loads the former by name, the latter by folder or name.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hamward.data.audit import audit
from hamward.data.importers import IMPORTERS, read_source
from hamward.data.openclipart27 import load_openclipart27
from hamward.data.overview import contact_sheet, describe
from hamward.data.prepared import MANIFEST, WORK, open_prepared, prepared_sets
from hamward.data.preparing import PrepareConfig, prepare
from hamward.data.protocols import PROTOCOLS
from hamward.data.retrieval_data import RetrievalData
from hamward.data.source import Source
from hamward.data.split import Split, SplitName
from hamward.errors import ConfigError, unknown_name

__all__ = [
    "DATASETS",
    "DatasetEntry",
    "IMPORTERS",
    "PROTOCOLS",
    "PrepareConfig",
    "RetrievalData",
    "Source",
    "Split",
    "SplitName",
    "audit",
    "contact_sheet",
    "describe",
    "find_prepared",
    "load_data",
    "load_openclipart27",
    "open_prepared",
    "prepare",
    "read_source",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetEntry:
    """A data set and what a reader must know before using it.

    Attributes:
        name: Name on the command line.
        summary: One sentence.
        source: Where it comes from or which paper to cite.
        license: Terms of the data.
        loader: Function with keyword-only options.
        shipped: Whether it comes with the package; else the options name the user's files.
    """

    name: str
    summary: str
    source: str
    license: str
    loader: Callable[..., RetrievalData]
    shipped: bool

    @property
    def options(self) -> dict[str, Any]:
        """The loader's options with their defaults (`inspect.Parameter.empty` if required)."""
        return {k: p.default for k, p in inspect.signature(self.loader).parameters.items()}


DATASETS = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            DatasetEntry(
                name="openclipart27",
                summary="3,762 clip-art pictures with contributors' keywords and 27 labels.",
                source="Open Clip Art Library 0.18, Debian packages openclipart-png and -svg",
                license="public domain",
                loader=load_openclipart27,
                shipped=True,
            ),
        )
    }
)


def find_prepared(name: str) -> Path | None:
    """Return the folder of a prepared set, named by path or by its name in the data home."""
    folder = Path(name)
    if (folder / MANIFEST).is_file() or (folder / WORK).is_dir():
        return folder
    return prepared_sets().get(name)


def load_data(name: str, **options: Any) -> RetrievalData:
    """Load a registered data set, or open a prepared one.

    Args:
        name: A key of `DATASETS`, the folder of a prepared set, or its name in the data home.
        **options: The loader's options, such as `image_side=96`; a prepared set has none.

    Raises:
        UnknownNameError: no such data set, or it has no such option.
        ConfigError: an option outside its range.
        DataError: the data are missing or damaged.
        ArtifactError: the prepared set is unfinished or damaged.
    """
    if name not in DATASETS:
        folder = find_prepared(name)
        if folder is None and Path(name).is_dir():
            folder = Path(name)  # opening it says what is missing
        if folder is None:
            raise unknown_name("data set", name, [*DATASETS, *prepared_sets()])
        data = open_prepared(folder)
        if options.get("image_side", data.image_side) != data.image_side or options.keys() - {
            "image_side"
        }:
            raise ConfigError(
                f"{name}: a prepared set has no options (its pictures have side "
                f"{data.image_side}), got {options}: prepare it again to change it"
            )
        return data
    entry = DATASETS[name]
    for option in options:
        if option not in entry.options:
            raise unknown_name(f"option of data set {name!r},", option, entry.options)
    return entry.loader(**options)
