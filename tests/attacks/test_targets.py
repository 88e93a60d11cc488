"""Target protocols: what each allows, that draws are uniform and belong to the item."""

import pytest
import torch

from hamward.attacks import choose_targets
from hamward.errors import ConfigError

ROWS = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0]])
TIMES = torch.tensor([12, 12, 3, 3, 12])
DATABASE = ROWS.repeat_interleave(TIMES, dim=0)
N = 600
IDS = torch.arange(N) * 3 + 7
QUERY = ROWS[:1].expand(N, -1)


@pytest.mark.parametrize(
    ("protocol", "allowed"),
    [("T1", {0, 1, 2, 3, 4}), ("T2", {0, 1, 4}), ("T3", {1, 4}), ("T4", {1, 2})],
)
def test_protocols_draw_uniformly_among_the_rows_they_allow(
    protocol: str, allowed: set[int]
) -> None:
    targets = choose_targets(QUERY, DATABASE, ids=IDS, protocol=protocol)
    drawn = (targets[:, None] == ROWS[None]).all(2).long().argmax(1)
    assert set(drawn.tolist()) == allowed
    counts = torch.bincount(drawn)[sorted(allowed)]
    assert (counts - N / len(allowed)).abs().max() < 5 * (N / len(allowed)) ** 0.5
    assert torch.equal(
        choose_targets(QUERY[5:9], DATABASE, ids=IDS[5:9], protocol=protocol), targets[5:9]
    )
    other = choose_targets(QUERY, DATABASE, ids=IDS, protocol=protocol, seed=1)
    assert not torch.equal(other, targets)


def test_the_default_shares_no_label() -> None:
    queries = ROWS[torch.arange(N) % 4]
    targets = choose_targets(queries, DATABASE, ids=IDS)
    assert not (queries * targets).any() and (targets.sum(1) > 0).all()


def test_a_query_with_every_label_has_no_foreign_target() -> None:
    queries = torch.ones(2, 3)
    with pytest.raises(ConfigError, match="T4 leaves no label to aim at for 2 of 2 items"):
        choose_targets(queries, DATABASE, ids=IDS[:2])
