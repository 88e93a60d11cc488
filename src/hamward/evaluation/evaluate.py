"""Victims x attacks x modalities -> rows of numbers that carry their protocol."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from hamward.artifacts import write_tensors
from hamward.attacks import (
    Attack,
    TargetProtocol,
    TrainableAttack,
    attacked_items,
    encode,
    encode_items,
    measure,
    moved_texts,
)
from hamward.config import to_mapping
from hamward.data import RetrievalData
from hamward.errors import ConfigError, ShapeError
from hamward.evaluation.crafting import Job, Made, adversarial_file
from hamward.evaluation.diagnostics import code_flags, probe_flags, row_flags
from hamward.evaluation.pictures import (
    as_jpeg,
    check_transform,
    read_pictures,
    write_pictures,
)
from hamward.evaluation.results import CLEAN, Curve, Evaluation, Flag, Row
from hamward.evaluation.scoring import counts_of, searched_modality
from hamward.metrics import (
    DistanceCounts,
    average_precision,
    bootstrap_interval,
    chance_map,
    mean_average_precision,
    precision_at,
    precision_recall_curve,
)
from hamward.models import HashModel, read_by
from hamward.progress import SILENT, Progress
from hamward.types import Direction, Modality, modalities_of

__all__ = ["CLEAN", "Curve", "Evaluation", "Row", "adversarial_file", "evaluate"]

_PRECISION_AT = (1, 5, 10, 20, 50, 100, 200, 500)


def evaluate(
    victims: Mapping[str, HashModel],
    data: RetrievalData,
    attacks: Mapping[str, Attack | TrainableAttack],
    *,
    modalities: tuple[Modality, ...] = ("image", "text"),
    transfer_from: str | None = None,
    target_protocol: TargetProtocol = "T4",
    seed: int = 0,
    batch_size: int = 64,
    low_precision: bool = True,
    diagnose: bool = False,
    pictures: bool = False,
    transforms: tuple[str, ...] = (),
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
        target_protocol: Which labels targeted attacks shall reach; see `choose_targets`.
        seed: Seed of attacks and bootstrap.
        batch_size: Items a crafting chunk; changes nothing but speed.
        low_precision: Craft with bf16 trunks where that is faster; codes never are.
        diagnose: Probe each victim for signs of masked gradients with 32 queries, too; see
            docs/diagnostics.md.
        pictures: Write adversarial pictures as PNG into `folder`, and score what is read back.
        transforms: Forms in which pictures are scored besides: "jpeg-75" and the like.
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
        _check_attackable(name, model, attacks, modalities)
        _check_transfer(name, model, victims.get(transfer_from or name, model), modalities)
    for transform in transforms:
        check_transform(transform)
    rows: dict[str, list[tuple[Row, Curve]]] = {name: [] for name in victims}
    flags: list[Flag] = []
    crafted: dict[tuple[str, str, Modality], Made] = {}
    for name in sorted(victims, key=lambda name: name != transfer_from):  # its items come first
        model = victims[name]
        read = read_by(model, data)
        scorer = _Scorer(name=name, model=model, data=read, seed=seed, transforms=transforms)
        rows[name].extend(scorer.clean())
        for attack_name, attack in attacks.items():
            for modality in _attackable(attack, model, modalities):
                job = Job(
                    name=name,
                    attack_name=attack_name,
                    attack=attack,
                    model=model,
                    data=read,
                    modality=modality,
                    searched=scorer.searched(modality),
                    target_protocol=target_protocol,
                    seed=seed,
                    batch_size=batch_size,
                    low_precision=low_precision,
                )
                crafted[name, attack_name, modality] = job.run(folder, progress=progress)
                sources = [name]
                if transfer_from is not None and transfer_from != name:
                    sources.append(transfer_from)
                for source in sources:
                    made = crafted.get((source, attack_name, modality))
                    if made is not None:
                        rows[name].extend(
                            scorer.attacked(
                                attack_name,
                                attack,
                                made,
                                crafted_on=source,
                                pictures=_pictures(folder, name, attack_name)
                                if pictures and source == name
                                else None,
                            )
                        )
        flags += code_flags(name, scorer.codes)
        if diagnose:
            sides = tuple(m for m in modalities if m in model.modalities)
            progress.say(f"{name}: diagnostics")
            flags += probe_flags(
                name, model, read, attacks, modalities=sides, codes=scorer.codes, seed=seed
            )
        if folder is not None:
            write_tensors(folder / "codes" / f"{name}.safetensors", scorer.codes)
    found = tuple(row for name in victims for row, _ in rows[name])
    order = list(victims)
    flags += row_flags(found, attacks)
    return Evaluation(
        protocol=_protocol(victims, data, attacks, target_protocol=target_protocol, seed=seed),
        rows=found,
        curves=tuple(curve for name in victims for _, curve in rows[name]),
        flags=tuple(sorted(flags, key=lambda f: (order.index(f.victim), f.id, f.subject))),
    )


def _pictures(folder: Path | None, victim: str, attack: str) -> Path | None:
    return folder and folder / "pictures" / victim / attack.replace("/", "_")


def _attackable(
    attack: Attack | TrainableAttack, model: HashModel, modalities: tuple[Modality, ...]
) -> list[Modality]:
    return [m for m in modalities if m in model.modalities and m in attack.modalities]


def _check_attackable(
    name: str,
    model: HashModel,
    attacks: Mapping[str, Attack | TrainableAttack],
    modalities: tuple[Modality, ...],
) -> None:
    if attacks and not set(modalities) & set(model.modalities):
        raise ConfigError(
            f"victim {name!r} has no {' or '.join(modalities)} encoder to attack: it encodes "
            f"{' and '.join(model.modalities)} only"
        )
    for attack in attacks.values():
        if "text" in _attackable(attack, model, modalities):
            moved_texts(attack, model)


def _check_transfer(
    name: str, model: HashModel, source: HashModel, modalities: tuple[Modality, ...]
) -> None:
    reads = {model.text_format, source.text_format}
    if model is not source and "text" in modalities and "tokens" in reads:
        raise ConfigError(
            f"texts are not transferred to victim {name!r}: what was crafted for one victim of "
            "tokens is no input of another; set modalities to image"
        )


def _check_fit(name: str, model: HashModel, data: RetrievalData) -> None:
    if not any({*modalities_of(d)} <= {*model.modalities} for d in data.directions):
        raise ConfigError(
            f"victim {name!r} reads {' and '.join(model.modalities)}s only, {data.name} can be "
            f"scored in {', '.join(data.directions)} (relevance is {data.relevance})"
        )
    bags = "text" in model.modalities and model.text_format == "bag"
    if bags and model.spec.vocabulary != len(data.words):
        raise ShapeError(
            f"victim {name!r} reads bags of {model.spec.vocabulary} words, {data.name} has "
            f"{len(data.words)}: it was trained on another vocabulary"
        )
    if "image" in model.modalities and model.spec.image_side != data.image_side:
        raise ShapeError(
            f"victim {name!r} reads pictures of side {model.spec.image_side}, {data.name} was "
            f"loaded with {data.image_side}"
        )


def _protocol(
    victims: Mapping[str, HashModel],
    data: RetrievalData,
    attacks: Mapping[str, Attack | TrainableAttack],
    *,
    target_protocol: TargetProtocol,
    seed: int,
) -> dict[str, Any]:
    return {
        "data": data.name,
        "data_digest": data.digest,
        "split": {"protocol": data.protocol, "digest": data.split_digest},
        "queries": len(data.split.query),
        "database": len(data.split.database),
        "relevance": "share at least one label"
        if data.label_names
        else "own pair" + (" or group" if data.groups is not None else ""),
        "metric": "mean average precision over the whole ranking",
        "ties": "expected value over all orders of tied items",
        "queries_without_relevant_items": "left out",
        "text_queries_without_words": "left out",
        "interval": "95 % bootstrap over queries, 2,000 draws",
        "image_scores": "after rounding to 8 bits, unless a row says float",
        "target_protocol": target_protocol,
        "seed": seed,
        "code_length": {name: model.code_length for name, model in victims.items()},
        "attacks": {n: {"class": type(a).__name__, **to_mapping(a)} for n, a in attacks.items()},
    }


@dataclass(kw_only=True)
class _Scorer:
    """Codes of one victim, and the rows they give."""

    name: str
    model: HashModel
    data: RetrievalData
    seed: int
    transforms: tuple[str, ...] = ()
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
        self,
        attack_name: str,
        attack: Attack | TrainableAttack,
        made: Made,
        *,
        crafted_on: str,
        pictures: Path | None = None,
    ) -> Iterator[tuple[Row, Curve]]:
        """Score adversarial items in the directions that start from their modality."""
        modality, crafted = made.crafted.modality, made.crafted
        asking = self.data.positions("query", modality)
        x = attacked_items(attack, self.model, self.data, modality, asking)
        budget = attack.budget(modality)
        forms = {"as typed" if budget.typed else "feature-space": crafted.x_adv}
        if modality == "image":
            stored = crafted.stored
            if pictures is not None:
                write_pictures(pictures, stored, self.data, crafted.ids)
                stored = read_pictures(pictures, crafted.ids).to(stored)
            forms = {"8-bit": stored, "float": crafted.x_adv}
            forms |= {name: as_jpeg(stored, check_transform(name)) for name in self.transforms}
        for form, items in forms.items():
            codes = encode_items(self.model, modality, items)
            if form in ("8-bit", "as typed", "feature-space"):
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
                    eps=budget.eps,
                    norm=budget.norm,
                    rms=float(distortion.rms.mean()),
                    linf=float(distortion.linf.max()),
                    seconds=made.seconds,
                    submissions=made.submissions,
                    target_label=made.target_label,
                )

    def searched(self, modality: Modality) -> Tensor:
        """Return the database codes that queries of a modality are compared with."""
        return self.codes[f"database/{searched_modality(self.model.modalities, modality)}"]

    def _directions(self) -> list[Direction]:
        known = self.model.modalities
        return [d for d in self.data.directions if set(modalities_of(d)) <= set(known)]

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
        submissions: int = 0,
        target_label: Tensor | None = None,
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
        targeted = None if target_label is None else self._reached(codes, direction, target_label)
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
            submissions=submissions,
            target_map=None if targeted is None else mean_average_precision(targeted).value,
            target_chance=None if targeted is None else chance_map(targeted).value,
        )
        return row, _curve(counts)

    def _reached(self, codes: Tensor, direction: Direction, target_label: Tensor) -> DistanceCounts:
        """Count with the target's labels as the queries' own: their MAP is t-MAP."""
        asking, answering = modalities_of(direction)
        return counts_of(
            self.data,
            codes,
            self.codes[f"database/{answering}"],
            query=self.data.positions("query", asking),
            database=self.data.split.database,
            query_labels=target_label,
        )


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
