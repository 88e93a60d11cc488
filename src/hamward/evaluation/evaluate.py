"""Victims x attacks x modalities -> rows of numbers that carry their protocol."""

import hashlib
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hamward.artifacts import digest_of, read_tensors, write_tensors
from hamward.attacks import (
    Attack,
    Crafted,
    craft,
    encode,
    encode_items,
    measure,
    own_code_goal,
    round_to_grid,
)
from hamward.config import to_mapping
from hamward.data import RetrievalData
from hamward.errors import ArtifactError, ConfigError, ShapeError
from hamward.evaluation.results import CLEAN, Curve, Evaluation, Row
from hamward.evaluation.scoring import counts_of
from hamward.metrics import (
    DistanceCounts,
    average_precision,
    bootstrap_interval,
    chance_map,
    mean_average_precision,
    precision_at,
    precision_recall_curve,
)
from hamward.models import HashModel, Victim
from hamward.progress import SILENT, Progress
from hamward.types import DIRECTIONS, Direction, Modality, modalities_of

__all__ = ["CLEAN", "Curve", "Evaluation", "Row", "adversarial_file", "evaluate"]

_PRECISION_AT = (1, 5, 10, 20, 50, 100, 200, 500)


def evaluate(
    victims: Mapping[str, HashModel],
    data: RetrievalData,
    attacks: Mapping[str, Attack],
    *,
    modalities: tuple[Modality, ...] = ("image", "text"),
    transfer_from: str | None = None,
    seed: int = 0,
    batch_size: int = 64,
    low_precision: bool = True,
    progress: Progress = SILENT,
    folder: Path | None = None,
) -> Evaluation:
    """Attack every victim adaptively and score what comes out, beside the clean queries.

    Attacks are crafted against the victim that they are scored on. Pictures are scored after
    rounding to 8 bits, with the score of the unrounded ones beside it.

    Args:
        victims: Models by name.
        data: Queries and database.
        attacks: Configured attacks by name.
        modalities: Sides that are attacked.
        transfer_from: Name of a victim whose adversarial items are also sent to the others;
            those rows say so and are no robustness figures.
        seed: Seed of attacks and bootstrap.
        batch_size: Items a crafting chunk; changes nothing but speed.
        low_precision: Craft with bf16 trunks where that is faster; codes never are.
        progress: Watches.
        folder: Where codes and adversarial items go; finished ones found there are used.

    Raises:
        ConfigError: no victims, `transfer_from` is none of them, or a victim has none of the
            attacked modalities.
        ShapeError: a victim does not fit the data.
    """
    if not victims:
        raise ConfigError("there are no victims to evaluate")
    if transfer_from is not None and transfer_from not in victims:
        raise ConfigError(f"transfer_from must be one of {list(victims)}, got {transfer_from!r}")
    for name, model in victims.items():
        _check_fit(name, model, data)
        if attacks and not set(modalities) & set(model.modalities):
            raise ConfigError(
                f"victim {name!r} has no {' or '.join(modalities)} encoder to attack: it encodes "
                f"{' and '.join(model.modalities)} only"
            )
    rows: dict[str, list[tuple[Row, Curve]]] = {name: [] for name in victims}
    crafted: dict[tuple[str, str, Modality], tuple[Crafted, float]] = {}
    for name in sorted(victims, key=lambda name: name != transfer_from):  # its items come first
        model = victims[name]
        scorer = _Scorer(name=name, model=model, data=data, seed=seed, progress=progress)
        rows[name].extend(scorer.clean())
        for attack_name, attack in attacks.items():
            for modality in _attackable(attack, model, modalities):
                victim = Victim(model=model, low_precision=low_precision)
                positions = data.positions("query", modality)
                file = folder and adversarial_file(folder, name, attack_name, modality)
                made, seconds = _craft_or_read(
                    attack,
                    victim,
                    data,
                    modality,
                    positions,
                    seed=seed,
                    batch_size=batch_size,
                    progress=progress,
                    label=f"{name}: {attack_name}, {modality}",
                    file=file,
                )
                crafted[name, attack_name, modality] = made, seconds
                rows[name].extend(
                    scorer.attacked(attack_name, attack, made, seconds, crafted_on=name)
                )
                source = crafted.get((transfer_from or name, attack_name, modality))
                if source is not None and transfer_from not in (None, name):
                    rows[name].extend(
                        scorer.attacked(attack_name, attack, *source, crafted_on=transfer_from)
                    )
        if folder is not None:
            write_tensors(folder / "codes" / f"{name}.safetensors", scorer.codes)
    return Evaluation(
        protocol=_protocol(victims, data, attacks, seed=seed),
        rows=tuple(row for name in victims for row, _ in rows[name]),
        curves=tuple(curve for name in victims for _, curve in rows[name]),
    )


def adversarial_file(folder: Path, victim: str, attack: str, modality: Modality) -> Path:
    """Return where an evaluation keeps the adversarial items of one attack on one victim.

    The file holds ids, x_adv (as crafted), seconds (per item) and made_by (what decided it).
    """
    stem = f"{attack}-{modality}".replace("/", "_")
    return folder / "adversarial" / victim / f"{stem}.safetensors"


def _attackable(
    attack: Attack, model: HashModel, modalities: tuple[Modality, ...]
) -> list[Modality]:
    return [m for m in modalities if m in model.modalities and m in attack.modalities]


def _check_fit(name: str, model: HashModel, data: RetrievalData) -> None:
    known = model.modalities
    if "text" in known and model.spec.vocabulary != len(data.words):
        raise ShapeError(
            f"victim {name!r} reads bags of {model.spec.vocabulary} words, {data.name} has "
            f"{len(data.words)}: it was trained on another vocabulary"
        )
    if "image" in known and model.spec.image_side != data.image_side:
        raise ShapeError(
            f"victim {name!r} reads pictures of side {model.spec.image_side}, {data.name} was "
            f"loaded with {data.image_side}"
        )


def _protocol(
    victims: Mapping[str, HashModel],
    data: RetrievalData,
    attacks: Mapping[str, Attack],
    *,
    seed: int,
) -> dict[str, Any]:
    return {
        "data": data.name,
        "data_digest": data.digest,
        "split": {"protocol": data.protocol, "digest": data.split_digest},
        "queries": len(data.split.query),
        "database": len(data.split.database),
        "relevance": "share at least one label",
        "metric": "mean average precision over the whole ranking",
        "ties": "expected value over all orders of tied items",
        "queries_without_relevant_items": "left out",
        "text_queries_without_words": "left out",
        "interval": "95 % bootstrap over queries, 2,000 draws",
        "image_scores": "after rounding to 8 bits, unless a row says float",
        "seed": seed,
        "code_length": {name: model.code_length for name, model in victims.items()},
        "attacks": {n: {"class": type(a).__name__, **to_mapping(a)} for n, a in attacks.items()},
    }


def _craft_or_read(
    attack: Attack,
    victim: Victim,
    data: RetrievalData,
    modality: Modality,
    positions: np.ndarray,
    *,
    seed: int,
    batch_size: int,
    progress: Progress,
    label: str,
    file: Path | None,
) -> tuple[Crafted, float]:
    ids = torch.tensor(data.ids[positions])
    x = data.inputs(modality, positions)
    made_by = _fingerprint(attack, victim, seed=seed)
    if file is not None and file.exists():
        stored = read_tensors(file)
        if not torch.equal(stored["ids"], ids):
            raise ArtifactError(f"{file}: holds other items than the queries of {data.name}")
        if "made_by" not in stored or bytes(stored["made_by"].tolist()).decode() != made_by:
            raise ArtifactError(
                f"{file}: crafted with other options, another seed or another victim: choose "
                "another folder"
            )
        x_adv = stored["x_adv"]
        on_grid = round_to_grid(x_adv, x, attack.budget(modality)) if modality == "image" else x_adv
        made = Crafted(modality=modality, ids=ids, x_adv=x_adv, stored=on_grid)
        return made, float(stored["seconds"])
    goal = own_code_goal(attack, victim, data, modality, positions, seed=seed)
    parts = None if file is None else file.with_suffix(f".{made_by}.parts")
    start = time.perf_counter()
    made = craft(
        attack,
        victim,
        x,
        goal,
        ids=ids,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
        label=label,
        parts=parts,
    )
    seconds = (time.perf_counter() - start) / max(len(x), 1)
    if file is not None and parts is not None:
        tensors = {"ids": ids, "x_adv": made.x_adv, "seconds": torch.tensor(seconds)}
        signed = torch.frombuffer(bytearray(made_by.encode()), dtype=torch.uint8)
        write_tensors(file, {**tensors, "made_by": signed})
        shutil.rmtree(parts, ignore_errors=True)
    return made, seconds


def _fingerprint(attack: Attack, victim: Victim, *, seed: int) -> str:
    """Name all that decides what an attack makes of an item, so that nothing stale is read."""
    weights = hashlib.sha256()
    for name, tensor in sorted(victim.model.state_dict().items()):
        weights.update(name.encode())
        weights.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    options = {"class": type(attack).__name__, **to_mapping(attack)}
    return digest_of([options, seed, victim.low_precision, weights.hexdigest()])


@dataclass(kw_only=True)
class _Scorer:
    """Codes of one victim, and the rows they give."""

    name: str
    model: HashModel
    data: RetrievalData
    seed: int
    progress: Progress
    codes: dict[str, Tensor] = field(default_factory=dict)
    chances: dict[str, float] = field(default_factory=dict)

    def clean(self) -> Iterator[tuple[Row, Curve]]:
        """Encode queries and database, and score all four directions."""
        for modality in self.model.modalities:
            query = self.data.positions("query", modality)
            self.codes[f"query/{modality}"] = encode(self.model, self.data, modality, query)
            self.codes[f"database/{modality}"] = encode(
                self.model, self.data, modality, self.data.split.database
            )
        for direction in self._directions():
            modality = modalities_of(direction)[0]
            yield self._row(direction, self.codes[f"query/{modality}"], attack=CLEAN)

    def attacked(
        self, attack_name: str, attack: Attack, made: Crafted, seconds: float, *, crafted_on: str
    ) -> Iterator[tuple[Row, Curve]]:
        """Score adversarial items in the directions that start from their modality."""
        modality = made.modality
        x = self.data.inputs(modality, self.data.positions("query", modality))
        forms = {"feature-space": made.x_adv}
        if modality == "image":
            forms = {"8-bit": made.stored, "float": made.x_adv}
        for form, items in forms.items():
            codes = encode_items(self.model, modality, items)
            if form != "float":
                self.codes[f"adversarial/{attack_name}/{crafted_on}/{modality}"] = codes
            distortion = measure(items, x)
            for direction in self._directions():
                if modalities_of(direction)[0] != modality:
                    continue
                yield self._row(
                    direction,
                    codes,
                    attack=attack_name,
                    crafted_on=crafted_on,
                    stored=form,
                    eps=attack.budget(modality).eps,
                    norm=attack.budget(modality).norm,
                    rms=float(distortion.rms.mean()),
                    linf=float(distortion.linf.max()),
                    seconds=seconds,
                )

    def _directions(self) -> list[Direction]:
        known = self.model.modalities
        return [d for d in DIRECTIONS if set(modalities_of(d)) <= set(known)]

    def _row(
        self,
        direction: Direction,
        codes: Tensor,
        *,
        attack: str,
        crafted_on: str | None = None,
        stored: str | None = None,
        eps: float = 0.0,
        norm: str = "linf",
        rms: float = 0.0,
        linf: float = 0.0,
        seconds: float = 0.0,
    ) -> tuple[Row, Curve]:
        asking, answering = modalities_of(direction)
        query, database = self.data.positions("query", asking), self.data.split.database
        counts = counts_of(
            self.data, codes, self.codes[f"database/{answering}"], query=query, database=database
        )
        score = mean_average_precision(counts)
        low, high = bootstrap_interval(average_precision(counts), seed=self.seed)
        if direction not in self.chances:
            self.chances[direction] = chance_map(counts).value
        row = Row(
            victim=self.name,
            attack=attack,
            crafted_on=crafted_on or self.name,
            direction=direction,
            stored=stored or ("8-bit" if asking == "image" else "as typed"),
            eps=eps,
            norm=norm,
            map=score.value,
            low=low,
            high=high,
            optimistic=score.optimistic,
            pessimistic=score.pessimistic,
            chance=self.chances[direction],
            flips=float(((codes >= 0) != (self.codes[f"query/{asking}"] >= 0)).float().mean()),
            rms=rms,
            linf=linf,
            queries=score.queries,
            seconds=seconds,
        )
        return row, _curve(counts)


def _curve(counts: DistanceCounts) -> Curve:
    lookup = precision_recall_curve(counts)
    relevant = counts.relevant.sum(0)
    irrelevant = counts.items.sum(0) - relevant
    size = int(counts.items[0].sum())
    cutoffs = tuple(n for n in _PRECISION_AT if n <= size)
    return Curve(
        precision=tuple(lookup.precision.tolist()),
        recall=tuple(lookup.recall.tolist()),
        relevant=tuple((relevant / max(relevant.sum(), 1)).tolist()),
        irrelevant=tuple((irrelevant / max(irrelevant.sum(), 1)).tolist()),
        precision_at=tuple(float(np.nanmean(precision_at(counts, n))) for n in cutoffs),
        cutoffs=cutoffs,
    )
