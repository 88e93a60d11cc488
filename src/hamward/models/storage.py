"""Models on disk: weights as safetensors or ONNX files, architecture beside them as JSON.

A text transformer's configuration and tokenizer lie in the folder `text` beside them.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from hamward.artifacts import read_json, read_tensors, write_json, write_tensors
from hamward.config import call_with, from_mapping, to_mapping
from hamward.errors import ArtifactError, ConfigError
from hamward.models.hash_model import HashModel, ModelSpec, build_hash_model
from hamward.models.networks import TEXT_TRANSFORMERS
from hamward.models.onnx_files import OnnxEncoder, wrap_onnx
from hamward.models.purifiers import PURIFIERS, Purifier
from hamward.types import MODALITIES, Modality

__all__ = ["load_model", "onnx_file", "save_model", "save_onnx_model", "weights_digest"]

_TEXT = "text"


def save_model(folder: Path, model: HashModel, **facts: Any) -> None:
    """Write model.safetensors, then model.json, each atomically.

    Args:
        folder: Where to.
        model: The model.
        **facts: Plain values stored beside the architecture, such as the data digest.

    Raises:
        ArtifactError: the model wraps foreign functions, which no file can hold, or has a
            purifier of no registered class.
    """
    if "wrapped" in (model.spec.image_network, model.spec.text_network):
        raise ArtifactError("wrapped models cannot be saved: keep the functions they wrap")
    if model.text_transformer is not None:
        model.text_transformer.save_description(folder / _TEXT)
    purifiers = {str(m): _described(purifier) for m, purifier in model.purifiers.items()}
    stored = {**facts, "purifiers": purifiers} if purifiers else facts
    write_tensors(folder / "model.safetensors", model.state_dict())
    write_json(folder / "model.json", {"spec": to_mapping(model.spec), **stored})


def weights_digest(model: HashModel) -> str:
    """Return the SHA-256 of all weights and buffers, however they are stored."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(name.encode())
        sha.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def onnx_file(folder: Path, modality: Modality) -> Path:
    """Return where an encoder stands in the folder of an ONNX model."""
    return folder / f"{modality}.onnx"


def save_onnx_model(folder: Path, model: HashModel, **facts: Any) -> None:
    """Write model.json for the ONNX files in a folder, which the model was made of.

    Args:
        folder: Holds the files where `onnx_file` says.
        model: What `wrap_onnx` made of them.
        **facts: As for `save_model`.
    """
    digests = {m: _digest(model, m) for m in model.modalities}
    write_json(folder / "model.json", {"spec": to_mapping(model.spec), "onnx": digests, **facts})


def load_model(folder: Path) -> tuple[HashModel, dict[str, Any]]:
    """Read a model that `save_model` or `save_onnx_model` wrote.

    Returns:
        The model in eval mode on the CPU, and the facts stored with it.

    Raises:
        ArtifactError: missing or damaged files, or weights of another architecture.
        ConfigError: the model is made of ONNX files, and onnxruntime is not installed.
    """
    facts = read_json(folder / "model.json")
    try:
        spec = from_mapping(ModelSpec, facts.get("spec"), path="spec.")
        if "onnx" not in facts:
            text = folder / _TEXT if spec.text_network in TEXT_TRANSFORMERS else None
            # Leaves the global random stream alone.
            model = build_hash_model(spec, seed=0, text_folder=text)
            for purifier in _purifiers(facts.get("purifiers", {})):
                model = model.purified(purifier)
    except ConfigError as error:
        raise ArtifactError(f"{folder / 'model.json'}: {error}") from error
    if "onnx" in facts:
        return _load_onnx(folder, spec, facts["onnx"]), facts
    state = read_tensors(folder / "model.safetensors")
    own = model.state_dict()
    missing, extra = own.keys() - state.keys(), state.keys() - own.keys()
    wrong = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    if missing or extra or wrong:
        shapes = "".join(
            f"; {k!r} is {tuple(state[k].shape)}, expected {tuple(own[k].shape)}"
            for k in sorted(wrong)[:1]
        )
        raise ArtifactError(
            f"{folder / 'model.safetensors'}: weights of another architecture: {len(missing)} "
            f"tensors missing, {len(extra)} unexpected, {len(wrong)} of another shape{shapes}"
        )
    model.load_state_dict(state)
    return model.eval(), facts


def _described(purifier: Purifier) -> dict[str, Any]:
    """Return the name and the options of a purifier."""
    names = [entry.name for entry in PURIFIERS.values() if entry.make is type(purifier)]
    if not names:
        raise ArtifactError(
            f"purifiers of class {type(purifier).__name__} cannot be saved: register it first"
        )
    return {"name": names[0], **to_mapping(purifier)}


def _purifiers(described: Any) -> Iterator[Purifier]:
    if not isinstance(described, Mapping):
        raise ConfigError(f"purifiers must be a table, got {described!r}")
    for modality, values in described.items():
        path = f"purifiers.{modality}"
        if not isinstance(values, Mapping) or "name" not in values:
            raise ConfigError(f"{path} must be a table with a name, got {values!r}")
        options = {k: v for k, v in values.items() if k != "name"}
        yield call_with(PURIFIERS[values["name"]].make, options, path=f"{path}.")


def _load_onnx(folder: Path, spec: ModelSpec, digests: Mapping[Modality, str]) -> HashModel:
    files = {m: onnx_file(folder, m) for m in MODALITIES if m in digests}
    model = wrap_onnx(
        image=files.get("image"),
        text=files.get("text"),
        image_side=spec.image_side,
        vocabulary=spec.vocabulary,
        retrieval=spec.retrieval,
    )
    for modality, file in files.items():
        if _digest(model, modality) != digests[modality]:
            raise ArtifactError(f"{file}: not the file that was checked when this folder was made")
    return model.eval()


def _digest(model: HashModel, modality: Modality) -> str:
    """Return the SHA-256 of an encoder's file."""
    call = model.encoder(modality).trunk.module
    assert isinstance(call, OnnxEncoder)
    return bytes(call.digest.tolist()).hex()
