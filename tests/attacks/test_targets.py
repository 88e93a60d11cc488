"""Target protocols on label rows whose allowed targets can be listed by hand."""

import pytest
import torch

from hamward.attacks import choose_targets
from hamward.errors import ConfigError

DATABASE = torch.tensor([[1, 0, 0]] * 12 + [[0, 1, 0]] * 3 + [[1, 1, 0]] * 11 + [[0, 0, 0]]).float()
IDS = torch.arange(400)


def reached(protocol: str, row: list[int]) -> set[tuple[int, ...]]:
    query = torch.tensor([row]).float().repeat(400, 1)
    made = choose_targets(query, DATABASE, ids=IDS, protocol=protocol)  # type: ignore[arg-type]
    return {tuple(int(v) for v in r) for r in made}


def test_the_rows_each_protocol_allows() -> None:
    a, b, ab, none = (1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 0, 0)
    assert reached("T1", [1, 0, 0]) == {a, b, ab, none}
    assert reached("T2", [1, 0, 0]) == {a, ab}, "rows that occur more than 9 times"
    assert reached("T3", [1, 0, 0]) == {ab}
    assert reached("T4", [1, 0, 0]) == {b}, "no label in common, not the zero row"


def test_draws_are_uniform_over_rows_and_belong_to_the_item() -> None:
    query = torch.tensor([[0, 0, 1]]).float().repeat(3000, 1)
    ids = torch.arange(3000)
    made = choose_targets(query, DATABASE, ids=ids, protocol="T4")
    for row in ([1, 0, 0], [0, 1, 0], [1, 1, 0]):
        share = (made == torch.tensor(row)).all(1).float().mean()
        assert 0.3 < share < 0.37
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(0))[:50]
    part = choose_targets(query[order], DATABASE, ids=ids[order], protocol="T4")
    assert torch.equal(part, made[order])
    assert not torch.equal(made, choose_targets(query, DATABASE, ids=ids, protocol="T4", seed=1))


def test_no_row_left_is_an_error() -> None:
    query = torch.tensor([[1, 1, 0]]).float()
    with pytest.raises(ConfigError, match="T4 leaves no label to aim at for 1 of 1 items"):
        choose_targets(query, DATABASE, ids=torch.tensor([3]))
