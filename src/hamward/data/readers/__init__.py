"""Readers of the sets that the field uses, from their official layouts and from packed files.

`hamward.data.importers.IMPORTERS` names them, with what each needs on disk.

Left out: IAPR TC-12 and the Wikipedia set as published by their owners, because the notes this
package is built on do not describe those archives well enough to test a reader against them.
Their packed forms (IAPR-TC12.mat, WIKIPEDIA.mat) are read by `read_packed`.
"""

from hamward.data.readers.coco import read_coco
from hamward.data.readers.deephash_list import read_deephash_list
from hamward.data.readers.mirflickr import read_mirflickr
from hamward.data.readers.nus_wide import read_nus_wide
from hamward.data.readers.packed import read_packed

__all__ = [
    "read_coco",
    "read_deephash_list",
    "read_mirflickr",
    "read_nus_wide",
    "read_packed",
]
