"""Adversarial learning: what is crafted, when, against whom, and what the control is."""

import copy
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import step_of
from torch import Tensor

from hamward.attacks import CMLA, Goal, OwnCode
from hamward.config import call_with
from hamward.data import RetrievalData
from hamward.defenses import DEFENSES, AdversarialLearning, AdversarialObjective
from hamward.defenses.sampler import scaled
from hamward.errors import ConfigError
from hamward.models import HashModel, Victim
from hamward.training import DCMH, FitConfig, fit

CONFIG = FitConfig(epochs=4, batch_size=16, image_rate=5e-4, text_rate=1e-3, flip=False)
CALLS_PER_PASS = 3  # batches of 16 among 48 training items
SELECT = {"select": 0.0}


class Watched:
    """An attack that remembers what it was asked and whether the model was held still."""

    access = "gradients"
    modalities = ("image", "text")
    targeted = False
    needs_references = False

    def __init__(self) -> None:
        self.inner = OwnCode(eps=8 / 255, text_eps=0.3, steps=1)
        self.budget = self.inner.budget
        self.calls: list[tuple[str, list[int], int]] = []
        self.made: list[Tensor] = []
        self.weights: list[float] = []

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        model = victim.model
        before = copy.deepcopy(model.state_dict())
        modes = [m.training for m in model.modules()]
        x_adv = self.inner(victim, x, goal, ids=ids, seed=seed)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert modes == [m.training for m in model.modules()] and model.training
        self.calls.append((goal.modality, ids.tolist(), seed))
        self.made.append(x_adv)
        self.weights.append(float(model.encoder(goal.modality).head.weight.detach().sum()))
        return x_adv


def harden(
    model: HashModel, data: RetrievalData, *, config: FitConfig = CONFIG, **options: Any
) -> Watched:
    attack = Watched()
    objective = AdversarialObjective(
        base=DCMH(), attack=attack, config=AdversarialLearning(**options)
    )
    fit(model, objective, data, config=config, score=lambda m: SELECT)
    return attack


def without_labels(data: RetrievalData) -> RetrievalData:
    split = dataclasses.replace(data.split, database=np.arange(96), searched_query=True)
    return dataclasses.replace(
        data, labels=data.labels[:, :0], label_names=(), split=split, digest=""
    )


def equal(a: HashModel, b: HashModel) -> bool:
    other = b.state_dict()
    return all(torch.equal(v, other[k]) for k, v in a.state_dict().items())


def test_the_control_crafts_nothing_and_is_plain_fine_tuning(
    model: HashModel, data: RetrievalData
) -> None:
    plain, controlled, weightless = (copy.deepcopy(model) for _ in range(3))
    fit(plain, DCMH(), data, config=CONFIG, score=lambda m: SELECT)
    control = DEFENSES["control"].make(DCMH(), seed=CONFIG.seed)
    fit(controlled, control, data, config=CONFIG, score=lambda m: SELECT)
    assert equal(plain, controlled)
    assert not equal(plain, model)
    assert not harden(weightless, data, weight=0.0).calls
    assert equal(plain, weightless)


def test_samples_of_every_step_are_crafted_against_the_model_of_the_step(
    model: HashModel, data: RetrievalData
) -> None:
    attack = harden(model, data, refresh=1)
    assert len(attack.calls) == 4 * 2 * CALLS_PER_PASS
    assert [c[0] for c in attack.calls[:6]] == ["image"] * 3 + ["text"] * 3
    images = [w for c, w in zip(attack.calls, attack.weights, strict=True) if c[0] == "image"]
    assert len(set(images)) == len(images), "the model moves between steps"
    train_ids = set(data.ids[data.split.train].tolist())
    assert set().union(*(c[1] for c in attack.calls)) == train_ids


@pytest.mark.parametrize(("refresh", "rounds"), [(0, 1), (2, 2), (3, 2), (4, 1)])
def test_samples_of_a_round_are_crafted_at_once(
    model: HashModel, data: RetrievalData, refresh: int, rounds: int
) -> None:
    attack = harden(model, data, refresh=refresh)
    ordered = data.ids[data.split.train].tolist()
    assert [c[0] for c in attack.calls] == ["image", "text"] * rounds
    assert all(c[1] == ordered for c in attack.calls)
    assert len({c[2] for c in attack.calls}) == rounds, "another seed every round"


def test_crafting_once_uses_the_model_that_training_starts_from(
    model: HashModel, data: RetrievalData
) -> None:
    start = float(model.encoder("image").head.weight.detach().sum())
    words = float(model.encoder("text").head.weight.detach().sum())
    attack = harden(model, data, refresh=0)
    assert attack.weights == [start, words]


def test_only_the_chosen_side_is_perturbed(model: HashModel, data: RetrievalData) -> None:
    attack = harden(model, data, modalities=("text",))
    assert {c[0] for c in attack.calls} == {"text"}


def test_cached_samples_belong_to_their_rows(model: HashModel, data: RetrievalData) -> None:
    attack = Watched()
    config = AdversarialLearning(refresh=0)
    objective = AdversarialObjective(base=DCMH(), attack=attack, config=config)
    objective.start(model.train(), data, data.split.train)
    rows = torch.tensor([40, 3, 17])
    positions = data.split.train[rows.numpy()]
    seen: list[Tensor] = []
    logits = HashModel.logits

    def watching(self: HashModel, modality: str, x: Tensor, **options: Any) -> Tensor:
        seen.append(x)
        return logits(self, modality, x, **options)

    x = data.inputs("image", positions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HashModel, "logits", watching)
        objective.loss(model, step_of(data, "image", rows))
    both = seen[-1]
    assert torch.equal(both[:3], x)
    torch.testing.assert_close(both[3:], attack.made[0][rows], rtol=0, atol=1e-3)
    assert (both[3:] - x).abs().amax((1, 2, 3)).max() > 3 / 255


def test_the_loss_mixes_clean_and_adversarial_and_remembers_the_clean(
    model: HashModel, data: RetrievalData
) -> None:
    rows = torch.arange(16)
    positions = data.split.train[:16]
    x = data.inputs("text", positions)
    attack = Watched()
    values = {}
    for weight in (0.25, 1.0):
        objective = AdversarialObjective(
            base=DCMH(), attack=attack, config=AdversarialLearning(weight=weight)
        )
        objective.start(model.train(), data, data.split.train)
        loss = objective.loss(model, step_of(data, "text", rows))
        values[weight] = float(loss.detach())
        base = objective.base
    with torch.no_grad():
        clean, moved = model.logits("text", x), model.logits("text", attack.made[-1])
        torch.testing.assert_close(base.buffers["text"][:16], clean)
        parts = base.penalty("text", rows, clean), base.penalty("text", rows, moved)
    assert float(parts[0]) != pytest.approx(float(parts[1]))
    assert values[1.0] == pytest.approx(float(parts[1]), rel=1e-4)
    mixed = 0.75 * float(parts[0]) + 0.25 * float(parts[1])
    assert values[0.25] == pytest.approx(mixed, rel=1e-4)


@pytest.mark.parametrize("refresh", [0, 1, 2])
def test_a_killed_hardening_resumes_to_the_same_bits(
    model: HashModel, data: RetrievalData, tmp_path: Path, refresh: int
) -> None:
    def run(m: HashModel, kill_after: int, checkpoint: Path | None, first: int = 0) -> HashModel:
        make = DEFENSES["cmla"].make
        objective = make(DCMH(), steps=1, refresh=refresh, references=16, text_eps=0.3)
        seen = first

        def score(_: HashModel) -> dict[str, float]:
            nonlocal seen
            seen += 1
            if seen > kill_after:
                raise KeyboardInterrupt
            return {"select": float(seen)}

        fit(m, objective, data, config=CONFIG, score=score, checkpoint=checkpoint)
        return m

    whole = run(copy.deepcopy(model), 9, None)
    with pytest.raises(KeyboardInterrupt):
        run(copy.deepcopy(model), 2, tmp_path / "c.safetensors")
    resumed = run(copy.deepcopy(model), 9, tmp_path / "c.safetensors", first=2)
    assert equal(resumed, whole)


def test_state_holds_the_samples_in_use(model: HashModel, data: RetrievalData) -> None:
    def started() -> AdversarialObjective:
        objective = AdversarialObjective(
            base=DCMH(), attack=Watched(), config=AdversarialLearning(refresh=2)
        )
        objective.start(model.train(), data, data.split.train)
        return objective

    def step(objective: AdversarialObjective) -> None:
        objective.loss(model, step_of(data, "image", torch.arange(16), epoch=3))

    first = started()
    step(first)
    state = copy.deepcopy(first.buffers)
    assert set(state) == {"image", "text", "codes", "cache/image", "round/image"}
    second = started()
    second.buffers.update(state)
    step(second)
    assert not second.attack.calls, "the samples of round 1 are there already"
    assert torch.equal(second.buffers["cache/image"], first.buffers["cache/image"])
    assert len(first.attack.calls) == 1


def test_hardening_makes_the_attack_weaker(model: HashModel, data: RetrievalData) -> None:
    """Against an attack crafted anew on the hardened model, beside the control."""
    from hamward.evaluation import evaluate

    victims = {}
    config = dataclasses.replace(CONFIG, epochs=12, image_rate=1e-3)
    for name, options in (("control", {}), ("cmla", {"attack": "own-code", "eps": 6 / 255})):
        victims[name] = copy.deepcopy(model)
        objective = call_with(DEFENSES[name].make, options, given={"base": DCMH()})
        count = itertools.count()  # the last epoch is kept
        rising = {"score": lambda m, count=count: {"select": float(next(count))}}
        fit(victims[name], objective, data, config=config, **rising)
    attack = {"own-code": OwnCode(eps=6 / 255, steps=8)}
    rows = evaluate(victims, data, attack, modalities=("image",))
    control, hardened = (rows.find(n, "own-code", "i2t") for n in victims)
    assert hardened.flips < control.flips
    assert hardened.map > control.map


def test_the_attack_inside_reaches_its_budget() -> None:
    objective = DEFENSES["cmla"].make(DCMH(), eps=0.1, text_eps=0.2, steps=4)
    assert isinstance(objective.attack, CMLA)
    assert objective.attack.learning_rate * 4 >= 0.1
    assert objective.attack.text_learning_rate * 4 >= 0.2
    assert objective.attack.distance == 0
    own = DEFENSES["cmla"].make(DCMH(), attack="own-code", steps=4, eps=0.1)
    assert isinstance(own.attack, OwnCode) and own.attack.step_size * 4 >= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": 1.5}, r"weight must be in \[0, 1\], got 1.5"),
        ({"refresh": -1}, "refresh must be at least 0, got -1"),
        ({"references": 0}, "references must be at least 1, got 0"),
        ({"warmup": 1.5}, r"warmup is a share of the steps and must be in \[0, 1\], got 1.5"),
        ({"warmup": 0.5, "refresh": 0}, "warmup needs refresh >= 1"),
        ({"modalities": []}, "modalities must be image, text or both"),
        ({"modalities": ["sound"]}, r"modalities\[0\] must be one of \['image', 'text'\]"),
        ({"attack": "fgsm"}, r"attack must be one of \['cmla', 'own-code'\], got 'fgsm'"),
        ({"stepz": 3}, "did you mean 'steps'"),
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call_with(DEFENSES["cmla"].make, change, given={"base": DCMH(), "seed": 0})


def test_eps_rises_from_zero_over_the_warm_up(model: HashModel, data: RetrievalData) -> None:
    """From 0 at the first step in equal parts; CMLA's rates grow along."""
    objective = DEFENSES["cmla"].make(DCMH(), attack="own-code", eps=0.1, steps=1, warmup=0.5)
    objective.start(model.train(), data, data.split.train)
    sampler, step = objective.sampler, step_of(data, "image", torch.arange(16))
    moved = []
    for number in (0, 25, 50, 99):
        x_adv = sampler.items(model, "image", dataclasses.replace(step, number=number))
        moved.append(float((x_adv - step.items["image"]).abs().max()))
    assert moved == pytest.approx([0, 0.05, 0.1, 0.1], abs=1e-6)
    half = scaled(CMLA(eps=0.1, text_eps=0.2, learning_rate=0.01, text_learning_rate=0.02), 0.5)
    assert half == CMLA(eps=0.05, text_eps=0.1, learning_rate=0.005, text_learning_rate=0.01)


def test_a_warm_up_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="Watched has no eps to warm up"):
        AdversarialObjective(base=DCMH(), attack=Watched(), config=AdversarialLearning(warmup=0.5))


def test_labels_that_the_attack_compares_must_exist(model: HashModel, data: RetrievalData) -> None:
    unlabeled = without_labels(data)
    with pytest.raises(ConfigError, match="CMLA compares labels, and tiny has none"):
        DEFENSES["cmla"].make(DCMH()).check_victim(model, unlabeled)
    for defense in (
        DEFENSES["cmla"].make(DCMH(), attack="own-code"),
        DEFENSES["control"].make(DCMH()),
    ):
        defense.check_victim(model, unlabeled)
