"""The Square attack against a loop over items, and against its promises."""

import dataclasses

import pytest
import torch
from torch import Tensor

from hamward.attacks import Budget, Goal, Square, SquareList, encode, own_code_goal
from hamward.attacks.square import square_search, square_share
from hamward.data import RetrievalData
from hamward.errors import AccessError, ConfigError, QueryLimitError
from hamward.index import HammingIndex
from hamward.models import HashModel, QueryLedger, Victim
from hamward.random import item_uniform
from hamward.types import Modality

EPS = 8 / 255


@pytest.fixture
def index(model: HashModel, data: RetrievalData) -> HammingIndex:
    return HammingIndex.build(encode(model, data, "text", data.split.database))


def start(
    model: HashModel, data: RetrievalData, modality: Modality = "image", n: int = 6
) -> tuple[Tensor, Goal, Tensor]:
    positions = data.positions("query", modality)[:n]
    goal = own_code_goal(Square(), Victim(model=model), data, modality, positions)
    return data.inputs(modality, positions), goal, torch.tensor(data.ids[positions])


def naive(model: HashModel, x: Tensor, goal: Goal, *, item: int, queries: int, seed: int) -> Tensor:
    """The attack on one picture, pixel by pixel."""

    def flips(picture: Tensor) -> int:
        code = model.eval().logits("image", picture[None])[0] >= 0
        return int((code != (goal.anchor[0] > 0)).sum())

    low, high = (x - EPS).clamp_min(0), (x + EPS).clamp_max(1)
    ids = torch.tensor([item])
    best, reached = x.clone(), flips(x)
    side = x.shape[-1]
    for step in range(queries - 1):
        if reached == model.code_length:
            break
        candidate = best.clone()
        if step == 0:
            signs = item_uniform(ids, (3, 1, side), seed=seed, stream="square 0")[0]
            for channel in range(3):
                for column in range(side):
                    up = bool(signs[channel, 0, column] < 0.5)
                    bound = high if up else low
                    candidate[channel, :, column] = bound[channel, :, column]
        else:
            share = square_share(step - 1, queries - 2, initial=0.8)
            length = min(max(round((share * side * side) ** 0.5), 1), side)
            draws = item_uniform(ids, (5,), seed=seed, stream=f"square {step}")[0]
            top, left = (int(d * (side - length + 1)) for d in draws[:2])
            for channel in range(3):
                bound = high if draws[2 + channel] < 0.5 else low
                for row in range(top, top + length):
                    for column in range(left, left + length):
                        candidate[channel, row, column] = bound[channel, row, column]
        value = flips(candidate)
        if value >= reached:
            best, reached = candidate, value
    return best


@torch.no_grad()
def test_a_batch_equals_a_naive_loop_over_its_items(model: HashModel, data: RetrievalData) -> None:
    x, goal, ids = start(model, data, n=4)
    victim = Victim(model=model, access="codes")
    x_adv = Square(eps=EPS, queries=14)(victim, x, goal, ids=ids, seed=5)
    for row in range(len(x)):
        one = naive(
            model, x[row], goal.select(slice(row, row + 1)), item=int(ids[row]), queries=14, seed=5
        )
        torch.testing.assert_close(x_adv[row], one, rtol=0, atol=0)


def test_squares_shrink_as_published() -> None:
    shares = [square_share(i, 10_000, initial=0.8) for i in (10, 11, 51, 201, 501, 1001)]
    assert shares == [0.8, 0.4, 0.2, 0.1, 0.05, 0.025]
    assert square_share(600, 1000, initial=0.8) == square_share(6000, 10_000, initial=0.8)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_more_queries_are_never_worse_and_the_budget_is_kept(
    model: HashModel, data: RetrievalData, modality: Modality
) -> None:
    """The steps depend on the budget only through the size of the squares."""
    x, goal, ids = start(model, data, modality)

    def score(items: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            found = goal.select(rows).flips(model.eval().logits(modality, items))
        seen.append((items, rows, found))
        return found

    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    budget = Budget(eps=EPS if modality == "image" else 0.6)
    best = square_search(
        x, score, best_possible=16, budget=budget, queries=40, initial=0.8, ids=ids, seed=0
    )
    flips = goal.flips(model.eval().logits(modality, best).detach())
    record = torch.zeros(len(x), dtype=torch.long)
    for items, rows, found in seen:
        assert (items - x[rows]).abs().max() <= budget.eps + 1e-6
        assert items.min() >= 0 and items.max() <= 1
        record[rows] = torch.maximum(record[rows], found)
    assert torch.equal(flips, record), "the best item seen is returned"
    assert flips.double().mean() > 0


def test_queries_are_counted_to_the_item_and_finished_items_leave(
    model: HashModel, data: RetrievalData
) -> None:
    x, goal, ids = start(model, data)
    ledger = QueryLedger()
    Square(queries=9)(Victim(model=model, access="codes", ledger=ledger), x, goal, ids=ids, seed=0)
    assert (ledger.image, ledger.text) == (9 * len(x), 0)
    asked: list[list[int]] = []

    def score(items: Tensor, rows: Tensor) -> Tensor:
        asked.append(rows.tolist())
        return torch.where((rows == 1) & (len(asked) > 1), 3, 0)

    square_search(
        x[:3],
        score,
        best_possible=3,
        budget=Budget(eps=EPS),
        queries=5,
        initial=0.8,
        ids=ids[:3],
        seed=0,
    )
    assert asked == [[0, 1, 2], [0, 1, 2], [0, 2], [0, 2], [0, 2]]


def test_a_limit_of_the_ledger_is_obeyed(model: HashModel, data: RetrievalData) -> None:
    x, goal, ids = start(model, data)
    ledger = QueryLedger(limit=20)
    victim = Victim(model=model, access="codes", ledger=ledger)
    with pytest.raises(QueryLimitError, match="18 of 20"):
        Square(queries=9)(victim, x, goal, ids=ids, seed=0)
    assert ledger.total == 18


@pytest.fixture
def no_gradients(model: HashModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradient use and looks at codes raise."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a black-box attack used the inside of its victim")

    monkeypatch.setattr(Victim, "logits", refuse)
    monkeypatch.setattr(Victim, "attacked", refuse)


@pytest.mark.usefixtures("no_gradients")
def test_lists_alone_suffice_and_codes_need_codes(
    model: HashModel, data: RetrievalData, index: HammingIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, goal, ids = start(model, data)
    coded = Victim(model=model, access="codes")
    Square(queries=6)(coded, x, goal, ids=ids, seed=0)
    monkeypatch.setattr(Victim, "codes", Victim.attacked)
    ledger = QueryLedger()
    ranked = Victim(model=model, access="ranks", index=index, ledger=ledger)
    attack = SquareList(queries=60, top_k=20)
    x_adv = attack(ranked, x, goal, ids=ids, seed=0)
    assert ledger.text == 0 and 0 < ledger.image <= 60 * len(x)
    before, after = (ranked.ranks("image", t, k=20) for t in (x, x_adv))
    kept = (before[:, :, None] == after[:, None, :]).any(2).double().mean()
    assert kept < 1
    other = dataclasses.replace(goal, anchor=-goal.anchor)
    assert torch.equal(attack(ranked, x, other, ids=ids, seed=0), x_adv), "it looked at the code"
    with pytest.raises(AccessError, match=r"'codes'.*'ranks'"):
        Square()(ranked, x, goal, ids=ids, seed=0)


def test_what_lists_cannot_do_is_refused(
    model: HashModel, data: RetrievalData, index: HammingIndex
) -> None:
    x, goal, ids = start(model, data)
    victim = Victim(model=model, access="ranks", index=index)
    with pytest.raises(ConfigError, match="approach"):
        SquareList()(victim, x, dataclasses.replace(goal, toward=True), ids=ids, seed=0)
    with pytest.raises(ConfigError, match="all 72 database items"):
        SquareList(top_k=100)(victim, x, goal, ids=ids, seed=0)
    with pytest.raises(AccessError, match="index"):
        SquareList()(Victim(model=model, access="ranks"), x, goal, ids=ids, seed=0)
    for make in (Square, SquareList):
        with pytest.raises(ConfigError, match=r"queries must be at least 1 an item, got 0"):
            make(queries=0)
        with pytest.raises(ConfigError, match="initial"):
            make(initial=1.5)
    with pytest.raises(ConfigError, match="top_k must be at least 1"):
        SquareList(top_k=0)


def test_square_can_approach_a_code(model: HashModel, data: RetrievalData) -> None:
    x, goal, ids = start(model, data)
    wanted = dataclasses.replace(goal, anchor=goal.anchor.flip(0), toward=True)
    x_adv = Square(eps=16 / 255, queries=80)(
        Victim(model=model, access="codes"), x, wanted, ids=ids, seed=0
    )
    with torch.no_grad():
        before, after = (wanted.flips(model.eval().logits("image", t)) for t in (x, x_adv))
    assert (after >= before).all() and after.sum() > before.sum()
