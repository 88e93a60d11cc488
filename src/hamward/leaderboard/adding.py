"""Entries out of a finished evaluation, each with what anyone needs to recompute it."""

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hamward import __version__
from hamward.artifacts import RunFolder, digest_of, read_tensors, write_json, write_tensors
from hamward.attacks import round_to_grid
from hamward.data import RetrievalData
from hamward.errors import ArtifactError, ConfigError
from hamward.evaluation.compare import training_seconds
from hamward.evaluation.crafting import adversarial_file
from hamward.evaluation.gathering import FinishedRun
from hamward.evaluation.report.findings import Findings
from hamward.evaluation.report.gallery import exhibit
from hamward.evaluation.report.write import plain
from hamward.evaluation.results import precision_file
from hamward.evaluation.runs import data_of, items_digest, load_victim
from hamward.leaderboard.cells import Cell, cells_of
from hamward.leaderboard.entry import Code, Cost, Entry, read_entry, write_entry
from hamward.leaderboard.facts import data_facts, model_facts, protocol_of
from hamward.leaderboard.stored import GALLERY, items_file, sources_digest, write_items
from hamward.leaderboard.verifying import Recomputed, check_entry
from hamward.models import weights_digest
from hamward.progress import SILENT, Progress
from hamward.types import modalities_of
from hamward.zoo import file_of, push

__all__ = ["add_run"]

_SHOWN = 3


def add_run(
    run: Path,
    board: Path,
    *,
    models: Path | None = None,
    optional: bool = False,
    progress: Progress = SILENT,
) -> list[Path]:
    """Make an entry for each victim and threat model of a finished evaluation.

    Each is recomputed from what was just copied before it gets its name. The same evaluation a
    second time changes nothing.

    Args:
        run: Run folder of an evaluation.
        board: The leaderboard's folder; made if it is not there.
        models: Zoo that keeps the victims; by default `board / "models"`.
        optional: Return nothing where nothing of it is an entry, instead of raising.
        progress: Watches.

    Returns:
        The files of the entries.

    Raises:
        ArtifactError: the evaluation is not finished, attacked database items, keeps no
            precision per query, or does not follow from its own files; nothing of it is an entry;
            or the board holds other numbers under a name.
        ConfigError: validation items asked in it.
    """
    finished = FinishedRun.read(run)
    if "candidates" in finished.evaluation.protocol:
        raise ArtifactError(f"{run}: attacks items of the database; entries are attacked queries")
    if finished.config.validation:
        raise ConfigError(f"{run}: evaluated on validation items; a board ranks by queries")
    source = _Source(run=finished, board=board, models=models or board / "models")
    made = [
        file
        for victim in finished.config.victims
        for file in source.entries(victim, progress=progress)
    ]
    if not made and not optional:
        raise ArtifactError(
            f"{run}: no attack was crafted on the victims themselves (random noise and transfers "
            "say nothing about robustness)"
        )
    return made


class _Source:
    """One evaluation on its way to a board."""

    def __init__(self, *, run: FinishedRun, board: Path, models: Path) -> None:
        self.run, self.board, self.models = run, board, models
        self.info = RunFolder(run.folder).info()
        (board / "entries").mkdir(parents=True, exist_ok=True)

    def entries(self, victim: str, *, progress: Progress) -> list[Path]:
        folder = Path(self.run.config.victims[victim])
        model, facts = load_victim(folder)
        whole = data_of(facts, folder)
        data = self.run.config.part(whole)
        if data.digest != self.run.evaluation.protocol["data_digest"]:
            raise ArtifactError(
                f"{self.run.folder}: evaluated data {self.run.evaluation.protocol['data_digest']}, "
                f"{data.name} is {data.digest} now"
            )
        cells = cells_of(self.run, victim)
        if not cells:
            return []
        identity = digest_of([weights_digest(model), facts.get("purifiers", {})])
        stored = push(folder, self.models, name=f"{victim}-{identity[:8]}")
        place = os.path.relpath(self.models / stored.name, self.board / "entries")
        described = model_facts(
            victim, place, self.models / stored.name, model, facts, files=stored.files
        )
        recomputed: dict[Any, Recomputed] = {}
        made = []
        for cell in cells:
            threat = cell.threat.id
            progress.say(f"{victim}: {threat}")
            options = {attack.name: attack.options for attack in cell.threat.attacks}
            key = digest_of(
                [identity, data.digest, data.split_digest, options, self.run.config.seed]
            )
            name = f"{victim}-{threat.replace('/', '-')}-{key[:8]}"
            if self._held(name, cell):
                made.append(self.board / "entries" / f"{name}.json")
                continue
            part = self.board / "artifacts" / f".{name}.{os.getpid()}.part"
            try:
                self._stage(
                    part, cell, data, victim=victim, hamming=model.spec.retrieval == "hamming"
                )
                paths = sorted(
                    p.relative_to(part).as_posix() for p in part.rglob("*") if p.is_file()
                )
                entry = Entry(
                    name=name,
                    model=described,
                    threat=cell.threat,
                    protocol=protocol_of(cell.evaluation, data, all_queries=len(whole.split.query)),
                    data=data_facts(facts, data, items=items_digest(whole)),
                    scores=cell.scores,
                    flags=cell.evaluation.flags,
                    probed=self.run.config.diagnose,
                    cost=Cost(
                        training_seconds=training_seconds(folder),
                        attack_seconds=sum(a.seconds for a in cell.threat.attacks),
                        submissions=sum(a.submissions for a in cell.threat.attacks),
                    ),
                    code=Code(version=__version__, sources=sources_digest()),
                    artifacts=f"../artifacts/{name}",
                    files=tuple(file_of(part, path) for path in paths),
                    command=("hamward", *self.info["command"][1:]),
                    environment=self.info["environment"],
                    written=self.info["written"],
                )
                made.append(self._publish(entry, part, recomputed))
            finally:
                shutil.rmtree(part, ignore_errors=True)
        return made

    def _held(self, name: str, cell: Cell) -> bool:
        """Return whether the board has this entry.

        Raises:
            ArtifactError: it has other numbers under this name.
        """
        file = self.board / "entries" / f"{name}.json"
        if not file.exists():
            return False
        if read_entry(file).scores != cell.scores:
            raise ArtifactError(
                f"{file}: holds other numbers of the same evaluation; remove it to replace them"
            )
        return True

    def _stage(
        self, part: Path, cell: Cell, data: RetrievalData, *, victim: str, hamming: bool
    ) -> None:
        """Fill a temporary folder with all that the entry is recomputed from."""
        run, modality = self.run.folder, cell.threat.attacked
        cell.evaluation.save(part)
        (part / "rows.parquet").unlink()  # the same rows stand in results.json
        answering = {modalities_of(score.direction)[1] for score in cell.scores}
        keys = [f"query/{modality}", *(f"database/{m}" for m in sorted(answering))]
        keys += [f"adversarial/{name}/{victim}/{modality}" for name in cell.attacks]
        file = Path("codes") / f"{victim}.safetensors"
        codes = read_tensors(run / file)
        write_tensors(part / file, {key: codes[key] for key in keys})
        kept = read_tensors(precision_file(run, victim))
        counted = [row.key for row in cell.evaluation.rows if row.counts]
        write_tensors(precision_file(part, victim), {key: kept[key] for key in counted})
        positions = data.positions("query", modality)
        for name, attack in cell.attacks.items():
            crafted = read_tensors(adversarial_file(run, victim, name, modality))
            items = crafted["x_adv"]
            if modality == "image":
                clean = data.inputs("image", positions)
                items = round_to_grid(items, clean, attack.budget("image"))
            write_items(items_file(part, name), crafted["ids"], items)
        shown = None
        if hamming:
            shown = exhibit(
                Findings(evaluation=cell.evaluation),
                modality,
                data=data,
                artifacts=run,
                count=_SHOWN,
            )
        write_json(part / GALLERY, {"exhibits": [plain(asdict(shown))] if shown else []})

    def _publish(self, entry: Entry, part: Path, recomputed: dict[Any, Recomputed]) -> Path:
        """Give an entry its name, once it follows from its files.

        Raises:
            ArtifactError: it does not.
        """
        file = self.board / "entries" / f"{entry.name}.json"
        place = self.board / "artifacts" / entry.name
        found = check_entry(entry, file.parent, artifacts=part, recomputed=recomputed)
        if found:
            raise ArtifactError(
                f"{self.run.folder}: {entry.name} does not follow from its own files: {found[0]}"
            )
        if place.exists():  # left by an interruption: without an entry nothing refers to it
            shutil.rmtree(place)
        part.rename(place)
        write_entry(file, entry)
        return file
