"""APGD: its checkpoints, its best iterate, and that it is no weaker than plain steps."""

import pytest
import torch
from torch import Tensor

from hamward.attacks import Goal, OwnCode, own_code_goal
from hamward.attacks.apgd import apgd, checkpoints
from hamward.data import RetrievalData
from hamward.losses import auto_temperature
from hamward.models import HashModel, Victim


def test_checkpoints_of_the_paper() -> None:
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sorted(checkpoints(10)) == [2, 4, 6, 7, 8, 9, 10]
    assert checkpoints(1) == {1} and not checkpoints(0)


def run(
    model: HashModel, data: RetrievalData, *, steps: int, rows: slice = slice(None)
) -> tuple[Tensor, Tensor, Goal, Tensor]:
    attack, victim = OwnCode(eps=4 / 255), Victim(model=model)
    positions = data.positions("query", "image")[:8]
    goal = own_code_goal(attack, victim, data, "image", positions).select(rows)
    x = data.inputs("image", positions).to(next(model.parameters()))[rows]
    with victim.attacked():
        made, score = apgd(
            victim,
            x,
            goal,
            loss=lambda u, share: -auto_temperature(u, goal.anchor),
            score=lambda u: goal.flips(u).to(u.dtype),
            budget=attack.budget("image"),
            steps=steps,
            start=x,
        )
    return made, score, goal, x


@pytest.mark.parametrize("steps", [0, 1, 12])
def test_the_score_is_that_of_the_returned_item(
    model64: HashModel, data: RetrievalData, steps: int
) -> None:
    made, score, goal, x = run(model64, data, steps=steps)
    assert (made - x).abs().max() <= 4 / 255 + 1e-9 and made.min() >= 0 and made.max() <= 1
    with torch.no_grad():
        again = goal.flips(model64.eval().logits("image", made))
    assert torch.equal(score, again.double())
    assert steps or torch.equal(made, x)


def test_it_flips_at_least_as_many_bits_as_plain_steps(
    model64: HashModel, data: RetrievalData
) -> None:
    _, score, goal, x = run(model64, data, steps=20)
    attack = OwnCode(eps=4 / 255, steps=20)
    plain = attack(Victim(model=model64), x, goal, ids=torch.arange(8), seed=0)
    with torch.no_grad():
        flips = goal.flips(model64.eval().logits("image", plain))
    assert score.sum() >= 0.95 * flips.sum() and score.sum() > 8


def test_items_do_not_see_each_other(model64: HashModel, data: RetrievalData) -> None:
    whole, scores, _, _ = run(model64, data, steps=9)
    part, part_scores, _, _ = run(model64, data, steps=9, rows=slice(3, 6))
    torch.testing.assert_close(part, whole[3:6], rtol=0, atol=1e-9)
    assert torch.equal(part_scores, scores[3:6])
