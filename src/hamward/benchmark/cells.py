"""One cell: claimed, run or resumed in its folder, measured, recorded."""

import shutil
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hamward.artifacts import RunFolder, read_tensors, write_atomically
from hamward.attacks import Attack, TrainableAttack, attacked_items, measure, round_to_grid
from hamward.benchmark.claims import claimed
from hamward.benchmark.plan import Cell
from hamward.benchmark.store import Store
from hamward.config import from_mapping, to_mapping
from hamward.data import RetrievalData
from hamward.errors import HamwardError, QueryLimitError
from hamward.evaluation.configs import EvaluateConfig, HardenConfig, TrainConfig
from hamward.evaluation.crafting import adversarial_file
from hamward.evaluation.results import CLEAN, Evaluation, Row
from hamward.evaluation.runs import data_of, evaluate_run, kept_data, load_victim, make_attack
from hamward.evaluation.scoring import counts_of
from hamward.evaluation.training_runs import harden_run, train_run
from hamward.metrics import average_precision, bootstrap_interval, hit_at
from hamward.models import HashModel, read_by
from hamward.types import modalities_of

__all__ = ["Outcome", "run_cell"]

_HITS = (1, 5, 10)
_CUT = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a cell.

    Attributes:
        cell: Its name.
        status: "done", "failed", or "busy" where another process works on it.
        seconds: Wall clock of this attempt.
        message: Why it failed, or who works on it.
    """

    cell: str
    status: Literal["done", "failed", "busy"]
    seconds: float = 0.0
    message: str = ""


def run_cell(store: Store, cell: Cell) -> Outcome:
    """Do a cell, unless it is finished or another process is on it; what needs it may go on then.

    Where an earlier attempt was interrupted, this one continues from what is there. An error
    becomes a failure that the store keeps, with its message.

    Raises:
        ArtifactError: the store is gone.
    """
    store.check()
    started = time.monotonic()
    with claimed(store.claim(cell.name)) as other:
        if other is not None:
            return Outcome(cell=cell.name, status="busy", message=str(other))
        if store.done(cell.name):
            return Outcome(cell=cell.name, status="done")
        resumed = store.folder(cell.name).exists()
        try:
            with kept_data():
                found = _run(store, cell)
            seconds = time.monotonic() - started
            record = asdict(cell) | found | {"seconds": None if resumed else seconds}
            store.write_record(cell.name, record)
        except Exception as error:  # any: the next cell may be fine, and the message is kept
            ours = isinstance(error, HamwardError)
            message = str(error) if ours else f"{type(error).__name__}: {error}"
            trace = "" if ours else traceback.format_exc()
            store.write_failure(cell.name, label=cell.label, message=message, trace=trace)
            return Outcome(
                cell=cell.name,
                status="failed",
                seconds=time.monotonic() - started,
                message=message,
            )
    return Outcome(cell=cell.name, status="done", seconds=seconds)


def _run(store: Store, cell: Cell) -> dict[str, Any]:
    folder = store.folder(cell.name)
    if cell.kind == "train":
        train_run(from_mapping(TrainConfig, cell.config), folder, resume=True)
        return {}
    if cell.kind == "harden":
        victim = str(store.folder(cell.config["victim"]))
        config = from_mapping(HardenConfig, {**cell.config, "victim": victim})
        harden_run(config, folder, resume=True)
        return {}
    victims = {name: str(store.folder(made)) for name, made in cell.config["victims"].items()}
    evaluated = from_mapping(EvaluateConfig, {**cell.config, "victims": victims})
    _reuse(store, cell, evaluated)
    evaluation = evaluate_run(evaluated, folder, resume=True)
    _check_limit(cell, evaluated, evaluation)
    return {
        "measures": list(_measures(folder, evaluated, evaluation)),
        "flags": sorted({f"{f.id}: {f.victim}" for f in evaluation.flags}),
        "protocol": evaluation.protocol,
    }


def _reuse(store: Store, cell: Cell, config: EvaluateConfig) -> None:
    """Put adversarial items that other cells crafted where this evaluation looks for its own."""
    folder = store.folder(cell.name)
    if not cell.reuses:
        return
    RunFolder(folder).start("evaluation", to_mapping(config), resume=True)
    for name in cell.reuses:
        made = store.folder(name) / "adversarial"
        for file in sorted(made.glob("*/*.safetensors")):
            target = folder / "adversarial" / file.relative_to(made)
            if not target.exists():
                write_atomically(target, partial(shutil.copyfile, file))


def _check_limit(cell: Cell, config: EvaluateConfig, evaluation: Evaluation) -> None:
    """Refuse a result that cost more submissions than its threat model grants."""
    if cell.limit is None:
        return
    for row in evaluation.rows:
        spent = row.submissions / max(int(evaluation.protocol["queries"]), 1)
        if row.attack != CLEAN and spent > cell.limit:
            raise QueryLimitError(
                f"{row.attack} on {row.victim} submitted {spent:.0f} items a query, the threat "
                f"grants {cell.limit}"
            )


def _measures(
    folder: Path, config: EvaluateConfig, evaluation: Evaluation
) -> Iterator[dict[str, Any]]:
    """Yield every metric of every victim, direction and crafting model of an evaluation."""
    attacks = {name: make_attack(name, options) for name, options in config.attacks.items()}
    data: RetrievalData | None = None
    for victim, run in config.victims.items():
        model, facts = load_victim(Path(run))
        if data is None:
            data = config.part(data_of(facts, Path(run)))
        read = read_by(model, data)
        codes = read_tensors(folder / "codes" / f"{victim}.safetensors")
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in evaluation.rows:
            if row.victim == victim and row.counts and (row.attack == CLEAN) == (not attacks):
                groups.setdefault((row.crafted_on, row.direction), []).append(row)
        for (source, direction), rows in groups.items():
            yield {
                "victim": victim,
                "crafted_on": source,
                "direction": direction,
                "attacks": [row.attack for row in rows],
                **_worst(rows, codes, read, seed=config.seed),
                **_visible(folder, rows[0], attacks, model, read),
            }


def _worst(
    rows: list[Row], codes: Mapping[str, torch.Tensor], data: RetrievalData, *, seed: int
) -> dict[str, float]:
    """Return the metrics of the worst case over attacks, query by query."""
    asking, answering = modalities_of(rows[0].direction)
    query, database = data.positions("query", asking), data.split.database
    found: dict[str, list[NDArray[np.float64]]] = {}
    for row in rows:
        crafted = f"adversarial/{row.attack}/{row.crafted_on}/{asking}"
        asked = codes[f"query/{asking}" if row.attack == CLEAN else crafted]
        known = codes[f"database/{answering}"]
        counts = counts_of(data, asked, known, query=query, database=database)
        found.setdefault("map", []).append(average_precision(counts))
        found.setdefault(f"map@{_CUT}", []).append(average_precision(counts, k=_CUT))
        for k in _HITS:
            found.setdefault(f"r@{k}", []).append(hit_at(counts, k))
    worst = {name: np.min(values, axis=0) for name, values in found.items()}
    low, high = bootstrap_interval(worst["map"], seed=seed)
    values = {name: float(np.nanmean(value)) for name, value in worst.items()}
    values |= {"low": low, "high": high, "chance": rows[0].chance}
    if rows[0].attack != CLEAN:
        values["D"] = max(row.rms for row in rows)
    reached = [r.target_map for r in rows if r.target_map is not None]
    if reached and rows[0].target_chance is not None:
        values |= {"t-map": max(reached), "t-chance": rows[0].target_chance}
    return values


def _visible(
    folder: Path,
    row: Row,
    attacks: Mapping[str, Attack | TrainableAttack],
    model: HashModel,
    data: RetrievalData,
) -> dict[str, float]:
    """Return the perceptibility of one attack's own pictures: root of the mean squared change."""
    if len(attacks) != 1 or row.attacked != "image" or row.transfer:
        return {}
    attack = attacks[row.attack]
    file = adversarial_file(folder, row.victim, row.attack, "image")
    x = attacked_items(attack, model, data, "image", data.positions("query", "image"))
    stored = round_to_grid(read_tensors(file)["x_adv"], x, attack.budget("image"))
    return {"perceptibility": float(measure(stored, x).rms.square().mean().sqrt())}
