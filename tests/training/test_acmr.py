"""ACMR's terms by hand and by loop, and a modality game that is played."""

import dataclasses
import math

import pytest
import torch
from tiny import SPEC, make_model, step_of
from torch import nn
from torch.nn import functional as F

from hamward.data import RetrievalData
from hamward.errors import ConfigError, DataError
from hamward.models import Encoder, HashModel
from hamward.training import ACMR, Step
from hamward.training.acmr import (
    label_loss,
    modality_classifier,
    modality_loss,
    reversal_schedule,
    saturation_loss,
    structure_loss,
)
from hamward.types import MODALITIES

BATCH = torch.arange(16)
REAL = dataclasses.replace(SPEC, retrieval="cosine")


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are compared: no bf16."""
    monkeypatch.setattr("hamward.models.hash_model.bf16_supported", lambda device: False)


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_label_prediction_by_hand() -> None:
    """Softmax of (ln 3, 0) is (3/4, 1/4); its sigmoids are 3/4 and 1/2."""
    predicted = rows([math.log(3), 0], [0, 0])
    single = label_loss(predicted, rows([1, 0], [0, 1]), single=True)
    assert float(single) == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    several = label_loss(predicted, rows([1, 1], [0, 1]), single=False)
    assert float(several) == pytest.approx((math.log(4 / 3) + 3 * math.log(2)) / 2)


def test_structure_by_hand() -> None:
    """Distances 0.5, 0 and sqrt(1.25), 1; only pairs are similar; margin 1.2."""
    anchors, others = rows([0, 0], [1, 0]), rows([0, 0.5], [0, 0])
    similar = torch.eye(2, dtype=torch.bool)
    value = structure_loss(anchors, others, similar, margin=1.2, repulsion=0.5)
    hinge = (1.2 + 1.2 - math.sqrt(1.25)) / 2
    assert float(value) == pytest.approx((0.5 + 1) / 2 + 0.5 * hinge)


@pytest.mark.parametrize("hard", [False, True])
def test_structure_equals_a_double_loop(hard: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    anchors = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    others = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    similar = torch.rand(7, 7, generator=generator) < 0.4
    similar[2] = True  # an anchor with nothing to push
    near, pushes = [], []
    for i in range(7):
        own = []
        for j in range(7):
            distance = math.dist(anchors[i].tolist(), others[j].tolist())
            if similar[i, j]:
                near.append(distance)
            else:
                own.append(max(0.0, 1.5 - distance))
        pushes += [max(own)] if hard and own else [] if hard else own
    expected = sum(near) / len(near) + 0.3 * sum(pushes) / len(pushes)
    value = structure_loss(anchors, others, similar, margin=1.5, repulsion=0.3, hard=hard)
    assert float(value) == pytest.approx(expected)


def test_the_contrastive_form_is_the_sum_over_triples() -> None:
    """sum_ijk [S_ij (1 - S_ik) (d_ij + lambda hinge_ik)] separates into the two means where
    every anchor has as many similar items: 2 of 4 here, hence 2 x 2 triples an anchor."""
    generator = torch.Generator().manual_seed(1)
    v, t = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    similar = torch.tensor([0, 0, 1, 1])[:, None] == torch.tensor([0, 0, 1, 1])
    total, count = 0.0, 0
    for i in range(4):
        for j in range(4):
            for k in range(4):
                if similar[i, j] and not similar[i, k]:
                    pull, push = math.dist(v[i], t[j]), 2 - math.dist(v[i], t[k])
                    total, count = total + pull + 0.7 * max(0.0, push), count + 1
    value = structure_loss(v, t, similar, margin=2.0, repulsion=0.7)
    assert float(value) == pytest.approx(total / count)


def test_structure_copes_with_equal_points_and_missing_pairs() -> None:
    points = torch.ones(3, 4, requires_grad=True)
    every = torch.ones(3, 3, dtype=torch.bool)
    for similar in (every, ~every):
        value = structure_loss(points, points * 1, similar, margin=1.0, repulsion=1.0)
        assert float(value.detach()) == (0.0 if similar.all() else 1.0)
        (gradient,) = torch.autograd.grad(value, points)
        assert torch.isfinite(gradient).all()


class Linear(nn.Module):
    """A classifier whose logits are (w x, 0): D(x) = 1 / (1 + e^(-w x)) is "picture"."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.weight * x, 0 * x], 1)


@pytest.mark.parametrize("reversal", [1.0, 0.5, 0.0, -1.0])
@pytest.mark.parametrize("learns", [True, False])
def test_the_game_by_hand(reversal: float, learns: bool) -> None:
    """Pictures at 2 and 0, texts at -1 and 1: -mean log D(v) - mean log(1 - D(t))."""
    image, text = rows([2], [0]).requires_grad_(), rows([-1], [1]).requires_grad_()
    network = Linear()
    value = modality_loss(network, image, text, reversal=reversal, learns=learns)

    def softplus(x: float) -> float:
        return math.log(1 + math.exp(x))

    expected = (softplus(-2) + softplus(0)) / 2 + (softplus(-1) + softplus(1)) / 2
    assert float(value.detach()) == pytest.approx(expected)
    value.backward()
    assert image.grad is not None and text.grad is not None
    sigmoid = [1 / (1 + math.exp(-x)) for x in (2, 0, -1, 1)]
    slopes = [(sigmoid[0] - 1) / 2, (sigmoid[1] - 1) / 2, sigmoid[2] / 2, sigmoid[3] / 2]
    found = torch.cat([image.grad, text.grad])[:, 0].tolist()
    assert found == pytest.approx([-reversal * slope for slope in slopes])
    if learns:
        assert network.weight.grad is not None
        descent = sum(s * x for s, x in zip(slopes, (2, 0, -1, 1), strict=True))
        assert float(network.weight.grad) == pytest.approx(descent)
    else:
        assert network.weight.grad is None


def test_schedule_saturation_and_classifier() -> None:
    assert reversal_schedule(0) == 0
    assert reversal_schedule(0.1) == pytest.approx(math.tanh(0.5))
    assert reversal_schedule(1) == pytest.approx(0.9999092, abs=1e-7)
    assert float(saturation_loss(rows([0.5, -1], [0, 1]))) == pytest.approx((0.25 + 1) / 4)
    shapes = [tuple(p.shape) for p in modality_classifier(200).parameters()]
    assert shapes == [(50, 200), (50,), (2, 50), (2,)]
    assert any(isinstance(m, nn.ReLU) for m in modality_classifier(200).modules())


def started(model: HashModel, data: RetrievalData, **options: float) -> ACMR:
    objective = ACMR(**options)  # type: ignore[arg-type]
    torch.manual_seed(0)
    objective.start(model, data, data.split.train)
    return objective


def units(*points: torch.Tensor) -> list[torch.Tensor]:
    return [x / x.norm(dim=1, keepdim=True) for x in points]


def late(data: RetrievalData, *, number: int = 50) -> Step:
    return dataclasses.replace(step_of(data, "pair", BATCH), number=number)


@pytest.mark.parametrize("retrieval", ["cosine", "hamming"])
def test_the_loss_is_the_sum_of_its_terms(data: RetrievalData, retrieval: str) -> None:
    model = make_model(spec=dataclasses.replace(SPEC, retrieval=retrieval)).eval()
    objective = started(
        model, data, alpha=0.5, beta=2.0, margin=1.2, repulsion=0.3, quantization=0.1, reversal=3.0
    )
    assert not objective.single, "some of these items have two labels"
    step = late(data)
    with torch.no_grad():
        u = [model.logits(m, step.items[m], low_precision=True) for m in MODALITIES]
        if retrieval == "cosine":
            v, t = (4 * x / x.norm(dim=1, keepdim=True) for x in u)
        else:
            v, t = (torch.tanh(x) for x in u)
        labels = objective.labels[BATCH]
        similar = labels @ labels.T > 0
        expected = torch.zeros(())
        for a, b in ((v, t), (t, v)):
            expected += 0.5 * structure_loss(*units(a, b), similar, margin=1.2, repulsion=0.3)
            predicted = objective.modules["label_head"](a)
            expected += 2.0 * F.binary_cross_entropy_with_logits(predicted, labels) * 4
            if retrieval == "hamming":
                expected += 0.1 * (a.abs() - 1).square().sum(1).mean()
        expected += modality_loss(objective.modules["classifier"], v, t, reversal=0.0)
        value = objective.loss(model, step)
    torch.testing.assert_close(value, expected)


def test_points_keep_what_cosine_sees(data: RetrievalData) -> None:
    logits = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    points = ACMR().points(make_model(spec=REAL), logits)
    torch.testing.assert_close(points.norm(dim=1), torch.full((5,), 4.0))
    torch.testing.assert_close(F.cosine_similarity(points, logits), torch.ones(5))
    codes = ACMR().points(make_model(), logits)
    assert torch.equal(codes, torch.tanh(logits))


def gradients(data: RetrievalData, step: Step, **options: float) -> list[torch.Tensor]:
    model = make_model(spec=REAL).eval()
    started(model, data, **options).loss(model, step).backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(found) == len(list(model.parameters())), "every parameter of both encoders"
    return found


GAME = {"alpha": 0.0, "beta": 0.0, "quantization": 0.0}


def test_the_game_reaches_both_encoders_and_grows_with_reversal_and_schedule(
    data: RetrievalData,
) -> None:
    once, thrice = (gradients(data, late(data), reversal=r, **GAME) for r in (1.0, 3.0))
    early = gradients(data, late(data, number=10), **GAME)
    ratio = reversal_schedule(0.1) / reversal_schedule(0.5)
    assert all(g.abs().sum() > 0 for g in once if g.dim() > 1)
    for a, b, c in zip(once, thrice, early, strict=True):
        tolerance = 1e-3 * float(a.abs().max()) + 1e-12
        torch.testing.assert_close(b, 3 * a, rtol=1e-3, atol=3 * tolerance)
        torch.testing.assert_close(c, ratio * a, rtol=1e-3, atol=tolerance)


def test_the_encoders_climb_what_the_classifier_descends(data: RetrievalData) -> None:
    model = make_model(spec=REAL).eval()
    objective = started(model, data, **GAME)
    parts = {"encoders": model.parameters(), "classifier": objective.modules.parameters()}
    for name, parameters in parts.items():
        held = [p for p in parameters if p.requires_grad]
        loss = objective.loss(model, late(data))
        steps = torch.autograd.grad(loss, held, allow_unused=True)
        size = math.sqrt(sum(float(g.square().sum()) for g in steps if g is not None))
        with torch.no_grad():
            for p, g in zip(held, steps, strict=True):
                p.sub_(torch.zeros_like(p) if g is None else 1e-3 * g / size)
            after = objective.loss(model, late(data))
        assert (float(after) > float(loss.detach())) == (name == "encoders"), name


def test_without_reversal_the_encoders_get_the_demo_s_gradient(data: RetrievalData) -> None:
    """What the released scripts train: label prediction and distances, the game idle."""
    model = make_model(spec=REAL).eval()
    objective = started(model, data, reversal=0.0)
    whole = objective.loss(model, late(data))
    game = modality_loss(
        objective.modules["classifier"],
        *(objective.points(model, model.logits(m, late(data).items[m])) for m in MODALITIES),
        reversal=0.0,
    )
    assert not any(
        g.any()
        for g in torch.autograd.grad(game, list(model.parameters()), allow_unused=True)
        if g is not None
    )
    whole.backward()
    classifier = objective.modules["classifier"]
    assert all(p.grad is not None and p.grad.any() for p in list(classifier.parameters())[-2:])


def test_label_head_and_classifier_change_in_a_step_and_learn(data: RetrievalData) -> None:
    model = make_model(spec=REAL).eval()
    objective = started(model, data, reversal=0.0)
    before = {k: v.clone() for k, v in objective.modules.state_dict().items()}
    optimizer = torch.optim.Adam(objective.modules.parameters(), 1e-2)
    losses = []
    for done in range(40):
        loss = objective.loss(model, late(data))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if done == 0:
            after = objective.modules.state_dict()
            assert not any(torch.equal(v, after[k]) for k, v in before.items())
    assert losses[-1] < losses[0] - 1


def test_the_classifier_can_learn_in_every_kth_step(data: RetrievalData) -> None:
    model = make_model(spec=REAL).eval()
    objective = started(model, data, classifier_every=3, **GAME)
    moved = []
    for number in range(50, 56):
        model.zero_grad()
        objective.modules.zero_grad()
        objective.loss(model, late(data, number=number)).backward()
        moved.append(objective.modules["classifier"][0].weight.grad is not None)
        assert any(p.grad is not None and p.grad.any() for p in model.parameters())
    assert moved == [False, True, False, False, True, False]


class Flat(nn.Module):
    """A trunk that trains in no time."""

    width = 32
    fast_in_bf16 = False

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(3 * 16 * 16, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.hidden(4 * x.flatten(1) - 2))


@pytest.mark.parametrize("reversal", [0.0, 1.0])
def test_the_game_alone_confuses_its_classifier(data: RetrievalData, reversal: float) -> None:
    """At chance L_adv is 2 ln 2; a classifier that nobody plays against tells all apart."""
    model = make_model(spec=REAL)
    torch.manual_seed(0)
    model.encoders["image"] = Encoder(Flat(), REAL)
    objective = started(model.train(), data, **{**GAME, "reversal": reversal})
    optimizers = (
        torch.optim.Adam(model.parameters(), 1e-3, betas=(0.5, 0.999)),
        torch.optim.Adam(objective.modules.parameters(), 1e-2, betas=(0.5, 0.999)),
    )
    step = dataclasses.replace(step_of(data, "pair", torch.arange(48)), number=50)
    losses = []
    for _ in range(120):
        loss = objective.loss(model, step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(float(loss.detach()))
    late_mean = sum(losses[-40:]) / 40
    if reversal:
        assert late_mean == pytest.approx(2 * math.log(2), abs=0.4)
    else:
        assert late_mean < 0.1


def test_the_label_head_starts_from_the_labels_frequencies(data: RetrievalData) -> None:
    """With points at 0 it predicts how frequent each label is."""
    alone = data.split.train[data.labels[data.split.train].sum(1) == 1]
    for positions, link in ((data.split.train, torch.sigmoid), (alone, lambda x: x.softmax(0))):
        objective = ACMR()
        objective.start(make_model(), data, positions)
        found = link(objective.modules["label_head"](torch.zeros(16)))
        rate = torch.tensor(data.labels[positions].mean(0)).float()
        torch.testing.assert_close(found.detach(), rate, rtol=1e-3, atol=1e-4)


def test_single_labels_are_seen(data: RetrievalData) -> None:
    alone = data.split.train[data.labels[data.split.train].sum(1) == 1]
    objective = ACMR()
    objective.start(make_model(), data, alone)
    assert objective.single


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1.0}, "acmr: alpha must be at least 0, got -1"),
        ({"margin": 2.5}, r"margin must be in \(0, 2\], got 2.5"),
        ({"classifier_every": 0}, "classifier_every must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ACMR(**options)  # type: ignore[arg-type]


def test_what_it_cannot_train_is_refused(data: RetrievalData) -> None:
    alone = make_model(spec=dataclasses.replace(SPEC, text_network=""))
    with pytest.raises(ConfigError, match="no text network"):
        ACMR().start(alone, data, data.split.train)
    red = data.split.train[data.labels[data.split.train, 0] == 1]
    with pytest.raises(DataError, match="all share one"):
        ACMR().start(make_model(), data, red)
