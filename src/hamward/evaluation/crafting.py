"""Adversarial items of one attack on one victim: trained, crafted, kept, read again."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamward.artifacts import digest_of, read_tensors, write_tensors
from hamward.attacks import (
    Attack,
    Crafted,
    TargetProtocol,
    TrainableAttack,
    attacked_items,
    choose_targets,
    craft,
    own_code_goal,
    round_to_grid,
)
from hamward.config import to_mapping
from hamward.data import RetrievalData
from hamward.errors import ArtifactError
from hamward.evaluation.candidates import Candidates
from hamward.evaluation.texts import write_texts
from hamward.index import HammingIndex
from hamward.models import HashModel, QueryLedger, Victim, weights_digest
from hamward.progress import SILENT, Progress
from hamward.types import Modality

__all__ = ["Job", "Made", "adversarial_file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Adversarial items and what they cost.

    Attributes:
        crafted: The items.
        target_label: Labels that a targeted attack was to reach, (n, C), or None.
        seconds: Wall clock per item, training of a trainable attack included.
        submissions: Items sent to the victim, all steps and the training together.
    """

    crafted: Crafted
    target_label: Tensor | None
    seconds: float
    submissions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One attack on the queries of one modality of one victim.

    Attributes:
        name: Name of the victim, for files and messages.
        attack_name: Name of the attack.
        attack: The attack, or options of one that is trained first.
        model: The victim's model.
        data: Queries and database, as the model reads them (`read_by`).
        modality: Side that is attacked.
        searched: What the victim's index holds: database codes of the retrieved modality.
        target_protocol: Which labels a targeted attack shall reach.
        seed: Seed of attack and targets.
        batch_size: Items a chunk; changes nothing but speed.
        low_precision: Craft with bf16 trunks where that is faster.
        candidates: Database items to attack instead of the queries.
    """

    name: str
    attack_name: str
    attack: Attack | TrainableAttack
    model: HashModel
    data: RetrievalData
    modality: Modality
    searched: Tensor
    target_protocol: TargetProtocol = "T4"
    seed: int = 0
    batch_size: int = 64
    low_precision: bool = True
    candidates: Candidates | None = None

    @property
    def positions(self) -> NDArray[np.int64]:
        """The attacked items."""
        if self.candidates is None:
            return self.data.positions("query", self.modality)
        return self.candidates.choose(self.data, seed=self.seed)

    def run(self, folder: Path | None = None, *, progress: Progress = SILENT) -> Made:
        """Craft the items, or read those that an interrupted evaluation left in `folder`.

        Raises:
            ArtifactError: the folder holds items of another attack, victim or data set.
        """
        file = folder and adversarial_file(folder, self.name, self.attack_name, self.modality)
        if file is not None and file.exists():
            return self._read(file)
        made = self._craft(file, progress)
        if file is not None:
            tensors = {
                "ids": made.crafted.ids,
                "x_adv": made.crafted.x_adv,
                "seconds": torch.tensor(made.seconds),
                "submissions": torch.tensor(made.submissions),
                "made_by": torch.frombuffer(bytearray(self._made_by.encode()), dtype=torch.uint8),
            }
            self._write_texts(folder, made.crafted)
            write_tensors(file, tensors)
            shutil.rmtree(self._parts(file), ignore_errors=True)
        return made

    def _write_texts(self, folder: Path | None, crafted: Crafted) -> None:
        """Write token ids as a person reads them."""
        reader = self.model.text_transformer
        if folder is None or reader is None or crafted.x_adv.is_floating_point():
            return
        before = self._clean(self.positions)
        texts = [reader.tokens.texts(ids) for ids in (before, crafted.x_adv)]
        write_texts(folder, self.name, self.attack_name, ids=crafted.ids.tolist(), texts=texts)

    def _craft(self, file: Path | None, progress: Progress) -> Made:
        data, modality, positions = self.data, self.modality, self.positions
        victim = self._victim()
        label = f"{self.name}: {self.attack_name}, {modality}"
        start = time.perf_counter()
        attack = self.attack
        if isinstance(attack, TrainableAttack):
            attack = attack.fit(victim, data, modality, seed=self.seed, progress=progress)
            save = getattr(attack, "save", None)
            if save is not None and file is not None:
                save(file.parent.parent.parent / "trained" / self.name / file.stem)
        targets = self._targets()
        placed = self.candidates
        goal = own_code_goal(
            attack,
            victim,
            data,
            modality,
            positions,
            seed=self.seed,
            pool=None if placed is None else placed.known_queries(data, positions),
            target_label=targets,
            role="query" if placed is None else placed.role,
        )
        crafted = craft(
            attack,
            victim,
            self._clean(positions),
            goal,
            ids=torch.tensor(data.ids[positions]),
            seed=self.seed,
            batch_size=self.batch_size,
            progress=progress,
            label=label,
            parts=None if file is None else self._parts(file),
        )
        seconds = (time.perf_counter() - start) / max(len(positions), 1)
        return Made(
            crafted=crafted,
            target_label=targets,
            seconds=seconds,
            submissions=victim.ledger.total,
        )

    def _victim(self) -> Victim:
        """Return the victim as the attack may see it, and no more."""
        access = self.attack.access
        index = None
        if access == "ranks" and not self.searched.is_floating_point():
            index = HammingIndex.build(self.searched)
        limit: int | None = getattr(self.attack, "query_limit", None)
        return Victim(
            model=self.model,
            access=access,
            ledger=QueryLedger(limit=limit),
            low_precision=self.low_precision,
            index=index,
        )

    def _clean(self, positions: NDArray[np.int64]) -> Tensor:
        return attacked_items(self.attack, self.model, self.data, self.modality, positions)

    def _targets(self) -> Tensor | None:
        if not self.attack.targeted:
            return None
        positions = self.positions
        return choose_targets(
            self.data.label(positions),
            self.data.label(self.data.split.database),
            ids=torch.tensor(self.data.ids[positions]),
            protocol=self.target_protocol,
            seed=self.seed,
        )

    def _read(self, file: Path) -> Made:
        positions = self.positions
        ids = torch.tensor(self.data.ids[positions])
        stored = read_tensors(file)
        if not torch.equal(stored["ids"], ids):
            raise ArtifactError(f"{file}: holds other items than are attacked in {self.data.name}")
        if bytes(stored["made_by"].tolist()).decode() != self._made_by:
            raise ArtifactError(
                f"{file}: crafted with other options, another seed or another victim: choose "
                "another folder"
            )
        x_adv = stored["x_adv"]
        x = self._clean(positions)
        image = self.modality == "image"
        on_grid = round_to_grid(x_adv, x, self.attack.budget("image")) if image else x_adv
        return Made(
            crafted=Crafted(modality=self.modality, ids=ids, x_adv=x_adv, stored=on_grid),
            target_label=self._targets(),
            seconds=float(stored["seconds"]),
            submissions=int(stored["submissions"]),
        )

    @property
    def _made_by(self) -> str:
        """All that decides what the attack makes of an item, so that nothing stale is read."""
        options = {"class": type(self.attack).__name__, **to_mapping(self.attack)}
        target = self.target_protocol if self.attack.targeted else ""
        made_by = [options, self.seed, self.low_precision, target, weights_digest(self.model)]
        return digest_of(made_by + ([to_mapping(self.candidates)] if self.candidates else []))

    def _parts(self, file: Path) -> Path:
        return file.with_suffix(f".{self._made_by}.parts")


def adversarial_file(folder: Path, victim: str, attack: str, modality: Modality) -> Path:
    """Return where an evaluation keeps the adversarial items of one attack on one victim.

    The file holds ids, x_adv (as crafted), seconds (per item), submissions and made_by (what
    decided it).
    """
    stem = f"{attack}-{modality}".replace("/", "_")
    return folder / "adversarial" / victim / f"{stem}.safetensors"
