"""SSAH's losses by hand and by loop, who moves in which pass, and a game that is played."""

import dataclasses
import math

import pytest
import torch
from tiny import SPEC, make_model, step_of
from torch import nn

from hamward.codes import binarize
from hamward.data import RetrievalData
from hamward.errors import ConfigError, DataError
from hamward.models import HashModel
from hamward.training import SSAH, Phase
from hamward.training.ssah import LabelNetwork, discriminator_loss, semantic_likelihood
from hamward.types import MODALITIES, Modality

BATCH = torch.arange(16)


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are compared: no bf16."""
    monkeypatch.setattr("hamward.models.hash_model.bf16_supported", lambda device: False)


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def nll(x: float, s: float) -> float:
    return math.log(1 + math.exp(x)) - s * x


def test_the_likelihood_by_hand() -> None:
    """F = (1, -1); F^l = (2, 0), (0, 4), so x = 1, -2; S = 1, 0."""
    value = semantic_likelihood(rows([1, -1]), rows([2, 0], [0, 4]), rows([1, 0]))
    expected = (math.log(1 + math.e) - 1 + math.log(1 + math.exp(-2))) / 2
    assert float(value) == pytest.approx(expected)


class Sum(nn.Module):
    """A discriminator whose logit is a multiple of the sum of the features."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x.sum(1, keepdim=True)


@pytest.mark.parametrize("reversal", [1.0, 0.5, 0.0, -1.0])
def test_the_game_by_hand(reversal: float) -> None:
    """Logits: label features 2, picture's -1. d/d(features) of log(1 + e^-1) / 2, reversed."""
    network = Sum()
    semantic, features = rows([1.5, 0.5]).requires_grad_(), rows([0, -1]).requires_grad_()
    value = discriminator_loss(network, semantic, features, reversal=reversal)
    assert float(value.detach()) == pytest.approx(
        (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2
    )
    value.backward()
    assert semantic.grad is None, "the label network leads and does not play"
    slope = 0.5 / (1 + math.e)
    assert features.grad is not None and network.weight.grad is not None
    assert features.grad.tolist() == [pytest.approx([-reversal * slope] * 2)]
    assert float(network.weight.grad) == pytest.approx(-1 / (1 + math.exp(2)) - slope)


@pytest.fixture
def necked() -> HashModel:
    return make_model(spec=dataclasses.replace(SPEC, neck=(24,)))


def started(model: HashModel, data: RetrievalData, **options: float) -> SSAH:
    objective = SSAH(**options)  # type: ignore[arg-type]
    torch.manual_seed(0)
    objective.start(model, data, data.split.train)
    return objective


@pytest.mark.parametrize("phase", ["label", "image", "text"])
def test_the_loss_of_each_pass_equals_a_double_loop(
    necked: HashModel, data: RetrievalData, phase: Phase
) -> None:
    weights = {"alpha": 0.5, "gamma": 2.0, "eta": 0.25, "beta": 3.0}
    objective = started(necked.eval(), data, **weights)
    objective.modules.eval()
    step = step_of(data, phase, BATCH)
    expected = 0.0
    with torch.no_grad():
        if phase == "label":
            features, logits, predicted = objective.modules["label"](objective.labels[BATCH])
        else:
            features = necked.features(phase, step.items[phase], low_precision=True)
            logits = necked.encoder(phase).head(features)
            predicted = objective.modules[f"{phase}_labels"](features)
            judge = objective.modules[f"{phase}_discriminator"]
            for own in range(16):
                true = float(judge(objective.buffers["features"][own]))
                made = float(judge(features[own]))
                expected += (nll(true, 1) + nll(made, 0)) / 32
    codes = torch.tanh(logits)
    value = float(objective.loss(necked, step).detach())
    for i in range(16):
        for j in range(48):
            similar = float(any(a and b for a, b in zip(*objective.labels[[i, j]], strict=True)))
            delta = 0.5 * float(features[i] @ objective.buffers["features"][j])
            gamma = 0.5 * float(codes[i] @ objective.buffers["label"][j])
            expected += (0.5 * nll(delta, similar) + 2.0 * nll(gamma, similar)) / (16 * 48)
        for k in range(16):
            expected += 0.25 * float(codes[i, k] - objective.buffers["codes"][i, k]) ** 2 / 16
        for c in range(4):
            share = 1 / (1 + math.exp(-float(predicted[i, c])))
            expected += 3.0 * (share - float(objective.labels[i, c])) ** 2 / 16
    assert value == pytest.approx(expected, rel=1e-4)


GAME = {"alpha": 0.0, "gamma": 0.0, "eta": 0.0, "beta": 0.0}


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_game_reaches_the_whole_encoder_and_flips_with_the_reversal(
    necked: HashModel, data: RetrievalData, modality: Modality
) -> None:
    found: dict[float, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
    for reversal in (1.0, 2.0, 0.0):
        model = make_model(spec=necked.spec).eval()
        objective = started(model, data, reversal=reversal, **GAME)
        if reversal == 0.0:
            objective.reversal = -1.0  # not offered to users: the game turned into a helper
        objective.loss(model, step_of(data, modality, BATCH)).backward()
        encoder = model.encoder(modality)
        body = [*encoder.trunk.parameters(), *encoder.neck.parameters()]
        judge = objective.modules[f"{modality}_discriminator"]
        found[reversal] = (
            [p.grad for p in body if p.grad is not None],
            [p.grad for p in judge.parameters() if p.grad is not None],
        )
        assert len(found[reversal][0]) == len(body)
        assert sum(float(g.abs().sum()) for g in found[reversal][0]) > 0
    for once, twice, helped in zip(*(found[r][0] for r in (1.0, 2.0, 0.0)), strict=True):
        size = float(once.abs().max())
        torch.testing.assert_close(twice, 2 * once, rtol=1e-3, atol=1e-3 * size + 1e-12)
        torch.testing.assert_close(helped, -once, rtol=1e-3, atol=1e-3 * size + 1e-12)
    for once, twice in zip(found[1.0][1], found[2.0][1], strict=True):
        assert torch.equal(once, twice), "the discriminator learns at its own pace"


def test_without_reversal_the_discriminator_learns_and_moves_nobody(
    necked: HashModel, data: RetrievalData
) -> None:
    objective = started(necked.eval(), data, reversal=0.0, **GAME)
    judge = objective.modules["text_discriminator"]
    optimizer = torch.optim.Adam(judge.parameters(), 1e-3)
    step, losses = step_of(data, "text", BATCH), []
    for _ in range(30):
        loss = objective.loss(necked, step)
        optimizer.zero_grad()
        loss.backward()
        assert not any(p.grad.any() for p in necked.parameters() if p.grad is not None)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(math.log(2), abs=0.1)
    assert losses[-1] < 0.1


@pytest.mark.parametrize("phase", ["label", "image", "text"])
def test_each_pass_moves_its_own_parts_only(
    necked: HashModel, data: RetrievalData, phase: Phase
) -> None:
    objective = started(necked.train(), data)
    objective.modules.train()
    before = {k: v.clone() for k, v in objective.modules.state_dict().items()}
    objective.loss(necked, step_of(data, phase, BATCH)).backward()
    moving = {f"modules.{phase}." if phase == "label" else f"modules.{phase}_"}
    moving |= set() if phase == "label" else {f"encoders.{phase}."}
    parts = dict(necked.named_parameters())
    parts |= {f"modules.{k}": v for k, v in objective.modules.named_parameters()}
    for name, parameter in parts.items():
        assert (parameter.grad is not None) == name.startswith(tuple(moving)), name
        assert parameter.requires_grad, name
    if phase != "label":
        after = objective.modules.state_dict()
        assert all(torch.equal(v, after[k]) for k, v in before.items()), "statistics stay too"


def test_the_label_network_leads_with_what_it_says_after_its_passes(
    necked: HashModel, data: RetrievalData
) -> None:
    objective = started(necked, data)
    assert objective.phases == ("label", "label", "image", "text")
    network = objective.modules["label"].train()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(3):
        objective.loss(necked, step_of(data, "label", BATCH)).backward()
        optimizer.step()
    assert not objective.buffers["features"].requires_grad
    objective.loss(necked, step_of(data, "image", BATCH))
    assert network.training
    network.eval()
    features, logits, _ = network(objective.labels)
    torch.testing.assert_close(objective.buffers["features"], features.detach())
    torch.testing.assert_close(objective.buffers["label"], torch.tanh(logits).detach())
    kept = objective.buffers["features"]
    objective.loss(necked, step_of(data, "text", BATCH))
    assert objective.buffers["features"] is kept, "once an epoch"


def test_it_starts_from_what_the_networks_say(necked: HashModel, data: RetrievalData) -> None:
    objective = started(necked.train(), data)
    assert necked.training
    with torch.no_grad():
        for modality in MODALITIES:
            h = necked.eval().relaxed(modality, data.inputs(modality, data.split.train))
            torch.testing.assert_close(objective.buffers[modality], h, rtol=1e-4, atol=1e-5)
    total = sum(objective.buffers[name] for name in ("image", "text", "label"))
    assert torch.equal(objective.buffers["codes"], binarize(total).float())


def test_codes_follow_the_sum_of_three() -> None:
    objective = SSAH()
    objective.buffers = {
        "image": torch.tensor([[0.5, -0.5, 0.2]]),
        "text": torch.tensor([[0.2, -0.2, -0.1]]),
        "label": torch.tensor([[-0.8, 0.8, -0.1]]),
    }
    objective.end_epoch()
    assert objective.buffers["codes"].tolist() == [[-1, 1, 1]], "a sum of 0 is +1"


def test_only_the_batch_enters_the_buffers(necked: HashModel, data: RetrievalData) -> None:
    objective = started(necked, data)
    for phase in ("label", "image", "text"):
        objective.buffers[phase].fill_(7)
    objective._stale = False
    for phase in ("image", "text", "label"):
        objective.loss(necked, step_of(data, phase, BATCH))
        assert objective.buffers[phase][:16].abs().max() <= 1
        assert (objective.buffers[phase][16:] == 7).all()
        assert not objective.buffers[phase].requires_grad


def test_the_label_network_has_the_published_layers() -> None:
    network = LabelNetwork(24, features=512, code_length=32).eval()
    shapes = [tuple(m.weight.shape) for m in network.modules() if isinstance(m, nn.Linear)]
    assert shapes == [(4096, 24), (512, 4096), (32, 512), (24, 512)]
    features, logits, labels = network(torch.eye(24))
    assert [tuple(x.shape) for x in (features, logits, labels)] == [(24, 512), (24, 32), (24, 24)]
    assert features.min() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "ssah: beta must be at least 0, got -1"),
        ({"reversal": -0.5}, "reversal must be at least 0"),
        ({"label_passes": 0}, "label_passes must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SSAH(**options)  # type: ignore[arg-type]


def test_what_it_cannot_train_is_refused(
    model: HashModel, necked: HashModel, data: RetrievalData
) -> None:
    with pytest.raises(ConfigError, match=r"'image': 64, 'text': 32.*model.neck = \[512\]"):
        SSAH().start(model, data, data.split.train)
    alone = make_model(spec=dataclasses.replace(necked.spec, image_network=""))
    with pytest.raises(ConfigError, match="no image network"):
        SSAH().start(alone, data, data.split.train)
    red = data.split.train[data.labels[data.split.train, 0] == 1]
    with pytest.raises(DataError, match="all share one"):
        SSAH().start(necked, data, red)
