"""DJSRH's affinity and loss by hand and by loops, and that it never looks at a label."""

import dataclasses
import math

import pytest
import torch
from tiny import make_model, make_tiny_data, step_of

from hamward.data import RetrievalData
from hamward.errors import ConfigError
from hamward.models.efficientnet_lite import EfficientNetLite0
from hamward.training import DJSRH, FitConfig, fit
from hamward.training.djsrh import djsrh_loss, joint_affinity
from hamward.types import MODALITIES


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_affinity_by_hand() -> None:
    """cos_I = 0.6, cos_T = 0, so S_I = 0.2, S_T = -1 off the diagonal, S~ = -0.4 (beta 0.5).

    S~ S~' / 2 = (1.16, -0.8; -0.8, 1.16) / 2, eta = 0.5: S = mu [0.5 S~ + 0.5 S~ S~' / 2].
    """
    s = joint_affinity(rows([1, 0], [3, 4]), rows([2, 0], [0, 7]), beta=0.5, eta=0.5, mu=2.0)
    torch.testing.assert_close(s, rows([1.58, -0.8], [-0.8, 1.58]))


def test_the_affinity_equals_loops_with_an_empty_text() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(4, 5, generator=generator, dtype=torch.float64)
    text = (torch.rand(4, 6, generator=generator) < 0.5).double()
    text[2] = 0

    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        norm = float(a.norm() * b.norm())
        return float(a @ b) / norm if norm else 0.0

    first = [
        [
            0.9 * (2 * cosine(image[i], image[j]) - 1) + 0.1 * (2 * cosine(text[i], text[j]) - 1)
            for j in range(4)
        ]
        for i in range(4)
    ]
    s = joint_affinity(image, text, beta=0.9)
    for i in range(4):
        for j in range(4):
            second = sum(first[i][k] * first[j][k] for k in range(4)) / 4
            assert float(s[i, j]) == pytest.approx(1.5 * (0.6 * first[i][j] + 0.4 * second))


def test_the_loss_by_hand() -> None:
    """Unit codes of angles 0, 90 and 0, 0: II = I, IT = (1 1; 0 0), TT = ones; S = I."""
    image, text = rows([0.5, 0], [0, 0.1]), rows([0.3, 0], [0.9, 0])
    value = djsrh_loss(image, text, rows([1, 0], [0, 1]), intra=(10.0, 0.2))
    cross, image_only, text_only = 2 / 4, 0.0, 2 / 4
    assert float(value) == pytest.approx(cross + 10 * image_only + 0.2 * text_only)
    swapped = djsrh_loss(text, image, rows([1, 0], [0, 1]), intra=(10.0, 0.2))
    assert float(swapped) == pytest.approx(2 / 4 + 10 * 2 / 4)


def test_features_come_once_from_pretrained_weights_that_stay_frozen(data: RetrievalData) -> None:
    model = make_model()
    objective = DJSRH()
    objective.start(model, data, data.split.train)
    lite = EfficientNetLite0().eval()
    lite.load_pretrained()
    with torch.no_grad():
        expected = lite(data.inputs("image", data.split.train))
    torch.testing.assert_close(objective.buffers["features"], expected, rtol=1e-4, atol=1e-4)
    before = objective.buffers["features"].clone()
    objective.loss(model, step_of(data, "pair", torch.arange(16))).backward()
    objective.end_epoch()
    assert torch.equal(objective.buffers["features"], before)
    assert not list(objective.modules.parameters()), "nothing that the optimizer could move"


def test_features_of_the_own_trunk_are_its_starting_ones(data: RetrievalData) -> None:
    model = make_model().train()
    objective = DJSRH(features="trunk")
    objective.start(model, data, data.split.train)
    assert model.training and all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        expected = model.eval().encoder("image").trunk(data.inputs("image", data.split.train))
    torch.testing.assert_close(objective.buffers["features"], expected, rtol=1e-4, atol=1e-5)


def test_the_loss_of_a_step_scales_logits_by_the_epoch(data: RetrievalData) -> None:
    model = make_model().eval()
    objective = DJSRH(beta=0.3, intra_image=0.3, intra_text=0.2, features="trunk")
    objective.start(model, data, data.split.train)
    step = step_of(data, "pair", torch.arange(16), epoch=9)
    affinity = joint_affinity(objective.buffers["features"][:16], step.items["text"], beta=0.3)
    codes = [torch.tanh(3 * model.logits(m, step.items[m])) for m in MODALITIES]
    expected = djsrh_loss(codes[0], codes[1], affinity, intra=(0.3, 0.2))
    value = objective.loss(model, step)
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-2)
    assert not math.isclose(
        float(value.detach()),
        float(objective.loss(model, dataclasses.replace(step, epoch=1)).detach()),
    )
    value.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_labels_are_never_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_tiny_data()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("looked at labels")

    monkeypatch.setattr(RetrievalData, "label", refuse)
    config = FitConfig(epochs=1, batch_size=16)
    fit(make_model(), DJSRH(), data, config=config, score=lambda m: {"select": 0.0})


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"beta must be in \[0, 1\], got 1.5"):
        DJSRH(beta=1.5)
    with pytest.raises(ConfigError, match="intra_text"):
        DJSRH(intra_text=-1.0)
