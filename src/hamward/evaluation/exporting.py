"""Victims as ONNX files: written with a check of their codes, and taken in from elsewhere."""

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hamward.artifacts import RunFolder, read_json, write_atomically
from hamward.codes import binarize
from hamward.config import to_mapping
from hamward.data import RetrievalData
from hamward.errors import ArtifactError, ConfigError
from hamward.evaluation.card import model_card, write_card
from hamward.evaluation.runs import data_of, items_digest, load_victim, open_data
from hamward.models import HashModel, frozen, wrap_onnx
from hamward.models.onnx_files import (
    OPSET,
    OnnxEncoder,
    check_exportable,
    words_digest,
    write_onnx,
)
from hamward.models.storage import load_model, onnx_file, save_onnx_model
from hamward.progress import SILENT, Progress
from hamward.types import Modality

__all__ = ["ExportConfig", "ImportConfig", "Parity", "export_onnx", "export_run", "import_run"]

WORDS_FILE = "words.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """An export of a trained victim.

    Attributes:
        victim: Its run folder.
        items: Number of database items whose codes are compared.
        tolerance: Largest difference of a logit, as a share of the mean absolute logit.
    """

    victim: str
    items: int = 256
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.items < 1:
            raise ConfigError(f"items must be at least 1, got {self.items}")
        if not 0 < self.tolerance < 1:
            raise ConfigError(f"tolerance must be in (0, 1), got {self.tolerance}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportConfig:
    """A victim of foreign ONNX files.

    Attributes:
        image: File of the image encoder; "" for a victim that reads no pictures.
        text: File of the text encoder; "" for a victim that reads no texts.
        data: The data set that it is attacked on.
        data_options: Options of its loader; the side of the pictures is the file's by default.
        words: File of the words that the text encoder reads, one a line in its order; "" leaves
            unchecked whether they are those of the data, where the ONNX file does not say.
        retrieval: "hamming", or "cosine" of the logits.
    """

    image: str = ""
    text: str = ""
    data: str = "openclipart27"
    data_options: dict[str, Any] = field(default_factory=dict)
    words: str = ""
    retrieval: Literal["hamming", "cosine"] = "hamming"

    def __post_init__(self) -> None:
        if not self.image and not self.text:
            raise ConfigError("an import needs a file for image, for text, or for both")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far a file's logits and codes are from the model's, on the same items.

    Attributes:
        items: Number of items compared.
        differing_bits: Share of their bits that differ.
        difference: Largest absolute difference of a logit.
        tolerance: What that had to stay within. A bit can differ only where the model's logit
            is closer to 0 than this.
    """

    items: int
    differing_bits: float
    difference: float
    tolerance: float


def export_onnx(
    model: HashModel,
    folder: Path,
    data: RetrievalData,
    *,
    items: int = 256,
    tolerance: float = 1e-3,
) -> dict[Modality, Parity]:
    """Write image.onnx, text.onnx and words.txt, each only if it encodes as the model does.

    The files are read back by onnxruntime and compared on evenly spaced database items.

    Args:
        model: Not changed.
        folder: Where to.
        data: What the model was trained on.
        items: How many items are compared.
        tolerance: Largest difference of a logit, as a share of the mean absolute logit.

    Raises:
        ConfigError: the extra `onnx` is not installed.
        ArtifactError: the files do not encode as the model does, or it is no PyTorch model.
        ShapeError: the data do not fit the model.
    """
    folder = Path(folder)
    database = data.split.database
    chosen = database[np.linspace(0, len(database) - 1, min(items, len(database))).astype(int)]
    made: dict[Modality, Parity] = {}
    for modality in model.modalities:
        x = data.inputs(modality, chosen).to(next(model.parameters()))
        logits = _logits(model, modality, x)
        made[modality] = write_onnx(
            model,
            modality,
            onnx_file(folder, modality),
            facts={"words": words_digest(data.words)} if modality == "text" else {},
            check=partial(_parity, x=x, logits=logits, tolerance=tolerance),
        )
    if "text" in made:
        text = "".join(f"{word}\n" for word in data.words)
        write_atomically(folder / WORDS_FILE, lambda part: _fill(part, text))
    return made


def export_run(
    config: ExportConfig, out: Path, *, resume: bool = False, progress: Progress = SILENT
) -> dict[Modality, Parity]:
    """Export a trained victim into a run folder that serves wherever a victim's does.

    Raises:
        HamwardError: anything in the configuration, the victim or the folder does not fit.
    """
    source = Path(config.victim)
    model, facts = load_victim(source)
    check_exportable(model)
    data = data_of(facts, source)
    card = read_json(source / "card.json")
    kept = {k: v for k, v in facts.items() if k not in ("schema_version", "spec")}
    run = RunFolder(out)
    run.start("model", to_mapping(config), resume=resume)
    if not run.done:
        progress.say(f"{source.name}: export as ONNX, operators of version {OPSET}")
        made = export_onnx(model, out, data, items=config.items, tolerance=config.tolerance)
        save_onnx_model(out, _read(out, model), **kept)
        write_card(out, card)
        run.finish(parity={m: asdict(p) for m, p in made.items()}, opset=OPSET)
    return {m: Parity(**values) for m, values in run.info()["parity"].items()}


def import_run(
    config: ImportConfig, out: Path, *, resume: bool = False, progress: Progress = SILENT
) -> HashModel:
    """Make a run folder of foreign ONNX files, checked against the data it is attacked on.

    Returns:
        The victim, which grants codes and no gradients.

    Raises:
        HamwardError: a file is no encoder, the two do not fit each other or the data, or anything
            in the configuration or the folder does not fit.
    """
    given: dict[Modality, str] = {"image": config.image, "text": config.text}
    files = {m: Path(file) for m, file in given.items() if file}
    encoders = {m: OnnxEncoder(file, m) for m, file in files.items()}
    options = dict(config.data_options)
    if "image" in encoders and encoders["image"].shape[-1] is not None:
        options.setdefault("image_side", encoders["image"].shape[-1])
    data = open_data(config.data, options)
    if "text" in encoders:
        _check_words(encoders["text"], data, Path(config.words) if config.words else None)
    model = wrap_onnx(
        image=files.get("image"),
        text=files.get("text"),
        image_side=data.image_side,
        vocabulary=len(data.words) or None,
        retrieval=config.retrieval,
    )
    _check_answers(model, data)
    run = RunFolder(out)
    run.start("model", to_mapping(config), resume=resume)
    if run.done:
        return load_model(out)[0]
    facts = {
        "method": "imported",
        "options": {},
        "data": config.data,
        "data_options": options,
        "data_digest": data.digest,
        "items_digest": items_digest(data),
    }
    for modality, file in files.items():
        write_atomically(onnx_file(out, modality), partial(_copy, file))
    model = _read(out, model)
    save_onnx_model(out, model, **facts)
    progress.say(f"{out.name}: scoring {data.name}")
    write_card(out, model_card(model, data, facts))
    run.finish(data_digest=data.digest)
    return model


def _read(folder: Path, like: HashModel) -> HashModel:
    """Return the model that the files in a folder make."""
    files = {m: onnx_file(folder, m) for m in like.modalities}
    spec = like.spec
    return wrap_onnx(
        image=files.get("image"),
        text=files.get("text"),
        image_side=spec.image_side,
        vocabulary=spec.vocabulary,
        retrieval=spec.retrieval,
    )


def _logits(model: HashModel, modality: Modality, x: Tensor) -> Tensor:
    with torch.no_grad(), frozen(model):
        return torch.cat([model.logits(modality, part) for part in torch.split(x, 64)])


def _parity(encoder: OnnxEncoder, *, x: Tensor, logits: Tensor, tolerance: float) -> Parity:
    found = torch.cat([encoder(part) for part in torch.split(x, 64)])
    parity = Parity(
        items=len(x),
        differing_bits=float((binarize(found) != binarize(logits)).double().mean()),
        difference=float((found - logits).abs().max()),
        tolerance=tolerance * float(logits.abs().mean()),
    )
    if not parity.difference <= parity.tolerance:  # a NaN is no parity
        raise ArtifactError(
            f"the {encoder.modality} encoder's ONNX file does not encode as the model does and was "
            f"not written: logits differ by up to {parity.difference:.2g}, more than "
            f"{parity.tolerance:.2g}; {parity.differing_bits:.2%} of the bits of {len(x)} items"
        )
    return parity


def _check_words(encoder: OnnxEncoder, data: RetrievalData, file: Path | None) -> None:
    """Refuse a text encoder that reads other words than the data's, as far as is known."""
    read = encoder.facts.get("words")
    if file is not None:
        try:
            words = tuple(file.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise ArtifactError(f"{file}: cannot be read ({error})") from error
        read = words_digest(words)
    if read is not None and read != words_digest(data.words):
        raise ArtifactError(
            f"{file or encoder.file}: made for other words, or another order of them, than the "
            f"{len(data.words)} of {data.name}"
        )


def _check_answers(model: HashModel, data: RetrievalData) -> None:
    """Refuse files whose outputs are no logits around 0: all items would have one code."""
    if model.spec.retrieval == "cosine":
        return
    for modality in model.modalities:
        chosen = data.split.database[:256]
        codes = binarize(_logits(model, modality, data.inputs(modality, chosen)))
        if bool((codes == codes[0]).all()):
            raise ConfigError(
                f"the {modality} encoder gives {len(codes)} items of {data.name} one code: its "
                "output must be logits, positive for a bit that is set and negative for one that "
                "is not"
            )


def _copy(file: Path, part: Path) -> None:
    part.write_bytes(file.read_bytes())


def _fill(part: Path, text: str) -> None:
    part.write_text(text, encoding="utf-8")
