"""FPAD's two stages: what each costs, whom its gradient reaches, and what stays frozen."""

import dataclasses
import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiny import SPEC, make_model, make_tiny_data, step_of
from torch.nn import functional as F

from hamward.codes import binarize
from hamward.data import RetrievalData
from hamward.errors import ConfigError, DataError
from hamward.losses import prototype_contrast
from hamward.models import HashModel
from hamward.training import FPAD, Step
from hamward.training.prototypes import class_means, prototype_code, prototype_softmax
from hamward.types import MODALITIES

NECKED = dataclasses.replace(SPEC, neck=(24,), dropout=0.2)
BATCH = torch.arange(16)


def step(data: RetrievalData, *, epoch: int = 1, number: int = 0) -> Step:
    made = step_of(data, "pair", BATCH, epoch=epoch)
    return dataclasses.replace(made, number=number)


@pytest.fixture
def fresh() -> HashModel:
    return make_model(spec=NECKED).train()


@pytest.fixture
def make(fresh: HashModel, data: RetrievalData) -> Callable[..., FPAD]:
    def started(**options: object) -> FPAD:
        objective = FPAD(**options)  # type: ignore[arg-type]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            objective.start(fresh, data, data.split.train)
        return objective

    return started


def features(model: HashModel, data: RetrievalData, modality: str) -> torch.Tensor:
    training = model.training
    with torch.no_grad():
        found = model.eval().features(modality, data.inputs(modality, data.split.train))  # type: ignore[arg-type]
    model.train(training)
    return found


def test_prototypes_cluster_every_training_item_without_touching_the_model(
    make: Callable[..., FPAD], fresh: HashModel, data: RetrievalData
) -> None:
    """Memberships of 1 within one label each: class means of all items, none left at zero."""
    data = dataclasses.replace(data, labels=np.eye(4, dtype=np.uint8)[np.arange(96) % 4], digest="")
    objective = FPAD()
    objective.start(fresh, data, data.split.train)
    before = {k: v.clone() for k, v in fresh.state_dict().items()}
    objective.find_prototypes(fresh)
    assert fresh.training and all(torch.equal(v, before[k]) for k, v in fresh.state_dict().items())
    found = {m: features(fresh, data, m) for m in MODALITIES}
    found["joint"] = F.normalize(torch.cat([found["image"], found["text"]], 1))
    labels = data.label(data.split.train)
    for name, points in found.items():
        expected = class_means(points, labels)
        torch.testing.assert_close(objective.buffers[name], expected, rtol=2e-2, atol=1e-3)


def test_stage_one_is_the_sum_of_its_five_terms(
    make: Callable[..., FPAD], fresh: HashModel, data: RetrievalData
) -> None:
    objective = make()
    fresh.eval()
    objective.modules.eval()
    value = objective.loss(fresh, step(data))
    network = objective.modules["prototype"]
    f = {m: fresh.features(m, x) for m, x in step(data).items.items()}
    h = {m: torch.tanh(fresh.logits(m, x)) for m, x in step(data).items.items()}
    image, text, joint = (objective.buffers[n] for n in ("image", "text", "joint"))
    z = torch.cat([f["image"], f["text"]], 1)
    z = z / z.norm(dim=1, keepdim=True)
    c = prototype_code(network, image, text, joint)
    y = data.label(data.split.train[:16])
    terms = [
        prototype_softmax(f["image"], text, y),
        prototype_softmax(f["text"], image, y),
        0.5 * prototype_softmax(network.features(z), network.features(joint), y),
        prototype_softmax(h["image"], c, y),
        prototype_softmax(h["text"], c, y),
    ]
    expected = sum(float(t.detach().mean()) for t in terms)
    assert float(value.detach()) == pytest.approx(expected, rel=2e-2)  # bf16 trunk


def reached(objective: FPAD, model: HashModel) -> set[str]:
    parts = {
        f"{m}.{part}": getattr(model.encoder(m), part)
        for m in MODALITIES
        for part in ("trunk", "neck", "head")
    }
    parts["prototype"] = objective.modules["prototype"]
    return {
        name
        for name, part in parts.items()
        if all(p.grad is not None and p.grad.any() for p in part.parameters())
    }


def test_gradients_reach_everything_in_stage_one_and_the_encoders_in_stage_two(
    make: Callable[..., FPAD], fresh: HashModel, data: RetrievalData
) -> None:
    objective = make()
    objective.loss(fresh, step(data)).backward()
    encoders = {f"{m}.{part}" for m in MODALITIES for part in ("trunk", "neck", "head")}
    assert reached(objective, fresh) == encoders | {"prototype"}
    assert not any(b.requires_grad for b in objective.buffers.values())
    fresh.zero_grad()
    objective.modules.zero_grad()
    objective.loss(fresh, step(data, number=50)).backward()
    assert reached(objective, fresh) == encoders
    assert all(p.grad is None for p in objective.modules.parameters())


def test_stage_two_pulls_to_frozen_codes(
    make: Callable[..., FPAD], fresh: HashModel, data: RetrievalData
) -> None:
    objective = make()
    objective.loss(fresh, step(data))
    assert not objective.buffers["anchors"].any()
    objective.loss(fresh, step(data, number=49))
    assert int(objective.buffers["stage"]) == 1
    objective.loss(fresh, step(data, number=50))
    assert int(objective.buffers["stage"]) == 2
    anchors = objective.buffers["anchors"].clone()
    network = objective.modules["prototype"].eval()
    with torch.no_grad():
        prototypes = [objective.buffers[n] for n in ("image", "text", "joint")]
        assert torch.equal(anchors, binarize(prototype_code(network, *prototypes)).float())
    with torch.no_grad():
        for p in fresh.parameters():
            p.add_(torch.ones_like(p), alpha=0.01)
    fresh.eval()
    value = objective.loss(fresh, step(data, epoch=2, number=60))
    assert torch.equal(objective.buffers["anchors"], anchors), "frozen"
    y = data.label(data.split.train[:16])
    expected = sum(
        float(
            prototype_contrast(
                torch.tanh(fresh.logits(m, x).detach()), anchors, y, far=1 - y
            ).mean()
        )
        for m, x in step(data).items.items()
    )
    assert float(value.detach()) == pytest.approx(expected, rel=2e-2)


def test_prototypes_are_found_once_an_epoch(
    make: Callable[..., FPAD],
    fresh: HashModel,
    data: RetrievalData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    original = FPAD.find_prototypes
    monkeypatch.setattr(FPAD, "find_prototypes", lambda s, m: (calls.append(1), original(s, m)))
    objective = make()
    for epoch, number in ((1, 0), (1, 1), (2, 2), (2, 3), (2, 50), (2, 51), (3, 52)):
        objective.loss(fresh, step(data, epoch=epoch, number=number))
    assert len(calls) == 3, "two epochs of stage 1, and once more before the codes are fixed"


@pytest.mark.parametrize("restart", ["nothing", "heads", "networks"])
def test_restarts(
    make: Callable[..., FPAD], fresh: HashModel, data: RetrievalData, restart: str
) -> None:
    initial = {k: v.clone() for k, v in fresh.state_dict().items()}
    objective = make(restart=restart)
    objective.loss(fresh, step(data))
    with torch.no_grad():
        for p in fresh.parameters():
            p.add_(0.5)
    before = {k: v.clone() for k, v in fresh.named_parameters()}
    objective.loss(fresh, step(data, number=50))
    for name, now in fresh.named_parameters():
        if restart == "networks":
            assert torch.equal(now, initial[name]), name
        elif restart == "heads" and "head" in name:
            assert not torch.equal(now, before[name]) and now.abs().max() < 0.1, name
        else:
            assert torch.equal(now, before[name]), name


def test_free_clusters_and_the_published_fuzzifier_are_hard(
    make: Callable[..., FPAD],
    fresh: HashModel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    objective = make(clusters="free", fuzzifier=1.01)
    with caplog.at_level(logging.INFO):
        objective.find_prototypes(fresh)
    assert caplog.text.count("m = 1.0100") == 3
    objective = make(clusters="free")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        objective.find_prototypes(fresh)
    assert caplog.text.count("mean largest membership 0.700") == 3


def test_items_without_a_label_are_in_no_cluster(fresh: HashModel) -> None:
    data = make_tiny_data()
    bare = data.split.train[:3]
    labels = np.array(data.labels)
    labels[bare] = 0
    found = []
    for positions in (np.setdiff1d(data.split.train, bare), data.split.train):
        objective = FPAD()
        objective.start(fresh, dataclasses.replace(data, labels=labels), positions)
        objective.find_prototypes(fresh)
        found.append(objective.buffers["joint"])
    assert found[0].isfinite().all()
    torch.testing.assert_close(found[1], found[0])


def test_classes_without_a_training_item_have_no_prototype(fresh: HashModel) -> None:
    data = make_tiny_data()
    labels = data.labels.copy()
    labels[24:72][:, 2] = 0
    labels[~labels.any(1), 0] = 1
    data = dataclasses.replace(data, labels=labels, digest="")
    objective = FPAD()
    objective.start(fresh, data, data.split.train)
    assert objective.buffers["anchors"].shape == (3, 16)
    assert torch.isfinite(objective.loss(fresh, step(data)))
    one = np.zeros_like(labels)
    one[:, 1] = 1
    data = dataclasses.replace(data, labels=one, digest="")
    with pytest.raises(DataError, match="at least 2 classes, got 1"):
        FPAD().start(fresh, data, data.split.train)


def test_features_of_different_width_are_refused(data: RetrievalData) -> None:
    with pytest.raises(ConfigError, match=r"'image': 64, 'text': 32.*model.neck = \[1024\]"):
        FPAD().start(make_model(), data, data.split.train)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prototype_share": 1.0}, r"prototype_share must be in \(0, 1\), got 1.0"),
        ({"membership": 0.0}, r"membership must be in \(0, 1\), got 0.0"),
        ({"tau": -1.0}, "tau must be in"),
        ({"fuzzifier": 1.0}, r"fuzzifier must be in \[1.0001, 100\], got 1.0"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FPAD(**options)  # type: ignore[arg-type]
