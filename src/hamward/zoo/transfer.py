"""Models into a zoo and out of it: copies that are whole or absent, and checked both ways."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hamward.artifacts import RunFolder, read_json, write_atomically, write_json, write_tensors
from hamward.config import to_mapping
from hamward.data.fetching import fetch
from hamward.errors import ArtifactError
from hamward.evaluation.runs import load_victim
from hamward.models import HashModel
from hamward.progress import SILENT, Progress
from hamward.zoo.manifest import (
    MANIFEST,
    StoredFile,
    Zoo,
    ZooModel,
    address_of,
    file_of,
    folder_of,
    read_zoo,
)

__all__ = ["narrowest", "pull", "push"]

_CARD = (
    "method", "options", "hardened", "purifiers", "pretrained", "code_length", "retrieval",
    "parameters", "split", "protocol", "scores",
)  # fmt: skip
_WEIGHTS = "model.safetensors"


def push(run: Path, to: Path, *, name: str | None = None) -> ZooModel:
    """Copy a trained model into a zoo's folder, and enter it in the manifest.

    Weights are stored in the narrowest type that holds every one of them exactly, and compared
    after they are read again. What only further training would need stays behind.

    Args:
        run: Run folder of the victim.
        to: Folder of the zoo; made if it is not there.
        name: Name in the zoo; by default that of the run folder.

    Returns:
        What stands in the manifest now; the same model a second time changes nothing.

    Raises:
        ArtifactError: not a finished model run, one of ONNX files, or the zoo holds another
            model of this name.
        ConfigError: no such name is possible.
    """
    model, facts = load_victim(run)
    if "onnx" in facts:
        raise ArtifactError(
            f"{run}: made of ONNX files, and a zoo holds safetensors only: hand on the folder that "
            "they were exported from"
        )
    chosen = run.resolve().name if name is None else name
    zoo = read_zoo(to) if (to / MANIFEST).exists() else Zoo()
    part = to / f".{chosen}.{os.getpid()}.part"
    try:
        made = _stage(run, part, model, facts, name=chosen)
        place = to / chosen
        if not _same(made, zoo, place):
            part.rename(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    write_json(to / MANIFEST, to_mapping(zoo.with_model(made)))
    return made


def pull(name: str, source: str | Path, to: Path, *, progress: Progress = SILENT) -> Path:
    """Copy a model out of a zoo into a run folder that attacks and evaluations take as victim.

    Files that are there already are only checked, so that the same call goes on after an
    interruption; run.json comes last, and without it no folder counts as a run.

    Args:
        name: Name in the zoo.
        source: Folder of the zoo, or its http, https or file address.
        to: Folder in which the run folder `name` is made.
        progress: Watches the downloads.

    Returns:
        The run folder.

    Raises:
        ArtifactError: no zoo, a file that is not what the manifest says, or another run in the
            way.
        DataError: the server refused or the connection ended; what came is kept.
        UnknownNameError: the zoo has no such model.
    """
    model = read_zoo(source)[name]
    out = to / model.name
    last = model.files[-1]
    if (out / last.path).exists() and last.trouble(out / last.path):
        raise ArtifactError(f"{out}: holds another run; choose another folder")
    for wanted in model.files:
        file = out / wanted.path
        if wanted.trouble(file) is not None:
            _bring(source, f"{model.name}/{wanted.path}", wanted, file, progress=progress)
    RunFolder(out).require("model")
    return out


def narrowest(tensor: Tensor) -> Tensor:
    """Return the same values in 16 bits where these hold every one of them exactly.

    Example:
        >>> narrowest(torch.tensor([1.0, 0.5])).dtype, narrowest(torch.tensor([0.1])).dtype
        (torch.bfloat16, torch.float32)
    """
    if tensor.dtype in (torch.float32, torch.float64):
        for dtype in (torch.bfloat16, torch.float16):
            small = tensor.to(dtype)
            if torch.equal(small.to(tensor.dtype), tensor):
                return small
    return tensor


def _stage(
    run: Path, part: Path, model: HashModel, facts: dict[str, Any], *, name: str
) -> ZooModel:
    """Fill a temporary folder and say what is in it."""
    described = sorted(p.relative_to(run).as_posix() for p in run.glob("text/*.json"))
    card = read_json(run / "card.json") if (run / "card.json").exists() else {}
    copied = ["model.json", *(["card.json"] if card else []), *described, "run.json"]
    weights = {key: narrowest(value) for key, value in model.state_dict().items()}
    ZooModel(  # refuses the name before anything is written
        name=name, data="", data_digest="", items_digest="",
        files=(StoredFile(path="run.json", sha256="0" * 64, size=0),),
    )  # fmt: skip
    write_tensors(part / _WEIGHTS, weights)
    for path in copied:
        (part / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run / path, part / path)
    again = load_victim(part)[0].state_dict()
    for key, value in model.state_dict().items():
        if not torch.equal(again[key], value):
            raise ArtifactError(f"{run / _WEIGHTS}: {key!r} is not the same after it was stored")
    return ZooModel(
        name=name,
        data=facts["data"],
        data_digest=facts["data_digest"],
        items_digest=facts["items_digest"],
        files=tuple(file_of(part, path) for path in (_WEIGHTS, *copied)),
        card={key: card[key] for key in _CARD if key in card},
    )


def _same(made: ZooModel, zoo: Zoo, place: Path) -> bool:
    """Return whether the zoo's folder holds this model already.

    Raises:
        ArtifactError: another model, or files of unknown origin, have its place.
    """
    if made.name in zoo and zoo[made.name].files != made.files:
        raise ArtifactError(
            f"{place}: the zoo holds another model of this name; choose another with --name"
        )
    if not place.exists():
        return False
    for file in made.files:
        trouble = file.trouble(place / file.path)
        if trouble is not None:
            raise ArtifactError(f"{place / file.path}: {trouble}; move the folder away")
    return True


def _bring(
    source: str | Path, path: str, wanted: StoredFile, file: Path, *, progress: Progress
) -> None:
    folder = folder_of(source)
    if folder is not None:
        origin = str(folder / path)
        if not (folder / path).is_file():
            raise ArtifactError(f"{origin}: is missing, and the manifest lists it")
        write_atomically(file, lambda part: _copy(folder / path, part, wanted, origin))
        return
    origin = address_of(str(source), path)
    fetched = file.with_name(f".{file.name}.{wanted.sha256[:12]}")
    fetch(origin, fetched, progress=progress)
    _check(fetched, wanted, origin)
    fetched.replace(file)


def _copy(origin: Path, part: Path, wanted: StoredFile, told: str) -> None:
    shutil.copyfile(origin, part)
    _check(part, wanted, told)


def _check(file: Path, wanted: StoredFile, origin: str) -> None:
    trouble = wanted.trouble(file)
    if trouble is not None:
        file.unlink(missing_ok=True)
        raise ArtifactError(
            f"{origin}: {trouble}: it was damaged or replaced; what came was removed"
        )
