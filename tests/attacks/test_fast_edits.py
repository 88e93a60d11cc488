"""Edits by first-order gain: limits kept, the gains worked by hand, as good as exact ones."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hamward.attacks import Budget, FastEdits, TagEdits, edit_limits, own_code_goal
from hamward.attacks.fast_edits import make_edits
from hamward.data import RetrievalData
from hamward.errors import ConfigError
from hamward.models import HashModel, Victim


def test_the_largest_gains_are_made_within_the_limits() -> None:
    """Gains by hand: +g to insert, -g to delete."""
    x = torch.tensor([[1.0, 1, 1, 0, 0, 0]])
    gradient = torch.tensor([[-5.0, -4, 3, 2, 1, -9]])  # gains 5, 4, -3 and 2, 1, -9

    def made(insertions: int, deletions: int, share: float = 1.0) -> list[float]:
        limits = torch.tensor([[insertions, deletions]])
        (text,) = make_edits(x, x, gradient, limits=limits, share=share)
        return text.tolist()

    assert made(0, 0) == [1, 1, 1, 0, 0, 0]
    assert made(1, 1) == [0, 1, 1, 1, 0, 0]
    assert made(3, 3) == [0, 0, 1, 1, 1, 0], "what lowers the loss is left"
    assert made(2, 2, share=0.5) == [0, 0, 1, 0, 0, 0], "the two largest of four"


def test_edits_are_not_undone_and_a_word_stays() -> None:
    x = torch.tensor([[1.0, 0, 0]])
    limits = torch.tensor([[1, 1]])
    inserted = make_edits(x, x, torch.tensor([[-9.0, 1, 2]]), limits=limits)
    assert inserted.tolist() == [[1, 0, 1]], "deleting first would leave nothing"
    again = make_edits(inserted, x, torch.tensor([[-9.0, 3, -8]]), limits=limits)
    assert again.tolist() == [[0, 0, 1]], "no second insertion, and the first one stays"
    empty = torch.zeros(1, 3)
    assert make_edits(empty, empty, -torch.ones(1, 3), limits=limits).tolist() == [[0, 0, 0]]


@given(seed=st.integers(0, 10_000), insertions=st.integers(0, 4), deletions=st.integers(0, 4))
def test_any_sequence_of_steps_keeps_the_budget(seed: int, insertions: int, deletions: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(5, 9, generator=generator) < 0.4).float()
    budget = Budget.edits(insertions=insertions, deletions=deletions)
    limits, text = edit_limits(torch.arange(5), budget), x
    for step in range(3):
        gradient = torch.randn(5, 9, generator=generator)
        text = make_edits(text, x, gradient, limits=limits, share=1 / (3 - step))
    assert torch.equal(budget.project(text, x), text)


def test_numbers_of_edits_are_drawn_up_to_the_budget() -> None:
    budget = Budget.edits(insertions=2, deletions=1)
    ids = torch.arange(600)
    limits = edit_limits(ids, budget, seed=3)
    for column, most in enumerate((2, 1)):
        share = torch.bincount(limits[:, column], minlength=most + 1) / 600
        assert len(share) == most + 1
        torch.testing.assert_close(share, torch.full_like(share, 1 / (most + 1)), rtol=0, atol=0.08)
    assert torch.equal(edit_limits(ids[[7, 3]], budget, seed=3), limits[[7, 3]])
    assert not torch.equal(edit_limits(ids, budget, seed=4), limits)


def test_it_flips_nearly_as_many_bits_as_exact_scoring(
    model64: HashModel, data: RetrievalData
) -> None:
    victim, positions = Victim(model=model64), data.positions("query", "text")
    exact = TagEdits(insertions=2, deletions=1)
    goal = own_code_goal(exact, victim, data, "text", positions)
    x, ids = data.inputs("text", positions).double(), torch.tensor(data.ids[positions])

    def flips(attack: FastEdits | TagEdits) -> float:
        x_adv = attack(victim, x, goal, ids=ids, seed=0)
        with torch.no_grad():
            return float(goal.flips(model64.eval().logits("text", x_adv)).double().mean())

    one = FastEdits(insertions=2, deletions=1, steps=1)
    three = dataclasses.replace(one, steps=3)
    assert flips(dataclasses.replace(three, drawn=True)) < flips(three)
    assert flips(three) > 0.8 * flips(exact)
    assert flips(one) > 0.5 * flips(exact)


def test_pictures_have_no_words() -> None:
    with pytest.raises(ConfigError, match="not for items of modality 'image'"):
        FastEdits().budget("image")
