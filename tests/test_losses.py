import math

import pytest
import torch
from torch.nn import functional as F

from hamward.codes import binarize
from hamward.losses import (
    auto_temperature,
    pairwise_likelihood,
    prototype_contrast,
    quantization,
    reverse_gradient,
    soft_average_precision,
)


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_pairwise_likelihood_by_hand() -> None:
    value = pairwise_likelihood(rows([0, 0, 2, 2]), rows([0, 1, 0, 1]))
    ln2, softplus2 = math.log(2), math.log(1 + math.exp(2))
    torch.testing.assert_close(value, rows([ln2, ln2, softplus2, softplus2 - 2]))


def test_pairwise_likelihood_is_cross_entropy_and_stable() -> None:
    theta = rows([-1e4, -30, -1, 0, 1, 30, 1e4])
    for s in (0.0, 1.0):
        target = torch.full_like(theta, s)
        theta.requires_grad_(True)
        value = pairwise_likelihood(theta, target)
        expected = F.binary_cross_entropy_with_logits(theta, target, reduction="none")
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-8)
        (gradient,) = torch.autograd.grad(value.sum(), theta)
        torch.testing.assert_close(gradient, torch.sigmoid(theta) - s, rtol=0, atol=1e-8)
    single = pairwise_likelihood(torch.tensor([[1e4, -1e4]]), torch.tensor([[1.0, 0.0]]))
    assert single.tolist() == [[0.0, 0.0]]


def test_auto_temperature_by_hand() -> None:
    """|u| = 1, 2, 3, median 2 (the lower of the middle two if even): tanh(.5), tanh(1), ..."""
    anchor = torch.tensor([[1, 1, -1]], dtype=torch.int8)
    expected = math.tanh(0.5) - math.tanh(1.0) - math.tanh(1.5)
    value = auto_temperature(rows([1, -2, 3]), anchor)
    torch.testing.assert_close(value, torch.tensor([expected], dtype=torch.float64))


def test_auto_temperature_does_not_see_any_rescaling() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 16, generator=generator, dtype=torch.float64)
    anchor = binarize(torch.randn(5, 16, generator=generator))
    expected = auto_temperature(logits, anchor)
    scales = torch.tensor([1e-12, 0.3, 1.0, 64.0, 1e12], dtype=torch.float64)
    for scale in (64.0, scales[:, None]):
        torch.testing.assert_close(auto_temperature(logits * scale, anchor), expected)
    scaled = (logits * 64).requires_grad_(True)
    (gradient,) = torch.autograd.grad(auto_temperature(scaled, anchor).sum(), scaled)
    assert gradient.abs().min() > 1e-6, "tanh(64 u) would have no gradient"


def test_auto_temperature_counts_bits() -> None:
    logits = rows([9, 9, 9, 9])
    anchor = torch.tensor([[1, 1, 1, -1]], dtype=torch.int8)
    value = float(auto_temperature(logits, anchor))
    assert value == pytest.approx(2 * math.tanh(1))
    assert float(auto_temperature(logits, binarize(logits))) > value


@pytest.mark.parametrize("values", [[0, 0, 0, 0], [0, 0, 0, 5], [0, 0, 1e30, -1e30]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_auto_temperature_copes_with_zeros(values: list[float], dtype: torch.dtype) -> None:
    logits = torch.tensor([values], dtype=dtype, requires_grad=True)
    value = auto_temperature(logits, binarize(logits.detach()))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert torch.isfinite(value).all()
    assert torch.isfinite(gradient).all() and gradient.abs().max() <= 1
    assert gradient.any()
    again = auto_temperature(logits * 64, binarize(logits.detach()))
    torch.testing.assert_close(again, value)


def test_quantization_by_hand() -> None:
    codes = torch.tensor([[1, -1], [1, 1]], dtype=torch.int8)
    assert quantization(rows([0.5, -1], [3, 0]), codes).tolist() == [0.25, 5.0]


def test_soft_average_precision_by_hand() -> None:
    """K = 2, distances 0, 1, 1, 2 with relevant items at 0 and 1."""
    query = torch.tensor([[1.0, 1.0]]).double()
    codes = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]]).to(torch.int8)
    relevant = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).double()
    first = 1 * (0 + 1 + 1) / (0 + 1 + 1)
    second = 1 * (1 + 2 + 1) / (1 + 3 + 1)
    value = soft_average_precision(query, codes, relevant)
    assert float(value) == pytest.approx((first + second) / 2)
    between = torch.tensor([[1.0, 0.5]]).double().requires_grad_(True)
    soft_average_precision(between, codes, relevant).sum().backward()
    assert between.grad is not None and between.grad.any()
    assert float(soft_average_precision(query, codes, relevant * 0)) == 0


@pytest.mark.parametrize("coefficient", [0.0, 1.0, 0.25, -1.0])
def test_a_reversed_gradient_changes_sign_and_size_only(coefficient: float) -> None:
    """y = 3 x, gradient 3: -3 c before the reversal, +3 after it; values stay to the bit."""
    x = rows([0.1, -2]).requires_grad_(True)
    y = reverse_gradient(x, coefficient)
    assert torch.equal(y, x) and y.dtype == x.dtype
    weight = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    (weight * y).sum().backward()
    assert x.grad is not None and weight.grad is not None
    assert x.grad.tolist() == [[-3 * coefficient, -3 * coefficient]]
    assert float(weight.grad) == pytest.approx(-1.9)
    assert not reverse_gradient(x.detach(), coefficient).requires_grad


ANCHORS = rows([1, -1, 1, -1], [1, 1, -1, -1], [-1, 1, 1, 1])
RELAXED = rows([0.9, -0.5, 0.2, -0.8], [-0.1, 0.4, 0.7, 0.6])
OWN = rows([1, 0, 0], [0, 1, 1])


def test_prototype_contrast_has_the_values_of_the_released_code() -> None:
    benign = prototype_contrast(RELAXED, ANCHORS, OWN, far=1 - OWN)
    attack = prototype_contrast(RELAXED, ANCHORS, 1 - OWN, far=OWN)
    assert float(benign.mean()) == pytest.approx(0.0783440, abs=1e-7)
    assert float(attack.mean()) == pytest.approx(6.3777657, abs=1e-6)
    masks = prototype_contrast(RELAXED, ANCHORS.to(torch.int8), OWN == 1, far=OWN == 0)
    assert torch.equal(masks, benign)


def test_prototype_contrast_equals_a_naive_loop() -> None:
    for near, far in ((OWN, 1 - OWN), (1 - OWN, OWN), (OWN, torch.ones(2, 3).double())):
        value = prototype_contrast(RELAXED, ANCHORS, near, far=far, tau=5.0)
        for i in range(2):
            pull, push, count = 0.0, 0.0, 0
            for j in range(3):
                inner = sum(float(RELAXED[i, k] * ANCHORS[j, k]) for k in range(4))
                similarity = -(4 - inner) / 2
                if near[i, j]:
                    pull, count = pull + similarity, count + 1
                if far[i, j]:
                    push += math.exp(5.0 * similarity / 4)
            pull = math.exp(5.0 / (4 * (count + 1e-5)) * pull)
            assert float(value[i]) == pytest.approx(-math.log(pull / (pull + push)), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prototype_contrast_without_far_or_near_classes_stays_finite(dtype: torch.dtype) -> None:
    relaxed = RELAXED[:1].to(dtype).requires_grad_(True)
    every, no = torch.ones(1, 3, dtype=dtype), torch.zeros(1, 3, dtype=dtype)
    value = prototype_contrast(relaxed, ANCHORS.to(dtype), every, far=no)
    (gradient,) = torch.autograd.grad(value.sum(), relaxed)
    assert float(value.detach()) == 0 and not gradient.any()
    value = prototype_contrast(relaxed, ANCHORS.to(dtype), no, far=every)
    inner = (RELAXED[:1] @ ANCHORS.T)[0]
    expected = math.log1p(sum(math.exp(20 * (float(v) - 4) / 8) for v in inner))
    assert float(value.detach()) == pytest.approx(expected, rel=1e-5)
    hot = prototype_contrast(relaxed, ANCHORS.to(dtype), no, far=every, tau=1e6)
    assert torch.isfinite(hot).all()
