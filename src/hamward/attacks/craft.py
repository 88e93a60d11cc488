"""From clean items to stored adversarial items: goals, chunks, rounding, resume."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int8, Int64
from numpy.typing import NDArray
from torch import Tensor

from hamward.artifacts import read_tensors, write_tensors
from hamward.attacks.anchors import vote
from hamward.attacks.base import Attack, Goal, References, Role
from hamward.attacks.budget import round_to_grid
from hamward.codes import binarize
from hamward.data import RetrievalData
from hamward.errors import ArtifactError
from hamward.models import HashModel, Victim, frozen
from hamward.progress import SILENT, Progress
from hamward.random import permutation
from hamward.types import MODALITIES, Modality

__all__ = ["Crafted", "craft", "encode", "encode_items", "own_code_goal", "reference_codes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Crafted:
    """Adversarial items and their clean originals' ids.

    Attributes:
        modality: Of the items.
        ids: Ids of the clean items, (n,).
        x_adv: As crafted, in floating point.
        stored: As a file can hold them: images on the 8-bit grid; bags of words as crafted
            (fractional words exist in feature space only).
    """

    modality: Modality
    ids: Int64[Tensor, " n"]
    x_adv: Float[Tensor, "n ..."]
    stored: Float[Tensor, "n ..."]


def encode(
    model: HashModel,
    data: RetrievalData,
    modality: Modality,
    positions: NDArray[np.int64],
    *,
    batch_size: int = 128,
    progress: Progress = SILENT,
) -> Int8[Tensor, "n k"] | Float[Tensor, "n k"]:
    """Return what an index holds of items of a data set, in full precision and eval mode.

    Codes, or the logits themselves where the model's `retrieval` is "cosine".
    """
    codes = []
    device = next(model.parameters()).device
    chunks = np.split(positions, range(batch_size, len(positions), batch_size))
    for chunk in progress.track(chunks, total=len(chunks), label=f"encode {modality}s"):
        x = data.inputs(modality, chunk, device=device)
        codes.append(encode_items(model, modality, x, batch_size=batch_size))
    return torch.cat(codes)


def encode_items(
    model: HashModel, modality: Modality, x: Tensor, *, batch_size: int = 128
) -> Int8[Tensor, "n k"] | Float[Tensor, "n k"]:
    """Return what an index would hold of these items, on the CPU; see `encode`."""
    parameter = next(model.parameters())
    real_valued = model.spec.retrieval == "cosine"
    made = []
    with torch.no_grad(), frozen(model):
        for part in torch.split(x, batch_size):
            logits = model.logits(modality, part.to(parameter))
            made.append((logits if real_valued else binarize(logits)).cpu())
    return torch.cat(made)


def reference_codes(
    model: HashModel, data: RetrievalData, positions: NDArray[np.int64]
) -> dict[Modality, Int8[Tensor, "n k"]]:
    """Return the codes of items in each modality; one that the model lacks takes the other's."""
    return {m: _as_codes(held) for m, held in _held(model, data, positions).items()}


def _held(
    model: HashModel, data: RetrievalData, positions: NDArray[np.int64]
) -> dict[Modality, Tensor]:
    made = {m: encode(model, data, m, positions) for m in model.modalities}
    return {m: made.get(m, next(iter(made.values()))) for m in MODALITIES}


def _as_codes(held: Tensor) -> Int8[Tensor, "n k"]:
    return binarize(held) if held.is_floating_point() else held


def own_code_goal(
    attack: Attack,
    victim: Victim,
    data: RetrievalData,
    modality: Modality,
    positions: NDArray[np.int64],
    *,
    seed: int = 0,
    pool: NDArray[np.int64] | None = None,
    target_label: Tensor | None = None,
    role: Role = "query",
) -> Goal:
    """Return what an attack shall reach: leave the clean code, or get a target's label.

    A hub approaches the code with the smallest mean distance to those of the pool in the
    modality that searches it; bits without a majority stay as they are.

    References are made if `attack` needs them.

    Args:
        attack: Decides whether and how references are made.
        victim: Its model makes the codes.
        data: Holds the items.
        modality: Modality of the attacked items.
        positions: The attacked items.
        seed: Chooses the reference items.
        pool: Items that references are chosen from; the database by default. For items of the
            database: the queries that the attacker knows.
        target_label: Labels to reach, (n, C), for targeted attacks.
        role: What the items are for.
    """
    anchor = _as_codes(encode(victim.model, data, modality, positions))
    pool = data.split.database if pool is None else pool
    if role == "hub":
        asking: Modality = "text" if modality == "image" else "image"
        asking = asking if asking in victim.model.modalities else modality
        known = _as_codes(encode(victim.model, data, asking, pool)).double()
        anchor = vote(torch.ones(len(anchor), len(known), dtype=torch.float64), known, anchor)
    goal = Goal(
        modality=modality,
        anchor=anchor,
        toward=role == "hub",
        role=role,
        label=data.label(positions) if data.label_names else None,
        target_label=target_label,
    )
    if not attack.needs_references:
        return goal
    size = getattr(attack, "reference_group", None)
    if size is not None:
        chosen = positions
        group = torch.arange(len(positions)) // size
    else:
        wanted: int | None = getattr(attack, "references", None)
        count = len(pool) if wanted is None else min(wanted, len(pool))
        order = permutation(len(pool), seed=seed, stream="references")
        chosen, group = pool[order[:count].numpy()], None
    held = _held(victim.model, data, chosen)
    real_valued = victim.model.spec.retrieval == "cosine"
    references = References(
        image=_as_codes(held["image"]),
        text=_as_codes(held["text"]),
        label=data.label(chosen) if data.label_names else torch.zeros(len(chosen), 0),
        group=group,
        image_embedding=held["image"] if real_valued else None,
        text_embedding=held["text"] if real_valued else None,
    )
    return dataclasses.replace(goal, references=references, group=group)


def craft(
    attack: Attack,
    victim: Victim,
    x: Tensor,
    goal: Goal,
    *,
    ids: Int64[Tensor, " n"],
    seed: int = 0,
    batch_size: int = 64,
    progress: Progress = SILENT,
    label: str = "craft",
    parts: Path | None = None,
) -> Crafted:
    """Run an attack over many items in chunks and round what it makes.

    Chunks change nothing in the result. With `parts`, each finished chunk is kept as a file
    there, and a later call with the same arguments continues after the last one.

    Args:
        attack: The attack.
        victim: The victim; chunks are moved to its device, results come back.
        x: Clean items, float in [0, 1].
        goal: What their codes shall be.
        ids: Item ids.
        seed: Seed of all randomness.
        batch_size: Items a chunk.
        progress: Watches the chunks.
        label: Name for the progress display.
        parts: Folder for finished chunks, or None.

    Raises:
        ArtifactError: a finished chunk is damaged or holds other items.
    """
    device = next(victim.model.parameters()).device
    goal = goal.to(device)
    chunks = torch.split(torch.arange(len(x)), batch_size)
    made = []
    for number, rows in enumerate(progress.track(chunks, total=len(chunks), label=label)):
        file = None if parts is None else parts / f"{number:05d}.safetensors"
        if file is not None and file.exists():
            kept = read_tensors(file)
            if not torch.equal(kept["ids"], ids[rows].cpu()):
                raise ArtifactError(f"{file}: holds other items: crafted with another batch size?")
            made.append(kept["x_adv"].to(x.device))
            victim.ledger.charge(goal.modality, int(kept["submissions"]))
            continue
        before = victim.ledger.total
        part = attack(
            victim, x[rows].to(device), goal.select(rows), ids=ids[rows].to(device), seed=seed
        ).to(x.device)
        if file is not None:
            used = torch.tensor(victim.ledger.total - before)
            write_tensors(file, {"ids": ids[rows], "x_adv": part, "submissions": used})
        made.append(part)
    x_adv = torch.cat(made) if made else x.clone()
    image = goal.modality == "image"
    stored = round_to_grid(x_adv, x, attack.budget("image")) if image else x_adv
    return Crafted(modality=goal.modality, ids=ids, x_adv=x_adv, stored=stored)
