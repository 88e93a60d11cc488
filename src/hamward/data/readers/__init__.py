"""Readers of the sets that the field uses, from their official layouts and from packed files.

Left out: IAPR TC-12 and the Wikipedia set as published by their owners, because the notes this
package is built on do not describe those archives well enough to test a reader against them.
Their packed forms (IAPR-TC12.mat, WIKIPEDIA.mat) are read by `read_packed`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from hamward.data.readers.coco import read_coco
from hamward.data.readers.deephash_list import read_deephash_list
from hamward.data.readers.mirflickr import read_mirflickr
from hamward.data.readers.nus_wide import read_nus_wide
from hamward.data.readers.packed import read_packed
from hamward.data.source import Source

__all__ = [
    "READERS",
    "Reader",
    "read_coco",
    "read_deephash_list",
    "read_mirflickr",
    "read_nus_wide",
    "read_packed",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A reader and what a user must have on disk.

    Attributes:
        name: Name on the command line.
        summary: One sentence.
        needs: Files below the folder that is given.
        items: Items by rule as usually published; empty when every file has its own number.
        read: The function: a folder and keyword-only options.
    """

    name: str
    summary: str
    needs: tuple[str, ...]
    items: MappingProxyType[str, int]
    read: Callable[..., Source]


READERS = MappingProxyType(
    {
        reader.name: reader
        for reader in (
            Reader(
                name="coco",
                summary="MS-COCO 2014 or 2017, train and val together, 80 labels, five captions.",
                needs=(
                    "annotations/captions_{train,val}<year>.json",
                    "annotations/instances_{train,val}<year>.json",
                    "{train,val}<year>/*.jpg",
                ),
                items=MappingProxyType({"all": 123_287, "label": 122_218}),
                read=read_coco,
            ),
            Reader(
                name="deephash-list",
                summary="List files `path 0 1 0 ...` of the DeepHash repositories; no texts.",
                needs=("test.txt", "database.txt", "train.txt (optional)", "the pictures"),
                items=MappingProxyType({}),
                read=read_deephash_list,
            ),
            Reader(
                name="mirflickr",
                summary="MIRFlickr-25K with annotations v080 and the 1,386-word vocabulary.",
                needs=(
                    "mirflickr/im<number>.jpg",
                    "mirflickr/meta/tags/tags<number>.txt",
                    "mirflickr/doc/common_tags.txt",
                    "annotations/ or mirflickr25k_annotations_v080/ (38 label files)",
                ),
                items=MappingProxyType({"tag-and-label": 20_015, "label": 24_581, "all": 25_000}),
                read=read_mirflickr,
            ),
            Reader(
                name="nus-wide",
                summary="NUS-WIDE with the 10, 21 or all 81 concepts and the 1,000-word tags.",
                needs=(
                    "Groundtruth/AllLabels/Labels_<concept>.txt (81 files)",
                    "NUS_WID_Tags/AllTags1k.txt",
                    "NUS_WID_Tags/TagList1k.txt",
                    "ImageList/Imagelist.txt",
                    "Flickr/<concept>/<name>.jpg (or features=..., or missing='text-only')",
                ),
                items=MappingProxyType(
                    {"tc10": 186_577, "tc21": 195_834, "tc21-text": 190_421, "all": 269_648}
                ),
                read=read_nus_wide,
            ),
            Reader(
                name="packed",
                summary="The .mat and .h5 files that circulate with released hashing code.",
                needs=("one .mat or .h5 file, or a folder with one set's files",),
                items=MappingProxyType({}),
                read=read_packed,
            ),
        )
    }
)
