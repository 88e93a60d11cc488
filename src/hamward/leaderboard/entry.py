"""What an entry says: who met which threat, on which data, by which protocol, with what result.

A board is a folder:

    entries/NAME.json       one entry each
    artifacts/NAME/         what `verify` recomputes it from, and its gallery
    models/                 a zoo with the models that entries refer to
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from hamward.artifacts import read_json, write_json
from hamward.config import from_mapping, to_mapping
from hamward.errors import ArtifactError, ConfigError
from hamward.evaluation.diagnostics import tells_of_masking
from hamward.evaluation.results import Flag
from hamward.types import Access, Direction, Modality
from hamward.zoo import StoredFile

__all__ = [
    "AttackFacts",
    "Code",
    "Cost",
    "DataFacts",
    "Entry",
    "Estimate",
    "ModelFacts",
    "Protocol",
    "Score",
    "ThreatModel",
    "read_board",
    "read_entry",
    "write_entry",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A MAP with its 95 % bootstrap interval over queries."""

    map: float
    low: float
    high: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a victim got in one direction.

    Attributes:
        direction: What asks (and is attacked) and what is searched.
        queries: Queries with a relevant item.
        chance: MAP of a random ranking.
        clean: Of clean queries.
        robust: Of the worst case of each query over all attacks of the threat, crafted on the
            victim itself.
    """

    direction: Direction
    queries: int
    chance: float
    clean: Estimate
    robust: Estimate


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AttackFacts:
    """One attack that the worst case is taken over.

    Attributes:
        name: In the evaluation.
        access: What it asked of the victim.
        options: What it was configured with.
        seconds: Crafting time per item; wall clock of the machine that wrote the entry.
        submissions: Items sent to the victim.
    """

    name: str
    access: Access
    options: dict[str, Any]
    seconds: float
    submissions: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ThreatModel:
    """What the attacker may do.

    Attributes:
        id: Name of the threat, "image-linf-8/255"; equal names compare.
        attacked: Modality of the attacked queries.
        access: The most that an attack asked for.
        norm: Norm of the budget.
        eps: Its size, as in `evaluation.Row`.
        words: Insertions and deletions of norm "edits".
        stored: Form in which items are scored: "8-bit", "as typed" or "feature-space".
        queries: Most submissions of an item where every attack has such a limit.
        attacks: Those of the worst case.
    """

    id: str
    attacked: Modality
    access: Access
    norm: str
    eps: float
    words: tuple[int, ...] | None
    stored: str
    queries: int | None
    attacks: tuple[AttackFacts, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How numbers come about.

    Attributes:
        metric: Which mean.
        ties: Rule for tied items.
        cutoff: How much of the ranking counts.
        interval: What the intervals are.
        image_scores: Form in which attacked pictures are scored.
        relevance: What a query shall find.
        queries: Queries that were asked.
        all_queries: Queries that the split has: more, if the evaluation was limited.
        database: Items searched.
        seed: Of attacks and bootstrap.
    """

    metric: str
    ties: str
    cutoff: str
    interval: str
    image_scores: str
    relevance: str
    queries: int
    all_queries: int
    database: int
    seed: int

    @property
    def limited(self) -> bool:
        """Whether some queries of the split were left out."""
        return self.queries < self.all_queries


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """The data.

    Attributes:
        name: Data set.
        options: Of its loader.
        digest: Of all that decides results.
        split: Named split protocol; None for the data set's own.
        split_digest: Of the split that was evaluated.
        items_digest: Of the vocabulary and the whole split.
    """

    name: str
    options: dict[str, Any]
    digest: str
    split: str | None
    split_digest: str
    items_digest: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The victim.

    Attributes:
        name: As evaluated.
        folder: Its run folder, relative to the folder of the entry.
        method: Registered victim.
        defenses: What hardened it, in order.
        purifiers: What stands before its encoders.
        code_length: Number of bits K.
        retrieval: "hamming" or "cosine".
        parameters: Number of parameters.
        seed: Of its (last) training.
        recipe: Resolved configuration of its (last) training.
        card: Its model card.
        files: All of its folder.
    """

    name: str
    folder: str
    method: str
    defenses: tuple[str, ...]
    purifiers: tuple[str, ...]
    code_length: int
    retrieval: str
    parameters: int
    seed: int | None
    recipe: dict[str, Any]
    card: dict[str, Any] = field(repr=False)
    files: tuple[StoredFile, ...] = field(repr=False)

    @property
    def defense(self) -> str:
        """Everything done against attacks, in words; empty for an undefended victim."""
        return " + ".join((*self.defenses, *self.purifiers))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What it took, on the machine that wrote the entry.

    Attributes:
        training_seconds: Victims it was hardened from included; None if unknown.
        attack_seconds: Per item, all attacks together.
        submissions: Items sent to the victim, all attacks together.
    """

    training_seconds: float | None
    attack_seconds: float
    submissions: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """The program that wrote the entry: version, and digest of the package's sources."""

    version: str
    sources: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the leaderboard.

    Attributes:
        name: Of the file, without ".json".
        model: The victim.
        threat: What attackers may do.
        protocol: How numbers come about.
        data: What is searched.
        scores: By direction.
        flags: Doubts that the evaluation raised about the victim.
        probed: Whether it was probed for signs of masked gradients.
        cost: Times and submissions.
        code: What wrote the entry.
        artifacts: Folder that it is recomputed from, relative to the folder of the entry.
        files: All of that folder.
        command: Of the evaluation.
        environment: Of the evaluation.
        written: When the evaluation ended.
    """

    name: str
    model: ModelFacts
    threat: ThreatModel
    protocol: Protocol
    data: DataFacts
    scores: tuple[Score, ...]
    flags: tuple[Flag, ...]
    probed: bool
    cost: Cost
    code: Code
    artifacts: str
    files: tuple[StoredFile, ...] = field(repr=False)
    command: tuple[str, ...]
    environment: dict[str, Any]
    written: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"name must be letters, digits and ._+-, got {self.name!r}")
        if not self.scores:
            raise ConfigError("scores must have at least one direction")
        for place in (self.artifacts, self.model.folder):
            if Path(place).is_absolute():
                raise ConfigError(f"folders must be relative to the entry, got {place!r}")

    @property
    def main(self) -> Score:
        """The score across modalities, or within one for victims that have no other."""
        across = [s for s in self.scores if s.direction[0] != s.direction[2]]
        return (across or list(self.scores))[0]

    @property
    def masking(self) -> bool:
        """Whether a defense counts as masking: attacks on it may have been misled."""
        return bool(self.model.defense) and tells_of_masking(flag.id for flag in self.flags)


def write_entry(file: Path, entry: Entry) -> None:
    """Write an entry, whole or not at all."""
    write_json(file, to_mapping(entry))


def read_entry(file: Path) -> Entry:
    """Read an entry.

    Raises:
        ArtifactError: missing, damaged, of another schema version or with unknown, missing or
            wrong values.
    """
    content = read_json(file)
    try:
        entry = from_mapping(Entry, {k: v for k, v in content.items() if k != "schema_version"})
    except ConfigError as error:
        raise ArtifactError(f"{file}: no entry of a leaderboard ({error})") from error
    if entry.name != file.stem:
        raise ArtifactError(f"{file}: name is {entry.name!r}, expected {file.stem!r}")
    return entry


def read_board(board: Path) -> list[Entry]:
    """Read all entries of a board, in the order of their names.

    Raises:
        ArtifactError: there are none, or one is damaged.
    """
    files = sorted((board / "entries").glob("*.json"))
    if not files:
        raise ArtifactError(
            f"{board}: no leaderboard (no entries/*.json); `hamward leaderboard add` makes one"
        )
    return [read_entry(file) for file in files]
