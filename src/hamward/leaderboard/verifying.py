"""An entry recomputed from its artifacts: what differs is named, with both values."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int8
from numpy.typing import NDArray
from torch import Tensor

from hamward.artifacts import read_tensors
from hamward.attacks import Budget, attacked_items, encode, encode_items, measure
from hamward.config import to_mapping
from hamward.data import RetrievalData
from hamward.errors import ArtifactError
from hamward.evaluation.configs import EvaluateConfig
from hamward.evaluation.diagnostics import code_flags, row_flags
from hamward.evaluation.gathering import FinishedRun
from hamward.evaluation.results import CLEAN, Evaluation, Row, precision_file
from hamward.evaluation.runs import data_of, items_digest, load_victim
from hamward.evaluation.scoring import counts_of, map_facts
from hamward.leaderboard.cells import Cell, cells_of
from hamward.leaderboard.entry import Entry, read_entry
from hamward.leaderboard.facts import data_facts, model_facts, protocol_of
from hamward.leaderboard.stored import items_file, read_items
from hamward.metrics import (
    average_precision,
)
from hamward.models import HashModel, frozen, read_by
from hamward.types import Modality, modalities_of
from hamward.zoo import StoredFile

__all__ = ["Difference", "Recomputed", "check_entry", "verify_entry"]

_EXACT = 1e-9  # numbers that follow from codes
_UNDECIDED = 1e-3  # of the mean |logit|: another machine may round such a logit to the other side


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A field that does not follow from the artifacts."""

    field: str
    seen: Any
    expected: Any

    def __str__(self) -> str:
        return f"{self.field}: seen {self.seen}, expected {self.expected}"


@dataclass(kw_only=True)
class Recomputed:
    """One victim, its data, and the codes that it gives now; kept between entries."""

    folder: Path
    queries: int | None
    model: HashModel = field(init=False)
    facts: dict[str, Any] = field(init=False)
    whole: RetrievalData = field(init=False)
    data: RetrievalData = field(init=False)
    codes: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model, self.facts = load_victim(self.folder)
        self.whole = data_of(self.facts, self.folder)
        limited = self.whole if self.queries is None else self.whole.limit(queries=self.queries)
        self.data = read_by(self.model, limited)

    def positions(self, part: str, modality: Modality) -> NDArray[np.int64]:
        """Return queries of a modality, or the database."""
        return (
            self.data.positions("query", modality) if part == "query" else self.data.split.database
        )

    def code(self, key: str) -> Int8[Tensor, "n k"] | Float[Tensor, "n k"]:
        """Return the codes "query/image", "database/text" and so on."""
        if key not in self.codes:
            part, modality = _parts(key)
            positions = self.positions(part, modality)
            self.codes[key] = encode(self.model, self.data, modality, positions)
        return self.codes[key]


def verify_entry(
    file: Path, *, recomputed: dict[Any, Recomputed] | None = None
) -> tuple[Difference, ...]:
    """Recompute an entry: hashes, codes, precisions, worst case, intervals, budgets, row flags.

    What it shows is that the numbers follow from these items, this model and these data, and that
    no item leaves its budget. That the attacks were strong it cannot show.

    Args:
        file: The entry.
        recomputed: Victims that were read before, and are kept for the next entry.

    Returns:
        What differs; nothing if the entry is right.

    Raises:
        ArtifactError: the entry cannot be read.
    """
    entry = read_entry(file)
    return check_entry(entry, file.parent, recomputed=recomputed)


def check_entry(
    entry: Entry,
    base: Path,
    *,
    artifacts: Path | None = None,
    recomputed: dict[Any, Recomputed] | None = None,
) -> tuple[Difference, ...]:
    """Recompute an entry that stands in a folder, or will.

    Args:
        entry: The entry.
        base: Its folder.
        artifacts: Where its artifacts are for now.
        recomputed: As in `verify_entry`.
    """
    folder = artifacts or base / entry.artifacts
    place = base / entry.model.folder
    found = [
        *_files("files", folder, entry.files),
        *_files("model.files", place, entry.model.files),
    ]
    if found:
        return tuple(found)
    limit = entry.protocol.queries if entry.protocol.limited else None
    kept = {} if recomputed is None else recomputed
    key = (place.resolve(), entry.model.files, limit)
    if key not in kept:
        kept[key] = Recomputed(folder=place, queries=limit)
    try:
        return tuple(_Check(entry, folder, kept[key]).differences())
    except KeyError as error:
        raise ArtifactError(
            f"{folder}: lacks {error}, which the entry is recomputed from"
        ) from error


def _files(where: str, folder: Path, files: Sequence[StoredFile]) -> Iterator[Difference]:
    for file in files:
        trouble = file.trouble(folder / file.path)
        if trouble is not None:
            seen, _, expected = trouble.partition(", expected ")
            yield Difference(field=f"{where}[{file.path}]", seen=seen, expected=expected)


class _Check:
    """One entry against its artifacts, whose hashes are right."""

    def __init__(self, entry: Entry, folder: Path, now: Recomputed) -> None:
        self.entry, self.folder, self.now = entry, folder, now
        self.victim = entry.model.name
        self.evaluation = Evaluation.load(folder)
        self.codes = read_tensors(folder / "codes" / f"{self.victim}.safetensors")
        self.kept = read_tensors(precision_file(folder, self.victim))

    def differences(self) -> Iterator[Difference]:
        facts = list(self._facts())
        yield from facts
        if any(d.field.startswith("data.") for d in facts):
            return  # nothing else can agree
        cell = self._cell()
        if cell is None:
            names = [c.threat.id for c in self._cells()]
            yield Difference(field="threat.id", seen=names, expected=self.entry.threat.id)
            return
        for name, attack in cell.attacks.items():
            resolved = {"class": type(attack).__name__, **to_mapping(attack)}
            told = self.evaluation.protocol["attacks"][name]
            yield from _differing(f"attacks.{name}", resolved, told)
        yield from _differing("threat", to_mapping(cell.threat), to_mapping(self.entry.threat))
        yield from self._encoded(cell)
        for row in self.evaluation.rows:
            if row.counts:
                yield from self._row(row)
        for seen, told in zip(cell.scores, self.entry.scores, strict=False):
            yield from _differing(f"scores.{seen.direction}", to_mapping(seen), to_mapping(told))
        if len(cell.scores) != len(self.entry.scores):
            yield Difference(field="scores", seen=len(cell.scores), expected=len(self.entry.scores))
        yield from self._flags(cell)

    def _facts(self) -> Iterator[Difference]:
        entry, now = self.entry, self.now
        model = model_facts(
            self.victim,
            entry.model.folder,
            now.folder,
            now.model,
            now.facts,
            files=entry.model.files,
        )
        data = data_facts(now.facts, now.data, items=items_digest(now.whole))
        protocol = protocol_of(self.evaluation, now.data, all_queries=len(now.whole.split.query))
        yield from _differing("data", to_mapping(data), to_mapping(entry.data))
        yield from _differing("protocol", to_mapping(protocol), to_mapping(entry.protocol))
        yield from _differing("model", to_mapping(model), to_mapping(entry.model))

    def _cells(self) -> list[Cell]:
        options = {attack.name: attack.options for attack in self.entry.threat.attacks}
        config = EvaluateConfig(
            victims={self.victim: str(self.now.folder)},
            attacks=options,
            modalities=(self.entry.threat.attacked,),
        )
        run = FinishedRun(folder=self.folder, config=config, evaluation=self.evaluation)
        return cells_of(run, self.victim)

    def _cell(self) -> Cell | None:
        return next((c for c in self._cells() if c.threat.id == self.entry.threat.id), None)

    def _encoded(self, cell: Cell) -> Iterator[Difference]:
        """Encode queries, database and adversarial items again; look whether these may be."""
        for key, held in self.codes.items():
            if not key.startswith("adversarial/"):
                part, modality = _parts(key)
                positions = self.now.positions(part, modality)
                again = partial(self._inputs, modality, positions)
                yield from self._same(key, modality, self.now.code(key), held, again)
        modality = cell.threat.attacked
        positions = self.now.data.positions("query", modality)
        for name, attack in cell.attacks.items():
            ids, items = read_items(items_file(self.folder, name))
            if ids.tolist() != self.now.data.ids[positions].tolist():
                yield Difference(
                    field=f"items.{name}.ids", seen="other items", expected="the queries, in order"
                )
                continue
            key = f"adversarial/{name}/{self.victim}/{modality}"
            codes = encode_items(self.now.model, modality, items)
            yield from self._same(key, modality, codes, self.codes[key], items.__getitem__)
            clean = attacked_items(attack, self.now.model, self.now.data, modality, positions)
            yield from _within(name, items, clean, attack.budget(modality))

    def _inputs(self, modality: Modality, positions: NDArray[np.int64], rows: Tensor) -> Tensor:
        return self.now.data.inputs(modality, positions[rows.numpy()])

    def _same(
        self,
        key: str,
        modality: Modality,
        now: Tensor,
        held: Tensor,
        items: Callable[[Tensor], Tensor],
    ) -> Iterator[Difference]:
        """Compare codes; where a logit is nearly 0, either bit is right."""
        if now.shape != held.shape:
            yield Difference(
                field=f"codes.{key}", seen=tuple(held.shape), expected=tuple(now.shape)
            )
            return
        if torch.equal(now, held):
            return
        if now.is_floating_point():
            wrong = (now - held).abs() > _UNDECIDED * now.abs().mean()
        else:
            rows = torch.nonzero((now != held).any(1)).flatten()
            wrong = torch.zeros_like(now, dtype=torch.bool)
            with torch.no_grad(), frozen(self.now.model):
                taken = self.now.model.take(items(rows))
                logits = self.now.model.logits(modality, taken).cpu()
            decided = logits.abs() > _UNDECIDED * logits.abs().mean()
            wrong[rows] = (now != held)[rows] & decided
        places = torch.nonzero(wrong.any(1)).flatten().tolist()
        if places:
            yield Difference(
                field=f"codes.{key}[{places[0]}]",
                seen=f"a code that the model does not give ({len(places)} items differ)",
                expected="what the model gives",
            )

    def _row(self, row: Row) -> Iterator[Difference]:
        asking, answering = modalities_of(row.direction)
        key = f"query/{asking}"
        if row.attack != CLEAN:
            key = f"adversarial/{row.attack}/{self.victim}/{asking}"
        counts = counts_of(
            self.now.data,
            self.codes[key],
            self.codes[f"database/{answering}"],
            query=self.now.data.positions("query", asking),
            database=self.now.data.split.database,
        )
        precision = average_precision(counts)
        held = self.kept[row.key].numpy()
        where = f"rows.{row.key}"
        same = len(held) == len(precision) and np.isclose(
            precision, held, rtol=0, atol=_EXACT, equal_nan=True
        )
        if not np.all(same):
            i = int(np.argmin(same)) if np.size(same) > 1 else 0
            yield Difference(field=f"{where}.precision[{i}]", seen=precision[i], expected=held[i])
        now = map_facts(counts, seed=self.entry.protocol.seed)
        yield from _differing(where, now, {name: getattr(row, name) for name in now})

    def _flags(self, cell: Cell) -> Iterator[Difference]:
        """Doubts that rows and codes raise by themselves must be in the entry."""
        raised = row_flags(self.evaluation.rows, cell.attacks)
        raised += code_flags(self.victim, self.codes)
        held = {(flag.id, flag.subject) for flag in self.entry.flags}
        for flag in raised:
            if (flag.id, flag.subject) not in held:
                yield Difference(field="flags", seen=f"{flag.id} ({flag.subject})", expected="none")


def _parts(key: str) -> tuple[str, Modality]:
    part, name = key.split("/")
    return part, "image" if name == "image" else "text"


def _within(name: str, items: Tensor, clean: Tensor, budget: Budget) -> Iterator[Difference]:
    """Items that a budget leaves as they are lie in it; pictures may be half a level off."""
    nearest = budget.project(items, clean)
    rounding = 0.5 / 255 if budget.norm == "l2" and items.dim() == 4 else 0.0
    off = measure(items, nearest).linf
    if float(off.max()) > rounding + 1e-6:
        worst = int(off.argmax())
        yield Difference(
            field=f"items.{name}[{worst}]",
            seen=f"{float(off.max()):.4g} outside",
            expected=f"{budget.norm} of {budget.eps:.4g} around the clean item",
        )


def _differing(where: str, seen: Any, expected: Any) -> Iterator[Difference]:
    """Compare plain values, leaf by leaf."""
    if isinstance(seen, Mapping) and isinstance(expected, Mapping):
        for key in sorted({*seen, *expected}):
            yield from _differing(f"{where}.{key}", seen.get(key), expected.get(key))
    elif isinstance(seen, list) and isinstance(expected, list) and len(seen) == len(expected):
        for i, (a, b) in enumerate(zip(seen, expected, strict=True)):
            yield from _differing(f"{where}[{i}]", a, b)
    elif isinstance(seen, float) and isinstance(expected, float | int):
        if not abs(seen - expected) <= _EXACT:
            yield Difference(field=where, seen=seen, expected=expected)
    elif seen != expected:
        yield Difference(field=where, seen=seen, expected=expected)
