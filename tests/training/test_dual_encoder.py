"""The contrastive dual encoder: InfoNCE by hand, soft targets, temperature, both heads."""

import dataclasses
import math

import pytest
import torch
from tiny import SPEC, make_model, make_tiny_data, step_of
from torch.nn import functional as F

from hamward.data import RetrievalData
from hamward.errors import ConfigError
from hamward.losses import info_nce
from hamward.models import HashModel
from hamward.training import DualEncoder, FitConfig, fit
from hamward.training.dual_encoder import Temperature, symmetric_contrast
from hamward.types import MODALITIES

COSINE = dataclasses.replace(SPEC, retrieval="cosine")


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_info_nce_by_hand() -> None:
    """Similarities ln 1, ln 3: shares 1/4 and 3/4; both match, the second only, none."""
    similarity = rows(*[[0.0, math.log(3)]] * 3)
    value = info_nce(similarity, rows([1, 1], [0, 1], [0, 0]))
    expected = [0.5 * (math.log(4) + math.log(4 / 3)), math.log(4 / 3), 0.0]
    assert value.tolist() == pytest.approx(expected)


def test_info_nce_with_own_pairs_is_cross_entropy() -> None:
    similarity = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)) * 50
    value = info_nce(similarity, torch.eye(5))
    expected = F.cross_entropy(similarity, torch.arange(5), reduction="none")
    torch.testing.assert_close(value, expected)


def test_the_symmetric_contrast_equals_loops() -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    text = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    matches = rows([1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 1], [0, 0, 1, 1])

    def s(i: int, j: int) -> float:
        return 5 * float(image[i] @ text[j] / (image[i].norm() * text[j].norm()))

    total = 0.0
    for i in range(4):
        row = math.log(sum(math.exp(s(i, j)) for j in range(4)))
        column = math.log(sum(math.exp(s(j, i)) for j in range(4)))
        for j in range(4):
            total -= float(matches[i, j] / matches[i].sum()) * (s(i, j) - row) / 4
            total -= float(matches[j, i] / matches[:, i].sum()) * (s(j, i) - column) / 4
    value = symmetric_contrast(image, text, matches, scale=5.0)
    assert float(value) == pytest.approx(total / 2)


def test_the_scale_starts_at_the_temperature_and_stops_at_100() -> None:
    module = Temperature(0.07)
    assert float(module().detach()) == pytest.approx(1 / 0.07, rel=1e-5)
    with torch.no_grad():
        module.log_scale.fill_(9.0)
    assert float(module().detach()) == pytest.approx(100, rel=1e-5)


def test_matches_are_shared_labels_or_own_pairs(data: RetrievalData) -> None:
    batch = torch.tensor([0, 1, 4, 12])  # labels 0 and 3, 1, 0, 0 and 3
    objective = DualEncoder()
    objective.start(make_model(), data, data.split.train)
    expected = [[1, 0, 1, 1], [0, 1, 0, 0], [1, 0, 1, 1], [1, 0, 1, 1]]
    assert objective.matches(batch).tolist() == expected
    assert torch.equal(DualEncoder(targets="pairs").matches(batch), torch.eye(4))


@pytest.mark.parametrize("spec", [SPEC, COSINE], ids=["hamming", "cosine"])
def test_the_loss_of_a_step(spec: object, data: RetrievalData) -> None:
    model: HashModel = make_model(spec=spec).eval()  # type: ignore[arg-type]
    objective = DualEncoder(quantization=0.5)
    objective.start(model, data, data.split.train)
    step = step_of(data, "pair", torch.arange(16))
    image, text = (model.logits(m, step.items[m]) for m in MODALITIES)
    gap = torch.zeros(())
    if spec is SPEC:
        image, text = torch.tanh(image), torch.tanh(text)
        gap = ((image.abs() - 1) ** 2).mean() / 2 + ((text.abs() - 1) ** 2).mean() / 2
    contrast = symmetric_contrast(image, text, objective.matches(torch.arange(16)), scale=1 / 0.07)
    value = objective.loss(model, step)
    expected = float((contrast + 0.5 * gap).detach())
    assert float(value.detach()) == pytest.approx(expected, rel=1e-2)
    value.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    (scale,) = objective.modules.parameters()
    assert scale.grad is not None and scale.grad != 0


def test_own_pairs_need_no_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_tiny_data()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("looked at labels")

    monkeypatch.setattr(RetrievalData, "label", refuse)
    config = FitConfig(epochs=1, batch_size=16)
    objective = DualEncoder(targets="pairs")
    fit(make_model(), objective, data, config=config, score=lambda m: {"select": 0.0})


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"temperature must be in \[0.01, 10\], got 0"):
        DualEncoder(temperature=0.0)
    with pytest.raises(ConfigError, match="quantization must be at least 0, got -1"):
        DualEncoder(quantization=-1.0)
