"""Own-code PGD beyond the contract: scale, strength, targets, norms, starts, best iterates."""

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor

from hamward.attacks import Goal, OwnCode, RandomNoise, own_code_goal
from hamward.attacks.base import ascend
from hamward.data import RetrievalData
from hamward.errors import ConfigError
from hamward.models import HashModel, Victim
from hamward.types import Modality

FAST = OwnCode(eps=8 / 255, text_eps=0.6, steps=6)


def setting(
    model: HashModel, data: RetrievalData, modality: Modality = "image", n: int = 8
) -> tuple[Victim, Tensor, Goal, Tensor]:
    victim = Victim(model=model)
    positions = data.positions("query", modality)[:n]
    goal = own_code_goal(FAST, victim, data, modality, positions)
    x = data.inputs(modality, positions).to(next(model.parameters()).dtype)
    return victim, x, goal, torch.tensor(data.ids[positions])


def flips_of(attack: OwnCode | RandomNoise, model: HashModel, data: RetrievalData,
             modality: Modality = "image", seed: int = 0) -> Tensor:  # fmt: skip
    victim, x, goal, ids = setting(model, data, modality)
    x_adv = attack(victim, x, goal, ids=ids, seed=seed)
    with torch.no_grad():
        return goal.flips(model.logits(modality, x_adv))


@pytest.mark.parametrize("modality", ["image", "text"])
def test_the_scale_of_the_logits_hides_nothing(
    model64: HashModel, data: RetrievalData, modality: Modality
) -> None:
    """64 x the last layer saturates every tanh and changes no code; the attack must not care."""
    flips = flips_of(FAST, model64, data, modality)
    head = model64.encoder(modality).head
    with torch.no_grad():
        head.weight.mul_(64)
        head.bias.mul_(64)
    assert torch.equal(flips_of(FAST, model64, data, modality), flips)
    assert flips.sum() > 0


@pytest.mark.parametrize("modality", ["image", "text"])
def test_more_budget_flips_more_and_noise_far_less(
    model64: HashModel, data: RetrievalData, modality: Modality
) -> None:
    strong = flips_of(FAST, model64, data, modality).sum()
    weak = OwnCode(eps=2 / 255, text_eps=0.15, steps=6)
    assert strong > flips_of(weak, model64, data, modality).sum()
    noise = flips_of(RandomNoise(eps=8 / 255, text_eps=0.6), model64, data, modality).sum()
    assert strong > 1.5 * noise


def test_toward_goals_approach_the_anchor(model64: HashModel, data: RetrievalData) -> None:
    victim, x, goal, ids = setting(model64, data)
    target = dataclasses.replace(goal, anchor=goal.anchor.roll(1, 0), toward=True)
    with torch.no_grad():
        before = target.flips(model64.logits("image", x))
        x_adv = OwnCode(eps=16 / 255, steps=20)(victim, x, target, ids=ids, seed=0)
        after = target.flips(model64.logits("image", x_adv))
    assert (after >= before).all() and after.sum() > before.sum() + 8


def test_flips_count_what_serves_the_goal() -> None:
    anchor = torch.tensor([[1, 1, -1, -1]], dtype=torch.int8)
    logits = torch.tensor([[0.0, -1.0, 1.0, 2.0], [1.0, 1.0, -1.0, 0.0]])  # 0 is +1
    anchor = anchor.expand(2, 4)
    assert Goal(modality="text", anchor=anchor).flips(logits).tolist() == [3, 1]
    assert Goal(modality="text", anchor=anchor, toward=True).flips(logits).tolist() == [1, 3]


def test_l2_keeps_its_ball_and_works(model64: HashModel, data: RetrievalData) -> None:
    attack = OwnCode(eps=0.8, text_eps=0.8, norm="l2", steps=6)
    victim, x, goal, ids = setting(model64, data)
    delta = (attack(victim, x, goal, ids=ids, seed=0) - x).flatten(1)
    assert delta.norm(dim=1).max() <= 0.8 + 1e-9
    assert delta.abs().max() > 0.8 / 768**0.5, "not all values move alike"
    assert flips_of(attack, model64, data).sum() > 0


def test_a_random_start_follows_seed_and_item(model64: HashModel, data: RetrievalData) -> None:
    attack = OwnCode(eps=8 / 255, steps=0, random_start=True)
    victim, x, goal, ids = setting(model64, data)
    first = attack(victim, x, goal, ids=ids, seed=0)
    assert not torch.equal(first, x)
    assert (first - x).abs().max() <= 8 / 255 + 1e-12
    assert not torch.equal(attack(victim, x, goal, ids=ids, seed=1), first)
    order = torch.arange(7, -1, -1)
    again = attack(victim, x[order], goal.select(order), ids=ids[order], seed=0)
    assert torch.equal(again, first[order])


@pytest.mark.parametrize("random_start", [False, True])
def test_more_steps_are_never_worse_for_any_item(
    model64: HashModel, data: RetrievalData, random_start: bool
) -> None:
    """Step 0 is among the iterates of every run, and the best is kept."""
    start = OwnCode(eps=8 / 255, steps=0, random_start=random_start)
    run = OwnCode(eps=8 / 255, steps=5, random_start=random_start)
    assert (flips_of(run, model64, data) >= flips_of(start, model64, data)).all()


def test_ascend_returns_the_best_iterate_not_the_last(
    model64: HashModel, data: RetrievalData
) -> None:
    """A loss that pulls back after two steps: the last iterate is worse than the best."""
    victim, x, goal, _ = setting(model64, data)
    seen: list[tuple[Tensor, Tensor]] = []

    def loss(logits: Tensor) -> Tensor:
        sign = -1.0 if len(seen) < 3 else 1.0
        seen.append((goal.flips(logits.detach()), logits.detach()))
        return sign * (goal.anchor * logits).sum(1)

    with victim.attacked():
        x_adv = ascend(
            victim,
            x,
            goal,
            loss=loss,
            budget=FAST.budget("image"),
            steps=8,
            step_size=3 / 255,
            start=x,
        )
    flips = torch.stack([f for f, _ in seen])
    assert len(seen) == 9
    assert (flips[-1] < flips.amax(0)).any(), "the test must be able to tell"
    with torch.no_grad():
        assert torch.equal(goal.flips(model64.logits("image", x_adv)), flips.amax(0))


def test_among_equal_flips_the_larger_loss_wins(model64: HashModel, data: RetrievalData) -> None:
    victim, x, goal, _ = setting(model64, data, "text")
    values: list[Tensor] = []

    def loss(logits: Tensor) -> Tensor:
        value = -(goal.anchor * logits).sum(1)
        values.append(value.detach())
        # the same value with its gradient reversed: the last iterate is not the best
        return value if len(values) < 3 else 2 * value.detach() - value

    budget = OwnCode(text_eps=0.01).budget("text")
    with victim.attacked():
        x_adv = ascend(victim, x, goal, loss=loss, budget=budget, steps=4, step_size=0.004, start=x)
        reached = loss(model64.logits("text", x_adv))
    assert (goal.flips(model64.logits("text", x_adv)) == 0).all(), "too small to flip a bit"
    every = torch.stack(values[:-1])
    assert (every[-1] < every.amax(0)).any(), "the test must be able to tell"
    torch.testing.assert_close(reached.detach(), every.amax(0))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_steps_shrink_linearly_to_a_fifth(
    model64: HashModel, data: RetrievalData, norm: str
) -> None:
    victim, x, goal, _ = setting(model64, data)
    seen: list[Tensor] = []
    model64.encoder("image").register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].detach())
    )
    with victim.attacked():
        ascend(
            victim,
            x,
            goal,
            loss=lambda logits: -(goal.anchor * logits).sum(1),
            budget=OwnCode(eps=1.0, text_eps=1.0, norm=norm).budget("image"),
            steps=5,
            step_size=0.01,
            start=x,
        )
    moves = [(b - a).flatten(1) for a, b in itertools.pairwise(seen)]
    sizes = [(m.abs().amax(1) if norm == "linf" else m.norm(dim=1)).tolist() for m in moves]
    for size, expected in zip(sizes, (0.01, 0.008, 0.006, 0.004, 0.002), strict=True):
        assert size == pytest.approx([expected] * 8)


def test_dead_victims_give_finite_items(model64: HashModel, data: RetrievalData) -> None:
    """All logits exactly 0, and half of them: no scale to divide by."""
    for rows in (16, 12):
        head = model64.encoder("image").head
        with torch.no_grad():
            head.weight[:rows] = 0
            head.bias[:rows] = 0
        victim, x, goal, ids = setting(model64.float(), data)
        x_adv = FAST(victim, x, goal, ids=ids, seed=0)
        assert torch.isfinite(x_adv).all()
        assert (x_adv - x).abs().max() <= 8 / 255 + 1e-6


def test_noise_has_two_values_and_fair_signs(model64: HashModel, data: RetrievalData) -> None:
    victim, x, goal, ids = setting(model64, data)
    delta = RandomNoise(eps=0.01)(victim, x, goal, ids=ids, seed=0) - x
    torch.testing.assert_close(delta.abs(), torch.full_like(delta, 0.01))
    assert abs(float((delta > 0).double().mean()) - 0.5) < 0.03


def test_uniform_noise_fills_the_ball_evenly(model64: HashModel, data: RetrievalData) -> None:
    victim, x, goal, ids = setting(model64, data)
    x = torch.full_like(x, 0.5)
    moved = RandomNoise(eps=0.1, distribution="uniform")(victim, x, goal, ids=ids, seed=3) - x
    assert moved.abs().max() <= 0.1
    assert moved.square().mean() == pytest.approx(0.1**2 / 3, rel=0.05)
    assert moved.mean() == pytest.approx(0, abs=0.003)


def test_a_step_that_goes_nowhere_is_refused() -> None:
    with pytest.raises(ConfigError, match="step_size must be positive, got 0"):
        OwnCode(step_size=0)


@pytest.mark.parametrize("norm", ["l0", "patch"])
def test_free_pixels_keep_their_number_and_place(
    model64: HashModel, data: RetrievalData, norm: str
) -> None:
    """Few changed pixels flip bits, more of them flip more, and all others stay as they are."""
    victim, x, goal, ids = setting(model64, data)
    flips = []
    for eps in (0, 2, 6):
        x_adv = OwnCode(norm=norm, eps=eps, steps=8)(victim, x, goal, ids=ids, seed=0)
        assert x_adv.min() >= 0 and x_adv.max() <= 1
        for changed in (x_adv != x).any(1):
            places = changed.nonzero()
            if norm == "l0":
                assert len(places) <= eps
            elif len(places):
                assert int((places.amax(0) - places.amin(0)).max()) < eps
        with torch.no_grad():
            flips.append(float(goal.flips(model64.eval().logits("image", x_adv)).float().mean()))
    assert flips[0] == 0 < flips[1] < flips[2]
    assert OwnCode(norm=norm, eps=4).budget("text") == OwnCode().budget("text")
