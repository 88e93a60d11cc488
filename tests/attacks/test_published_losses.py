"""The published losses of HAG, SDHA, SAAT, FPAD, THA and RoCMR: by hand, and against loops."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hamward.attacks.fpad import fooled, own_share, reduced_budget
from hamward.attacks.hag import hag_loss
from hamward.attacks.infonce import candidate_loss, query_loss
from hamward.attacks.saat import saat_loss
from hamward.attacks.sdha import sdha_distance
from hamward.attacks.tha import circle_loss


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1


def signs(n: int, k: int, seed: int) -> Tensor:
    return torch.where(random(n, k, seed=seed) > 0, 1.0, -1.0).double()


def logistic(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def test_hag_by_hand() -> None:
    code = torch.tensor([[1, 1, -1, -1]], dtype=torch.int8)
    relaxed = torch.tensor([[0.8, -0.6, -0.4, 0.4]], dtype=torch.float64)
    # |h' - b| = .2, 1.6, .6, 1.4: the second bit is flipped beyond the margin and let go.
    agreement = (0.8 + 0.4 - 0.4) / 3
    balance = ((0.8 - 0.4 + 0.4) / 4) ** 2
    assert float(hag_loss(relaxed, code)) == pytest.approx((agreement + 1) ** 2 + balance)
    assert float(hag_loss(relaxed, code, balance=0)) == pytest.approx((agreement + 1) ** 2)
    gone = torch.tensor([[-0.9, -0.9, 0.9, 0.9]], dtype=torch.float64, requires_grad=True)
    value = hag_loss(gone, code)
    (gradient,) = torch.autograd.grad(value.sum(), gone)
    assert float(value.detach()) == 1 and not gradient.any()


@pytest.mark.parametrize("targeted", [False, True])
def test_sdha_equals_the_loop_over_relevant_items(targeted: bool) -> None:
    relaxed, codes = random(3, 6), signs(8, 6, 2)
    codes[0] = torch.where(relaxed[0] >= 0, 1.0, -1.0)  # an exact hit
    relevant = (random(3, 8, seed=3) > 0).double()
    relevant[0, 0], relevant[2] = 1, 0
    value = sdha_distance(relaxed, codes, relevant, targeted=targeted)
    for i in range(3):
        total, count = 0.0, 0
        for j in range(8):
            if not relevant[i, j]:
                continue
            distance, d = 0.0, 0
            for k in range(6):
                q, r = float(relaxed[i, k]), float(codes[j, k])
                d += (q >= 0) != (r > 0)
                if targeted:
                    distance += abs(q - r) / 2 * logistic(-10 * q * r)
                else:
                    distance += abs(q - r) / 2 * logistic(5 * q * r) + 1 - logistic(5 * q * r)
            total += distance * (d**0.3 if targeted else (d + 1e-8) ** -0.5)
            count += 1
        assert float(value[i]) == pytest.approx(total / max(count, 1), rel=1e-9)


def test_saat_by_hand() -> None:
    mainstay = torch.tensor([[1, 1, -1, -1]], dtype=torch.int8)
    relaxed = torch.tensor([[0.6, -0.4, 0.8, -0.9]], dtype=torch.float64)
    # s = .6, -.4, -.8, .9
    away = (2.6 * 0.6 + 1.6 * -0.4 + 2.9 * 0.9) / 3
    assert float(saat_loss(relaxed, mainstay)) == pytest.approx(away)
    toward = -(1.6 * -0.4 + 1.2 * -0.8) / 2
    assert float(saat_loss(relaxed, mainstay, targeted=True)) == pytest.approx(toward)
    done = -mainstay.double()
    assert float(saat_loss(done, mainstay)) == 0
    assert float(saat_loss(-done, mainstay, targeted=True)) == 0


def test_fpad_adaptive_budget_has_the_values_of_the_released_code() -> None:
    anchors = torch.tensor([[1, -1, 1, -1], [1, 1, -1, -1], [-1, 1, 1, 1]]).double()
    relaxed = torch.tensor([[0.9, -0.5, 0.2, -0.8], [-0.1, 0.4, 0.7, 0.6]]).double()
    own = torch.tensor([[1, 0, 0], [0, 1, 1]]).double()
    share = own_share(relaxed, anchors, own)
    assert float(share.mean()) == pytest.approx(0.433187, abs=1e-6)
    # h.a = [2.4, 1, -2] and [-.4, -1, 1.8]: both nearer to their own on average, flag = 2
    assert fooled(relaxed, anchors, own, 1 - own).tolist() == [False, False]
    assert fooled(relaxed, anchors, 1 - own, own).tolist() == [True, True]
    none = torch.zeros_like(own)
    assert fooled(relaxed, anchors, own, none).tolist() == [False, False], "no foreign classes"


@pytest.mark.parametrize(
    ("share", "modality", "expected"),
    [
        (0.05, "image", (5 / 8, 12)),  # p = .6: ceil(4.8), ceil(12)
        (0.11, "image", (6 / 8, 15)),  # p = .72
        (0.3, "image", (1.0, 20)),
        (0.0, "image", (4 / 8, 10)),
        (0.05, "text", (3 / 5, 12)),  # p = .575: ceil(2.875), ceil(11.5)
        (0.2, "text", (4 / 5, 16)),
        (0.4, "text", (1.0, 20)),
    ],
)
def test_fpad_reduced_budgets_by_hand(
    share: float, modality: str, expected: tuple[float, int]
) -> None:
    assert reduced_budget(share, modality, steps=20) == expected


def test_circle_loss_equals_the_loop_and_copes_without_negatives() -> None:
    relaxed, codes = random(4, 6).requires_grad_(True), signs(9, 6, 5)
    similar = (random(4, 9, seed=6) > 0).double()

    def naive(similar: Tensor) -> float:
        near, far = 0.0, 0.0
        for i in range(4):
            for j in range(9):
                s = float(relaxed[i].detach() @ codes[j]) / 6
                if similar[i, j]:
                    near += math.exp(-max(2 - s, 0) * s)
                else:
                    far += math.exp(max(s + 2, 0) * s)
        pairs = sum(math.log(total) for total in (near, far) if total > 0)
        off = sum((1 - abs(float(p))) ** 2 for p in relaxed.detach().flatten())
        return (pairs + 1e-4 * off) / 4

    for case in (similar, torch.ones_like(similar), torch.zeros_like(similar)):
        value = circle_loss(relaxed, codes, case)
        assert float(value.detach()) == pytest.approx(naive(case), rel=1e-9)
        (gradient,) = torch.autograd.grad(value, relaxed)
        assert torch.isfinite(gradient).all() and gradient.any()


def test_query_loss_is_cross_entropy_with_soft_targets() -> None:
    similarity, similar = 9 * random(5, 7), (random(5, 7, seed=2) > 0).double()
    similar[3] = 0
    seen = torch.ones(5, 7).double()
    value = query_loss(similarity, similar, seen)
    for i in (0, 1, 2, 4):
        target = similar[i] / similar[i].sum()
        assert float(value[i]) == pytest.approx(float(F.cross_entropy(similarity[i], target)))
    assert float(value[3]) == 0
    seen[:, 4:] = 0
    cut = query_loss(similarity[:, :4], similar[:, :4], seen[:, :4])
    torch.testing.assert_close(query_loss(similarity, similar, seen), cut)


def test_candidate_loss_is_the_mean_cross_entropy_of_queries_that_see_the_item() -> None:
    others, related = 9 * random(6, 4, seed=1), (random(6, 4, seed=2) > 0).double()
    related[2] = 0
    similarity, similar = 9 * random(3, 6, seed=3), (random(3, 6, seed=4) > 0).double()
    similar[0, 2], similar[1, 2] = 0, 1
    value = candidate_loss(
        similarity,
        similar,
        base=others.logsumexp(1),
        total=(related * others).sum(1),
        count=related.sum(1),
    )
    for i in range(3):
        total = 0.0
        for j in range(6):
            scores = torch.cat([others[j], similarity[i, j : j + 1]])
            target = torch.cat([related[j], similar[i, j : j + 1]])
            if target.any():
                total += float(F.cross_entropy(scores, target / target.sum()))
        assert float(value[i]) == pytest.approx(total / 6)
