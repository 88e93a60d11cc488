"""FPAD's prototypes: its softmax by the released code's value and by loops, clusters by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from hamward.codes import binarize
from hamward.errors import ConfigError
from hamward.training.prototypes import (
    PrototypeNetwork,
    Separation,
    class_means,
    fuzzy_c_means,
    k_means,
    prototype_code,
    prototype_softmax,
    separation,
)


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


FEATURES = rows([0.9, -0.5, 0.2, -0.8], [-0.1, 0.4, 0.7, 0.6])
PROTOTYPES = rows([0.7, -0.6, 0.5, -0.7], [0.2, 0.7, -0.7, -0.1], [-0.7, 0.3, 0.6, 0.7])
LABELS = rows([1, 0, 0], [0, 1, 1])


def test_prototype_softmax_has_the_value_of_the_released_code() -> None:
    value = prototype_softmax(FEATURES, PROTOTYPES, LABELS)
    assert float(value.sum()) == pytest.approx(3.174427, abs=5e-7)


def test_prototype_softmax_equals_a_naive_loop() -> None:
    labels = rows([1, 0, 1], [1, 1, 1])
    value = prototype_softmax(FEATURES, PROTOTYPES, labels, tau=3.0)
    for i in range(2):
        cosine = [
            float(FEATURES[i] @ p) / (float(FEATURES[i].norm() * p.norm()) + 1e-5)
            for p in PROTOTYPES
        ]
        count, total = int(labels[i].sum()), 0.0
        foreign = sum(math.exp(3 * cosine[k]) for k in range(3) if not labels[i, k])
        for j in range(3):
            if labels[i, j]:
                own = math.exp(3 * cosine[j])
                total -= math.log(own / (own + foreign + count) + 1e-5)
        assert float(value[i]) == pytest.approx(total / (count + 3e-5), rel=1e-9)


def test_prototype_softmax_stays_finite_where_exponentials_do_not() -> None:
    features = FEATURES.float().requires_grad_(True)
    value = prototype_softmax(features, PROTOTYPES.float(), LABELS.float(), tau=500.0)
    (gradient,) = torch.autograd.grad(value.sum(), features)
    assert torch.isfinite(value).all() and torch.isfinite(gradient).all()


def test_class_means_by_hand() -> None:
    means = class_means(rows([1, 0], [3, 4], [5, 8]), rows([1, 0], [1, 1], [0, 1]))
    assert means.tolist() == [[2, 2], [4, 6]]


LINE = rows([0], [1], [2], [10], [11], [12])


def test_k_means_by_hand() -> None:
    """From 0 and 1 the border moves right until each triple is a cluster."""
    centers, hot = k_means(LINE, rows([0], [1]))
    assert centers.tolist() == [[1], [11]]
    assert hot.tolist() == [[1, 0]] * 3 + [[0, 1]] * 3
    once, _ = k_means(LINE, rows([0], [1]), iterations=1)
    assert once.tolist() == [[0], [36 / 5]]


def test_k_means_keeps_to_what_is_allowed_and_survives_empty_clusters() -> None:
    allowed = torch.ones(6, 2, dtype=torch.bool)
    allowed[0, 0] = allowed[5, 1] = False
    centers, hot = k_means(LINE, rows([1], [11]), allowed=allowed)
    assert hot[0].tolist() == [0, 1] and hot[5].tolist() == [1, 0]
    assert centers.tolist() == [[(1 + 2 + 12) / 3], [(0 + 10 + 11) / 3]]
    centers, hot = k_means(LINE, rows([6], [100]))
    assert centers.tolist() == [[6], [100]] and not hot[:, 1].any()


def blobs(width: int, *, apart: float = 8.0) -> tuple[torch.Tensor, torch.Tensor]:
    """60 points around 5 centers, and their one-hot cluster."""
    generator = torch.Generator().manual_seed(3)
    cluster = torch.arange(60) % 5
    centers = apart / math.sqrt(width) * torch.randn(5, width, generator=generator)
    noise = torch.randn(60, width, generator=generator)
    return (centers[cluster] + noise / 4).double(), F.one_hot(cluster, 5).double()


def test_fuzzy_c_means_equals_naive_loops() -> None:
    points, hot = blobs(3)
    u, m = hot.tolist(), 1.7
    for _ in range(3):
        centers = []
        for c in range(5):
            weight = [u[i][c] ** m for i in range(60)]
            centers.append(sum(w * p for w, p in zip(weight, points, strict=True)) / sum(weight))
        for i in range(60):
            far = [float((points[i] - center).norm()) for center in centers]
            u[i] = [1 / sum((a / b) ** (2 / (m - 1)) for b in far) for a in far]
    found = fuzzy_c_means(points, hot, fuzzifier=m, iterations=3)
    torch.testing.assert_close(found.memberships, torch.tensor(u).double(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.centers, torch.stack(centers))
    assert found.fuzzifier == m


def test_the_published_fuzzifier_is_hard_and_the_calibrated_one_is_not() -> None:
    """In 1024 dimensions 1.01 is hard, 1.2 uniform; calibration meets its goal in between."""
    points, hot = blobs(1024, apart=4.0)

    def largest(**options: float) -> float:
        return float(fuzzy_c_means(points, hot, **options).memberships.amax(1).mean())  # type: ignore[arg-type]

    assert largest(fuzzifier=1.01) > 0.997
    assert largest(fuzzifier=2.0) == pytest.approx(1 / 5, abs=0.01)
    assert largest() == pytest.approx(0.7, abs=1e-3)
    assert largest(membership=0.9) == pytest.approx(0.9, abs=1e-3)
    found = fuzzy_c_means(points, hot)
    assert 1.01 < found.fuzzifier < 2.0
    assert torch.equal(found.memberships.argmax(1), torch.arange(60) % 5)


def test_fuzzy_memberships_keep_to_what_is_allowed() -> None:
    points, hot = blobs(8)
    allowed = hot > 0
    allowed[:30, 0] = True
    found = fuzzy_c_means(points, hot, membership=0.8, allowed=allowed)
    free = allowed.sum(1) > 1
    assert 0 < int(free.sum()) < 30
    assert float(found.memberships[free].amax(1).mean()) == pytest.approx(0.8, abs=1e-3)
    assert not found.memberships[~allowed].any()
    torch.testing.assert_close(found.memberships.sum(1), torch.ones(60).double())
    assert (found.memberships[30:].amax(1) == 1).all()
    only = fuzzy_c_means(points, hot, membership=0.7, allowed=hot > 0)
    torch.testing.assert_close(only.centers, class_means(points, hot))


@pytest.fixture
def network() -> PrototypeNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PrototypeNetwork(8, 16).double().eval()


def test_the_prototype_code_by_its_formula(network: PrototypeNetwork) -> None:
    image, joint = PROTOTYPES, torch.cat([PROTOTYPES, -PROTOTYPES], 1)
    text = PROTOTYPES.flip(1)

    def g(x: torch.Tensor) -> torch.Tensor:
        hidden = (x @ network.hidden.weight.T + network.hidden.bias).clamp(min=0)
        return torch.tanh(hidden @ network.head.weight.T + network.head.bias)

    both = torch.cat([image, text], 1)
    both = both / both.square().sum(1, keepdim=True).sqrt()
    code = prototype_code(network, image, text, joint)
    torch.testing.assert_close(code, torch.tanh(0.2 * g(both) + 0.8 * g(joint)))
    assert code.abs().max() <= math.tanh(1)


def test_the_prototype_network_is_drawn_as_published(network: PrototypeNetwork) -> None:
    assert network.hidden.weight.shape == (1024, 8) and network.head.weight.shape == (16, 1024)
    assert float(network.head.weight.detach().std()) == pytest.approx(0.2, abs=0.01)
    assert (network.features(torch.randn(4, 8).double()) >= 0).all()
    x = torch.ones(4, 8).double()
    assert not torch.equal(network.train()(x), network(x)), "dropout while training"


def test_separation_by_hand_and_of_hadamard_rows() -> None:
    codes = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, -1, 1], [1, 1, 1, 1]])
    measured = separation(codes.to(torch.int8))
    assert measured == Separation(smallest=0, mean=5 / 3, constant_bits=1, duplicates=1)
    hadamard = torch.ones(1, 1)
    for _ in range(5):
        hadamard = torch.cat([torch.cat([hadamard, hadamard]), torch.cat([hadamard, -hadamard])], 1)
    assert separation(binarize(hadamard)) == Separation(
        smallest=16, mean=16.0, constant_bits=1, duplicates=0
    )
    with pytest.raises(ConfigError, match="at least two codes, got 1"):
        separation(codes[:1].to(torch.int8))
