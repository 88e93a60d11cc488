"""Encoders as ONNX files: written from a model, and read as victims that pass no gradients."""

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from hamward.artifacts import environment, write_atomically
from hamward.errors import ArtifactError, ShapeError
from hamward.models.folding import fold
from hamward.models.hash_model import HashModel, frozen
from hamward.models.wrapping import wrap
from hamward.process import optional_module
from hamward.types import Modality

__all__ = ["OPSET", "OnnxEncoder", "check_exportable", "words_digest", "wrap_onnx", "write_onnx"]

OPSET = 20
"""Version of the ONNX operators that files are written in (2023)."""

T = TypeVar("T")
INPUT, OUTPUT = "items", "logits"
_PREFIX = "hamward."
_READS = {
    "image": "RGB pictures, float32 in [0, 1]; normalization is inside",
    "text": "bags of words, float32 in {0, 1}, columns in the order of words.txt",
}


class OnnxEncoder(nn.Module):
    """One ONNX file as a function from items to logits, run by onnxruntime on the CPU.

    The file must have one float32 input, (batch, 3, side, side) or (batch, D), and one float32
    output, (batch, K). It is read once: a later change of the file changes nothing.

    Attributes:
        width: Number of logits K.
        shape: The input's shape without the batch; None where the file leaves it open.
        facts: What `write_onnx` recorded in the file; empty for foreign files.
        digest: SHA-256 of the file, a buffer, so that what is stored about a victim names it.

    Args:
        file: The file.
        modality: What its items are.

    Raises:
        ConfigError: onnxruntime is not installed.
        ArtifactError: missing, not ONNX, or with inputs and outputs of another kind.
    """

    digest: Tensor

    def __init__(self, file: Path, modality: Modality) -> None:
        super().__init__()
        runtime = optional_module("onnxruntime", extra="onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        options.log_severity_level = 4  # what goes wrong is raised
        try:
            content = file.read_bytes()
            session = runtime.InferenceSession(content, options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's share no base class
            raise ArtifactError(
                f"{file}: not an ONNX file that onnxruntime can run by itself (weights beside it "
                f"must be saved into it): {error}"
            ) from error
        self.file, self.modality = file, modality
        self._session = session
        self.shape = self._input_shape(session)
        self.width = self._output_width(session)
        kept = session.get_modelmeta().custom_metadata_map
        self.facts = {k.removeprefix(_PREFIX): v for k, v in kept.items() if k.startswith(_PREFIX)}
        if self.facts.get("modality", modality) != modality:
            raise ArtifactError(
                f"{file}: encodes {self.facts['modality']}s, given as the {modality} encoder"
            )
        digest = hashlib.sha256(content).digest()
        self.register_buffer("digest", torch.tensor(list(digest), dtype=torch.uint8))

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnnxEncoder":
        """Return itself: nothing in it changes, and a session cannot be copied."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        items = x.detach().to("cpu", torch.float32).contiguous().numpy()
        try:
            (logits,) = self._session.run(None, {self._session.get_inputs()[0].name: items})
        except Exception as error:  # as above
            raise ShapeError(f"{self.file}: cannot run on {tuple(x.shape)}: {error}") from error
        return torch.from_numpy(np.array(logits)).to(x)

    def _input_shape(self, session: Any) -> tuple[int | None, ...]:
        expected = "(batch, 3, side, side)" if self.modality == "image" else "(batch, words)"
        inputs = session.get_inputs()
        found = ", ".join(f"{i.name}: {i.type} {i.shape}" for i in inputs)
        shape = inputs[0].shape if len(inputs) == 1 else []
        rank = 4 if self.modality == "image" else 2
        if len(shape) != rank or inputs[0].type != "tensor(float)":
            raise ArtifactError(
                f"{self.file}: must have one input, float32 {expected}, has {found or 'none'}"
            )
        if isinstance(shape[0], int):
            raise ArtifactError(
                f"{self.file}: takes batches of {shape[0]} only: export it with a dynamic batch"
            )
        items = tuple(size if isinstance(size, int) else None for size in shape[1:])
        if self.modality == "image" and (items[0] not in (3, None) or items[1] != items[2]):
            raise ArtifactError(f"{self.file}: pictures must be {expected}, the file has {shape}")
        return items

    def _output_width(self, session: Any) -> int:
        outputs = session.get_outputs()
        found = ", ".join(f"{o.name}: {o.type} {o.shape}" for o in outputs)
        shape = outputs[0].shape if len(outputs) == 1 else []
        if len(shape) != 2 or outputs[0].type != "tensor(float)":
            raise ArtifactError(
                f"{self.file}: must have one output, float32 logits (batch, bits), has {found}"
            )
        if not isinstance(shape[1], int):
            raise ArtifactError(f"{self.file}: does not say its number of bits, has {found}")
        return int(shape[1])


def wrap_onnx(
    *,
    image: Path | None = None,
    text: Path | None = None,
    image_side: int | None = None,
    vocabulary: int | None = None,
    retrieval: Literal["hamming", "cosine"] = "hamming",
) -> HashModel:
    """Return a victim made of ONNX files; every attack that needs no gradients works on it.

    Args:
        image: File of the image encoder: RGB, (n, 3, side, side) in [0, 1] -> logits (n, K).
        text: File of the text encoder: bags of words, (n, D) in {0, 1} -> logits (n, K).
        image_side: Side of the pictures; needed where the file leaves it open.
        vocabulary: D; needed where the file leaves it open.
        retrieval: "hamming", or "cosine" of the logits for real-valued embeddings.

    Raises:
        ConfigError: no file is given, or onnxruntime is not installed.
        ArtifactError: a file is not ONNX or has other inputs and outputs, or the two have
            different numbers of bits.
        ShapeError: a file reads items of another size, or they influence each other.
    """
    given: dict[Modality, Path | None] = {"image": image, "text": text}
    encoders = {m: OnnxEncoder(Path(file), m) for m, file in given.items() if file is not None}
    widths = {e.width for e in encoders.values()}
    if len(widths) > 1:
        bits = " and ".join(f"{e.file} has {e.width} bits" for e in encoders.values())
        raise ArtifactError(f"{bits}: they share no code space")
    image_side = _size(encoders.get("image"), image_side, "image_side") or 64
    vocabulary = _size(encoders.get("text"), vocabulary, "vocabulary") or 1
    return wrap(
        image=encoders.get("image"),
        text=encoders.get("text"),
        code_length=next(iter(widths), 1),
        image_side=image_side,
        vocabulary=vocabulary,
        retrieval=retrieval,
        access="codes",
    )


def _size(encoder: OnnxEncoder | None, wanted: int | None, name: str) -> int | None:
    if encoder is None:
        return wanted
    fixed = encoder.shape[-1]
    if fixed is None and wanted is None:
        raise ShapeError(f"{encoder.file}: leaves the size of its items open: give {name}")
    if fixed is not None and wanted is not None and fixed != wanted:
        what = f"pictures of side {fixed}" if name == "image_side" else f"bags of {fixed} words"
        raise ShapeError(f"{encoder.file}: reads {what}, not {wanted}")
    return fixed if wanted is None else wanted


def check_exportable(model: HashModel) -> None:
    """Refuse what cannot be written as ONNX.

    Raises:
        ArtifactError: the model passes no gradients: it is no PyTorch model; or a purifier
            stands in front of an encoder.
    """
    if model.access != "gradients":
        raise ArtifactError("only a PyTorch model can be exported, this one grants codes alone")
    for purifier in model.purifiers.values():
        raise ArtifactError(f"{purifier} cannot be written as ONNX: export the victim behind it")


def write_onnx(
    model: HashModel,
    modality: Modality,
    file: Path,
    *,
    facts: Mapping[str, str],
    check: Callable[[OnnxEncoder], T],
) -> T:
    """Write one encoder as an ONNX file; none is left unless what was written passes `check`.

    Normalization is inside, BatchNorm is folded into the convolutions, the batch is dynamic.

    Args:
        model: Not changed.
        modality: Which encoder.
        file: Where to.
        facts: Recorded in the file, beside version, code length, modality, range and
            retrieval.
        check: Looks at the file, read back, and raises if something is wrong with it.

    Returns:
        What `check` does.

    Raises:
        ConfigError: onnx or onnxscript is not installed.
        ArtifactError: `check_exportable` refuses the model.
    """
    onnx = optional_module("onnx", extra="onnx")
    optional_module("onnxscript", extra="onnx")
    check_exportable(model)
    weight = next(model.parameters())
    side = model.spec.image_side
    shape = (3, side, side) if modality == "image" else (model.spec.vocabulary,)
    example = torch.zeros(2, *shape, dtype=weight.dtype, device=weight.device)
    with torch.no_grad(), frozen(model), _quiet():
        program = torch.onnx.export(
            _Chain(fold(model.encoder(modality))).eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    for node in proto.graph.node:  # the exporter writes where on this machine it comes from
        del node.metadata_props[:]
        node.doc_string = ""
    proto.doc_string = f"{_READS[modality]} -> logits; bit k of the code is +1 where logit k >= 0."
    recorded = {
        "version": environment()["packages"]["hamward"],
        "modality": modality,
        "code_length": str(model.code_length),
        "retrieval": model.spec.retrieval,
        "reads": _READS[modality],
        **facts,
    }
    onnx.helper.set_model_props(proto, {_PREFIX + key: value for key, value in recorded.items()})

    found: list[T] = []

    def write(part: Path) -> None:
        part.write_bytes(proto.SerializeToString(deterministic=True))
        found.append(check(OnnxEncoder(part, modality)))

    write_atomically(file, write)
    return found[0]


def words_digest(words: tuple[str, ...]) -> str:
    """Return what identifies a vocabulary and its order."""
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


class _Chain(nn.Module):
    """An encoder's parts in a row, without what only training and attacks need."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.parts = nn.Sequential(
            *(encoder.get_submodule(name) for name in ("trunk", "neck", "head"))
        )

    def forward(self, items: Tensor) -> Tensor:
        logits: Tensor = self.parts(items)
        return logits


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the exporter's remarks on packages that are not needed and on its own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
