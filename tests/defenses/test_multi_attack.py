"""Several attacks at once: who meets which, one budget, the warm-up of all of them."""

from typing import Any

import pytest
import torch

from hamward.attacks import (
    FPAD,
    SAAT,
    AttackMixture,
    Budget,
    FastEdits,
    OwnCode,
    RandomNoise,
    own_code_goal,
)
from hamward.config import call_with
from hamward.data import RetrievalData
from hamward.defenses import DEFENSES
from hamward.defenses.sampler import scaled
from hamward.errors import ConfigError, HamwardError
from hamward.models import HashModel, Victim
from hamward.training import DCMH


def harden(**options: Any) -> Any:
    return call_with(DEFENSES["multi-attack"].make, options, given={"base": DCMH()})


def test_each_item_meets_one_attack_whatever_its_batch(
    model: HashModel, data: RetrievalData
) -> None:
    members = (OwnCode(steps=2), SAAT(steps=2), FPAD(steps=2))
    mixture = AttackMixture(image=members, text=(FastEdits(),))
    victim, positions = Victim(model=model.eval()), data.split.query
    goal = own_code_goal(mixture, victim, data, "image", positions)
    assert mixture.needs_references and goal.references is not None
    x, ids = data.inputs("image", positions), torch.tensor(data.ids[positions])

    def run(seed: int, rows: Any = slice(None)) -> torch.Tensor:
        return mixture(victim, x[rows], goal.select(rows), ids=ids[rows], seed=seed)

    mixed = run(3)
    apart = torch.stack([a(victim, x, goal, ids=ids, seed=3) for a in members])
    same = (apart - mixed).abs().amax((2, 3, 4)) < 1e-6  # (attack, item)
    assert same.any(0).all(), "each is what one of the attacks makes of it"
    assert (same.sum(0) == 1).sum() > 12 and same.any(1).all()
    halves = torch.cat([run(3, slice(0, 5)), run(3, slice(5, None))])
    torch.testing.assert_close(halves, mixed, rtol=0, atol=1e-6)
    assert not torch.equal(run(4), mixed)


def test_texts_have_attacks_of_their_own(model: HashModel, data: RetrievalData) -> None:
    typed = FastEdits(insertions=1, deletions=1)
    mixture = AttackMixture(image=(OwnCode(),), text=(typed,))
    assert not mixture.needs_references
    assert mixture.budget("image") == Budget(eps=8 / 255)
    assert mixture.budget("text") == Budget.edits(insertions=1, deletions=1)
    victim, positions = Victim(model=model.eval()), data.positions("query", "text")[:6]
    goal = own_code_goal(mixture, victim, data, "text", positions)
    x, ids = data.inputs("text", positions), torch.tensor(data.ids[positions])
    made = (a(victim, x, goal, ids=ids, seed=1) for a in (mixture, typed))
    assert torch.equal(*made)


def test_attacks_of_other_budgets_are_not_mixed() -> None:
    with pytest.raises(ConfigError, match="on images must share one budget"):
        AttackMixture(image=(OwnCode(), RandomNoise(eps=4 / 255)), text=(FastEdits(),))
    with pytest.raises(ConfigError, match="needs an attack on texts"):
        AttackMixture(image=(OwnCode(),), text=())


def test_the_warm_up_reaches_every_attack() -> None:
    objective = harden(eps=0.1, edits=3, goals=["own-code", "saat"])
    half = scaled(objective.attack, 0.5)
    assert isinstance(half, AttackMixture)
    assert [a.eps for a in half.image] == [0.05, 0.05]
    assert half.budget("text") == Budget.edits(insertions=2, deletions=2), "rounded up"
    assert scaled(objective.attack, 1.0) == objective.attack


def test_goals_and_texts_are_as_configured() -> None:
    attack = harden(goals="fpad,own-code", eps="4/255", steps=4, text="feature-space").attack
    assert [type(a) for a in attack.image] == [FPAD, OwnCode] and attack.text == attack.image
    assert attack.budget("text") == Budget(eps=0.05)
    assert all(a.random_start and a.steps == 4 and a.step_size == 0.625 for a in attack.image)
    typed = harden(edits=2).attack.text
    assert typed == (FastEdits(insertions=2, deletions=2, drawn=True),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"goals": []}, "goals must be at least one"),
        ({"goals": ["saat", "saat"]}, "each once"),
        ({"goals": ["hag"]}, r"goals\[0\] must be one of"),
        ({"eps": 8}, "did you mean 8/255"),
        ({"weight": 2}, r"weight must be in \[0, 1\]"),
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(HamwardError, match=message):
        harden(**change)
