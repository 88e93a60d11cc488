"""EQB2A: the numbers of its specification, its losses by loops, its promises."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import step_of
from torch import Tensor, nn

from hamward.artifacts import read_tensors
from hamward.attacks import EQB2A, encode, own_code_goal
from hamward.attacks.eqb2a import RankTuples, eqb2a_official, eqb2a_pgd
from hamward.attacks.eqb2a_generators import (
    Discriminator,
    Generators,
    ImageGenerator,
    PerturbationGenerator,
    QueryLog,
    Supervisor,
    alienation,
    binary_gap,
    normalized_distance,
    rank_hinge,
)
from hamward.data import RetrievalData
from hamward.errors import AccessError, ConfigError, QueryLimitError
from hamward.index import HammingIndex
from hamward.models import HashModel, QueryLedger, Victim, load_model
from hamward.progress import SILENT

SMALL: dict[str, Any] = {
    "queries": 40,
    "image_network": "tiny-resnet",
    "epochs": 8,
    "perturbation_epochs": 1,
    "generator_epochs": 1,
    "code_length": 16,
}


@pytest.fixture
def victim(model: HashModel, data: RetrievalData) -> Victim:
    codes = encode(model, data, "text", data.split.database)
    return Victim(model=model, access="ranks", index=HammingIndex.build(codes))


def test_ranking_loss_has_the_values_of_the_specification() -> None:
    better, worse = torch.tensor([0.2, 0.5]), torch.tensor([0.6, 0.4])
    loss = rank_hinge(better, worse, torch.tensor([4, 1]))
    assert loss.tolist() == pytest.approx([0.0, 0.2])


def test_distance_and_alienation_by_hand() -> None:
    h = torch.tensor([[1.0, -1.0, 0.5, 1.0]])
    near = torch.tensor([[[1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, -1.0, -1.0]]])
    # <h, t> = 3.5 and -3.5: dn = (1 - .875) / 2 = .0625 and .9375
    assert normalized_distance(h, near[:, 0]).tolist() == [0.0625]
    assert normalized_distance(h, near[:, 1]).tolist() == [0.9375]
    assert alienation(h, near, apart=0.8).tolist() == pytest.approx([0.8 - 0.0625])
    assert alienation(h, near, apart=0.95).tolist() == pytest.approx([0.8875 + 0.0125])
    assert float(binary_gap(h)) == pytest.approx(0.25 / 4)


def size(network: nn.Module) -> float:
    """Parameters in millions; normalized weights count once."""
    return sum(p.numel() for p in network.parameters()) / 1e6


def test_networks_have_the_published_sizes_at_side_224() -> None:
    with torch.device("meta"):
        networks = (
            PerturbationGenerator(),
            Supervisor(224, 32),
            ImageGenerator(),
        )
    assert [round(size(n), 1) for n in networks[1:]] == [158.9, 8.4]
    assert round(size(networks[0]), 2) == 0.05
    assert round(size(Discriminator(224)), 1) == 11.2


@pytest.mark.parametrize("side", [16, 64])
def test_networks_fit_other_sides(side: int) -> None:
    nets = Generators(side, 24, eps=0.1).eval()
    x = torch.linspace(0, 1, 2 * 3 * side * side).view(2, 3, side, side)
    perturbation = nets.perturb(2 * x - 1)
    assert perturbation.shape == x.shape and perturbation.min() >= 0
    assert nets.supervise(perturbation).shape == (2, 24)
    assert nets.judge(x).shape == (2,)
    assert nets(x).shape == x.shape and (nets(x) - x).abs().max() <= 0.1 + 1e-6
    with pytest.raises(ConfigError, match="multiple of 4 from 8, got 18"):
        Generators(18, 24, eps=None)


def test_stage_a_is_what_loops_say(victim: Victim, data: RetrievalData) -> None:
    surrogate = victim.model.eval()
    lists = torch.stack([torch.arange(72).roll(5 * i) for i in range(48)])
    objective = RankTuples(lists, 72)
    objective.start(surrogate, data, data.split.train)
    rows = torch.tensor([3, 11, 30])
    step = step_of(data, "image", rows)
    with torch.no_grad():
        loss = float(objective.loss(surrogate, step))
        images = surrogate.relaxed("image", step.items["image"])
        shown = lists[rows][:, [0, 17, 35, 53, 71]]
        texts = surrogate.relaxed(
            "text", data.inputs("text", data.split.database[shown.flatten().numpy()])
        ).view(3, 5, 16)

    def dn(a: Tensor, b: Tensor) -> float:
        return (1 - float(a @ b) / 16) / 2

    forth = [
        max(0.0, (dn(images[i], texts[i, a]) - dn(images[i], texts[i, b])) / (b - a) + 0.1)
        for i in range(3)
        for a in range(5)
        for b in range(a + 1, 5)
    ]
    back = []
    for text, item in zip(texts.view(15, 16), shown.flatten().tolist(), strict=True):
        standing = [lists[int(r)].tolist().index(item) / (71 / 4) for r in rows]
        for i in range(3):
            for j in range(3):
                gap = round(standing[j] - standing[i])
                if gap >= 1:
                    back.append(max(0.0, (dn(text, images[i]) - dn(text, images[j])) / gap + 0.1))
    expected = sum(forth) / len(forth) + sum(back) / len(back)
    for codes in (images, texts.view(15, 16)):
        expected += 0.01 * float(codes.sum(0).square().sum()) / codes.numel()
        expected += 0.001 * float(binary_gap(codes))
    assert loss == pytest.approx(expected, rel=1e-3)


def test_one_log_of_m_pictures_serves_all_stages(
    victim: Victim, data: RetrievalData, tmp_path: Path
) -> None:
    options = EQB2A(**SMALL)
    attack = options.fit(victim, data, "image", seed=0)
    assert (victim.ledger.image, victim.ledger.text) == (40, 0) and options.query_limit == 40
    assert attack.nets is not None
    attack.save(tmp_path)
    again = Generators(16, 16, eps=8 / 255)
    again.load_state_dict(read_tensors(tmp_path / "generators.safetensors"))
    x = data.inputs("image", data.split.query[:2])
    assert torch.equal(again.eval()(x), attack.nets.eval()(x))
    assert load_model(tmp_path)[0].code_length == 16
    short = Victim(
        model=victim.model, access="ranks", index=victim.index, ledger=QueryLedger(limit=39)
    )
    with pytest.raises(QueryLimitError):
        options.fit(short, data, "image", seed=0)
    assert short.ledger.total == 0


def test_training_alienates_and_the_judge_moves(victim: Victim, data: RetrievalData) -> None:
    """Stage C lowers its own loss, stage B moves its two networks and nothing else."""
    torch.manual_seed(0)
    model = victim.model.eval().requires_grad_(False)
    assert victim.index is not None
    lists = victim.index.search(encode(model, data, "image", data.split.train), 72)[1]
    with torch.no_grad():
        database = model.relaxed("text", data.inputs("text", data.split.database))
    log = QueryLog(data=data, positions=data.split.train[:24], lists=lists[:24], database=database)
    nets = Generators(16, 16, eps=16 / 255)
    rows = torch.arange(24)
    like = database

    def apart() -> float:
        x = log.pictures(rows, like)
        with torch.no_grad():
            codes = model.relaxed("image", nets.eval()(x))
        return float(alienation(codes, log.near(rows, like), apart=0.8).mean())

    def weights(part: nn.Module) -> Tensor:
        return torch.cat([p.detach().flatten() for p in part.parameters()]).clone()

    before = {name: weights(part) for name, part in nets.named_children()}
    nets.train_perturbations(log, 1, seed=0, progress=SILENT)
    moved = {n for n, p in nets.named_children() if not torch.equal(weights(p), before[n])}
    assert moved == {"perturb", "supervise"}
    start, perturb = apart(), weights(nets.perturb)
    nets.train_images(log, model, 6, seed=0, progress=SILENT)
    assert apart() < start - 0.1
    assert torch.equal(weights(nets.perturb), perturb), "the perturbation generator is fixed"
    assert not torch.equal(weights(nets.judge), before["judge"])


def test_pgd_leaves_the_near_texts_of_the_surrogate(victim: Victim, data: RetrievalData) -> None:
    attack = eqb2a_pgd(
        queries=40, image_network="tiny-resnet", epochs=8, code_length=16, steps=10
    ).fit(victim, data, "image", seed=0)
    positions = data.split.query[:8]
    goal = own_code_goal(attack, victim, data, "image", positions)
    x, ids = data.inputs("image", positions), torch.tensor(data.ids[positions])
    x_adv = attack(victim, x, goal, ids=ids, seed=0)
    model = attack.model.eval()
    assert attack.nets is None
    with torch.no_grad():
        codes = encode(model, data, "image", positions).float()
        order = (codes @ torch.where(attack.database >= 0, 1.0, -1.0).T).argsort(
            dim=1, descending=True, stable=True
        )
        near = attack.database[order[:, :5]]
        before, after = (alienation(model.relaxed("image", t), near, apart=0.8) for t in (x, x_adv))
    assert (after < before).all()


def test_presets_are_those_of_the_released_code() -> None:
    official = eqb2a_official()
    assert (official.queries, official.head, official.eps) == (2000, "published", 1.0)
    assert (official.epochs, official.perturbation_epochs, official.generator_epochs) == (
        20,
        20,
        100,
    )


def test_what_does_not_fit_is_refused(victim: Victim, data: RetrievalData) -> None:
    options = EQB2A(**SMALL)
    with pytest.raises(ConfigError, match="pictures only"):
        options.fit(victim, data, "text", seed=0)
    with pytest.raises(ConfigError, match="at least 5 items, got 4"):
        EQB2A(**SMALL, top_k=4).fit(victim, data, "image", seed=0)
    with pytest.raises(AccessError, match="index"):
        options.fit(Victim(model=victim.model, access="ranks"), data, "image", seed=0)
    with pytest.raises(ConfigError, match="generator_epochs"):
        EQB2A(generator_epochs=0)
    assert victim.ledger.total == 0
