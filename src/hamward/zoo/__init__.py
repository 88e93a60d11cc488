"""A zoo: trained models in a plain folder, or behind an address, with checksums."""

from hamward.zoo.manifest import MANIFEST, StoredFile, Zoo, ZooModel, file_of, read_zoo
from hamward.zoo.transfer import pull, push

__all__ = [
    "MANIFEST",
    "StoredFile",
    "Zoo",
    "ZooModel",
    "file_of",
    "pull",
    "push",
    "read_zoo",
]
