"""Reference codes against loops, brute force over all codes, and numbers worked by hand."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from hamward.attacks import Goal, References
from hamward.attacks.anchors import (
    Pool,
    center_codes,
    class_prototypes,
    draw_by_label,
    mainstay_codes,
    vote,
)
from hamward.errors import ConfigError

K, C = 7, 5


def codes_of(n: int, k: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (n, k), generator=generator).mul(2).sub(1).to(torch.int8)


def labels_of(n: int, seed: int, share: float = 0.35) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(n, C, generator=generator) < share).double()


def goal_of(seed: int, n: int = 9, m: int = 40, **changes: Any) -> Goal:
    references = References(
        image=codes_of(m, K, seed), text=codes_of(m, K, seed + 50), label=labels_of(m, seed + 1)
    )
    label = labels_of(n, seed + 2)
    label[0] = 0  # nobody's item
    label[1] = 1  # everybody's
    values: dict[str, Any] = {
        "modality": "image",
        "anchor": codes_of(n, K, seed + 3),
        "label": label,
        "target_label": labels_of(n, seed + 4, 0.6),
        "references": references,
    }
    return Goal(**{**values, **changes})


def pool_of(goal: Goal, **options: Any) -> Pool:
    return Pool.of(goal, options.pop("source", "other"), who="it", **options)


ALL_CODES = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=K)), dtype=torch.float64)


def test_the_voted_code_is_nearest_to_its_voters_of_all_codes() -> None:
    for seed in range(20):
        voters = codes_of(1 + 2 * (seed % 5), K, seed).double()
        code = vote(torch.ones(1, len(voters)).double(), voters, codes_of(1, K, 99))
        mean = ((K - ALL_CODES @ voters.T) / 2).mean(1)
        mine = ((K - code.double() @ voters.T) / 2).mean(1)
        assert float(mine) == float(mean.min())


def test_ties_take_the_bits_they_are_given() -> None:
    codes = torch.tensor([[1, 1, -1], [-1, 1, -1]], dtype=torch.float64)
    ties = torch.tensor([[1, -1, 1], [-1, -1, 1]], dtype=torch.int8)
    made = vote(torch.ones(2, 2).double(), codes, ties)
    assert made.tolist() == [[1, 1, -1], [-1, 1, -1]]


@pytest.mark.parametrize("source", ["own", "other", "both"])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_sources_are_the_codes_they_name(modality: str, source: str) -> None:
    goal = goal_of(3, modality=modality)
    references = goal.references
    assert references is not None
    own, other = references.image, references.text
    if modality == "text":
        own, other = other, own
    expected = {"own": own, "other": other, "both": torch.cat([other, own])}[source]
    pool = pool_of(goal, source=source)
    assert torch.equal(pool.codes, expected.double())
    assert len(pool.label) == pool.visible.shape[1] == len(expected)
    assert torch.equal(pool.label[:40], references.label)
    assert torch.equal(pool.label[-40:], references.label)


def naive_center(pool: Pool, i: int, *, jaccard: bool) -> Tensor:
    """The loop of the released code: N_n sum_pos w b - N_p sum_neg b."""
    positive = [j for j in range(len(pool.label)) if (pool.wanted[i] * pool.label[j]).sum() > 0]
    negative = [j for j in range(len(pool.label)) if j not in positive]
    total = torch.zeros(K, dtype=torch.float64)
    for j in positive:
        both = (pool.wanted[i] * pool.label[j]).sum()
        either = ((pool.wanted[i] + pool.label[j]) > 0).sum()
        total += len(negative) * (both / either if jaccard else 1) * pool.codes[j]
    for j in negative:
        total -= len(positive) * pool.codes[j]
    return total


@pytest.mark.parametrize("jaccard", [False, True])
def test_center_codes_equal_the_loop(jaccard: bool) -> None:
    differing = 0
    for seed in range(5):
        goal = goal_of(seed)
        pool = pool_of(goal)
        made = center_codes(pool, goal.anchor, jaccard=jaccard)
        assert set(made.unique().tolist()) <= {-1, 1}
        for i in range(2, 9):
            total = naive_center(pool, i, jaccard=jaccard)
            sure = total.abs() > 1e-9
            assert torch.equal(made[i][sure].double(), total.sign()[sure])
            assert torch.equal(made[i][~sure], goal.anchor[i][~sure])
        differing += int((made != center_codes(pool, goal.anchor, jaccard=not jaccard)).sum())
    assert differing > 0


def test_center_codes_maximize_the_gap_between_near_and_far() -> None:
    goal = goal_of(8)
    pool = pool_of(goal)
    made = center_codes(pool, goal.anchor)
    for i in range(2, 9):
        near = (pool.label @ pool.wanted[i]) > 0
        if not near.any() or near.all():
            continue
        gap = ALL_CODES @ pool.codes[near].mean(0) - ALL_CODES @ pool.codes[~near].mean(0)
        mine = made[i].double() @ (pool.codes[near].mean(0) - pool.codes[~near].mean(0))
        assert float(mine) == pytest.approx(float(gap.max()), abs=1e-12)


def test_items_of_nobody_and_of_everybody_have_center_codes() -> None:
    goal = goal_of(11)
    pool = pool_of(goal)
    everyone = pool.label.sum(1) > 0
    only = Pool(
        codes=pool.codes[everyone],
        label=pool.label[everyone],
        visible=pool.visible[:, everyone],
        wanted=pool.wanted,
    )
    made = center_codes(only, goal.anchor)
    assert torch.equal(made[0], goal.anchor[0]), "no labels: its own code"
    mean = only.codes.mean(0)
    sure = mean.abs() > 1e-9
    assert torch.equal(made[1][sure].double(), mean.sign()[sure]), "no negatives: the mean code"


def test_mainstay_codes_equal_the_loop() -> None:
    for seed in range(5):
        goal = goal_of(seed)
        pool = pool_of(goal)
        made = mainstay_codes(pool, goal.anchor)
        for i in range(9):
            y = pool.wanted[i]
            first = torch.stack([y @ r / (y.norm() * r.norm() + 1e-8) for r in pool.label])
            second = 1 - first.sign()
            total = torch.zeros(K, dtype=torch.float64)
            for weights, sign in ((first, 1), (second, -1)):
                if weights.sum() > 0:
                    for weight, code in zip(weights / weights.sum(), pool.codes, strict=True):
                        total += sign * weight * code
            sure = total.abs() > 1e-9
            assert sure.any()
            assert torch.equal(made[i][sure].double(), total.sign()[sure])
        mean = pool.codes.mean(0)
        sure = mean.abs() > 1e-9
        assert torch.equal(made[0][sure].double(), -mean.sign()[sure]), "no labels: minus the mean"


def test_no_single_flip_improves_center_or_mainstay() -> None:
    goal = goal_of(21)
    pool = pool_of(goal)
    for i in range(2, 9):
        near = pool.label @ pool.wanted[i] > 0
        if not near.any() or near.all():
            continue
        cosine = (
            pool.label @ pool.wanted[i] / (pool.label.norm(dim=1) * pool.wanted[i].norm() + 1e-8)
        )
        for code, weights in (
            (center_codes(pool, goal.anchor)[i], near.double()),
            (mainstay_codes(pool, goal.anchor)[i], cosine),
        ):
            pull = weights @ pool.codes / weights.sum() - pool.codes[~near].mean(0)
            gains = -2 * code.double() * pull  # of flipping each bit
            assert gains.max() <= 1e-9


def test_class_prototypes_equal_the_loop_and_break_ties_by_a_seeded_coin() -> None:
    goal = goal_of(5)
    assert goal.references is not None
    goal.references.label[:, 4] = 0
    pool = pool_of(goal)
    made, present = class_prototypes(pool, seed=1)
    assert present.tolist() == [True] * 4 + [False]
    for c in range(4):
        total = sum(pool.codes[j] for j in range(40) if pool.label[j, c])
        sure = total != 0
        assert torch.equal(made[c][sure].double(), total.sign()[sure])
    assert torch.equal(made, class_prototypes(pool, seed=1)[0])
    coins = torch.stack([class_prototypes(pool, seed=s)[0][4] for s in range(40)]).double()
    assert coins.abs().min() == 1 and coins.mean(0).abs().max() < 0.6


def test_grouped_references_are_each_groups_own() -> None:
    goal = goal_of(6)
    assert goal.references is not None
    group = torch.arange(40) // 20
    references = References(
        image=goal.references.image,
        text=goal.references.text,
        label=goal.references.label,
        group=group,
    )
    items = torch.arange(9) % 2
    grouped = pool_of(goal_of(6, references=references, group=items))
    for g in (0, 1):
        half = References(
            image=references.image[group == g],
            text=references.text[group == g],
            label=references.label[group == g],
        )
        alone = goal_of(6, references=half)
        for codes in (center_codes, mainstay_codes):
            expected = codes(pool_of(alone), alone.anchor)[items == g]
            assert torch.equal(codes(grouped, goal.anchor)[items == g], expected)
    with pytest.raises(ConfigError, match="groups"):
        class_prototypes(grouped, seed=0)


def test_draws_are_without_replacement_exact_labels_first() -> None:
    label = torch.tensor(
        [[1, 1, 0], [1, 1, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 1], [0, 0, 0]]
    ).double()
    wanted = torch.tensor([[1.0, 1, 0], [0, 0, 1]]).double()
    pool = Pool(
        codes=codes_of(7, K, 0).double(), label=label, visible=torch.ones(2, 7).double(),
        wanted=wanted,
    )  # fmt: skip
    ids = torch.tensor([10, 11])
    seen = set()
    for seed in range(30):
        chosen = draw_by_label(pool, count=2, ids=ids, seed=seed)
        rows = chosen[0].nonzero().flatten().tolist()
        assert len(rows) == 2 and set(rows) <= {0, 1, 2}
        seen.add(tuple(rows))
        assert chosen[1].tolist() == [0, 0, 0, 0, 1, 1, 0], "only two share the label"
    assert seen == {(0, 1), (0, 2), (1, 2)}
    four = draw_by_label(pool, count=4, ids=ids, seed=0)[0]
    assert four.tolist() == [1, 1, 1, 0, 1, 0, 0], "Jaccard 2/3 before 1/2"
    all_that_share = draw_by_label(pool, count=7, ids=ids, seed=0)
    assert all_that_share.sum(1).tolist() == [5, 2]
    swapped = draw_by_label(
        Pool(codes=pool.codes, label=label, visible=pool.visible, wanted=wanted.flip(0)),
        count=2, ids=ids.flip(0), seed=4,
    )  # fmt: skip
    assert torch.equal(swapped.flip(0), draw_by_label(pool, count=2, ids=ids, seed=4))


def test_draws_refuse_targets_that_nobody_has() -> None:
    goal = goal_of(2, target_label=torch.zeros(9, C).double())
    with pytest.raises(ConfigError, match="9 of 9 target labels"):
        draw_by_label(pool_of(goal, targeted=True), count=1, ids=torch.arange(9), seed=0)


@pytest.mark.parametrize(
    ("changes", "targeted", "message"),
    [
        ({"references": None}, False, "it needs a goal with reference items, got none"),
        ({"label": None}, False, r"it needs a goal with label, \(n, C\), got None"),
        ({"target_label": None}, True, "it needs a goal with target_label"),
        ({"toward": True}, False, "cannot approach"),
    ],
)
def test_goals_without_what_is_needed_are_refused(
    changes: dict[str, Any], targeted: bool, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        pool_of(goal_of(1, **changes), targeted=targeted)
