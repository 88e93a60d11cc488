"""DCMH's equation by hand and by double loop, and its alternation."""

import math

import pytest
import torch
from tiny import step_of

from hamward.codes import binarize
from hamward.data import RetrievalData
from hamward.errors import ConfigError
from hamward.models import HashModel
from hamward.training import DCMH
from hamward.training.dcmh import dcmh_loss
from hamward.types import Modality


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_loss_by_hand() -> None:
    """One item of two: F = (1, -1), G = (2, 0), (0, 2), Theta = 1, -1, S = 1, 0."""
    value = dcmh_loss(
        rows([1, -1]),
        rows([2, 0], [0, 2]),
        rows([1, 0]),
        codes=rows([1, 1]),
        rest=torch.tensor([2.0, 3.0], dtype=torch.float64),
        gamma=0.5,
        eta=0.25,
    )
    likelihood = math.log(1 + math.e) - 1 + math.log(1 + math.exp(-1))
    quantization = 0 + 4
    balance = 3**2 + 2**2
    assert float(value) == pytest.approx((likelihood + 0.5 * quantization + 0.25 * balance) / 2)


def test_the_loss_equals_a_double_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    f = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    g = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    codes = binarize(torch.randn(3, 5, generator=generator)).double()
    rest = torch.randn(5, generator=generator, dtype=torch.float64)
    similar = (torch.rand(3, 7, generator=generator) < 0.5).double()
    total = 0.0
    for i in range(3):
        for j in range(7):
            theta = 0.5 * sum(float(f[i, k] * g[j, k]) for k in range(5))
            total += math.log(1 + math.exp(theta)) - float(similar[i, j]) * theta
        total += 2.0 * sum(float((codes[i, k] - f[i, k]) ** 2) for k in range(5))
    for k in range(5):
        total += 3.0 * float(f[:, k].sum() + rest[k]) ** 2
    value = dcmh_loss(f, g, similar, codes=codes, rest=rest, gamma=2.0, eta=3.0)
    assert float(value) == pytest.approx(total / 21)


@pytest.fixture
def started(model: HashModel, data: RetrievalData) -> DCMH:
    objective = DCMH()
    objective.start(model.train(), data, data.split.train)
    return objective


def test_it_starts_from_the_networks_outputs(
    started: DCMH, model: HashModel, data: RetrievalData
) -> None:
    assert model.training, "modes are put back"
    with torch.no_grad():
        f = model.eval().logits("image", data.inputs("image", data.split.train))
        g = model.logits("text", data.inputs("text", data.split.train))
    torch.testing.assert_close(started.buffers["image"], f, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(started.buffers["text"], g, rtol=1e-4, atol=1e-5)
    assert torch.equal(started.buffers["codes"], binarize(f + g).float())


@pytest.mark.parametrize("modality", ["image", "text"])
def test_gradients_reach_the_encoder_of_the_phase_only(
    started: DCMH, model: HashModel, data: RetrievalData, modality: Modality
) -> None:
    batch = torch.arange(16)
    started.buffers[modality].fill_(7)
    before = {m: v.clone() for m, v in started.buffers.items()}
    loss = started.loss(model, step_of(data, modality, batch))
    loss.backward()
    other = "text" if modality == "image" else "image"
    assert all(p.grad is not None for p in model.encoder(modality).parameters())
    assert all(p.grad is None for p in model.encoder(other).parameters())
    changed = (started.buffers[modality] != before[modality]).any(1)
    assert changed[:16].any() and not changed[16:].any(), "only the batch enters the buffer"
    assert torch.equal(started.buffers[other], before[other])
    assert not started.buffers[modality].requires_grad


def test_the_batch_loss_is_the_loss_over_all_training_items(started: DCMH) -> None:
    """Over the whole training set as one batch, nothing is left as `rest`."""
    every = torch.arange(48)
    f = started.buffers["image"].clone()
    similar = (started.labels @ started.labels.T > 0).float()
    expected = dcmh_loss(
        f,
        started.buffers["text"],
        similar,
        codes=started.buffers["codes"],
        rest=torch.zeros(16),
        eta=1e-3,
    )
    torch.testing.assert_close(started.penalty("image", every, f), expected)


def test_codes_follow_the_sum_at_the_end_of_an_epoch(started: DCMH) -> None:
    started.buffers["image"] = torch.full((48, 16), -2.0)
    started.buffers["text"] = torch.full((48, 16), 2.0)
    before = started.buffers["codes"].clone()
    assert torch.equal(started.buffers["codes"], before)
    started.end_epoch()
    assert (started.buffers["codes"] == 1).all(), "a sum of 0 is +1"


def test_the_tanh_head_works_on_relaxed_codes(model: HashModel, data: RetrievalData) -> None:
    objective = DCMH(tanh_head=True)
    objective.start(model, data, data.split.train)
    assert objective.buffers["image"].abs().max() <= 1


def test_negative_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match="eta must be at least 0, got -1"):
        DCMH(eta=-1)
