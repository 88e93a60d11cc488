"""Rows of numbers that carry their protocol, and the file they are kept in."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hamward.artifacts import read_json, write_json, write_table
from hamward.attacks import Role
from hamward.config import from_mapping
from hamward.errors import ArtifactError, ConfigError
from hamward.types import Direction, Modality, modalities_of

__all__ = ["CLEAN", "Curve", "Evaluation", "Flag", "Hubness", "Row", "precision_file"]

CLEAN = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hubness:
    """How chosen database items stand in the lists of all queries; ties count in expectation.

    Attributes:
        k: Length of the lists.
        items: How many items were chosen.
        mean: Mean over them of N_k, the number of lists that an item stands in.
        most: Largest N_k of them.
        skewness: Of N_k over the whole database: large where few items are in most lists.
        reach: Mean share of the lists of the aimed queries that an item stands in; None if no
            query is aimed at.
        rank: Mean rank of the items over all queries, 1 for the nearest.
        relevant_rank: Over the queries that they are relevant to; None without any.
    """

    k: int
    items: int
    mean: float
    most: float
    skewness: float
    reach: float | None
    rank: float
    relevant_rank: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One MAP and all that is needed to know what it means.

    Attributes:
        victim: Name of the attacked model.
        attack: Name of the attack, "none" for clean queries.
        crafted_on: The model that the attack saw. Anything but `victim` is a transfer.
        direction: i2t, t2i, i2i or t2t.
        stored: "8-bit" (pictures rounded as a file rounds them), "as typed" (texts of whole
            words), "float" (as crafted), "jpeg-QUALITY" (after one JPEG file) or
            "feature-space" (bags of words with fractions, or moved embeddings of tokens, which no
            text has).
        eps: Budget: l_inf or l2 radius in [0, 1] units, number of pixels (l0), side of the
            square (patch), or how many words may be inserted and deleted, or replaced; 0
            for clean queries.
        norm: Norm of the budget.
        map: Tie-aware MAP over the whole ranking.
        low: Lower end of the 95 % bootstrap interval over queries.
        high: Upper end.
        optimistic: MAP when ties fall in favor of relevant items.
        pessimistic: MAP when they fall against them.
        chance: MAP of a random ranking for the same queries.
        flips: Mean share of the K bits that differ from the clean code.
        rms: Mean over items of the root mean squared perturbation (CMLA's D), as stored.
        linf: Largest perturbation of any item, as stored.
        queries: Queries with a relevant item.
        seconds: Crafting time per item; wall clock of this machine.
        submissions: Items sent to the attacked model, all steps and any training together.
        target_map: Targeted attacks: MAP towards the target's labels (t-MAP).
        target_chance: t-MAP of a random ranking.
        role: What the attacked items were: queries, or items of the database ("candidate",
            "hub"). There eps, flips, rms and linf are those of the few perturbed items, while MAP
            is that of all queries, none of them attacked.
        hubness: Database items attacked: how they are found; in the clean row, before.
    """

    victim: str
    attack: str
    crafted_on: str
    direction: Direction
    stored: str
    eps: float
    norm: str
    map: float
    low: float
    high: float
    optimistic: float
    pessimistic: float
    chance: float
    flips: float
    rms: float
    linf: float
    queries: int
    seconds: float
    submissions: int = 0
    target_map: float | None = None
    target_chance: float | None = None
    role: Role = "query"
    hubness: Hubness | None = None

    @property
    def attacked(self) -> Modality:
        """Modality of the attacked items: what asks, or what is searched."""
        return modalities_of(self.direction)[self.role != "query"]

    @property
    def counts(self) -> bool:
        """Whether the row is the figure itself, not the same items in another form beside it."""
        return self.stored != "float" and not self.stored.startswith("jpeg-")

    @property
    def key(self) -> str:
        """Name of the row's precisions in `precision_file`; for rows that count."""
        return f"{self.attack}/{self.crafted_on}/{self.direction}"

    @property
    def transfer(self) -> bool:
        """Whether the attack saw another model than the victim."""
        return self.attack != CLEAN and self.crafted_on != self.victim


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What a report draws for one row.

    Attributes:
        precision: Mean precision of lookups with radius 0..K.
        recall: Mean recall of lookups with radius 0..K.
        relevant: Share of relevant (query, item) pairs at each distance 0..K.
        irrelevant: Share of irrelevant pairs at each distance.
        precision_at: Expected precision among the first n, for each n of `cutoffs`.
        cutoffs: The n of `precision_at`.
    """

    precision: tuple[float, ...]
    recall: tuple[float, ...]
    relevant: tuple[float, ...]
    irrelevant: tuple[float, ...]
    precision_at: tuple[float, ...]
    cutoffs: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A doubt about an evaluation.

    Attributes:
        id: Which; see `diagnostics.FLAGS` and docs/diagnostics.md.
        victim: Name of the victim it concerns.
        subject: Attack, direction or modality it concerns.
        value: What was measured.
        threshold: What it was compared with.
        message: What it means.
    """

    id: str
    victim: str
    subject: str
    value: float
    threshold: float
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Rows, their curves (same order), the protocol they share, and doubts about them."""

    protocol: dict[str, Any]
    rows: tuple[Row, ...] = ()
    curves: tuple[Curve, ...] = field(default=(), repr=False)
    flags: tuple[Flag, ...] = ()

    def find(
        self,
        victim: str,
        attack: str,
        direction: Direction,
        *,
        stored: str | None = None,
        crafted_on: str | None = None,
    ) -> Row:
        """Return a row; by default the adaptive one that counts (stored form).

        Raises:
            ArtifactError: there is none.
        """
        for row in self.rows:
            if (
                (row.victim, row.attack, row.direction) == (victim, attack, direction)
                and row.crafted_on == (crafted_on or victim)
                and (row.stored == stored if stored else row.counts)
            ):
                return row
        raise ArtifactError(f"no row for {victim!r}, {attack!r}, {direction!r}")

    def victims(self) -> list[str]:
        """Return the names of the victims in order."""
        return list(dict.fromkeys(row.victim for row in self.rows))

    def attacks(self) -> list[str]:
        """Return the names of the attacks in order, without "none"."""
        return list(dict.fromkeys(row.attack for row in self.rows if row.attack != CLEAN))

    def save(self, folder: Path) -> None:
        """Write results.json (all) and rows.parquet (the table)."""
        rows = [asdict(row) for row in self.rows]
        write_table(
            folder / "rows.parquet", {k: [row[k] for row in rows] for k in rows[0]} if rows else {}
        )
        curves = [asdict(curve) for curve in self.curves]
        write_json(
            folder / "results.json",
            {
                "protocol": self.protocol,
                "rows": rows,
                "curves": curves,
                "flags": [asdict(flag) for flag in self.flags],
            },
        )

    @classmethod
    def load(cls, folder: Path) -> "Evaluation":
        """Read what `save` wrote.

        Raises:
            ArtifactError: missing, damaged, or from another schema version.
        """
        file = folder / "results.json"
        content = read_json(file)
        try:
            return cls(
                protocol=content["protocol"],
                rows=tuple(from_mapping(Row, row, path="rows.") for row in content["rows"]),
                curves=tuple(from_mapping(Curve, c, path="curves.") for c in content["curves"]),
                flags=tuple(from_mapping(Flag, f, path="flags.") for f in content["flags"]),
            )
        except (KeyError, TypeError, ConfigError) as error:
            raise ArtifactError(f"{file}: not an evaluation ({error})") from error


def precision_file(folder: Path, victim: str) -> Path:
    """Return where an evaluation keeps the average precision of each query of one victim.

    One float64 tensor (q,) for each row that counts, by `Row.key`, in the order of the queries;
    NaN for a query without relevant items. The mean of the others is the row's MAP.
    """
    return folder / "precision" / f"{victim}.safetensors"
