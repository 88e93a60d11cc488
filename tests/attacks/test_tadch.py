"""TA-DCH: published sizes and schedule, the choice of target texts, a training that works."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hamward.artifacts import read_tensors, write_tensors
from hamward.attacks import (
    ATTACKS,
    Attack,
    Goal,
    TrainableAttack,
    craft,
    encode,
    encode_items,
    own_code_goal,
)
from hamward.attacks.generative import FittedGenerator
from hamward.attacks.generator_training import linear_decay
from hamward.attacks.prosgan import ProSGAN
from hamward.attacks.prosgan_networks import Discriminator
from hamward.attacks.tadch import (
    TADCH,
    _item_batches,
    closest_rows,
    tadch_published,
)
from hamward.attacks.tadch_networks import AttentionFusion, TargetGenerator, TargetPrototypeNet
from hamward.config import from_mapping, to_mapping
from hamward.data import RetrievalData
from hamward.errors import AccessError, ArtifactError, ConfigError, ShapeError
from hamward.metrics import distance_counts, mean_average_precision
from hamward.models import HashModel, QueryLedger, Victim
from hamward.random import seeded

SMALL = TADCH(
    eps=64 / 255,
    prototype_epochs=60,
    prototype_rate=2e-4,
    hidden=64,
    epochs=24,
    decay_epochs=8,
    batch_size=12,
    learning_rate=5e-3,
    width=8,
)


@pytest.fixture(scope="module")
def fitted(_trained: HashModel, data: RetrievalData) -> FittedGenerator:
    ledger = QueryLedger()
    victim = Victim(model=copy.deepcopy(_trained), ledger=ledger)
    stream = torch.get_rng_state()
    attack = SMALL.fit(victim, data, "image", seed=1)
    assert torch.equal(stream, torch.get_rng_state())
    assert (ledger.image, ledger.text) == (24 * len(data.split.train), 0)
    return attack


def goal_of(attack: Attack, victim: Victim, data: RetrievalData) -> tuple[Tensor, Goal, Tensor]:
    """Queries and a target of one label that none of them has."""
    positions = data.split.query
    own = data.label(positions)
    target = torch.roll(torch.eye(4)[own.argmax(1)], 1, 1)
    target = torch.where((target * own).sum(1, keepdim=True) > 0, torch.roll(target, 1, 1), target)
    goal = own_code_goal(attack, victim, data, "image", positions, target_label=target)
    return data.inputs("image", positions), goal, torch.tensor(data.ids[positions])


def test_networks_have_the_published_sizes() -> None:
    """141 M, 8.8 M and 12.4 M parameters with 1,386 words, 24 labels, 32 bits, side 224."""

    def count(net: torch.nn.Module) -> float:
        return round(sum(p.numel() for p in net.parameters()) / 1e6, 1)

    with torch.device("meta"):
        prototypes = TargetPrototypeNet(labels=24, vocabulary=1386, code_length=32, hidden=4096)
        generator = TargetGenerator(image_side=224)
    assert round(count(prototypes)) == 141
    assert count(generator) == 8.8
    assert count(Discriminator(image_side=224, labels=24)) == 12.4


@pytest.mark.parametrize("side", [8, 16, 33, 64])
def test_the_generator_takes_any_side(side: int) -> None:
    x, feature = torch.rand(2, 3, side, side), torch.randn(2, 64, 16, 16)
    with seeded(0):
        generator = TargetGenerator(image_side=side, width=8)
    assert generator(x, feature).shape == x.shape


def test_the_translator_of_side_224_is_the_published_one() -> None:
    with seeded(0):
        layers = TargetGenerator(image_side=224, width=8).translator
        y = torch.randn(1, 64, 16, 16)
    sides = []
    for layer in layers:
        y = layer(y)
        sides.append(y.shape[-1])
    assert sides == [14, 14, 56, 224], "pooling from 14 to 14 changes nothing"


def test_fusion_mixes_and_equals_its_equation() -> None:
    with seeded(0):
        fusion = AttentionFusion().eval()
        label, text = torch.randn(2, 3, 64, 4, 4)

    def weight(part: torch.nn.Module, a: Tensor) -> Tensor:
        mean = a.mean((2, 3), keepdim=True)
        return torch.sigmoid(part.local(a) + part.overall[1](mean))

    w = weight(fusion.first, label + text)
    w2 = weight(fusion.second, w * label + (1 - w) * text)
    fused = fusion(label, text)
    torch.testing.assert_close(fused, w2 * label + (1 - w2) * text)
    assert (fused <= torch.maximum(label, text) + 1e-6).all()
    assert (fused >= torch.minimum(label, text) - 1e-6).all()


def test_the_schedule_is_the_published_one() -> None:
    """Run of the released code: epochs 50, 51, 100 and 150 of 50 + 100."""
    rates = [1e-4 * linear_decay(e - 1, epochs=150, decay_epochs=100) for e in (50, 51, 100, 150)]
    assert rates == pytest.approx([1e-4, 9.90e-5, 5.05e-5, 9.9e-7], rel=1e-2)
    published = tadch_published()
    assert (published.epochs, published.decay_epochs, published.batch_size) == (150, 100, 24)
    assert (published.reconstruction_weight, published.hamming_weight) == (150, 5)
    assert (published.codes_of, published.output, published.eps) == ("own", "picture", None)


def test_no_batch_of_one_and_every_item_once() -> None:
    for items in (1, 64, 65, 130):
        batches = list(_item_batches(items, epochs=1, seed=0))
        assert sorted(torch.cat(batches).tolist()) == list(range(items))
        assert items == 1 or min(map(len, batches)) > 1


def test_target_texts_come_from_the_nearest_labels() -> None:
    known = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]]).float()
    wanted = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1]]).float().repeat(40, 1)
    ids = torch.arange(160)
    chosen = closest_rows(wanted, known, ids=ids, seed=0).view(40, 4)
    assert set(chosen[:, 0].tolist()) == {0, 2}, "equal rows are drawn among"
    assert set(chosen[:, 1].tolist()) == {1} and set(chosen[:, 2].tolist()) == {1}
    assert set(chosen[:, 3].tolist()) == {3}, "1 of 2 labels is nearer than 1 of 3"
    again = closest_rows(wanted.flip(0), known, ids=ids.flip(0), seed=0).flip(0).view(40, 4)
    assert torch.equal(again, chosen)
    assert not torch.equal(closest_rows(wanted, known, ids=ids, seed=1).view(40, 4), chosen)


def test_it_leads_to_the_target_labels(
    fitted: FittedGenerator, model: HashModel, data: RetrievalData
) -> None:
    victim = Victim(model=model)
    x, goal, ids = goal_of(fitted, victim, data)
    database = data.split.database
    texts = encode(model, data, "text", database)

    def score(codes: Tensor) -> float:
        counts = distance_counts(
            codes, texts, query_labels=goal.target_label, database_labels=data.label(database)
        )
        return mean_average_precision(counts).value

    made = craft(fitted, victim, x, goal, ids=ids)
    theory = score(fitted.codes(goal.target_label, ids=ids, seed=0))
    reached = score(encode_items(model, "image", made.stored))
    assert score(goal.anchor) < 0.4 and theory > 0.9
    assert reached > score(goal.anchor) + 0.05


def test_budget_range_dtype_and_batches(
    fitted: FittedGenerator, model64: HashModel, data: RetrievalData
) -> None:
    victim = Victim(model=model64, access="ranks")
    x, goal, ids = goal_of(fitted, victim, data)
    x = x.double()
    whole = fitted(victim, x, goal, ids=ids, seed=0)
    assert whole.dtype == torch.float64 and not whole.requires_grad and victim.ledger.total == 0
    assert whole.min() >= 0 and whole.max() <= 1 and 0 < (whole - x).abs().max() <= 64 / 255 + 1e-9
    order = torch.arange(len(x)).flip(0)
    parts = [
        fitted(victim, x[rows], goal.select(rows), ids=ids[rows], seed=0)
        for rows in torch.split(order, 5)
    ]
    torch.testing.assert_close(torch.cat(parts), whole[order], rtol=0, atol=1e-9)
    none = slice(0, 0)
    assert fitted(victim, x[none], goal.select(none), ids=ids[none], seed=0).shape == x[:0].shape
    still = dataclasses.replace(fitted, eps=0.0)(victim, x, goal, ids=ids, seed=0)
    assert torch.equal(still, x)


def test_save_and_load_give_the_same_pictures(
    fitted: FittedGenerator, model: HashModel, data: RetrievalData, tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    again = FittedGenerator.load(tmp_path, TADCH)
    assert (again.options, again.made, again.eps) == (fitted.options, fitted.made, fitted.eps)
    victim = Victim(model=model)
    x, goal, ids = goal_of(fitted, victim, data)
    expected = fitted(victim, x, goal, ids=ids, seed=2)
    assert torch.equal(again(victim, x, goal, ids=ids, seed=2), expected)
    with pytest.raises(ArtifactError, match="holds the attack 'tadch', expected 'prosgan'"):
        FittedGenerator.load(tmp_path, ProSGAN)
    kept = read_tensors(tmp_path / "attack.safetensors")
    del kept["prototypes/texts"]
    write_tensors(tmp_path / "attack.safetensors", kept)
    with pytest.raises(ArtifactError, match="weights of another prototypes network"):
        FittedGenerator.load(tmp_path, TADCH)


def test_what_it_cannot_do_is_refused(
    fitted: FittedGenerator, model: HashModel, data: RetrievalData
) -> None:
    victim = Victim(model=model)
    x, goal, ids = goal_of(fitted, victim, data)
    with pytest.raises(ShapeError, match="trained for pictures"):
        fitted(victim, x[..., :12, :12], goal, ids=ids, seed=0)
    with pytest.raises(ConfigError, match="needs a target_label"):
        fitted(victim, x, dataclasses.replace(goal, target_label=None), ids=ids, seed=0)
    with pytest.raises(ShapeError, match=r"must be \(n, 4\), got \(24, 3\)"):
        fitted.codes(torch.ones(24, 3), ids=ids, seed=0)
    with pytest.raises(ConfigError, match="makes pictures, not 'text'"):
        SMALL.fit(victim, data, "text", seed=0)
    with pytest.raises(AccessError, match="needs access to 'gradients'"):
        SMALL.fit(Victim(model=model, access="codes"), data, "image", seed=0)
    with pytest.raises(ConfigError, match="prototype_epochs must be at least 1"):
        TADCH(prototype_epochs=0)


def test_registered_options_are_trainable_attacks() -> None:
    for name in ("tadch", "tadch-published"):
        options = ATTACKS[name].make()
        assert isinstance(options, TrainableAttack) and not isinstance(options, Attack)
        assert options.access == ATTACKS[name].access and options.targeted
        assert from_mapping(TADCH, to_mapping(options)) == options
