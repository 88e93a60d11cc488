"""Which sets can be read from their owners' files, and what to have on disk first."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hamward.config import call_with
from hamward.data.source import Source
from hamward.errors import DataError, unknown_name

__all__ = ["IMPORTERS", "Archive", "Importer", "read_source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A file that the owners publish.

    Attributes:
        name: File name.
        md5: Known checksum in hexadecimal, or None.
        holds: What is in it.
    """

    name: str
    md5: str | None = None
    holds: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """A reader of somebody's files.

    Attributes:
        name: Name on the command line.
        summary: One sentence.
        citation: The paper whose owners publish the files.
        archives: What to get.
        layout: What the root folder must hold.
        home: Module and function, imported when used.
    """

    name: str
    summary: str
    citation: str
    archives: tuple[Archive, ...]
    layout: str
    home: tuple[str, str]

    @property
    def reader(self) -> Callable[..., Source]:
        """The function `read_...(root, **options) -> Source`."""
        module, function = self.home
        found: Callable[..., Source] = getattr(importlib.import_module(module), function)
        return found

    @property
    def options(self) -> dict[str, Any]:
        """The reader's options with their defaults."""
        parameters = inspect.signature(self.reader).parameters
        return {k: p.default for k, p in parameters.items() if k not in ("root", "skip_bad")}


def read_source(
    name: str, root: Path, options: Mapping[str, Any] | None = None, *, skip_bad: bool = False
) -> Source:
    """Read a set from its owners' files.

    Args:
        name: A key of `IMPORTERS`.
        root: Where the files are; a folder, or a packed file.
        options: Options of the reader, as plain values.
        skip_bad: Leave out what is bad instead of refusing the set.

    Raises:
        UnknownNameError: no such importer.
        ConfigError: an option that the reader does not have, or with the wrong type.
        DataError: the files are not what they should be.
    """
    if name not in IMPORTERS:
        raise unknown_name("importer", name, IMPORTERS)
    if not root.exists():
        raise DataError(
            f"{root}: no such file or folder; {name} needs {IMPORTERS[name].layout} (see "
            f"`hamward data fetch {name}`)"
        )
    source: Source = call_with(
        IMPORTERS[name].reader,
        options or {},
        path=f"{name}: ",
        given={"root": root, "skip_bad": skip_bad},
    )
    return source


_READERS = "hamward.data.readers"

IMPORTERS: Mapping[str, Importer] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Importer(
                name="folder",
                summary="Your own: a folder of pictures and a CSV, TSV, JSONL or Parquet table.",
                citation="-",
                archives=(),
                layout="pictures and one table with columns for file, text and labels",
                home=("hamward.data.folder", "read_folder"),
            ),
            Importer(
                name="mirflickr",
                summary="MIRFlickr-25K: 25,000 photographs with tags, 24 or 38 labels.",
                citation="Huiskes and Lew, The MIR Flickr Retrieval Evaluation (MIR 2008)",
                archives=(
                    Archive(
                        name="mirflickr25k.zip",
                        md5="a23d0a8564ee84cda5622a6c2f947785",
                        holds="pictures im1.jpg .. im25000.jpg, meta/tags, doc/common_tags.txt",
                    ),
                    Archive(
                        name="mirflickr25k_annotations_v080.zip", holds="38 files of image numbers"
                    ),
                ),
                layout="both archives, unpacked side by side",
                home=(f"{_READERS}.mirflickr", "read_mirflickr"),
            ),
            Importer(
                name="nus-wide",
                summary="NUS-WIDE: 269,648 photographs with tags and 81 concepts (TC10, TC21).",
                citation="Chua et al., NUS-WIDE: A Real-World Web Image Database (CIVR 2009)",
                archives=(
                    Archive(name="Groundtruth", holds="AllLabels/Labels_<concept>.txt, 81 files"),
                    Archive(name="NUS_WID_Tags", holds="AllTags1k.txt, TagList1k.txt"),
                    Archive(name="ImageList", holds="Imagelist.txt"),
                    Archive(name="the pictures", holds="not redistributable: from the owners"),
                ),
                layout="the three text archives unpacked, and the pictures if you have them",
                home=(f"{_READERS}.nus_wide", "read_nus_wide"),
            ),
            Importer(
                name="coco",
                summary="MS-COCO: captions and 80 object labels of train and val pictures.",
                citation="Lin et al., Microsoft COCO: Common Objects in Context (ECCV 2014)",
                archives=(
                    Archive(name="train2014.zip", holds="pictures (or 2017)"),
                    Archive(name="val2014.zip", holds="pictures (or 2017)"),
                    Archive(
                        name="annotations_trainval2014.zip",
                        holds="annotations/captions_*.json and instances_*.json (or 2017)",
                    ),
                ),
                layout="annotations/, train2014/ and val2014/",
                home=(f"{_READERS}.coco", "read_coco"),
            ),
            Importer(
                name="packed",
                summary="Packed .mat and .h5 files of DCMH, EQB2A, DADH, CMLA and others.",
                citation="the repositories named in the file's paper",
                archives=(),
                layout="one of the packed files in circulation",
                home=(f"{_READERS}.packed", "read_packed"),
            ),
            Importer(
                name="deephash-list",
                summary="List files of DeepHash-pytorch: lines `path 0 1 0 ...`.",
                citation="DeepHash-pytorch",
                archives=(),
                layout="train.txt, test.txt and database.txt",
                home=(f"{_READERS}.deephash_list", "read_deephash_list"),
            ),
        )
    }
)
