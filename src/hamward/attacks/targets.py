"""Which labels a targeted attack shall reach: the four protocols that papers use."""

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hamward.errors import ConfigError
from hamward.random import item_uniform

__all__ = ["TargetProtocol", "choose_targets"]

TargetProtocol = Literal["T1", "T2", "T3", "T4"]


def choose_targets(
    query_labels: Float[Tensor, "n c"],
    database_labels: Float[Tensor, "m c"],
    *,
    ids: Int64[Tensor, " n"],
    protocol: TargetProtocol = "T4",
    seed: int = 0,
    at_least: int = 9,
) -> Float[Tensor, "n c"]:
    """Draw one label row of the database per item, uniformly among the distinct rows allowed.

    T1: every distinct row. T2: rows that occur more than `at_least` times. T3: those of T2 that
    differ from the item's own row. T4: rows that share no label with the item, the zero row
    left out. Results under different protocols are not comparable.

    Source: T1 ProS-GAN and THA, T2 and T3 DHTA, T4 SAAT (their released codes).
    Differs: the draw depends on (seed, id) alone, so that a subset of the items gets the same
        targets.

    Args:
        query_labels: Labels of the items, (n, C).
        database_labels: Labels of the database, (m, C).
        ids: Ids of the items, (n,).
        protocol: Which rows are allowed.
        seed: Seed of the draw.
        at_least: The n_t of T2 and T3.

    Raises:
        ConfigError: no row is allowed for some item.
    """
    rows, occurs = torch.unique(database_labels, dim=0, return_counts=True)
    allowed = torch.ones(len(query_labels), len(rows), dtype=torch.bool, device=rows.device)
    if protocol in ("T2", "T3"):
        allowed &= occurs > at_least
    if protocol == "T3":
        allowed &= (query_labels[:, None] != rows[None]).any(2)
    if protocol == "T4":
        allowed = (query_labels @ rows.T == 0) & (rows.sum(1) > 0)
    choices = allowed.sum(1)
    if len(query_labels) and int(choices.min()) == 0:
        raise ConfigError(
            f"target protocol {protocol} leaves no label to aim at for "
            f"{int((choices == 0).sum())} of {len(query_labels)} items: take another protocol"
        )
    draw = item_uniform(ids, (1,), seed=seed, stream=f"targets-{protocol}")[:, 0].to(rows.device)
    wanted = (draw * choices).floor().long().clamp_max(choices - 1)
    place = allowed.cumsum(1) - 1
    chosen = ((place == wanted[:, None]) & allowed).long().argmax(1)
    targets: Tensor = rows[chosen]
    return targets
