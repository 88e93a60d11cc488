"""ProS-GAN: its losses by hand, its networks by their published sizes, a training that works."""

import copy
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hamward.artifacts import read_json, write_json
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
from hamward.attacks.generator_training import (
    adversarial_loss,
    closeness_loss,
    discriminator_loss,
    linear_decay,
    picture_of,
    reconstruction_loss,
)
from hamward.attacks.prosgan import ProSGAN, prosgan_published
from hamward.attacks.prosgan_networks import Discriminator, Generator
from hamward.attacks.prototypes import (
    PrototypeNet,
    circle,
    prototype_loss,
    step_decay,
    training_codes,
)
from hamward.config import from_mapping, to_mapping
from hamward.data import RetrievalData
from hamward.errors import AccessError, ArtifactError, BudgetError, ConfigError, ShapeError
from hamward.metrics import distance_counts, mean_average_precision
from hamward.models import HashModel, QueryLedger, Victim
from hamward.random import seeded

SMALL = ProSGAN(
    eps=32 / 255,
    prototype_steps=150,
    hidden=64,
    features=32,
    epochs=20,
    decay_epochs=10,
    batch_size=12,
    learning_rate=2e-3,
    width=8,
)
QUICK = dataclasses.replace(SMALL, prototype_steps=5, epochs=1, decay_epochs=0)


@pytest.fixture(scope="module")
def fitted(_trained: HashModel, data: RetrievalData) -> FittedGenerator:
    return SMALL.fit(Victim(model=copy.deepcopy(_trained)), data, "image", seed=1)


def goal_of(attack: Attack, victim: Victim, data: RetrievalData) -> tuple[Tensor, Goal, Tensor]:
    """Queries and a target of one label that none of them has."""
    positions = data.split.query
    own = data.label(positions)
    target = torch.roll(torch.eye(4)[own.argmax(1)], 1, 1)
    target = torch.where((target * own).sum(1, keepdim=True) > 0, torch.roll(target, 1, 1), target)
    assert not (target * own).any()
    goal = own_code_goal(attack, victim, data, "image", positions, target_label=target)
    return data.inputs("image", positions), goal, torch.tensor(data.ids[positions])


def test_prototype_loss_by_hand() -> None:
    """theta = (0, 1/2), S = (1, 0): J1 = (log 2 + log(1 + e^0.5)) / 2; J2 = 1/4; J3 = 1/2."""
    prototypes = torch.tensor([[0.5, -0.5]], dtype=torch.float64)
    estimate = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    codes = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    label, labels = torch.tensor([[1.0, 0.0]]).double(), torch.eye(2).double()
    given = {"codes": codes, "code_labels": labels}
    pairs = (math.log(2) + math.log(1 + math.exp(0.5))) / 2
    loss = prototype_loss(prototypes, estimate, label, **given)
    assert loss.item() == pytest.approx(pairs + 0.25 + 1e-4 * 0.5, abs=1e-12)
    loss = prototype_loss(
        prototypes, estimate, label, **given, pair_weight=5.0, quantization_weight=1e-3
    )
    assert loss.item() == pytest.approx(5 * pairs + 0.25 + 1e-3 * 0.5, abs=1e-12)
    loss = prototype_loss(prototypes, estimate, label, **given, pairing="circle")
    assert loss.item() == pytest.approx(2.5 * 0.5 - 0.0 + 0.25 + 1e-4 * 0.5, abs=1e-12)


def test_circle_equals_a_loop_and_lacking_pairs_are_no_term() -> None:
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.rand(3, 8, generator=generator).double() * 2 - 1
    codes = torch.randint(0, 2, (5, 8), generator=generator).double() * 2 - 1
    similar = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 1, 0, 0], [1, 1, 0, 0, 0]]).double()
    apart, alike = [], []
    for i in range(3):
        for j in range(5):
            s = float(prototypes[i] @ codes[j]) / 8
            if similar[i, j]:
                alike.append(-max(2 - s, 0) * s)
            else:
                apart.append(max(s + 2, 0) * s)
    expected = [math.log(sum(map(math.exp, terms))) for terms in (apart, alike)]
    loss = circle(prototypes, codes, similar)
    assert loss.item() == pytest.approx(sum(expected) / 3, abs=1e-12)
    assert torch.isfinite(circle(prototypes, codes, torch.zeros_like(similar)))


def test_schedules_are_the_published_ones() -> None:
    factors = [step_decay(s, 30_000) for s in (0, 14_999, 15_000, 22_499, 22_500, 29_999)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert [linear_decay(e, epochs=100, decay_epochs=50) for e in (0, 49)] == [1, 1]
    assert linear_decay(50, epochs=100, decay_epochs=50) == pytest.approx(1 - 1 / 51)
    assert linear_decay(99, epochs=100, decay_epochs=50) == pytest.approx(1 - 50 / 51)


def test_closeness_reconstruction_and_adversarial_losses_by_hand() -> None:
    logits = torch.atanh(torch.tensor([[0.5, -0.8]], dtype=torch.float64))
    code = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    assert closeness_loss(logits, code, form="tanh").item() == pytest.approx(1 - (0.5 - 0.8) / 2)
    square = closeness_loss(logits, code, form="square").item()
    agreement = torch.tensor([0.5, -0.8])
    assert square == pytest.approx((0.25 + 3.24) / 2)
    assert square == pytest.approx(float(((agreement - 2) * agreement).mean() + 1))
    auto = closeness_loss(logits, code, form="auto")
    torch.testing.assert_close(auto, closeness_loss(64 * logits, code, form="auto"))
    x = torch.zeros(1, 3, 2, 2)
    assert reconstruction_loss(x + 0.1, x).item() == pytest.approx(0.04)
    verdict, label = torch.tensor([[0.5, 0.0, 0.25]]), torch.tensor([[1.0, 0.0]])
    assert adversarial_loss(verdict, label, fake=False).item() == pytest.approx(0.3125 / 3)
    assert adversarial_loss(verdict, label, fake=True).item() == pytest.approx(0.8125 / 3)
    both = discriminator_loss(verdict, verdict, label=label, target_label=1 - label)
    assert both.item() == pytest.approx(0.5 * (0.3125 / 3 + (0.25 + 1 + 0.5625) / 3))


def count(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_networks_have_the_published_sizes() -> None:
    with torch.device("meta"):
        assert count(PrototypeNet(labels=38, code_length=32)) == 2_293_318
        generator = Generator(image_side=224)
    assert count(generator) == 21_454_121
    assert count(generator.output) == 67 * 3 * 9
    judge = Discriminator(image_side=224, labels=38)
    vectors = sum(b.numel() for b in judge.buffers())
    assert count(judge) + vectors == 13_120_432, "power iteration vectors are no parameters here"


@pytest.mark.parametrize("side", [8, 16, 33, 64])
def test_networks_take_any_side(side: int) -> None:
    x, feature = torch.rand(2, 3, side, side), torch.randn(2, 5)
    with seeded(0):
        generator = Generator(image_side=side, features=5, width=8)
        judge = Discriminator(image_side=side, labels=4, width=8)
    assert generator(x, feature).shape == x.shape
    assert judge(x[:1]).shape == (1, 5), "a batch of one keeps its axis"


def test_the_discriminator_learns_labels_and_what_is_made() -> None:
    with seeded(0):
        judge = Discriminator(image_side=16, labels=2, width=8)
        real = torch.rand(16, 3, 16, 16) - 1
    label = torch.eye(2)[torch.arange(16) % 2]
    real[label[:, 1] > 0] += 1
    made = real.flip(0) + 0.5 * (torch.arange(16) % 2)
    optimizer = torch.optim.Adam(judge.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        loss = discriminator_loss(judge(real), judge(made), label=label, target_label=1 - label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_a_bounded_picture_keeps_bound_and_gradient() -> None:
    x = torch.tensor([0.0, 0.02, 0.5, 1.0]).view(1, 1, 1, 4).expand(1, 3, 4, 4).clone()
    for value in (-50.0, 0.0, 50.0):
        raw = torch.full_like(x, value, requires_grad=True)
        made = picture_of(raw, x, output="bounded", eps=0.1)
        assert made.min() >= 0 and made.max() <= 1 and (made - x).abs().max() <= 0.1 + 1e-6
    raw = torch.zeros_like(x, requires_grad=True)
    picture_of(raw, x, output="bounded", eps=0.1).sum().backward()
    assert (raw.grad > 0).all(), "white and black pixels learn too"
    assert torch.equal(picture_of(raw, x, output="bounded", eps=0.0), x)
    raw = torch.full_like(x, math.atanh(0.5))
    whole = picture_of(raw, x, output="picture", eps=None)
    torch.testing.assert_close(whole, torch.full_like(x, 0.75))


def targeted_map(codes: Tensor, goal: Goal, data: RetrievalData, model: HashModel) -> float:
    """MAP against the texts of the database with the target labels in place of the queries'."""
    database = data.split.database
    counts = distance_counts(
        codes,
        encode(model, data, "text", database),
        query_labels=goal.target_label,
        database_labels=data.label(database),
    )
    return mean_average_precision(counts).value


def test_it_leads_to_the_target_labels(
    fitted: FittedGenerator, model: HashModel, data: RetrievalData
) -> None:
    """Prototype codes reach their items, pictures in one pass nearly as well."""
    victim = Victim(model=model)
    x, goal, ids = goal_of(fitted, victim, data)
    made = craft(fitted, victim, x, goal, ids=ids)
    clean = targeted_map(goal.anchor, goal, data, model)
    theory = targeted_map(fitted.codes(goal.target_label, ids=ids, seed=0), goal, data, model)
    reached = targeted_map(encode_items(model, "image", made.stored), goal, data, model)
    assert clean < 0.4 and theory > 0.9
    assert reached > 0.7 * theory


def test_training_moves_every_weight_of_the_generator(fitted: FittedGenerator) -> None:
    with seeded(1, "prosgan weights"):
        _, fresh = SMALL.networks(fitted.made)
    for name, before in fresh.named_parameters():
        if name.endswith("0.0.bias") or "down" in name:
            continue  # a bias before instance normalization does nothing
        after = fitted.generator.get_parameter(name)
        assert not torch.equal(after, before), name
        assert not after.requires_grad and after.grad is None
    assert not fitted.generator.training and not fitted.prototypes.training


def test_budget_range_dtype_and_batches(
    fitted: FittedGenerator, model64: HashModel, data: RetrievalData
) -> None:
    victim = Victim(model=model64, access="ranks")
    x, goal, ids = goal_of(fitted, victim, data)
    x = x.double().requires_grad_(True)
    whole = fitted(victim, x, goal, ids=ids, seed=0)
    assert whole.dtype == torch.float64 and not whole.requires_grad and victim.ledger.total == 0
    assert whole.min() >= 0 and whole.max() <= 1 and 0 < (whole - x).abs().max() <= 32 / 255 + 1e-9
    order = torch.arange(len(x)).flip(0)
    parts = [
        fitted(victim, x[rows], goal.select(rows), ids=ids[rows], seed=9)
        for rows in torch.split(order, 5)
    ]
    torch.testing.assert_close(torch.cat(parts), whole[order], rtol=0, atol=1e-9)
    none = slice(0, 0)
    assert fitted(victim, x[none], goal.select(none), ids=ids[none], seed=0).shape == x[:0].shape
    still = dataclasses.replace(fitted, eps=0.0)(victim, x, goal, ids=ids, seed=0)
    assert torch.equal(still, x)


def test_fitting_is_repeatable_and_leaves_victim_and_streams_alone(
    model: HashModel, data: RetrievalData
) -> None:
    state, stream = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    numpy_state = np.random.get_state()[1]
    ledger = QueryLedger()
    first = QUICK.fit(Victim(model=model.train(), ledger=ledger), data, "image", seed=3)
    assert ledger.image == len(data.split.train) and ledger.text == 0
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(stream, torch.get_rng_state())
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    torch.manual_seed(5)
    again = QUICK.fit(Victim(model=model), data, "image", seed=3)
    other = QUICK.fit(Victim(model=model), data, "image", seed=4)
    states = [a.generator.state_dict() for a in (first, again, other)]
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())
    assert any(not torch.equal(v, states[2][k]) for k, v in states[0].items())


def test_a_heavy_reconstruction_term_keeps_the_picture(
    model: HashModel, data: RetrievalData
) -> None:
    """Whole pictures, no bound: the published soft penalty decides how visible it is."""
    sizes = []
    for weight in (0.0, 1000.0):
        options = dataclasses.replace(
            QUICK, output="picture", eps=None, reconstruction_weight=weight, epochs=6
        )
        attack = options.fit(Victim(model=model), data, "image", seed=0)
        victim = Victim(model=model)
        x, goal, ids = goal_of(attack, victim, data)
        x_adv = attack(victim, x, goal, ids=ids, seed=0)
        sizes.append(float((x_adv - x).square().mean().sqrt()))
        projected = dataclasses.replace(attack, eps=8 / 255)(victim, x, goal, ids=ids, seed=0)
        torch.testing.assert_close(projected, x + (x_adv - x).clamp(-8 / 255, 8 / 255))
    assert sizes[1] < 0.6 * sizes[0]


def test_save_and_load_give_the_same_pictures(
    fitted: FittedGenerator, model: HashModel, data: RetrievalData, tmp_path: Path
) -> None:
    fitted.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["attack.json", "attack.safetensors"]
    stream = torch.get_rng_state()
    again = FittedGenerator.load(tmp_path, ProSGAN)
    assert torch.equal(stream, torch.get_rng_state())
    assert (again.options, again.made, again.eps) == (fitted.options, fitted.made, fitted.eps)
    assert not any(p.requires_grad for p in again.generator.parameters())
    victim = Victim(model=model)
    x, goal, ids = goal_of(fitted, victim, data)
    expected = fitted(victim, x, goal, ids=ids, seed=0)
    assert torch.equal(again(victim, x, goal, ids=ids, seed=0), expected)


def test_damaged_and_foreign_artifacts_are_refused(fitted: FittedGenerator, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"attack\.json"):
        FittedGenerator.load(tmp_path, ProSGAN)
    fitted.save(tmp_path)
    facts = read_json(tmp_path / "attack.json")
    for changes, message in (
        ({"attack": "tadch"}, "holds the attack 'tadch', expected 'prosgan'"),
        ({"made": {**facts["made"], "code_length": 8}}, "weights of another prototypes network"),
        ({"options": {"colour": 1}}, "unknown key 'options.colour'"),
    ):
        write_json(tmp_path / "attack.json", {**facts, **changes})
        with pytest.raises(ArtifactError, match=message):
            FittedGenerator.load(tmp_path, ProSGAN)


def test_what_it_was_not_trained_for_is_refused(
    fitted: FittedGenerator, model: HashModel, data: RetrievalData
) -> None:
    victim = Victim(model=model)
    x, goal, ids = goal_of(fitted, victim, data)

    def run(attack: FittedGenerator = fitted, x: Tensor = x, goal: Goal = goal) -> Tensor:
        return attack(victim, x, goal, ids=ids, seed=0)

    with pytest.raises(ShapeError, match=r"trained for pictures \(n, 3, 16, 16\), got .* 12, 12"):
        run(x=x[..., :12, :12])
    longer = dataclasses.replace(fitted, made=dataclasses.replace(fitted.made, code_length=32))
    with pytest.raises(ShapeError, match="codes of 32 bits, the victim makes 16"):
        run(longer)
    narrow = dataclasses.replace(goal, label=None, target_label=torch.ones(24, 3))
    with pytest.raises(ShapeError, match=r"4 labels: target labels must be \(24, 4\)"):
        run(goal=narrow)
    with pytest.raises(ConfigError, match="needs a target_label"):
        run(goal=dataclasses.replace(goal, target_label=None))
    with pytest.raises(ConfigError, match="eps must be a number"):
        dataclasses.replace(fitted, eps=None)


def test_bad_options_are_refused(model: HashModel, data: RetrievalData) -> None:
    for options, message in (
        ({"width": 12}, "multiple of 8, got 12"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"decay_epochs": 7}, r"\[0, epochs = 6\], got 7"),
        ({"eps": None}, "'bounded' needs an eps"),
        ({"hamming_weight": -1.0}, "hamming_weight must be at least 0"),
        ({"prototype_rate": 0.0}, "prototype_rate must be positive"),
    ):
        with pytest.raises(ConfigError, match=message):
            ProSGAN(**options)
    with pytest.raises(BudgetError, match="did you mean 8/255"):
        ProSGAN(eps=8)
    with pytest.raises(AccessError, match="needs access to 'gradients'"):
        QUICK.fit(Victim(model=model, access="codes"), data, "image", seed=0)
    with pytest.raises(ConfigError, match="makes pictures, not 'text'"):
        QUICK.fit(Victim(model=model), data, "text", seed=0)


def test_prototypes_see_the_modality_asked_for(model: HashModel, data: RetrievalData) -> None:
    codes = {
        name: training_codes(model, data, "image", name)[0] for name in ("own", "other", "both")
    }
    train = data.split.train
    assert torch.equal(codes["own"], encode(model, data, "image", train))
    assert torch.equal(codes["other"], encode(model, data, "text", train))
    assert torch.equal(codes["both"], torch.cat([codes["own"], codes["other"]]))
    assert len(training_codes(model, data, "image", "both")[1]) == 2 * len(train)
    del model.encoders["text"]
    with pytest.raises(AccessError, match="set codes_of = 'own'"):
        training_codes(model, data, "image", "other")


def test_registered_options_are_trainable_attacks() -> None:
    for name in ("prosgan", "prosgan-published"):
        options = ATTACKS[name].make()
        assert isinstance(options, TrainableAttack) and not isinstance(options, Attack)
        assert options.access == ATTACKS[name].access and options.targeted
        assert from_mapping(ProSGAN, to_mapping(options)) == options
    published = prosgan_published()
    assert (published.epochs, published.batch_size, published.learning_rate) == (100, 24, 1e-4)
    assert (published.hamming_weight, published.adversarial_weight, published.eps) == (5, 1, None)
    assert published.budget("image").eps == 1
