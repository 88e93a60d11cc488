"""Which sets can be read from their owners' files, and what to have on disk first."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
        holds: What is in it.
        md5: Known checksum in hexadecimal, or None.
    """

    name: str
    holds: str
    md5: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """A reader of somebody's files.

    Attributes:
        name: Name on the command line.
        summary: One sentence.
        citation: The paper whose owners publish the files.
        home: Module in `hamward.data` and its function `read_...`, imported when used.
        needs: What the root folder must hold.
        archives: What the owners publish.
        items: Items by rule as usually published; empty when every file has its own number.
    """

    name: str
    summary: str
    citation: str
    home: tuple[str, str]
    needs: tuple[str, ...]
    archives: tuple[Archive, ...] = ()
    items: Mapping[str, int] = field(default_factory=dict)

    @property
    def reader(self) -> Callable[..., Source]:
        """The function `read_...(root, **options) -> Source`."""
        module, function = self.home
        found: Callable[..., Source] = getattr(
            importlib.import_module(f"hamward.data.{module}"), function
        )
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
            f"{root}: no such file or folder; {name} needs {'; '.join(IMPORTERS[name].needs)} (see "
            f"`hamward data fetch {name}`)"
        )
    source: Source = call_with(
        IMPORTERS[name].reader,
        options or {},
        path=f"{name}: ",
        given={"root": root, "skip_bad": skip_bad},
    )
    return source


_FOLDER = Importer(
    name="folder",
    summary="Your own: a folder of pictures and a CSV, TSV, JSONL or Parquet table.",
    citation="-",
    home=("folder", "read_folder"),
    needs=("pictures", "one table with columns for file, text and, if there are any, labels"),
)
_MIRFLICKR = Importer(
    name="mirflickr",
    summary="MIRFlickr-25K: 25,000 photographs with 1,386 tags and 24 or 38 labels.",
    citation="Huiskes and Lew, The MIR Flickr Retrieval Evaluation (MIR 2008)",
    home=("readers.mirflickr", "read_mirflickr"),
    needs=(
        "mirflickr/im<number>.jpg",
        "mirflickr/meta/tags/tags<number>.txt",
        "mirflickr/doc/common_tags.txt",
        "annotations/ or mirflickr25k_annotations_v080/ (38 label files)",
    ),
    archives=(
        Archive(
            name="mirflickr25k.zip",
            holds="pictures im1.jpg .. im25000.jpg, meta/tags, doc/common_tags.txt",
            md5="a23d0a8564ee84cda5622a6c2f947785",
        ),
        Archive(name="mirflickr25k_annotations_v080.zip", holds="38 files of image numbers"),
    ),
    items={"tag-and-label": 20_015, "label": 24_581, "all": 25_000},
)
_NUS_WIDE = Importer(
    name="nus-wide",
    summary="NUS-WIDE: 269,648 photographs with 1,000 tags and 81 concepts (TC10, TC21).",
    citation="Chua et al., NUS-WIDE: A Real-World Web Image Database (CIVR 2009)",
    home=("readers.nus_wide", "read_nus_wide"),
    needs=(
        "Groundtruth/AllLabels/Labels_<concept>.txt (81 files)",
        "NUS_WID_Tags/AllTags1k.txt",
        "NUS_WID_Tags/TagList1k.txt",
        "ImageList/Imagelist.txt",
        "Flickr/<concept>/<name>.jpg (--missing skip leaves out items without a picture)",
    ),
    archives=(
        Archive(name="Groundtruth", holds="AllLabels/Labels_<concept>.txt, 81 files"),
        Archive(name="NUS_WID_Tags", holds="AllTags1k.txt, TagList1k.txt"),
        Archive(name="ImageList", holds="Imagelist.txt"),
        Archive(name="the pictures", holds="not redistributable: from the owners"),
    ),
    items={"tc10": 186_577, "tc21": 195_834, "tc21-text": 190_421, "all": 269_648},
)
_COCO = Importer(
    name="coco",
    summary="MS-COCO 2014 or 2017, train and val together: five captions and 80 object labels.",
    citation="Lin et al., Microsoft COCO: Common Objects in Context (ECCV 2014)",
    home=("readers.coco", "read_coco"),
    needs=(
        "annotations/captions_{train,val}<year>.json",
        "annotations/instances_{train,val}<year>.json",
        "{train,val}<year>/*.jpg",
    ),
    archives=(
        Archive(name="train2014.zip", holds="pictures (or 2017)"),
        Archive(name="val2014.zip", holds="pictures (or 2017)"),
        Archive(name="annotations_trainval2014.zip", holds="captions and instances (or 2017)"),
    ),
    items={"all": 123_287, "label": 122_218},
)
_PACKED = Importer(
    name="packed",
    summary="Packed .mat and .h5 files of DCMH, EQB2A, DADH, CMLA and others.",
    citation="the repositories named in the file's paper",
    home=("readers.packed", "read_packed"),
    needs=("one .mat or .h5 file, or a folder with one set's files",),
)
_DEEPHASH_LIST = Importer(
    name="deephash-list",
    summary="List files `path 0 1 0 ...` of the DeepHash repositories: pictures and labels.",
    citation="DeepHash-pytorch",
    home=("readers.deephash_list", "read_deephash_list"),
    needs=("test.txt", "database.txt", "train.txt (optional)", "the pictures"),
)
IMPORTERS: Mapping[str, Importer] = MappingProxyType(
    {
        entry.name: entry
        for entry in (_FOLDER, _MIRFLICKR, _NUS_WIDE, _COCO, _PACKED, _DEEPHASH_LIST)
    }
)
