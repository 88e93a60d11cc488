"""Goals, chunks, rounding and resume."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hamward.artifacts import write_tensors
from hamward.attacks import Goal, OwnCode, craft, encode, own_code_goal
from hamward.codes import binarize
from hamward.data import RetrievalData
from hamward.errors import ArtifactError
from hamward.models import HashModel, Victim

ATTACK = OwnCode(eps=7.5 / 255, text_eps=0.3, steps=2)


def setting(
    model: HashModel, data: RetrievalData, modality: str = "image"
) -> tuple[Victim, Tensor, Goal, Tensor]:
    victim = Victim(model=model)
    positions = data.positions("query", modality)[:10]
    goal = own_code_goal(ATTACK, victim, data, modality, positions)
    return victim, data.inputs(modality, positions), goal, torch.tensor(data.ids[positions])


def test_encode_gives_codes_whatever_the_batch(model64: HashModel, data: RetrievalData) -> None:
    model64.train()
    positions = data.positions("database")[:20]
    codes = encode(model64, data, "image", positions, batch_size=7)
    assert model64.training
    assert codes.dtype == torch.int8 and codes.shape == (20, 16)
    assert torch.equal(codes, encode(model64, data, "image", positions))
    with torch.no_grad():
        x = data.inputs("image", positions).double()
        assert torch.equal(codes, binarize(model64.eval().logits("image", x)))
    assert encode(model64, data, "text", positions[:0]).shape == (0, 16)


def test_pictures_are_rounded_inside_the_budget_and_words_are_not(
    model: HashModel, data: RetrievalData
) -> None:
    victim, x, goal, ids = setting(model, data)
    made = craft(ATTACK, victim, x, goal, ids=ids)
    levels = made.stored.double() * 255
    assert (levels - levels.round()).abs().max() < 1e-4
    assert (made.stored - x).abs().max() <= 7 / 255 + 1e-6, "7.5 levels hold 7"
    assert not torch.equal(made.stored, made.x_adv)
    victim, x, goal, ids = setting(model, data, "text")
    made = craft(ATTACK, victim, x, goal, ids=ids)
    assert made.stored is made.x_adv


def test_interrupted_crafting_continues_after_the_last_chunk(
    model: HashModel, data: RetrievalData, tmp_path: Path
) -> None:
    victim, x, goal, ids = setting(model, data)
    calls: list[list[int]] = []

    class Watched:
        fail = True

        def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int):  # type: ignore[no-untyped-def]
            if self.fail and len(calls) == 2:
                raise KeyboardInterrupt
            calls.append(ids.tolist())
            return ATTACK(victim, x, goal, ids=ids, seed=seed)

        access, budget = ATTACK.access, staticmethod(ATTACK.budget)
        modalities, targeted, needs_references = ("image", "text"), False, False

    watched = Watched()
    with pytest.raises(KeyboardInterrupt):
        craft(watched, victim, x, goal, ids=ids, batch_size=4, parts=tmp_path)
    watched.fail = False
    made = craft(watched, victim, x, goal, ids=ids, batch_size=4, parts=tmp_path)
    assert [len(c) for c in calls] == [4, 4, 2]
    assert [item for chunk in calls for item in chunk] == ids.tolist()
    whole = craft(ATTACK, victim, x, goal, ids=ids, batch_size=4)
    assert torch.equal(made.x_adv, whole.x_adv)


def test_chunks_of_other_items_or_damaged_ones_are_refused(
    model: HashModel, data: RetrievalData, tmp_path: Path
) -> None:
    victim, x, goal, ids = setting(model, data)
    craft(ATTACK, victim, x, goal, ids=ids, batch_size=4, parts=tmp_path)
    with pytest.raises(ArtifactError, match=r"00000.safetensors: holds other items"):
        craft(ATTACK, victim, x, goal, ids=ids, batch_size=5, parts=tmp_path)
    (tmp_path / "00001.safetensors").write_bytes(b"half")
    with pytest.raises(ArtifactError, match=r"00001.safetensors: not a readable"):
        craft(ATTACK, victim, x, goal, ids=ids, batch_size=4, parts=tmp_path)
    write_tensors(tmp_path / "00001.safetensors", {"x": x})


def test_own_code_goals_hold_the_clean_codes(model: HashModel, data: RetrievalData) -> None:
    _, x, goal, _ = setting(model, data)
    with torch.no_grad():
        assert torch.equal(goal.anchor, binarize(model.logits("image", x)))
    assert not goal.toward and goal.references is None
    rows = torch.tensor([2, 0])
    assert torch.equal(goal.select(rows).anchor, goal.anchor[rows])
    assert goal.label is not None and np.array_equal(goal.label, data.label(np.arange(10)))
