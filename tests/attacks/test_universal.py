"""One perturbation for all: learned on training items, it carries to queries never seen."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import SPEC, make_model

from hamward.artifacts import read_json, write_json, write_tensors
from hamward.attacks import FittedUniversal, RandomNoise, Universal, own_code_goal
from hamward.data import RetrievalData, Split
from hamward.errors import ArtifactError, ConfigError, ShapeError
from hamward.models import HashModel, Victim
from hamward.types import Modality

FAST = Universal(epochs=6, batch_size=16, eps=16 / 255, text_eps=0.6, step_size=0.3, references=24)


def fitted(
    model: HashModel, data: RetrievalData, modality: Modality = "image", **options: object
) -> FittedUniversal:
    attack = dataclasses.replace(FAST, **options)  # type: ignore[arg-type]
    return attack.fit(Victim(model=model), data, modality, seed=0)


@pytest.mark.parametrize(
    ("goal", "modality"),
    [  # not cmla on texts: J_intra holds the tiny victim's texts in place
        ("own-code", "image"),
        ("own-code", "text"),
        ("cmla", "image"),
        ("fpad", "image"),
        ("fpad", "text"),
    ],
)
def test_it_flips_more_bits_of_unseen_queries_than_noise(
    goal: str, modality: Modality, model: HashModel, data: RetrievalData
) -> None:
    attack = fitted(model, data, modality, goal=goal)
    positions = data.positions("query", modality)
    victim, ids = Victim(model=model, access="ranks"), torch.tensor(data.ids[positions])
    x = data.inputs(modality, positions)
    goal_ = own_code_goal(attack, victim, data, modality, positions)
    noise = RandomNoise(eps=attack.options.eps, text_eps=attack.options.text_eps)
    flips = []
    for made in (attack, noise):
        x_adv = made(victim, x, goal_, ids=ids, seed=0)
        with torch.no_grad():
            flips.append(float(goal_.flips(model.logits(modality, x_adv)).double().mean()))
    assert flips[0] > flips[1] + 1, "at least one bit of 16 more"
    assert victim.ledger.total == 0
    delta = attack(victim, x, goal_, ids=ids, seed=0) - x
    free = (x + attack.delta >= 0) & (x + attack.delta <= 1)
    assert torch.allclose(delta[free], attack.delta.expand_as(x)[free], atol=1e-6)


def test_only_training_items_are_looked_at(model: HashModel, data: RetrievalData) -> None:
    images = data.images.copy()
    others = np.setdiff1d(np.arange(len(data)), data.split.train)
    images[others] = 255 - images[others]
    changed = dataclasses.replace(data, images=images, digest="")
    for goal in ("own-code", "cmla"):
        first, second = (fitted(model, d, goal=goal).delta for d in (data, changed))
        assert torch.equal(first, second)


def test_items_beyond_the_clip_do_not_pull(model: HashModel, data: RetrievalData) -> None:
    """Own-code losses start at -1: with a lower clip nobody pulls, with a higher one all do."""
    assert not fitted(model, data, clip=-1.5).delta.any()
    assert fitted(model, data, clip=1.0).delta.any()


def test_it_comes_back_from_its_files(
    model: HashModel, data: RetrievalData, tmp_path: Path
) -> None:
    attack = fitted(model, data, "text", epochs=1)
    attack.save(tmp_path)
    again = FittedUniversal.load(tmp_path)
    assert torch.equal(again.delta, attack.delta)
    assert (again.options, again.modality, again.code_length) == (attack.options, "text", 16)
    facts, file = read_json(tmp_path / "attack.json"), tmp_path / "attack.safetensors"
    for delta, message in (
        (attack.delta[:-1].clone(), r"of shape \[12\], got torch.float32 \[11\]"),
        (attack.delta * 3, "leaves its budget of 0.6"),
        (torch.full_like(attack.delta, torch.nan), "not finite"),
    ):
        write_tensors(file, {"delta": delta})
        with pytest.raises(ArtifactError, match=message):
            FittedUniversal.load(tmp_path)
    write_json(tmp_path / "attack.json", {**facts, "attack": "prosgan"})
    with pytest.raises(ArtifactError, match="holds the attack 'prosgan', expected 'universal'"):
        FittedUniversal.load(tmp_path)
    write_json(tmp_path / "attack.json", {k: facts[k] for k in facts if k != "code_length"})
    with pytest.raises(ArtifactError, match="code_length"):
        FittedUniversal.load(tmp_path)


def test_what_it_was_not_learned_for_is_refused(model: HashModel, data: RetrievalData) -> None:
    attack = fitted(model, data, epochs=1)
    positions = data.split.query[:4]
    victim, ids = Victim(model=model), torch.tensor(data.ids[positions])
    x, words = data.inputs("image", positions), data.inputs("text", positions)
    goal = own_code_goal(attack, victim, data, "image", positions)
    with pytest.raises(ShapeError, match=r"items of shape \(3, 16, 16\), got \(3, 8, 8\)"):
        attack(victim, x[:, :, :8, :8], goal, ids=ids, seed=0)
    with pytest.raises(ConfigError, match="learned on images, got a goal for texts"):
        attack(victim, words, dataclasses.replace(goal, modality="text"), ids=ids, seed=0)
    with pytest.raises(ConfigError, match="cannot approach"):
        attack(victim, x, dataclasses.replace(goal, toward=True), ids=ids, seed=0)
    short = Victim(model=make_model(spec=dataclasses.replace(SPEC, code_length=8)))
    with pytest.raises(ShapeError, match="codes of 16 bits, the victim makes 8"):
        attack(short, x, dataclasses.replace(goal, anchor=goal.anchor[:, :8]), ids=ids, seed=0)
    with pytest.raises(ConfigError, match="epochs must be at least 1, got 0"):
        Universal(epochs=0)
    none = np.zeros((len(data), 0), np.uint8)
    both = np.arange(72)
    split = Split(
        query=data.split.query, database=both, train=both[24:], validation=both[:0],
        searched_query=True,
    )  # fmt: skip
    bare = dataclasses.replace(data, labels=none, label_names=(), split=split, digest="")
    with pytest.raises(ConfigError, match="goal 'fpad' needs labels, tiny has none"):
        fitted(model, bare, goal="fpad")
