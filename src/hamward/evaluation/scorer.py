"""Codes of one victim, and the rows of numbers that they give."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamward.attacks import (
    Attack,
    TrainableAttack,
    attacked_items,
    encode,
    encode_items,
    measure,
)
from hamward.data import RetrievalData
from hamward.data.pictures import as_jpeg
from hamward.evaluation.candidates import Candidates, hubness_of
from hamward.evaluation.crafting import Made
from hamward.evaluation.pictures import (
    check_transform,
    edited_texts,
    read_pictures,
    read_texts,
    write_pictures,
)
from hamward.evaluation.results import CLEAN, Curve, Row
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
from hamward.models import HashModel
from hamward.types import Direction, Modality, modalities_of

__all__ = ["Scorer"]

_PRECISION_AT = (1, 5, 10, 20, 50, 100, 200, 500)


@dataclass(kw_only=True)
class Scorer:
    """Codes of one victim, the rows they give, and what these are the means of (`Row.key`)."""

    name: str
    model: HashModel
    data: RetrievalData
    seed: int
    transforms: tuple[str, ...] = ()
    candidates: Candidates | None = None
    codes: dict[str, Tensor] = field(default_factory=dict)
    precisions: dict[str, Tensor] = field(default_factory=dict)
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
            yield self._row(direction, attack=CLEAN)

    def attacked(
        self,
        attack_name: str,
        attack: Attack | TrainableAttack,
        made: Made,
        *,
        crafted_on: str,
        pictures: Path | None = None,
    ) -> Iterator[tuple[Row, Curve]]:
        """Score adversarial items in the directions that start from (or lead to) their modality."""
        modality, crafted = made.crafted.modality, made.crafted
        positions = self._attacked(modality)
        x = attacked_items(attack, self.model, self.data, modality, positions)
        budget = attack.budget(modality)
        forms = {"as typed" if budget.typed else "feature-space": crafted.x_adv}
        if pictures is not None and budget.norm == "edits":
            texts = edited_texts(self.data, crafted.ids, crafted.x_adv)
            if texts is not None:
                clean = self.data.inputs("image", positions)
                write_pictures(pictures, clean, self.data, crafted.ids, texts=texts)
                typed = read_texts(pictures, crafted.ids, self.data.words)
                forms = {"as typed": typed.to(crafted.x_adv)}
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
                if modalities_of(direction)[self.candidates is not None] != modality:
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

    def _attacked(self, modality: Modality) -> NDArray[np.int64]:
        if self.candidates is None:
            return self.data.positions("query", modality)
        return self.candidates.choose(self.data, seed=self.seed)

    def _row(
        self,
        direction: Direction,
        codes: Tensor | None = None,
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
        """Score a direction with the codes of attacked queries or candidates in their places."""
        asking, answering = modalities_of(direction)
        query, database = self.data.positions("query", asking), self.data.split.database
        asked, known = self.codes[f"query/{asking}"], self.codes[f"database/{answering}"]
        flips, chosen = 0.0, None
        if self.candidates is None and codes is not None:
            flips, asked = _differing(codes, asked), codes
        elif self.candidates is not None:
            chosen = self._attacked(answering)
            rows = torch.from_numpy(np.searchsorted(database, chosen))
            if codes is not None:
                flips, known = _differing(codes, known[rows]), known.index_copy(0, rows, codes)
        counts = counts_of(self.data, asked, known, query=query, database=database)
        score = mean_average_precision(counts)
        precision = average_precision(counts)
        low, high = bootstrap_interval(precision, seed=self.seed)
        if direction not in self.chances:
            self.chances[direction] = chance_map(counts).value
        targeted = None if target_label is None else self._reached(asked, direction, target_label)
        hubness = None
        if self.candidates is not None and chosen is not None:
            hubness = hubness_of(
                counts,
                asked,
                known,
                candidates=self.candidates,
                data=self.data,
                query=query,
                chosen=chosen,
            )
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
            flips=flips,
            rms=rms,
            linf=linf,
            queries=score.queries,
            seconds=seconds,
            submissions=submissions,
            target_map=None if targeted is None else mean_average_precision(targeted).value,
            target_chance=None if targeted is None else chance_map(targeted).value,
            role=self.candidates.role if self.candidates else "query",
            hubness=hubness,
        )
        if row.counts:
            self.precisions[row.key] = torch.from_numpy(precision)
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


def _differing(codes: Tensor, clean: Tensor) -> float:
    return float(((codes >= 0) != (clean >= 0)).float().mean())


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
