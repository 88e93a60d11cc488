"""CMLA's equations on numbers worked by hand, and the choices its presets make."""

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from hamward.attacks import CMLA, Goal, own_code_goal
from hamward.attacks.cmla import cmla_loss, cmla_official
from hamward.codes import binarize
from hamward.config import from_mapping
from hamward.data import RetrievalData
from hamward.errors import ConfigError
from hamward.models import HashModel, Victim


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


H = rows([0.5, -0.25], [1.0, 0.0])
OTHER = rows([1, 1], [-1, 1])  # codes of the other modality
OWN = rows([1, -1], [1, 1])
SIMILAR = rows([1, 0], [0, 1])


def test_the_loss_by_hand() -> None:
    """Gamma = <h, b_other> / 2, Theta = <h, b_own> / 2, mean over the two references."""
    gamma = [[0.125, -0.375], [0.5, -0.5]]
    theta = [[0.375, 0.125], [0.5, 0.5]]
    # J_inter = log(1 + e^-Gamma) + S Gamma; J_intra = log(1 + e^Theta) - S Theta
    first = (
        softplus(-gamma[0][0]) + gamma[0][0] + softplus(theta[0][0]) - theta[0][0]
        + softplus(-gamma[0][1]) + softplus(theta[0][1])
    ) / 2  # fmt: skip
    second = (
        softplus(-gamma[1][0]) + softplus(theta[1][0])
        + softplus(-gamma[1][1]) + gamma[1][1] + softplus(theta[1][1]) - theta[1][1]
    ) / 2  # fmt: skip
    torch.testing.assert_close(
        cmla_loss(H, OTHER, OWN, SIMILAR), torch.tensor([first, second], dtype=torch.float64)
    )


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_inter_is_cross_entropy_with_one_minus_s_and_intra_with_s(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    h = torch.tanh(torch.randn(4, 8, generator=generator, dtype=torch.float64))
    other = binarize(torch.randn(6, 8, generator=generator)).double()
    own = binarize(torch.randn(6, 8, generator=generator)).double()
    similar = (torch.rand(4, 6, generator=generator) < 0.3).double()

    def entropy(codes: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logits = scale * h @ codes.T
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)

    inter, intra = entropy(other, 1 - similar), entropy(own, similar)
    value = cmla_loss(h, other, own, similar, logit_scale=scale)
    torch.testing.assert_close(value, inter + intra)
    weighted = cmla_loss(h, other, own, similar, logit_scale=scale, inter=2.0, intra=0.5)
    torch.testing.assert_close(weighted, 2 * inter + 0.5 * intra)


def test_descending_it_leaves_the_match_and_stays_at_home() -> None:
    h = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    value = cmla_loss(h, rows([1, 0]), rows([0, 1]), rows([1]))
    (gradient,) = torch.autograd.grad(value.sum(), h)
    assert gradient[0, 0] > 0, "away from the similar item of the other modality"
    assert gradient[0, 1] < 0, "toward the similar item of the own modality"
    value = cmla_loss(h, rows([1, 0]), rows([0, 1]), rows([0]))
    (gradient,) = torch.autograd.grad(value.sum(), h)
    assert gradient[0, 0] < 0 and gradient[0, 1] > 0, "and the reverse for dissimilar items"


def test_what_is_not_visible_does_not_count() -> None:
    visible = rows([1, 0], [0, 1])
    value = cmla_loss(H, OTHER, OWN, SIMILAR, visible=visible)
    for item in range(2):
        alone = cmla_loss(
            H[item : item + 1],
            OTHER[item : item + 1],
            OWN[item : item + 1],
            SIMILAR[item : item + 1, item : item + 1],
        )
        torch.testing.assert_close(value[item : item + 1], alone)
    none = cmla_loss(H, OTHER, OWN, SIMILAR, visible=torch.zeros_like(visible))
    assert none.tolist() == [0, 0]


def test_adam_steps_equal_torchs(model64: HashModel, data: RetrievalData) -> None:
    """The hand-written update, clip included, against torch.optim.Adam on one item."""
    victim = Victim(model=model64)
    attack = CMLA(
        eps=0.05, steps=7, learning_rate=0.02, references=24, distance=0.1, relaxation="tanh"
    )
    positions = data.positions("query", "image")[:1]
    goal = own_code_goal(attack, victim, data, "image", positions)
    x = data.inputs("image", positions).double()
    x_adv = attack(victim, x, goal, ids=torch.tensor([0]), seed=0)

    references = goal.references
    assert references is not None and goal.label is not None
    similar = (goal.label @ references.label.T > 0).double()
    noise = torch.zeros_like(x, requires_grad=True)
    optimizer = torch.optim.Adam([noise], lr=0.02)
    with victim.attacked():
        for _ in range(7):
            h = torch.tanh(model64.logits("image", x + noise))
            value = cmla_loss(h, references.text.double(), references.image.double(), similar)
            value = value + 0.1 * 255 * noise.abs().mean()
            optimizer.zero_grad()
            value.sum().backward()
            optimizer.step()
            noise.data = (x + noise.data.clamp(-0.05, 0.05)).clamp(0, 1) - x
    torch.testing.assert_close(x_adv, (x + noise).detach(), rtol=0, atol=1e-9)


def test_the_official_preset_is_the_released_code() -> None:
    attack = cmla_official()
    assert attack.budget("image").eps == 10 / 255 and attack.budget("image").one_sided
    assert attack.budget("text").eps == 0.01 and attack.budget("text").one_sided
    assert (attack.learning_rate, attack.text_learning_rate) == (0.5 / 255, 0.002)
    assert (attack.logit_scale, attack.steps, attack.p) == (1.0, 100, 1)
    assert (attack.inter, attack.intra, attack.distance) == (1, 1, 1)
    assert (attack.relaxation, CMLA().relaxation) == ("tanh", "unit")
    assert attack.reference_group == 128
    assert CMLA().reference_group is None and not CMLA().one_sided and CMLA().logit_scale == 0.5


def attacked(
    attack: CMLA, model: HashModel, data: RetrievalData, change: dict[str, object] | None = None
) -> torch.Tensor:
    victim = Victim(model=model)
    positions = data.positions("query", "image")[:6]
    goal = own_code_goal(attack, victim, data, "image", positions)
    goal = dataclasses.replace(goal, **(change or {}))
    x = data.inputs("image", positions).double()
    return attack(victim, x, goal, ids=torch.arange(6), seed=0) - x


FAST = CMLA(eps=8 / 255, steps=6, learning_rate=4 / 255, references=24, distance=0.01)


def test_the_distance_term_keeps_the_noise_small(model64: HashModel, data: RetrievalData) -> None:
    for p in (1, 2):
        free = attacked(dataclasses.replace(FAST, distance=0.0, p=p), model64, data)
        held = attacked(dataclasses.replace(FAST, distance=30.0, p=p), model64, data)
        assert held.abs().mean() < free.abs().mean()


def test_the_intra_term_weakens_the_attack(model64: HashModel, data: RetrievalData) -> None:
    """As the published ablation shows."""
    x = data.inputs("image", data.positions("query")[:6]).double()

    def flips(attack: CMLA) -> int:
        with torch.no_grad():
            clean = binarize(model64.logits("image", x))
            moved = binarize(model64.logits("image", x + attacked(attack, model64, data)))
        return int((clean != moved).sum())

    strong = dataclasses.replace(FAST, steps=15)
    assert flips(dataclasses.replace(strong, intra=0.0)) > flips(strong)


def test_pseudo_labels_need_no_labels(model64: HashModel, data: RetrievalData) -> None:
    pseudo = dataclasses.replace(FAST, labels="pseudo")
    with_labels = attacked(pseudo, model64, data)
    assert with_labels.any()
    assert torch.equal(attacked(pseudo, model64, data, {"label": None}), with_labels)
    with pytest.raises(ConfigError, match="labels of its items"):
        attacked(FAST, model64, data, {"label": None})
    with pytest.raises(ConfigError, match="needs a goal with references"):
        attacked(pseudo, model64, data, {"references": None})


def test_a_targeted_goal_is_refused(model64: HashModel, data: RetrievalData) -> None:
    with pytest.raises(ConfigError, match="untargeted"):
        attacked(FAST, model64, data, {"toward": True})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p": 3}, "p must be one of .1, 2., got 3"),
        ({"inter": 0.0, "intra": 0.0}, "nothing to attack"),
        ({"relaxation": "sign"}, "relaxation.*'unit'.*'tanh'.*sign"),
        ({"references": 0}, "references must be at least 1, got 0"),
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(CMLA, change)


def test_references_come_from_the_database_or_the_batch(
    model: HashModel, data: RetrievalData
) -> None:
    victim, positions = Victim(model=model), data.positions("query")

    def goal(attack: CMLA, seed: int = 0) -> Goal:
        return own_code_goal(attack, victim, data, "image", positions, seed=seed)

    sampled = goal(CMLA(references=10)).references
    assert sampled is not None and len(sampled.label) == 10 and sampled.group is None
    other = goal(CMLA(references=10), seed=1).references
    assert other is not None and not torch.equal(sampled.label, other.label)
    everything = goal(CMLA(references=512)).references
    assert everything is not None and len(everything.label) == len(data.split.database)
    batch = goal(CMLA(reference="batch"))
    assert batch.references is not None and batch.group is not None
    assert torch.equal(batch.references.label, data.label(positions))
    assert torch.equal(batch.references.image, batch.anchor)
    assert batch.group.tolist() == [0] * len(positions)
