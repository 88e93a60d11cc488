"""The ensemble is never weaker than clean, nor than any of its members."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import SPEC, make_model
from torch import Tensor

from hamward.attacks import (
    ATTACKS,
    Attack,
    CgAT,
    Goal,
    OwnCode,
    References,
    Strongest,
    StrongestTargeted,
    TagEdits,
    choose_targets,
    encode_items,
    own_code_goal,
    round_to_grid,
    strongest,
)
from hamward.attacks.anchors import Pool
from hamward.attacks.ensemble import Worth
from hamward.data import RetrievalData
from hamward.errors import ArtifactError, ConfigError, ShapeError
from hamward.metrics import average_precision, distance_counts
from hamward.models import HashModel, Victim, build_hash_model, save_model
from hamward.types import Modality

EPS = 3 / 255
FEATURES: dict[str, Any] = {"text": "feature-space", "text_eps": 0.3}


def made_by(
    model: HashModel,
    data: RetrievalData,
    modality: Modality,
    attack: Attack,
    *,
    targets: Tensor | None = None,
    n: int = 24,
) -> Tensor:
    """What is stored of the first queries."""
    positions = data.positions("query", modality)[:n]
    x, victim = data.inputs(modality, positions), Victim(model=model)
    targets = None if targets is None else targets[:n]
    goal = own_code_goal(attack, victim, data, modality, positions, target_label=targets)
    x_adv = attack(victim, x, goal, ids=torch.tensor(data.ids[positions]), seed=0)
    return round_to_grid(x_adv, x, attack.budget("image")) if modality == "image" else x_adv


def score(
    model: HashModel,
    data: RetrievalData,
    modality: Modality,
    attack: Attack | None,
    *,
    targets: Tensor | None = None,
    n: int = 24,
) -> np.ndarray:
    positions = data.positions("query", modality)[:n]
    x = data.inputs(modality, positions)
    if attack is not None:
        x = made_by(model, data, modality, attack, targets=targets, n=n)
    other: Modality = "text" if modality == "image" else "image"
    counts = distance_counts(
        encode_items(model, modality, x),
        encode_items(model, other, data.inputs(other, data.split.database)),
        query_labels=data.label(positions) if targets is None else targets[:n],
        database_labels=data.label(data.split.database),
    )
    return average_precision(counts)


@pytest.fixture
def targets(data: RetrievalData) -> Tensor:
    positions = data.positions("query", "image")
    ids = torch.tensor(data.ids[positions])
    return choose_targets(data.label(positions), data.label(data.split.database), ids=ids)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_no_query_gets_better_and_single_goals_are_weaker(
    model: HashModel, data: RetrievalData, modality: Modality
) -> None:
    clean = score(model, data, modality, None)
    ensemble = score(model, data, modality, Strongest(eps=EPS, steps=12, **FEATURES))
    assert (ensemble <= clean + 1e-12).all()
    for single in (OwnCode(eps=EPS, text_eps=0.3, steps=12), CgAT(eps=EPS, text_eps=0.3, steps=12)):
        assert ensemble.mean() <= score(model, data, modality, single).mean() + 1e-3
    assert ensemble.mean() < clean.mean() - 0.1


CASES = [
    ("image", Strongest(eps=EPS, steps=4), 13),
    ("text", Strongest(steps=4, **FEATURES), 13),
    ("text", Strongest(insertions=2, deletions=1), 9),
    ("image", StrongestTargeted(eps=4 * EPS, steps=4), 9),
    ("text", StrongestTargeted(insertions=2, deletions=1), 6),
]


@pytest.mark.parametrize(("modality", "attack", "count"), CASES)
def test_no_query_is_better_off_than_under_any_member_alone(
    model: HashModel,
    data: RetrievalData,
    targets: Tensor,
    modality: Modality,
    attack: Attack,
    count: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But those that go on from the best item so far: alone they start elsewhere."""
    aimed = targets if attack.targeted else None
    together = score(model, data, modality, attack, targets=aimed, n=8)
    every = strongest._Batch.members
    moved = 0
    for number in range(count):

        def only(self: Any, others: Any, *, targeted: bool, number: int = number) -> Iterator[Any]:
            members = list(every(self, others, targeted=targeted))
            assert len(members) == count, "each member is looked at"
            start = getattr(getattr(members[number], "args", [None])[0], "start", "clean")
            return iter([] if start == "best" else [members[number]])

        monkeypatch.setattr(strongest._Batch, "members", only)
        alone = score(model, data, modality, attack, targets=aimed, n=8)
        sign = 1 if attack.targeted else -1
        assert (sign * together >= sign * alone - 1e-12).all(), number
        moved += (sign * together > sign * alone + 1e-12).any()
    assert moved, "an ensemble is more than one of its members"


def test_edited_texts_are_worse_off_than_under_tag_edits(
    model: HashModel, data: RetrievalData
) -> None:
    ensemble = score(model, data, "text", Strongest(insertions=2, deletions=2))
    single = score(model, data, "text", TagEdits(insertions=2, deletions=2))
    assert (ensemble <= single + 1e-12).all() and ensemble.mean() < single.mean() - 0.01


@pytest.mark.parametrize(("insertions", "deletions"), [(1, 0), (0, 1)])
def test_one_edit_is_the_worst_of_all(
    model: HashModel, data: RetrievalData, insertions: int, deletions: int
) -> None:
    x = data.inputs("text", data.positions("query", "text")[:8])
    aps = [score(model, data, "text", None, n=8)]
    for word in range(x.shape[1]):
        edited = x.clone()
        edited[:, word] = insertions
        allowed = (edited != x).any(1) & edited.any(1)
        bags = np.array(data.bags)
        bags[data.positions("query", "text")[:8]] = edited.numpy()
        texts = dataclasses.replace(data, bags=bags)
        aps.append(np.where(allowed, score(model, texts, "text", None, n=8), np.inf))
    attack = Strongest(insertions=insertions, deletions=deletions)
    reached = score(model, data, "text", attack, n=8)
    np.testing.assert_allclose(reached, np.min(aps, axis=0), atol=1e-12)


def test_targeted_runs_reach_the_target_more_than_a_single_goal(
    model: HashModel, data: RetrievalData, targets: Tensor
) -> None:
    attack = StrongestTargeted(eps=4 * EPS, steps=12)
    ours = score(model, data, "image", attack, targets=targets)
    clean = score(model, data, "image", None, targets=targets)
    single = ATTACKS["saat-targeted"].make(eps=4 * EPS)
    assert isinstance(single, Attack)
    assert (ours >= clean - 1e-12).all()
    assert ours.mean() >= score(model, data, "image", single, targets=targets).mean() - 1e-3
    assert ours.mean() > clean.mean() + 0.1


def test_a_larger_last_layer_changes_little(model: HashModel, data: RetrievalData) -> None:
    scaled = build_hash_model(model.spec, seed=0)
    scaled.load_state_dict(model.state_dict())
    with torch.no_grad():
        for encoder in scaled.encoders.values():
            for parameter in encoder.head.parameters():
                parameter.mul_(64)
    attack = Strongest(eps=EPS, steps=8)
    before, after = (score(m.eval(), data, "image", attack, n=8).mean() for m in (model, scaled))
    assert abs(before - after) < 0.01


class Steps(torch.nn.Module):
    """A trunk without gradient: its outputs are rounded."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.width = inner, inner.width

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).detach().round(decimals=3) + 0 * x.sum()


def test_without_gradients_square_and_surrogates_do_the_damage(
    model: HashModel, data: RetrievalData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path, model)
    image = model.encoder("image")
    image.trunk = Steps(image.trunk)
    clean = score(model, data, "image", None, n=8)
    attack = Strongest(eps=4 * EPS, steps=8)
    blind = score(model, data, "image", attack, n=8)
    assert (blind <= clean).all() and blind.mean() < clean.mean() - 0.01
    copied = dataclasses.replace(attack, surrogates=(str(tmp_path),))
    seen = score(model, data, "image", copied, n=8)
    assert seen.mean() < blind.mean() - 0.1
    monkeypatch.setattr(strongest, "square_search", lambda x, score, *, start, **_: start)
    without = made_by(model, data, "image", attack, n=8)
    (queries,) = (data.inputs("image", data.positions("query", "image")[:8]),)
    moved = (without - queries).abs().flatten(1).amax(1) > 0
    assert moved.sum() < len(moved), "only a random start moves an item without a gradient"


def test_surrogates_edit_words_too_and_must_fit(
    model: HashModel, data: RetrievalData, tmp_path: Path
) -> None:
    attack = Strongest(insertions=1, deletions=0, surrogates=(str(tmp_path / "same"),))
    with pytest.raises(ArtifactError, match="same"):
        made_by(model, data, "text", attack, n=2)
    save_model(tmp_path / "same", model)
    alone = score(model, data, "text", dataclasses.replace(attack, surrogates=()), n=4)
    assert (score(model, data, "text", attack, n=4) <= alone).all()
    save_model(tmp_path / "other", make_model(spec=dataclasses.replace(SPEC, vocabulary=9)))
    wrong = dataclasses.replace(attack, surrogates=(str(tmp_path / "other"),))
    with pytest.raises(ShapeError, match=r"\(n, 9\)"):
        made_by(model, data, "text", wrong, n=2)


def test_a_surrogate_of_pictures_is_left_out_for_texts(
    model: HashModel, data: RetrievalData, tmp_path: Path
) -> None:
    save_model(tmp_path, make_model(spec=dataclasses.replace(SPEC, text_network="")))
    attack = Strongest(insertions=1, deletions=0)
    blind = dataclasses.replace(attack, surrogates=(str(tmp_path),))
    assert torch.equal(*(made_by(model, data, "text", a, n=2) for a in (attack, blind)))


def pool_of(codes: Tensor, label: Tensor, wanted: Tensor) -> tuple[Goal, Pool]:
    anchor = torch.ones(len(wanted), codes.shape[1], dtype=torch.int8)
    references = References(image=codes, text=codes, label=label)
    goal = Goal(modality="image", anchor=anchor, label=wanted, references=references)
    return goal, Pool.of(goal, "other", who="test")


def test_no_code_exceeds_the_bound_and_the_worst_ranking_meets_it() -> None:
    codes = torch.tensor([[1, 1, 1], [1, 1, -1], [1, -1, -1], [-1, -1, -1]], dtype=torch.int8)
    label = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    wanted = torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0]])
    goal, pool = pool_of(codes, label, wanted)
    worth = Worth.of(goal, pool, targeted=False)
    bound = worth.bound()
    # Relevant items at ranks 3 and 4 of 4: (1/3 + 2/4) / 2; all relevant: 1; none: all bits flip.
    assert bound.tolist() == pytest.approx([-5 / 12, -5 / 12, -1, 1])
    rows = torch.arange(4)
    every = [worth(torch.tensor([c] * 4), rows) for c in itertools.product((-1, 1), repeat=3)]
    values = torch.stack(every)
    assert (values <= bound + 1e-12).all()
    assert values.amax(0)[[0, 2, 3]].tolist() == pytest.approx([-5 / 12, -1, 1])
    best = Worth.of(goal, pool, targeted=True)
    assert best.bound().tolist() == [1] * 4
    assert best(codes[[0, 3, 0, 3]], rows).tolist() == pytest.approx([1, 1, 1, 1])


def test_the_best_text_seen_is_kept_and_of_equals_the_first() -> None:
    kept = strongest._Kept(texts=torch.zeros(3, 1), value=torch.tensor([0.0, -1, -1]).double())
    texts = torch.arange(1.0, 6)[:, None]
    items, value = torch.tensor([0, 1, 1, 1, 0]), torch.tensor([-0.5, -0.9, 0.3, 0.3, 0.0])
    kept.offer(items, texts, value.double())
    assert kept.texts[:, 0].tolist() == [0, 3, 0]
    assert kept.value.tolist() == [0, pytest.approx(0.3), -1]


def test_items_that_cannot_get_worse_are_left_alone(data: RetrievalData, model: HashModel) -> None:
    attack, victim = Strongest(eps=EPS, steps=4), Victim(model=model)
    positions = data.positions("query", "image")[:4]
    goal = own_code_goal(attack, victim, data, "image", positions)
    assert goal.references is not None and goal.label is not None
    everything = dataclasses.replace(
        goal.references, label=torch.ones_like(goal.references.label)
    )  # AP is 1 whatever the code
    x = data.inputs("image", positions)
    goal = dataclasses.replace(goal, references=everything)
    made = attack(victim, x, goal, ids=torch.tensor(data.ids[positions]), seed=0)
    assert torch.equal(made, x)
    assert victim.ledger.total == 0


def test_both_forms_of_a_text_budget_are_checked_whichever_is_used() -> None:
    assert Strongest().budget("text").norm == "edits"
    assert Strongest(**FEATURES).budget("text").eps == 0.3
    with pytest.raises(ConfigError, match="steps must be at least 0"):
        Strongest(steps=-1)
    with pytest.raises(Exception, match="insertions must be at least 0, got -1"):
        Strongest(insertions=-1, **FEATURES)
