"""A tiny evaluation and a leaderboard made of it; what tests change, they change in a copy."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from hamward.artifacts import RunFolder
from hamward.data import RetrievalData
from hamward.evaluation import EvaluateConfig, evaluate_run
from hamward.evaluation.card import model_card, write_card
from hamward.evaluation.runs import items_digest
from hamward.leaderboard import add_run
from hamward.leaderboard.entry import Entry, read_entry, write_entry
from hamward.models import HashModel, save_model
from hamward.zoo import StoredFile, file_of

ATTACKS = {
    "own-code@4": {"eps": "4/255", "steps": 2},
    "own-code@8": {"eps": "8/255", "steps": 2},
    "hag@8": {"eps": "8/255", "steps": 2},
    "square@8": {"eps": "8/255", "queries": 3},
    "tag-edits-fast": {"insertions": 1, "deletions": 1},
    "random-noise": {},
}
QUERIES = 9


def write_victim(folder: Path, model: HashModel, data: RetrievalData) -> Path:
    """A finished run of kind "model", as a training leaves it."""
    facts = {
        "method": "dcmh",
        "options": {},
        "data": "tiny",
        "data_options": {},
        "data_digest": data.digest,
        "items_digest": items_digest(data),
        "pretrained": False,
    }
    run = RunFolder(folder)
    run.start("model", {"method": "dcmh", "fit": {"seed": 3}}, resume=False)
    save_model(folder, model, **facts)
    write_card(folder, model_card(model, data, facts))
    run.finish(history=[{"epoch": 1, "loss": 0.5, "seconds": 7.0}], ranks=1)
    return folder


_MADE: list[tuple[Path, Path]] = []


def made_once(
    factory: pytest.TempPathFactory, model: HashModel, data: RetrievalData
) -> tuple[Path, Path]:
    """A finished evaluation of some queries and its board; once a session, for all modules."""
    if not _MADE:
        base = factory.mktemp("leaderboard")
        victim = write_victim(base / "tiny", model, data)
        config = EvaluateConfig(
            victims={victim.name: str(victim)}, attacks=ATTACKS, queries=QUERIES, diagnose=False
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: data)
            evaluate_run(config, base / "run")
            add_run(base / "run", base / "board")
        _MADE.append((base / "run", base / "board"))
    return _MADE[0]


def entry_file(board: Path, threat: str) -> Path:
    """The entry of one threat model."""
    for file in sorted((board / "entries").glob("*.json")):
        if read_entry(file).threat.id == threat:
            return file
    raise LookupError(threat)


def change(file: Path, edit: Callable[[Entry], Entry]) -> Entry:
    """Rewrite an entry."""
    entry = edit(read_entry(file))
    write_entry(file, entry)
    return entry


def with_new_hashes(file: Path) -> Entry:
    """Make an entry name the files as they are now, as a forger would."""

    def hashed(folder: Path, files: tuple[StoredFile, ...]) -> tuple[StoredFile, ...]:
        return tuple(file_of(folder, f.path) for f in files)

    def edit(entry: Entry) -> Entry:
        model = entry.model
        place = file.parent / model.folder
        return dataclasses.replace(
            entry,
            files=hashed(file.parent / entry.artifacts, entry.files),
            model=dataclasses.replace(model, files=hashed(place, model.files)),
        )

    return change(file, edit)
