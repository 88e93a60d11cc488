"""One victim under one attack, read back from what an evaluation stored."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamward.artifacts import read_tensors
from hamward.attacks import Budget, round_to_grid
from hamward.data import RetrievalData
from hamward.errors import ArtifactError
from hamward.evaluation.evaluate import Row, adversarial_file
from hamward.evaluation.report.exhibits import (
    Hit,
    PictureChange,
    TextChange,
    View,
    names_of,
    replaced_words,
    text_change,
)
from hamward.evaluation.report.pictures import amplified, exact, levels_of, thumbnail
from hamward.evaluation.scoring import counts_of
from hamward.evaluation.texts import read_texts
from hamward.index import HammingIndex
from hamward.metrics import average_precision
from hamward.types import modalities_of

__all__ = ["StoredAttack"]

_TOP = 10


class StoredAttack:
    """Codes, adversarial items and scores of one adaptive row.

    Attributes:
        clean: Average precision of each query before the attack.
        attacked: And after.

    Raises:
        ArtifactError: codes or items are missing or belong to other queries.
    """

    clean: NDArray[np.float64]
    attacked: NDArray[np.float64]

    def __init__(self, row: Row, *, data: RetrievalData, artifacts: Path) -> None:
        self._row, self._data = row, data
        self._asking, answering = modalities_of(row.direction)
        self._query = data.positions("query", self._asking)
        before, after, database = self._codes(artifacts, answering)
        self._before, self._after = before, after
        self._index = HammingIndex.build(database)
        self.clean, self.attacked = (
            average_precision(
                counts_of(data, codes, database, query=self._query, database=data.split.database)
            )
            for codes in (before, after)
        )
        file = adversarial_file(artifacts, row.victim, row.attack, self._asking)
        stored = read_tensors(file)
        if not torch.equal(stored["ids"], torch.tensor(data.ids[self._query])):
            raise ArtifactError(f"{file}: holds other items than the queries of {data.name}")
        self._x_adv = stored["x_adv"]
        self._texts: dict[int, tuple[str, str]] = {}
        if not self._x_adv.is_floating_point():
            self._texts = read_texts(artifacts, row.victim, row.attack)

    def _codes(self, artifacts: Path, answering: str) -> tuple[Tensor, Tensor, Tensor]:
        file = artifacts / "codes" / f"{self._row.victim}.safetensors"
        codes = read_tensors(file)
        attacked = f"adversarial/{self._row.attack}/{self._row.victim}/{self._asking}"
        keys = (f"query/{self._asking}", attacked, f"database/{answering}")
        queries, items = len(self._query), len(self._data.split.database)
        for key, size in zip(keys, (queries, queries, items), strict=True):
            if key not in codes:
                raise ArtifactError(f"{file}: lacks codes {key!r}, holds {sorted(codes)}")
            if len(codes[key]) != size:
                raise ArtifactError(
                    f"{file}: {key!r} has {len(codes[key])} codes, {self._data.name} has {size} "
                    "such items: hand in the data that was evaluated"
                )
        return codes[keys[0]], codes[keys[1]], codes[keys[2]]

    def view(self, i: int) -> View:
        """Return query i before and after."""
        item = int(self._query[i])
        return View(
            victim=self._row.victim,
            change=self._change(i, item),
            before=self._hits(item, self._before[i : i + 1]),
            after=self._hits(item, self._after[i : i + 1]),
            clean=float(self.clean[i]),
            attacked=float(self.attacked[i]),
            flips=float((self._before[i] != self._after[i]).float().mean()),
        )

    def _change(self, i: int, item: int) -> PictureChange | TextChange:
        if self._texts:
            return replaced_words(*self._texts[int(self._data.ids[item])])
        x, x_adv = self._data.inputs(self._asking, [item]), self._x_adv[i : i + 1]
        if x_adv.dim() == 3:  # embeddings: the page has no model to name directions with
            moved = int((x_adv[..., -1] > 0.5).sum())
            return TextChange(weakened=(), added=(), others=moved, most=self._row.linf)
        if self._asking == "text":
            return text_change(x[0].numpy(), x_adv[0].numpy(), self._data.words)
        budget = Budget(eps=self._row.eps) if self._row.norm == "linf" else None
        on_grid = round_to_grid(x_adv, x, budget)
        levels = levels_of(on_grid[0])
        difference, factor = amplified(levels, self._data.images[item], linf=self._row.linf)
        return PictureChange(
            picture=exact(levels),
            difference=exact(difference),
            factor=factor,
            linf=float((on_grid - x).abs().max()),
        )

    def _hits(self, item: int, code: Tensor) -> tuple[Hit, ...]:
        data = self._data
        distances, places = self._index.search(code, _TOP)
        items = data.split.database[places[0].numpy()].tolist()
        return tuple(
            Hit(
                item=other,
                distance=distance,
                relevant=bool(data.relevant(item, [other])[0]),
                picture=thumbnail(data.images[other]),
                words=names_of(data.words, data.bags[other]),
                labels=names_of(data.label_names, data.labels[other]),
            )
            for other, distance in zip(items, distances[0].tolist(), strict=True)
        )
