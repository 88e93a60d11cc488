"""DPSH, DPH, HashNet and CSQ: equations by hand and by loops, schedule, centers, memory."""

import math

import numpy as np
import pytest
import torch
from tiny import make_model, step_of
from torch import Tensor

from hamward.codes import binarize
from hamward.config import call_with, from_mapping
from hamward.data import RetrievalData
from hamward.errors import ConfigError
from hamward.evaluation.configs import TrainConfig
from hamward.evaluation.scoring import validation_scores
from hamward.models import HashModel, ModelSpec
from hamward.recipes import read_recipe, recipe_names
from hamward.training import OBJECTIVES, FitConfig, Objective, fit
from hamward.training.csq import CSQ, class_centers, csq_loss, hadamard, item_centers
from hamward.training.dph import dph_loss
from hamward.training.dpsh import dpsh_loss, dpsh_objective
from hamward.training.hashnet import continuation_scale, hashnet_loss, hashnet_objective
from hamward.training.image_memory import ImageMemory

NAMES = ("csq", "dph", "dpsh", "hashnet")
SPEC = ModelSpec(
    code_length=16, vocabulary=12, image_side=16, image_network="tiny-resnet", text_network=""
)


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# One picture against two: u.U = 0.25 + 0.5 = 0.75 and -0.5 + 0.25 = -0.25; S = 1, 0.
U = rows([0.5, -0.5])
MEMORY = rows([0.5, -1.0], [-1.0, -0.5])
SIMILAR = rows([1, 0])


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


def test_dpsh_by_hand() -> None:
    likelihood = (softplus(0.375) - 0.375 + softplus(-0.125)) / 2
    binary = (0.5**2 + 0.5**2) / 2
    value = dpsh_loss(U, MEMORY, SIMILAR, weight=0.3)
    assert float(value) == pytest.approx(likelihood + 0.3 * binary)


def test_dph_by_hand() -> None:
    value = dph_loss(U, MEMORY, SIMILAR)
    assert float(value) == pytest.approx(((0.375 - 1) ** 2 + (-0.125 + 1) ** 2) / 2)


@pytest.mark.parametrize(("slope", "factor"), [(None, 5.0), (0.1, 0.1)])
def test_hashnet_by_hand(slope: float | None, factor: float) -> None:
    """10 / K = 5. One pair of each kind: both weigh 2 / 1."""
    theta = 0.75 * factor, -0.25 * factor
    expected = (2 * (softplus(theta[0]) - theta[0]) + 2 * softplus(theta[1])) / 2
    assert float(hashnet_loss(U, MEMORY, SIMILAR, slope=slope)) == pytest.approx(expected)


def test_csq_by_hand() -> None:
    """Logit atanh(1/2) has u = 1/2, p = 3/4; toward centers +1 and -1."""
    z = math.atanh(0.5)
    value = csq_loss(rows([z, z]), rows([1, -1]), weight=0.2)
    expected = -(math.log(3 / 4) + math.log(1 / 4)) / 2 + 0.2 * 0.25
    assert float(value) == pytest.approx(expected)
    assert torch.isfinite(csq_loss(rows([500.0, -500.0]), rows([-1, 1]), weight=0.2))


def test_losses_equal_double_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(3, 5, generator=generator, dtype=torch.float64) * 2 - 1
    memory = torch.rand(7, 5, generator=generator, dtype=torch.float64) * 2 - 1
    similar = (torch.rand(3, 7, generator=generator) < 0.3).double()
    positives = sum(float(similar[i, j]) for i in range(3) for j in range(7))
    dpsh = dph = hashnet = 0.0
    for i in range(3):
        for j in range(7):
            s = float(similar[i, j])
            inner = sum(float(u[i, k] * memory[j, k]) for k in range(5))
            dpsh += (softplus(inner / 2) - s * inner / 2) / 21
            dph += (inner / 5 - (2 * s - 1)) ** 2 / 21
            weight = 21 / positives if s else 21 / (21 - positives)
            hashnet += weight * (softplus(2 * inner) - s * 2 * inner) / 21
    for i in range(3):
        for k in range(5):
            dpsh += 0.7 * (float(u[i, k]) - (1 if u[i, k] >= 0 else -1)) ** 2 / 15
    assert float(dpsh_loss(u, memory, similar, weight=0.7)) == pytest.approx(dpsh)
    assert float(dph_loss(u, memory, similar)) == pytest.approx(dph)
    assert float(hashnet_loss(u, memory, similar)) == pytest.approx(hashnet)


@pytest.mark.parametrize("kind", [0.0, 1.0])
def test_hashnet_survives_pairs_of_one_kind(kind: float) -> None:
    value = hashnet_loss(U, MEMORY, torch.full_like(SIMILAR, kind))
    expected = [softplus(t) - kind * t for t in (3.75, -1.25)]
    assert float(value) == pytest.approx(sum(expected) / 2)


def test_the_continuation_follows_its_schedule() -> None:
    scales = [continuation_scale(n, growth=0.005, every=200) for n in (0, 199, 200, 399, 400, 1000)]
    root = math.sqrt
    assert scales == pytest.approx([1, 1, root(2), root(2), root(3), root(6)])
    assert continuation_scale(10_000, growth=0, every=200) == 1


def test_hashnet_trains_on_scaled_outputs(data: RetrievalData) -> None:
    model = make_model(spec=SPEC).eval()
    objective = hashnet_objective(growth=1.0, every=3)
    objective.start(model, data, data.split.train)
    batch = torch.arange(8)
    step = step_of(data, "image", batch)
    for number, scale in ((0, 1.0), (3, 2.0), (5, 2.0), (8, math.sqrt(7))):
        object.__setattr__(step, "number", number)
        objective.loss(model, step)
        with torch.no_grad():
            logits = model.logits("image", step.items["image"], low_precision=True)
        torch.testing.assert_close(objective.buffers["image"][batch], torch.tanh(scale * logits))


def test_hadamard_rows_by_hand() -> None:
    expected = [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
    assert hadamard(4).tolist() == expected
    assert torch.equal(hadamard(64).int() @ hadamard(64).T.int(), 64 * torch.eye(64).int())
    with pytest.raises(ConfigError, match="power of two"):
        hadamard(12)


def test_class_centers_are_hadamard_rows_then_their_negatives() -> None:
    h = hadamard(4)
    assert torch.equal(class_centers(3, 4), h[:3])
    assert torch.equal(class_centers(6, 4), torch.cat([h, -h[:2]]))
    assert torch.equal(class_centers(8, 4), torch.cat([h, -h]))


@pytest.mark.parametrize(("classes", "code_length"), [(38, 16), (10, 24), (27, 12)])
def test_random_centers_are_balanced_rows_that_stay_apart(classes: int, code_length: int) -> None:
    centers = class_centers(classes, code_length, source="random")
    assert (centers.int().sum(1) == 0).all()
    inner = centers.int() @ centers.int().T - 2 * code_length * torch.eye(classes).int()
    distance = (code_length - int(inner.max())) / 2
    assert distance >= code_length / 4, "no two centers are near each other"
    again, other = (
        class_centers(classes, code_length, source="random", seed=seed) for seed in (0, 1)
    )
    assert torch.equal(centers, again) and not torch.equal(centers, other)


def test_impossible_centers_are_refused() -> None:
    for classes, code_length in ((38, 16), (3, 24)):
        with pytest.raises(ConfigError, match=f"{classes} classes, got {code_length}"):
            class_centers(classes, code_length)
    with pytest.raises(ConfigError, match=r"too short for centers of 9 classes.* 6 balanced"):
        class_centers(9, 4, source="random")
    assert len(class_centers(6, 4, source="random").unique(dim=0)) == 6


def test_item_centers_by_hand() -> None:
    """One class: its center. Two: where they agree, else the bit of the ties. Three: majority."""
    centers = rows([1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1])
    labels = rows([0, 1, 0], [1, 1, 0], [1, 1, 1], [0, 1, 1])
    ties = rows([-1, 1, 1, -1])[0]
    expected = [[1, -1, 1, -1], [1, 1, 1, -1], [1, 1, 1, -1], [1, 1, 1, -1]]
    assert item_centers(labels, centers, ties).tolist() == expected
    flipped = item_centers(labels, centers, -ties)
    assert flipped.tolist() == [[1, -1, 1, -1], [1, -1, 1, 1], [1, 1, 1, -1], [1, -1, -1, -1]]


def test_csq_keeps_its_centers_between_constructions(data: RetrievalData) -> None:
    model = make_model(spec=SPEC)
    first, second, other = CSQ(), CSQ(), CSQ(center_seed=1)
    for number, objective in enumerate((first, second, other)):
        torch.manual_seed(number)
        objective.start(model, data, data.split.train)
    for name in ("centers", "ties"):
        assert torch.equal(first.buffers[name], second.buffers[name])
    assert not torch.equal(first.buffers["ties"], other.buffers["ties"])
    assert set(first.buffers["ties"].unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(first.buffers["centers"], hadamard(16)[:4].float())


def make(name: str) -> Objective:
    return OBJECTIVES[name].make()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_encoder_and_only_the_batch_enters_the_memory(
    name: str, data: RetrievalData
) -> None:
    model = make_model(spec=SPEC).train()
    objective = make(name)
    assert objective.phases == ("image",)
    objective.start(model, data, data.split.train)
    assert model.training, "modes are put back"
    with torch.no_grad():
        logits = model.eval().logits("image", data.inputs("image", data.split.train))
    started = logits if name == "csq" else torch.tanh(logits)
    torch.testing.assert_close(objective.buffers["image"], started, rtol=1e-4, atol=1e-5)
    objective.buffers["image"].fill_(0.25)
    loss = objective.loss(model.train(), step_of(data, "image", torch.arange(16)))
    loss.backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0
        for p in model.encoder("image").head.parameters()
    )
    changed = (objective.buffers["image"] != 0.25).any(1)
    assert changed[:16].all() and not changed[16:].any()
    assert not objective.buffers["image"].requires_grad
    objective.end_epoch()


@pytest.mark.parametrize("name", NAMES)
def test_the_batch_loss_compares_with_all_training_pictures(name: str, data: RetrievalData) -> None:
    model = make_model(spec=SPEC)
    objective = make(name)
    objective.start(model, data, data.split.train)
    generator = torch.Generator().manual_seed(1)
    memory = torch.rand(48, 16, generator=generator) * 2 - 1
    objective.buffers["image"] = memory
    picked, outputs = torch.tensor([3, 8, 40]), memory[[5, 6, 7]]
    labels = torch.tensor(data.labels[data.split.train]).float()
    similar = (labels[picked] @ labels.T > 0).float()
    if name == "csq":
        buffers = objective.buffers
        centers = item_centers(labels[picked], buffers["centers"], buffers["ties"])
        expected = csq_loss(outputs, centers, weight=1e-4)
    else:
        pair_loss = {
            "dph": dph_loss,
            "dpsh": lambda *parts: dpsh_loss(*parts, weight=0.1),
            "hashnet": hashnet_loss,
        }[name]
        expected = pair_loss(outputs, memory, similar)
    torch.testing.assert_close(objective.penalty("image", picked, outputs), expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_short_training_learns(name: str, data: RetrievalData) -> None:
    model = make_model(spec=SPEC)
    config = FitConfig(epochs=16, batch_size=16, image_rate=3e-3, head_factor=10, flip=False)
    before = validation_scores(model, data)
    assert set(before) == {"i2i", "select"}
    fitted = fit(model, make(name), data, config=config, score=lambda m: validation_scores(m, data))
    assert fitted.best["i2i"] > 0.7 > before["i2i"] + 0.2
    assert set(np.unique(_codes(model, data))) == {-1, 1}


def _codes(model: HashModel, data: RetrievalData) -> Tensor:
    with torch.no_grad():
        return binarize(model.logits("image", data.inputs("image", data.split.query)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dpsh", {"quantization": -1}, "quantization must be at least 0, got -1"),
        ("csq", {"quantization": -1}, "quantization must be at least 0, got -1"),
        ("hashnet", {"slope": 0}, "slope must be positive, got 0"),
        ("hashnet", {"growth": -1}, "growth must be at least 0, got -1"),
        ("hashnet", {"every": 0}, "every must be at least 1, got 0"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OBJECTIVES[name].make(**options)


def test_recipes_build_image_models_and_methods_are_objectives() -> None:
    for name in NAMES:
        assert read_recipe(name)["model"]["text_network"] == ""
        assert isinstance(make(name), Objective)
    assert isinstance(dpsh_objective(), ImageMemory)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_a_configuration(name: str) -> None:
    config = from_mapping(TrainConfig, read_recipe(name))
    call_with(OBJECTIVES[config.method].make, config.options)
    assert name.startswith(config.method)
