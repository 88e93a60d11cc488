"""ATRDH, CgAT and SAAT: guiding codes, robust terms by hand, and what each gradient reaches."""

import dataclasses
from typing import Any

import pytest
import torch
from tiny import step_of
from torch import Tensor

from hamward.attacks import Goal, References
from hamward.attacks.tha import PrototypeNet, circle_loss
from hamward.codes import binarize
from hamward.config import call_with
from hamward.data import RetrievalData
from hamward.defenses import DEFENSES, CodePGD, GuidedObjective
from hamward.defenses.anchored import AnchorGuide
from hamward.defenses.atrdh import PrototypeGuide
from hamward.defenses.cgat import CenterGuide
from hamward.defenses.guided import retrieved
from hamward.defenses.saat import MainstayGuide
from hamward.errors import ConfigError
from hamward.models import HashModel, Victim
from hamward.random import seeded
from hamward.training import DCMH, Step

ROWS = torch.arange(16)
GUIDED = ("anchored", "atrdh", "cgat", "saat")


def codes(*rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int8)


def goal(*, modality: str = "image", anchor: Tensor | None = None, **options: Any) -> Goal:
    """Two items of labels 0 and 1, three references of labels 0, 0 and 1, four bits."""
    references = References(
        image=-codes([1, 1, 1, 1], [1, 1, 1, -1], [-1, -1, 1, 1]),
        text=codes([1, 1, 1, 1], [1, 1, 1, -1], [-1, -1, 1, 1]),
        label=torch.tensor([[1.0, 0], [1, 0], [0, 1]]),
    )
    return Goal(
        modality=modality,  # type: ignore[arg-type]
        anchor=codes([1, 1, 1, 1], [1, 1, -1, -1]) if anchor is None else anchor,
        label=torch.eye(2),
        references=references,
        **options,
    )


LOGITS = torch.tensor([[0.5, 0.0, -0.5, 1.0], [0.25, 0.5, 0.0, -1.0]]).atanh()


def step() -> Step:
    rows, ids = torch.arange(2), torch.tensor([5, 9])
    return Step(phase="image", items={}, rows=rows, ids=ids, epoch=1, number=3, total=10)


def test_references_are_those_of_the_retrieved_modality() -> None:
    assert torch.equal(retrieved(goal()), goal().references.text)
    assert torch.equal(retrieved(goal(modality="text")), goal().references.image)
    with pytest.raises(ConfigError, match="need a goal with reference items"):
        retrieved(dataclasses.replace(goal(), references=None))


def test_cgat_leaves_centers_and_holds_to_them() -> None:
    """Centers: sign([1,1,1,0] - [-1,-1,1,1]) with a tie taken from the item, and its negative."""
    guide = CenterGuide(weight=2.0)
    aimed = guide.aim(goal(), step(), {})
    assert aimed.anchor.tolist() == [[1, 1, 1, -1], [-1, -1, -1, 1]] and not aimed.toward
    agreement = (0.5 + 0 - 0.5 - 1) + (-0.25 - 0.5 - 0 - 1)
    assert float(guide.cost(LOGITS, aimed)) == pytest.approx(-2 * agreement / 8)
    unlabeled = dataclasses.replace(aimed, label=torch.tensor([[1.0, 0], [0, 0]]))
    assert float(guide.cost(LOGITS, unlabeled)) == pytest.approx(-2 * -1 / 8)
    text = guide.aim(goal(modality="text"), step(), {})
    assert text.anchor.tolist() == [[-1, -1, 1, 1], [1, 1, -1, -1]]


def test_saat_leaves_mainstays_and_holds_to_them() -> None:
    guide = MainstayGuide(lam=2.0, mu=0.1)
    aimed = guide.aim(goal(), step(), {})
    assert aimed.anchor.tolist() == [[1, 1, 1, -1], [-1, -1, -1, 1]] and not aimed.toward
    agreement = (0.5 + 0 - 0.5 - 1) + (-0.25 - 0.5 - 0 - 1)
    gaps = (0.25 + 1 + 0.25 + 0) + (0.5625 + 0.25 + 1 + 0)
    expected = -2 * agreement / 8 + 0.1 * gaps / 8
    assert float(guide.cost(LOGITS, aimed)) == pytest.approx(expected)


def test_anchored_holds_to_mainstays_and_draws_far_logits_back() -> None:
    """Logits of 7 and -6 are 2 and 1 beyond the limit of 5; those within it cost nothing."""
    guide = AnchorGuide(weight=2.0, limit=5.0)
    aimed = guide.aim(goal(), step(), {})
    assert torch.equal(aimed.anchor, MainstayGuide().aim(goal(), step(), {}).anchor)
    logits = torch.tensor([[7.0, 0.0, 0.0, 0.0], [0.0, 0.0, -6.0, 5.0]], requires_grad=True)
    agreement = 1 + (1 + 1)  # with [1, 1, 1, -1] and [-1, -1, -1, 1], tanh of these being 1
    cost = guide.cost(logits, aimed)
    assert float(cost.detach()) == pytest.approx(-2 * agreement / 8 + 0.01 * (4 + 1) / 8, abs=1e-4)
    cost.backward()
    assert logits.grad is not None
    assert logits.grad[0, 0] > 0.004 and logits.grad[1, 2] < -0.002, "back towards the limit"
    assert logits.grad[0, 1] == pytest.approx(-2 / 8), "towards the mainstay code"


def test_atrdh_regresses_onto_true_labels_whatever_was_aimed_at() -> None:
    """Inner products with the references: 1, -1, 0 and -0.25, 1.75, -1.75, by K = 4."""
    guide = PrototypeGuide(c=2.0)
    aimed = goal(toward=True, target_label=torch.eye(2).flip(0))
    first = (0.25 - 1) ** 2 + (-0.25 - 1) ** 2 + (0 + 1) ** 2
    second = (-0.0625 + 1) ** 2 + (0.4375 + 1) ** 2 + (-0.4375 - 1) ** 2
    assert float(guide.cost(LOGITS, aimed)) == pytest.approx(2 * (first + second) / 6)


def test_atrdh_takes_one_adam_step_of_the_prototype_network_and_aims_at_its_codes() -> None:
    guide, buffers = PrototypeGuide(rate=1e-2, seed=4), {}
    first = guide.aim(goal(), step(), buffers)
    second = guide.aim(goal(), dataclasses.replace(step(), number=6), buffers)
    with seeded(4, "atrdh/image"):
        network = PrototypeNet(2, 4)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, betas=(0.5, 0.999))
    for aimed, rate in ((first, 1e-2), (second, 1e-3)):
        wanted, held = aimed.target_label, goal().references
        assert wanted.tolist() in ([[1, 0]] * 2, [[0, 1]] * 2, [[1, 0], [0, 1]], [[0, 1], [1, 0]])
        optimizer.param_groups[0]["lr"] = rate
        similar = wanted @ held.label.T
        optimizer.zero_grad()
        circle_loss(network(wanted), held.text.float(), similar).backward()
        optimizer.step()
        assert aimed.toward and torch.equal(aimed.anchor, binarize(network(wanted).detach()))
    flat = torch.nn.utils.parameters_to_vector(network.parameters())
    torch.testing.assert_close(buffers["atrdh/image/weights"], flat.detach())
    assert int(buffers["atrdh/image/steps"]) == 2


def test_atrdh_goes_on_from_its_buffers() -> None:
    guide, buffers = PrototypeGuide(rate=1e-2), {}
    guide.aim(goal(), step(), buffers)
    kept = {k: v.clone() for k, v in buffers.items()}
    later = dataclasses.replace(step(), number=4)
    whole = guide.aim(goal(), later, buffers)
    again = PrototypeGuide(rate=1e-2).aim(goal(), later, kept)
    assert torch.equal(whole.anchor, again.anchor)
    assert all(torch.equal(v, kept[k]) for k, v in buffers.items())


def started(name: str, model: HashModel, data: RetrievalData, **options: Any) -> GuidedObjective:
    objective = call_with(DEFENSES[name].make, options, given={"base": DCMH(), "seed": 3})
    objective.start(model, data, data.split.train)
    return objective


@pytest.mark.parametrize("name", GUIDED)
def test_the_loss_is_that_of_the_victim_plus_the_robust_term(
    name: str, model: HashModel, data: RetrievalData
) -> None:
    batch = step_of(data, "text", ROWS)
    model.eval()
    objective = started(name, model, data, steps=2, text_eps=0.3, **FEATURES[name])
    total = objective.loss(model, batch)
    plain = started("control", model, data).loss(model, batch)
    sampler = objective.sampler
    x = batch.items["text"]
    aimed = sampler.goal(model, "text", x, rows=ROWS, number=1, references=True)
    assert len(aimed.references.label) == 48, "all training items, not a sample of them"
    fresh = started(name, model, data, steps=2, text_eps=0.3, **FEATURES[name])
    aimed = fresh.guide.aim(aimed, batch, {})
    x_adv = sampler.craft(model, x, aimed, ids=batch.ids, number=0)
    assert float((x_adv - x).abs().max()) > 0.1
    robust = objective.guide.cost(model.logits("text", x_adv), aimed)
    assert total.item() == pytest.approx((plain + robust).item(), rel=1e-4)
    assert started(name, model, data, **{WEIGHT[name]: 0, **REST[name]}).loss(model, batch) == plain


WEIGHT = {"anchored": "weight", "atrdh": "c", "cgat": "weight", "saat": "lam"}
REST: dict[str, dict[str, float]] = {"anchored": {}, "atrdh": {}, "cgat": {}, "saat": {"mu": 0}}
FEATURES: dict[str, dict[str, Any]] = {
    **{name: {} for name in GUIDED},
    "anchored": {"text": "feature-space"},
}


@pytest.mark.parametrize("form", ["scale-free", "published"])
def test_the_attack_inside_goes_away_from_a_code_and_to_it(
    form: str, model: HashModel, data: RetrievalData
) -> None:
    victim, x = Victim(model=model.eval()), data.inputs("image", data.split.train[:12])
    ids, attack = torch.arange(12), CodePGD(form=form, eps=0.1)  # type: ignore[arg-type]
    anchor = victim.codes("image", x[:1]).expand(12, -1)
    clean = Goal(modality="image", anchor=anchor)
    found = {}
    for toward in (False, True):
        aimed = dataclasses.replace(clean, toward=toward)
        made = attack(victim, x, aimed, ids=ids, seed=0)
        assert float((made - x).abs().max()) <= 0.1 + 1e-6
        found[toward] = int((victim.codes("image", made) == anchor).sum())
    kept = int((victim.codes("image", x) == anchor).sum())
    assert found[False] < kept < found[True]
