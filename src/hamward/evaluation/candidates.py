"""Attacks from the database's side: which of its items an attacker places, and who finds them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int8
from numpy.typing import NDArray
from torch import Tensor

from hamward.data import RetrievalData
from hamward.errors import ConfigError, unknown_name
from hamward.evaluation.results import Hubness
from hamward.metrics import DistanceCounts, expected_ranks, k_occurrence, skewness
from hamward.random import permutation

__all__ = ["Candidates", "hubness_of"]

Held = Int8[Tensor, "_ k"] | Float[Tensor, "_ k"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Database items that an attacker may perturb, instead of queries.

    The attacker does not know the queries of the evaluation: training items stand in for them,
    without the perturbed ones.

    Attributes:
        role: "candidate": they shall not be found by queries that they are relevant to. "hub":
            they shall be found by as many queries as possible.
        count: How many, drawn at random from the seed.
        label: Draw items with this label only; "" draws from all.
        audience: Label of the queries that hubs aim at; "" is all.
        k: Length of the lists that hubness is counted in.
    """

    role: Literal["candidate", "hub"] = "candidate"
    count: int = 100
    label: str = ""
    audience: str = ""
    k: int = 10

    def __post_init__(self) -> None:
        for name in ("count", "k"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"candidates.{name} must be at least 1, got {getattr(self, name)}"
                )
        if self.audience and self.role != "hub":
            raise ConfigError(
                f"candidates.audience is for the role 'hub', got {self.audience!r} for "
                f"{self.role!r}"
            )

    def check(self, data: RetrievalData, attacks: Mapping[str, Any]) -> None:
        """Refuse what cannot be attacked like this.

        Raises:
            ConfigError: too few items or known queries, an unknown label, or an attack that
                cannot attack items in this role.
        """
        self.known_queries(data, self.choose(data, seed=0))
        for name, attack in attacks.items():
            roles = getattr(attack, "roles", ("query",))
            if self.role not in roles or getattr(attack, "reference_group", None) is not None:
                known = "query" if self.role in roles else ", ".join(roles)
                raise ConfigError(
                    f"{name} cannot attack items in the role {self.role!r}, as configured it can "
                    f"in: {known}"
                )

    def choose(self, data: RetrievalData, *, seed: int) -> NDArray[np.int64]:
        """Return the positions of the perturbed items, sorted.

        Raises:
            ConfigError: there are fewer than `count`, or the label is unknown.
        """
        pool = _with_label(data, data.split.database, self.label)
        if self.count > len(pool):
            which = f" with the label {self.label!r}" if self.label else ""
            raise ConfigError(
                f"candidates.count must be at most {len(pool)}, the database items{which} of "
                f"{data.name}, got {self.count}"
            )
        drawn = permutation(len(pool), seed=seed, stream="candidates")[: self.count].numpy()
        return np.sort(pool[drawn])

    def known_queries(self, data: RetrievalData, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the training items that stand in for queries.

        Raises:
            ConfigError: there are none, or the audience's label is unknown.
        """
        known = np.setdiff1d(_with_label(data, data.split.train, self.audience), chosen)
        if data.words:  # a text without words asks nothing
            known = known[data.bags[known].any(1)]
        if not len(known):
            raise ConfigError(
                f"no training item of {data.name} is left to stand in for queries: perturb fewer "
                f"than {self.count} items, or name another audience than {self.audience!r}"
            )
        return known


def hubness_of(
    counts: DistanceCounts,
    asked: Held,
    known: Held,
    *,
    candidates: Candidates,
    data: RetrievalData,
    query: NDArray[np.int64],
    chosen: NDArray[np.int64],
) -> Hubness:
    """Count how the perturbed items stand in the lists of the queries.

    Args:
        counts: Of the queries and the database.
        asked: What the queries are compared by, (q, K).
        known: The whole database as it is searched, (n, K).
        candidates: Who is aimed at, and the length of the lists.
        data: Labels and split.
        query: Positions of the queries, (q,).
        chosen: Positions of the perturbed items, (m,).
    """
    rows = np.searchsorted(data.split.database, chosen)
    lists = k_occurrence(counts, asked, known, k=candidates.k)
    placed = known[rows]
    aimed = np.isin(query, _with_label(data, query, candidates.audience))
    reach = float("nan")
    if aimed.any():
        part = counts.select(aimed), asked[aimed], placed
        reach = float(k_occurrence(*part, k=candidates.k).mean() / aimed.sum())
    if data.label_names:
        relevant = data.labels[query].astype(np.int64) @ data.labels[chosen].T > 0
    else:
        relevant = data.pairs[query][:, None] == data.pairs[chosen]
    ranks = expected_ranks(counts, asked, placed, among=relevant)
    return Hubness(
        k=candidates.k,
        items=len(chosen),
        mean=float(lists[rows].mean()),
        most=float(lists[rows].max()),
        skewness=skewness(lists),
        reach=None if np.isnan(reach) else reach,
        rank=float(expected_ranks(counts, asked, placed).mean()),
        relevant_rank=None if np.isnan(ranks).all() else float(np.nanmean(ranks)),
    )


def _with_label(data: RetrievalData, positions: NDArray[np.int64], label: str) -> NDArray[np.int64]:
    if not label:
        return positions
    if label not in data.label_names:
        raise unknown_name("label", label, data.label_names)
    having: NDArray[np.bool_] = data.labels[positions, data.label_names.index(label)] > 0
    return positions[having]
