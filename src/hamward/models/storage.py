"""Models on disk: weights as safetensors, architecture and vocabulary beside them as JSON.

A text transformer's configuration and tokenizer lie in the folder `text` beside them.
"""

from pathlib import Path
from typing import Any

from hamward.artifacts import read_json, read_tensors, write_json, write_tensors
from hamward.config import from_mapping, to_mapping
from hamward.errors import ArtifactError, ConfigError
from hamward.models.hash_model import HashModel, ModelSpec, build_hash_model
from hamward.models.networks import TEXT_TRANSFORMERS

__all__ = ["load_model", "save_model"]

_TEXT = "text"


def save_model(folder: Path, model: HashModel, **facts: Any) -> None:
    """Write model.safetensors, then model.json, each atomically.

    Args:
        folder: Where to.
        model: The model.
        **facts: Plain values stored beside the architecture, such as the data digest.

    Raises:
        ArtifactError: the model wraps foreign functions, which no file can hold.
    """
    if "wrapped" in (model.spec.image_network, model.spec.text_network):
        raise ArtifactError("wrapped models cannot be saved: keep the functions they wrap")
    if model.text_transformer is not None:
        model.text_transformer.save_description(folder / _TEXT)
    write_tensors(folder / "model.safetensors", model.state_dict())
    write_json(folder / "model.json", {"spec": to_mapping(model.spec), **facts})


def load_model(folder: Path) -> tuple[HashModel, dict[str, Any]]:
    """Read a model that `save_model` wrote.

    Returns:
        The model in eval mode on the CPU, and the facts stored with it.

    Raises:
        ArtifactError: missing or damaged files, or weights of another architecture.
    """
    facts = read_json(folder / "model.json")
    try:
        spec = from_mapping(ModelSpec, facts.get("spec"), path="spec.")
        text = folder / _TEXT if spec.text_network in TEXT_TRANSFORMERS else None
        # Leaves the global random stream alone.
        model = build_hash_model(spec, seed=0, text_folder=text)
    except ConfigError as error:
        raise ArtifactError(f"{folder / 'model.json'}: {error}") from error
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
