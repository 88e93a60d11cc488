"""The ensemble is never weaker than clean, and not weaker than its members."""

import dataclasses

import numpy as np
import pytest
import torch

from hamward.attacks import (
    ATTACKS,
    CgAT,
    OwnCode,
    Strongest,
    StrongestTargeted,
    choose_targets,
    encode_items,
    own_code_goal,
    round_to_grid,
)
from hamward.data import RetrievalData
from hamward.metrics import average_precision, distance_counts
from hamward.models import HashModel, Victim, build_hash_model
from hamward.types import Modality

EPS = 3 / 255


def score(  # type: ignore[no-untyped-def]
    model: HashModel, data: RetrievalData, modality: Modality, attack, *, targets=None
) -> np.ndarray:
    positions = data.positions("query", modality)
    x, victim = data.inputs(modality, positions), Victim(model=model)
    if attack is not None:
        goal = own_code_goal(attack, victim, data, modality, positions, target_label=targets)
        x_adv = attack(victim, x, goal, ids=torch.tensor(data.ids[positions]), seed=0)
        image = modality == "image"
        x = round_to_grid(x_adv, x, attack.budget("image")) if image else x_adv
    other: Modality = "text" if modality == "image" else "image"
    counts = distance_counts(
        encode_items(model, modality, x),
        encode_items(model, other, data.inputs(other, data.split.database)),
        query_labels=data.label(positions) if targets is None else targets,
        database_labels=data.label(data.split.database),
    )
    return average_precision(counts)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_no_query_gets_better_and_no_member_is_stronger(
    model: HashModel, data: RetrievalData, modality: Modality
) -> None:
    clean = score(model, data, modality, None)
    ensemble = score(model, data, modality, Strongest(eps=EPS, text_eps=0.3, steps=20))
    assert (ensemble <= clean + 1e-12).all()
    for member in (OwnCode(eps=EPS, text_eps=0.3, steps=20), CgAT(eps=EPS, text_eps=0.3)):
        assert ensemble.mean() <= score(model, data, modality, member).mean() + 1e-3
    assert ensemble.mean() < clean.mean() - 0.1


def test_targeted_runs_reach_the_target_more_than_a_single_goal(
    model: HashModel, data: RetrievalData
) -> None:
    positions = data.positions("query", "image")
    database = data.label(data.split.database)
    ids = torch.tensor(data.ids[positions])
    targets = choose_targets(data.label(positions), database, ids=ids)
    ours = score(model, data, "image", StrongestTargeted(eps=4 * EPS, steps=20), targets=targets)
    clean = score(model, data, "image", None, targets=targets)
    single = score(
        model, data, "image", ATTACKS["saat-targeted"].make(eps=4 * EPS), targets=targets
    )
    assert (ours >= clean - 1e-12).all()
    assert ours.mean() >= single.mean() - 1e-3 and ours.mean() > clean.mean() + 0.1


def test_a_larger_last_layer_changes_little(model: HashModel, data: RetrievalData) -> None:
    scaled = build_hash_model(model.spec, seed=0)
    scaled.load_state_dict(model.state_dict())
    with torch.no_grad():
        for encoder in scaled.encoders.values():
            for parameter in encoder.head.parameters():
                parameter.mul_(64)
    attack = Strongest(eps=EPS, steps=12)
    before, after = (score(m.eval(), data, "image", attack).mean() for m in (model, scaled))
    assert abs(before - after) < 0.01


def test_items_that_cannot_get_worse_are_left_alone(data: RetrievalData, model: HashModel) -> None:
    attack, victim = Strongest(eps=EPS, steps=4), Victim(model=model)
    positions = data.positions("query", "image")[:4]
    goal = own_code_goal(attack, victim, data, "image", positions)
    assert goal.references is not None and goal.label is not None
    nothing = torch.zeros_like(goal.references.image)  # every code at one distance: all ties
    flat = dataclasses.replace(
        goal, references=dataclasses.replace(goal.references, image=nothing + 1, text=nothing + 1)
    )
    x = data.inputs("image", positions)
    made = attack(victim, x, flat, ids=torch.tensor(data.ids[positions]), seed=0)
    assert torch.equal(made, x), "AP is the same whatever the code"
    assert victim.ledger.total == 0
