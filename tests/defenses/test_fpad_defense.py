"""FPAD's defense: anchors, rounds, budgets, and a rectification that moves something."""

import dataclasses
from typing import Any

import pytest
import torch
from tiny import SPEC, make_model, step_of
from torch import Tensor
from torch.nn import functional as F

from hamward.attacks import encode
from hamward.attacks.fpad import fooled, own_share, reduced_budget
from hamward.config import call_with
from hamward.data import RetrievalData
from hamward.defenses import DEFENSES, FPADObjective
from hamward.defenses.fpad import class_codes, consistency, published_consistency
from hamward.errors import ConfigError
from hamward.losses import prototype_contrast
from hamward.models import HashModel
from hamward.training import DCMH, FPAD, Objective, Step
from hamward.training.prototypes import calibrated_memberships

ROWS = torch.arange(16)
MIXED = torch.tensor([[0.7, -0.6, 0.5, -0.7], [0.2, 0.7, -0.7, -0.1], [-0.7, 0.3, 0.6, 0.7]])
ANCHORS = torch.tensor([[1.0, -1, 1, -1], [1, 1, -1, -1], [-1, 1, 1, 1]])
OMEGA = torch.tensor([0.5, 0.3, 0.2])


def test_the_published_rectification_has_its_value_and_no_gradient() -> None:
    """7.395e-6 in the released code, whose exponentials in float32 lose the third digit."""
    mixed = MIXED.clone().requires_grad_(True)
    value = published_consistency(mixed, ANCHORS, OMEGA)
    assert float(value) == pytest.approx(7.395e-6, rel=3e-3)
    assert not value.requires_grad
    exact = published_consistency(MIXED.double(), ANCHORS.double(), OMEGA.double())
    assert float(exact) == pytest.approx(7.409873e-6, rel=1e-4)
    scores = (5 * MIXED @ ANCHORS.T).exp()
    naive = -(OMEGA * (scores.diagonal() / scores.sum(1)).log()).mean()
    assert float(naive) == pytest.approx(7.395e-6, rel=1e-4)


def test_the_differentiable_rectification_equals_a_loop_and_has_a_gradient() -> None:
    mixed = MIXED.clone().requires_grad_(True)
    value = consistency(mixed, ANCHORS, OMEGA, tau=2.0)
    expected = 0.0
    for c in range(3):
        cosines = [float(MIXED[c] @ a / MIXED[c].norm() / 2) for a in ANCHORS]
        share = torch.tensor([2 * s for s in cosines]).softmax(0)[c]
        expected -= float(OMEGA[c] * share.log())
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value.backward()
    assert bool((mixed.grad.abs().sum(1) > 1e-4).all())


def test_class_codes_by_hand() -> None:
    h = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]])
    u = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    expected = [[1 / 1.5, 0.5 / 1.5], [-1 / 1.5, 1.5 / 1.5]]
    torch.testing.assert_close(class_codes(h, u), torch.tensor(expected))
    assert bool(class_codes(h, torch.zeros(3, 2)).isfinite().all())


def test_memberships_in_given_clusters_are_as_soft_as_asked() -> None:
    points = torch.randn(60, 5, generator=torch.Generator().manual_seed(1))
    u = calibrated_memberships(points, points[:4], membership=0.6)
    torch.testing.assert_close(u.sum(1), torch.ones(60))
    assert float(u.amax(1).mean()) == pytest.approx(0.6, abs=1e-3)
    nearest = torch.cdist(points, points[:4]).argmin(1)
    assert torch.equal(u.argmax(1), nearest)


def started(
    model: HashModel, data: RetrievalData, base: Objective | None = None, **options: Any
) -> FPADObjective:
    values = {"steps": 2, "eps": 0.05, "text_eps": 0.3, **options}
    given = {"base": base or DCMH(), "seed": 3}
    objective = call_with(DEFENSES["fpad"].make, values, given=given)
    objective.start(model, data, data.split.train)
    return objective


def at(data: RetrievalData, epoch: int = 1, phase: Any = "image") -> Step:
    return step_of(data, phase, ROWS, epoch=epoch)


def test_anchors_are_voted_by_the_codes_of_both_modalities(
    model: HashModel, data: RetrievalData
) -> None:
    objective = started(model.eval(), data)
    objective.loss(model, at(data))
    anchors, label = objective.buffers["fpad/anchors"], data.label(data.split.train)
    codes = [encode(model, data, m, data.split.train).float() for m in ("image", "text")]
    votes = label.T @ (codes[0] + codes[1])
    decided = votes != 0
    assert torch.equal(anchors[decided], votes.sign()[decided]) and decided.float().mean() > 0.8
    assert bool((anchors.abs() == 1).all())


def test_anchors_of_a_victim_of_fpad_are_its_own(data: RetrievalData) -> None:
    necked = make_model(spec=dataclasses.replace(SPEC, neck=(8,)))
    objective = started(necked, data, base=FPAD(), rectification="off")
    own = torch.ones(4, 16).tril()[:, :16] * 2 - 1
    objective.base.buffers.update(anchors=own, stage=torch.tensor(2))
    assert objective.phases == ("image", "text"), "the networks meet in the anchors alone"
    objective.loss(necked, at(data))
    assert torch.equal(objective.buffers["fpad/anchors"], own)


@pytest.mark.parametrize("rectification", ["off", "as-published", "differentiable"])
def test_the_loss_is_the_sum_of_its_terms(
    model: HashModel, data: RetrievalData, rectification: str
) -> None:
    objective = started(model.eval(), data, alpha=0.25, tau=5.0, rectification=rectification)
    value = objective.loss(model, at(data, phase="text"))
    kept, own = objective.buffers, data.label(data.split.train[:16])
    x, x_adv = at(data, phase="text").items["text"], kept["cache/text"][ROWS].float()
    assert 0.1 < float((x_adv - x).abs().max()) <= 0.3 + 1e-3
    h, h_adv = model.relaxed("text", x), model.relaxed("text", x_adv)
    anchors = kept["fpad/anchors"]
    ell = [prototype_contrast(v, anchors, own, far=1 - own, tau=5.0).mean() for v in (h, h_adv)]
    expected = ell[0] + 0.25 * ell[1]
    if rectification != "off":
        u = kept["fpad/memberships/text"][:, ROWS]
        total = u[0].T @ h + u[1].T @ h_adv
        mixed, omega = total / u.sum((0, 1))[:, None], kept["fpad/omega/text"]
        assert float(omega.sum()) == pytest.approx(1) and float(omega.min()) >= 0
        moved = (kept["fpad/memberships/text"][0] - kept["fpad/memberships/text"][1]).abs().mean(0)
        torch.testing.assert_close(omega, moved / moved.sum())
        chosen = consistency if rectification == "differentiable" else published_consistency
        expected = expected + chosen(mixed, anchors, omega, tau=5.0)
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)


def test_only_the_differentiable_rectification_changes_the_gradient(
    model: HashModel, data: RetrievalData
) -> None:
    found: dict[str, Tensor] = {}
    for rectification in ("off", "as-published", "differentiable"):
        objective = started(model.eval(), data, rectification=rectification, tau=2.0)
        weight = model.encoder("image").head.weight
        (found[rectification],) = torch.autograd.grad(objective.loss(model, at(data)), weight)
    torch.testing.assert_close(found["off"], found["as-published"], rtol=0, atol=0)
    assert float((found["off"] - found["differentiable"]).abs().max()) > 1e-5


def test_samples_are_crafted_once_a_round(model: HashModel, data: RetrievalData) -> None:
    objective = started(model.eval(), data, refresh=2, rectification="off", adaptive=False)
    seen = []
    for epoch in (1, 2, 3):
        objective.loss(model, at(data, epoch))
        seen.append(objective.buffers["cache/image"].clone())
        with torch.no_grad():
            model.encoder("image").head.weight.add_(0.3)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


@pytest.mark.parametrize("adaptive", [True, False])
def test_items_that_earlier_samples_still_fool_get_less(
    model: HashModel, data: RetrievalData, adaptive: bool
) -> None:
    """Earlier samples are the clean items, and anchors turned around: most of them are fooled."""
    objective = started(
        model.eval(), data, eps=0.08, steps=6, rectification="off", adaptive=adaptive
    )
    x = data.inputs("image", data.split.train)
    objective.loss(model, at(data, 1))
    first = (objective.buffers["cache/image"].float() - x).abs().amax((1, 2, 3))
    assert float(first.min()) == pytest.approx(0.08, abs=1e-3), "no earlier samples, no mercy"
    objective.buffers["cache/image"] = x.half()
    objective.buffers["fpad/anchors"] *= -1
    objective.loss(model, at(data, 2))
    moved = (objective.buffers["cache/image"].float() - x).abs().amax((1, 2, 3))
    own, anchors = data.label(data.split.train), objective.buffers["fpad/anchors"]
    with torch.no_grad():
        h = model.relaxed("image", x)
    reduced = fooled(h, anchors, own, 1 - own) & torch.tensor(adaptive)
    factors = [
        reduced_budget(share, "image", steps=6)[0] if less else 1.0
        for share, less in zip(own_share(h, anchors, own).tolist(), reduced, strict=True)
    ]
    expected = 0.08 * torch.tensor(factors)
    assert (float(expected.mean()) < 0.078) == adaptive
    assert bool((moved <= expected + 1e-3).all())
    assert float((moved - expected).abs().median()) < 1e-3


def test_without_weight_or_side_only_the_clean_term_is_left(
    model: HashModel, data: RetrievalData
) -> None:
    for options in ({"alpha": 0}, {"modalities": ["text"]}):
        objective = started(model.eval(), data, **options)
        value = objective.loss(model, at(data))
        own, anchors = data.label(data.split.train[:16]), objective.buffers["fpad/anchors"]
        h = model.relaxed("image", at(data).items["image"])
        expected = prototype_contrast(h, anchors, own, far=1 - own).mean()
        assert value.item() == pytest.approx(expected.item(), rel=1e-2), "the trunk runs in bf16"
        assert "cache/image" not in objective.buffers


def test_codes_of_a_class_point_where_its_items_do(model: HashModel, data: RetrievalData) -> None:
    """Memberships keep cluster c at class c: the class code is near the mean of its items."""
    objective = started(model.eval(), data)
    objective.loss(model, at(data))
    u = objective.buffers["fpad/memberships/image"][0]
    label = data.label(data.split.train)
    single = label.sum(1) == 1
    assert float((u.argmax(1) == label.argmax(1))[single].float().mean()) > 0.8
    h = model.relaxed("image", data.inputs("image", data.split.train)).detach()
    near = F.normalize(class_codes(h, u)) @ F.normalize(label.T @ h).T
    assert torch.equal(near.argmax(1), torch.arange(4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"refresh": 0}, "refresh must be at least 1, got 0"),
        ({"alpha": -1}, "fpad: alpha must be at least 0, got -1"),
        ({"membership": 1.0}, r"membership must be in \(0, 1\), got 1.0"),
        ({"rectification": "on"}, "rectification must be one of"),
        ({"tau": 0}, "tau must be positive"),
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call_with(DEFENSES["fpad"].make, change, given={"base": DCMH(), "seed": 0})
