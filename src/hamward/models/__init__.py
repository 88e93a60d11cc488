"""Hash models, the networks inside them, and the victim's side of an attack."""

from hamward.models.hash_model import Encoder, HashModel, ModelSpec, build_hash_model, frozen
from hamward.models.networks import IMAGE_NETWORKS
from hamward.models.onnx_files import wrap_onnx
from hamward.models.storage import load_model, save_model
from hamward.models.victim import Access, QueryLedger, Victim
from hamward.models.wrapping import wrap

__all__ = [
    "IMAGE_NETWORKS",
    "Access",
    "Encoder",
    "HashModel",
    "ModelSpec",
    "QueryLedger",
    "Victim",
    "build_hash_model",
    "frozen",
    "load_model",
    "save_model",
    "wrap",
    "wrap_onnx",
]
