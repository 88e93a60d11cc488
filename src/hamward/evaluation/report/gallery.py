"""Queries one can look at: which, chosen by a rule that the page states."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hamward.data import RetrievalData
from hamward.evaluation.report.exhibits import Case, Exhibit, names_of
from hamward.evaluation.report.findings import Findings
from hamward.evaluation.report.pictures import exact
from hamward.evaluation.report.stored import StoredAttack
from hamward.progress import SILENT, Progress
from hamward.types import Modality

__all__ = ["choose", "exhibit"]


def choose(drops: NDArray[np.float64], ids: NDArray[np.int64], count: int) -> list[int]:
    """Return indices evenly over the queries ordered by how much they lost, most first.

    The ordered queries are cut into `count` equal parts and the middle one of each is taken,
    so that what is typical shows as often as it occurs. Queries without a score are left out;
    ties go by id.

    Example:
        >>> choose(np.array([0.3, np.nan, 0.1, 0.2]), np.arange(4), 3)
        [0, 3, 2]
    """
    order = [i for i in np.lexsort((ids, -drops)).tolist() if not np.isnan(drops[i])]
    count = min(count, len(order))
    return [order[(2 * i + 1) * len(order) // (2 * count)] for i in range(count)]


def exhibit(
    findings: Findings,
    modality: Modality,
    *,
    data: RetrievalData,
    artifacts: Path,
    count: int,
    progress: Progress = SILENT,
) -> Exhibit | None:
    """Return the gallery of one attacked modality, or None if no query of it was attacked.

    It shows the baseline and the defended victim under the strongest attack on the baseline.

    Raises:
        ArtifactError: codes or adversarial items are missing or belong to other queries.
    """
    if findings.placed:
        return None
    direction = findings.main_direction(modality)
    attack = findings.shown(direction) if direction else None
    if direction is None or attack is None:
        return None
    victims = [v for v in (findings.baseline, findings.defended) if v is not None]
    rows = [r for v in victims if (r := findings.row(v, attack, direction)) is not None]
    if not rows:
        return None
    stored = [StoredAttack(row, data=data, artifacts=artifacts) for row in rows]
    positions = data.positions("query", modality)
    chosen = choose(stored[0].clean - stored[0].attacked, data.ids[positions], count)
    cases = tuple(
        Case(
            item=int(positions[i]),
            item_id=int(data.ids[positions[i]]),
            picture=exact(data.images[positions[i]]),
            words=names_of(data.words, data.bags[positions[i]]),
            labels=names_of(data.label_names, data.labels[positions[i]]),
            views=tuple(side.view(i) for side in stored),
        )
        for i in progress.track(chosen, total=len(chosen), label=f"report: {direction} gallery")
    )
    told = (
        f"Not picked by hand: the {rows[0].queries} queries were ordered by how much average "
        f"precision {rows[0].victim} loses on them under {attack}, most first, and cut into "
        f"{len(chosen)} equal parts; the middle query of each part is shown, in this order."
    )
    return Exhibit(direction=direction, attack=attack, row=rows[0], chosen=told, cases=cases)
