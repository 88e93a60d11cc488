"""Data sets: pictures, words and labels, split for retrieval.

`DATASETS` names them, `load_data` loads one; an importer adds its entry to the table.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from hamward.data.openclipart27 import load_openclipart27
from hamward.data.overview import contact_sheet, describe
from hamward.data.retrieval_data import RetrievalData
from hamward.data.split import Split, SplitName
from hamward.errors import unknown_name

__all__ = [
    "DATASETS",
    "DatasetEntry",
    "RetrievalData",
    "Split",
    "SplitName",
    "contact_sheet",
    "describe",
    "load_data",
    "load_openclipart27",
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


def load_data(name: str, **options: Any) -> RetrievalData:
    """Load a registered data set.

    Args:
        name: A key of `DATASETS`.
        **options: The loader's options, such as `image_side=96`.

    Raises:
        UnknownNameError: no such data set, or it has no such option.
        ConfigError: an option outside its range.
        DataError: the data are missing or damaged.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    entry = DATASETS[name]
    for option in options:
        if option not in entry.options:
            raise unknown_name(f"option of data set {name!r},", option, entry.options)
    return entry.loader(**options)
