"""Hash models, the networks inside them, and the victim's side of an attack."""

from hamward.models.hash_model import Encoder, HashModel, ModelSpec, build_hash_model, frozen
from hamward.models.networks import IMAGE_NETWORKS
from hamward.models.onnx_files import wrap_onnx
from hamward.models.purifiers import PURIFIERS, BitDepth, Jpeg, NoiseVote, Purifier, WordDrop
from hamward.models.reading import read_by
from hamward.models.storage import load_model, save_model, weights_digest
from hamward.models.victim import Access, QueryLedger, Victim
from hamward.models.wrapping import wrap

__all__ = [
    "IMAGE_NETWORKS",
    "PURIFIERS",
    "Access",
    "BitDepth",
    "Encoder",
    "HashModel",
    "Jpeg",
    "ModelSpec",
    "NoiseVote",
    "Purifier",
    "QueryLedger",
    "Victim",
    "WordDrop",
    "build_hash_model",
    "frozen",
    "load_model",
    "read_by",
    "save_model",
    "weights_digest",
    "wrap",
    "wrap_onnx",
]
