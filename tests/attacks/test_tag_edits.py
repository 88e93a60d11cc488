"""Edits of words against brute force on the tiny vocabulary of twelve words."""

import dataclasses
import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hamward.attacks import Budget, Goal, TagEdits, TagEditsByCodes, own_code_goal
from hamward.attacks.edit_search import EditSearch
from hamward.attacks.tag_edits import positions_of_words
from hamward.codes import binarize
from hamward.data import RetrievalData
from hamward.errors import BudgetError, ConfigError, ShapeError, UnknownNameError
from hamward.losses import auto_temperature
from hamward.models import HashModel, QueryLedger, Victim

D, N = 12, 10


def near(text: Tensor, insertions: int, deletions: int, words: tuple[int, ...]) -> Iterator[Tensor]:
    """All texts within so many edits, at least one word kept, by enumeration."""
    present = text.nonzero()[:, 0].tolist()
    absent = [w for w in words if w not in present]
    for a, e in itertools.product(range(insertions + 1), range(deletions + 1)):
        for new in itertools.combinations(absent, a):
            for old in itertools.combinations(present, e):
                made = text.clone()
                made[list(new)], made[list(old)] = 1, 0
                if made.any():
                    yield made


def brute_force(
    victim: Victim, x: Tensor, goal: Goal, insertions: int, deletions: int, **options: object
) -> Tensor:
    """Most bits within the budget, (n,)."""
    words = options.get("words", tuple(range(D)))
    best = []
    for i, text in enumerate(x):
        texts = torch.stack(list(near(text, insertions, deletions, words)))
        own = goal.select(torch.full((len(texts),), i))
        with torch.no_grad():
            best.append(int(own.flips(victim.model.eval().logits("text", texts)).max()))
    return torch.tensor(best)


@pytest.fixture
def victim(model64: HashModel) -> Victim:
    return Victim(model=model64)


@pytest.fixture
def x(data: RetrievalData) -> Tensor:
    return data.inputs("text", data.positions("query", "text")[:N]).double()


@pytest.fixture
def goal(data: RetrievalData, victim: Victim) -> Goal:
    return own_code_goal(TagEdits(), victim, data, "text", data.positions("query", "text")[:N])


def flips(victim: Victim, goal: Goal, x: Tensor) -> Tensor:
    with torch.no_grad():
        return goal.flips(victim.model.eval().logits("text", x))


def run(attack: TagEdits | TagEditsByCodes, victim: Victim, x: Tensor, goal: Goal) -> Tensor:
    return attack(victim, x, goal, ids=torch.arange(len(x)), seed=0)


@pytest.mark.parametrize(("insertions", "deletions"), [(1, 0), (0, 1)])
@pytest.mark.parametrize("toward", [False, True])
def test_exhaustive_search_equals_brute_force(
    victim: Victim, x: Tensor, goal: Goal, insertions: int, deletions: int, toward: bool
) -> None:
    if toward:
        goal = dataclasses.replace(goal, anchor=goal.anchor.roll(1, 0), toward=True)
    attack = TagEdits(insertions=insertions, deletions=deletions, method="exhaustive")
    reached = flips(victim, goal, run(attack, victim, x, goal))
    assert torch.equal(reached, brute_force(victim, x, goal, insertions, deletions))
    greedy = dataclasses.replace(attack, method="greedy", candidates=3)
    assert (flips(victim, goal, run(greedy, victim, x, goal)) <= reached).all()
    all_of_them = dataclasses.replace(attack, method="greedy", candidates=D)
    assert torch.equal(run(all_of_them, victim, x, goal), run(attack, victim, x, goal))


@pytest.mark.parametrize("candidates", [3, D])
def test_brute_force_bounds_beam_and_beam_bounds_greedy(
    victim: Victim, x: Tensor, goal: Goal, candidates: int
) -> None:
    bound = brute_force(victim, x, goal, 2, 2)
    greedy = TagEdits(insertions=2, deletions=2, candidates=candidates)
    last = flips(victim, goal, run(greedy, victim, x, goal))
    for width in (1, 2, 4, 100):
        beam = dataclasses.replace(greedy, method="beam", beam=width)
        reached = flips(victim, goal, run(beam, victim, x, goal))
        assert (reached >= last).all() and (reached <= bound).all()
    if candidates == D:  # a beam that nothing falls off is exhaustive
        wide = dataclasses.replace(greedy, method="beam", beam=1000)
        assert torch.equal(flips(victim, goal, run(wide, victim, x, goal)), bound)


def test_a_wide_beam_reaches_a_code_of_others(victim: Victim, x: Tensor, goal: Goal) -> None:
    toward = dataclasses.replace(goal, anchor=goal.anchor.flip(0), toward=True)
    attack = TagEdits(insertions=2, deletions=1, method="beam", beam=300, candidates=D)
    reached = flips(victim, toward, run(attack, victim, x, toward))
    assert torch.equal(reached, brute_force(victim, x, toward, 2, 1))
    assert reached.sum() > flips(victim, toward, x).sum()


@pytest.mark.parametrize("words", [(3,), (0, 5, 11), tuple(range(D))])
def test_only_allowed_words_are_put_in(
    victim: Victim, x: Tensor, goal: Goal, words: tuple[int, ...]
) -> None:
    attack = TagEdits(insertions=1, deletions=1, method="beam", beam=50, words=words)
    made = run(attack, victim, x, goal)
    others = [w for w in range(D) if w not in words]
    assert (made[:, others] <= x[:, others]).all()
    reached = flips(victim, goal, made)
    assert torch.equal(reached, brute_force(victim, x, goal, 1, 1, words=words))


@pytest.mark.parametrize("attack", [TagEdits, TagEditsByCodes])
@pytest.mark.parametrize(("insertions", "deletions"), [(3, 0), (0, 3), (1, 2), (6, 6)])
def test_the_budget_is_obeyed_and_a_word_stays(
    victim: Victim, x: Tensor, goal: Goal, attack: type, insertions: int, deletions: int
) -> None:
    made = run(attack(insertions=insertions, deletions=deletions), victim, x, goal)
    assert set(made.unique().tolist()) <= {0, 1}
    assert ((made > x).sum(1) <= insertions).all() and ((made < x).sum(1) <= deletions).all()
    assert made.any(1).all()
    assert (flips(victim, goal, made) >= flips(victim, goal, x)).all()
    budget = attack(insertions=insertions, deletions=deletions).budget("text")
    assert torch.equal(budget.project(made, x), made)


def test_a_text_of_one_word_is_not_emptied(victim: Victim, goal: Goal) -> None:
    x = torch.eye(D, dtype=torch.float64)[:N]
    attack = TagEdits(insertions=0, deletions=3)
    assert torch.equal(run(attack, victim, x, goal), x)
    swapped = run(TagEdits(insertions=1, deletions=1), victim, x, goal)
    assert swapped.any(1).all() and not torch.equal(swapped, x)


def test_a_text_without_words_gets_some(victim: Victim, goal: Goal) -> None:
    x = torch.zeros(N, D, dtype=torch.float64)
    logits = victim.model.eval().logits("text", x)
    own = dataclasses.replace(goal, anchor=binarize(logits))
    made = run(TagEdits(insertions=2, deletions=2), victim, x, own)
    assert (made.sum(1) <= 2).all() and flips(victim, own, made).sum() > 0
    assert torch.equal(run(TagEdits(insertions=0, deletions=2), victim, x, own), x)


def test_among_texts_of_equal_bits_the_smaller_loss_counts(
    victim: Victim, x: Tensor, goal: Goal
) -> None:
    made = run(TagEdits(insertions=1, deletions=0, method="exhaustive"), victim, x, goal)
    choices = 0
    for i, text in enumerate(x):
        texts = torch.stack([made[i], *near(text, 1, 0, tuple(range(D)))])
        own = goal.select(torch.full((len(texts),), i))
        with torch.no_grad():
            logits = victim.model.eval().logits("text", texts)
            loss, bits = auto_temperature(logits, own.anchor), own.flips(logits)
        equal = bits == bits.max()
        choices += int(equal.sum()) > 2
        assert equal[0] and loss[0] - loss[equal].min() <= 32 / 65536
    assert choices > 2, "some texts had several edits of equal bits"


def test_a_step_goes_through_a_worse_text() -> None:
    """Two insertions that pay only together are found; the score falls after the first."""
    budget = Budget.edits(insertions=2, deletions=0)
    x = torch.zeros(2, 4, dtype=torch.float64)
    x[:, 3] = 1

    def score(rows: Tensor, texts: Tensor) -> Tensor:
        pair = texts[:, 0] * texts[:, 1]
        return 1.0 + 3 * pair - 0.25 * texts[:, 0] - 0.5 * texts[:, 1] - 0.75 * texts[:, 2]

    allowed = torch.ones(4, dtype=torch.bool)
    search = EditSearch(x=x, budget=budget, allowed=allowed, most=16)
    made = search.run(score, lambda rows, texts, step: texts)
    assert made.tolist() == [[1, 1, 0, 1]] * 2
    nothing = search.run(lambda rows, texts: -texts.sum(1), lambda rows, texts, step: texts)
    assert torch.equal(nothing, x)


def test_equal_sets_of_edits_are_scored_once_and_done_items_leave() -> None:
    seen: list[tuple[int, tuple[float, ...]]] = []

    def score(rows: Tensor, texts: Tensor) -> Tensor:
        seen.extend(zip(rows.tolist(), map(tuple, texts.tolist()), strict=True))
        return torch.where(rows == 1, 9.0, texts.sum(1)).double()

    x = torch.zeros(3, 5, dtype=torch.float64)
    search = EditSearch(
        x=x,
        budget=Budget.edits(insertions=3, deletions=0),
        allowed=torch.ones(5, dtype=torch.bool),
        most=9,
        beam=100,
    )
    search.run(score, lambda rows, texts, step: texts)
    assert len(seen) == len(set(seen))
    assert sum(row == 1 for row, _ in seen) == 1, "all bits of this item are reached at once"
    assert sum(row == 0 for row, _ in seen) == 1 + 5 + 10 + 10


def test_submissions_are_counted_exactly(victim: Victim, x: Tensor, goal: Goal) -> None:
    ledger = QueryLedger()
    counted = dataclasses.replace(victim, ledger=ledger)
    run(TagEdits(insertions=1, deletions=0, method="exhaustive"), counted, x, goal)
    assert (ledger.image, ledger.text) == (0, len(x) + int((x == 0).sum()))
    ledger.text = 0
    run(TagEdits(insertions=1, deletions=0, candidates=4), counted, x, goal)
    assert ledger.text == len(x) * (1 + 1 + 4)
    ledger.text = 0
    codes = dataclasses.replace(counted, access="codes")
    run(TagEditsByCodes(insertions=1, deletions=0, candidates=4), codes, x, goal)
    assert ledger.text == len(x) * (1 + 4)


def test_trying_all_edits_by_codes_is_exact(victim: Victim, x: Tensor, goal: Goal) -> None:
    attack = TagEditsByCodes(insertions=1, deletions=0, candidates=None)
    reached = flips(victim, goal, run(attack, victim, x, goal))
    assert torch.equal(reached, brute_force(victim, x, goal, 1, 0))
    few = dataclasses.replace(attack, candidates=2)
    first = few(victim, x, goal, ids=torch.arange(N), seed=0)
    assert not torch.equal(first, few(victim, x, goal, ids=torch.arange(N), seed=1))


def test_the_gradient_ranks_a_linear_victim_exactly(victim: Victim, goal: Goal) -> None:
    """On a text network that is linear near x, one candidate suffices."""
    x = torch.zeros(1, D, dtype=torch.float64)
    x[0, 0] = 1
    encoder = victim.model.encoders["text"]
    with torch.no_grad():
        for layer in (encoder.trunk.hidden, encoder.head):
            layer.weight.zero_(), layer.bias.fill_(0.0)
        encoder.trunk.hidden.weight[0] = torch.linspace(1.0, 0.4, D)
        encoder.trunk.hidden.weight[0, 7] = -0.9
        encoder.head.weight[:, 0] = torch.where(torch.arange(16) < 8, 1.0, -1.0)
        encoder.head.bias[:8] = -0.5
    own = goal.select(slice(0, 1))
    with torch.no_grad():
        own = dataclasses.replace(own, anchor=binarize(victim.model.eval().logits("text", x)))
    made = run(TagEdits(insertions=1, deletions=0, candidates=1), victim, x, own)
    assert (made > x).nonzero()[:, 1].tolist() == [7]
    loss = auto_temperature(victim.model.logits("text", made), own.anchor)
    assert loss < auto_temperature(victim.model.logits("text", x), own.anchor)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"insertions": -1}, BudgetError, "insertions must be at least 0, got -1"),
        ({"deletions": -2}, BudgetError, "deletions must be at least 0, got -2"),
        ({"candidates": 0}, ConfigError, "candidates must be at least 1, got 0"),
        ({"words": ()}, ConfigError, "at least one"),
        ({"words": (-1,)}, ConfigError, "positions"),
    ],
)
@pytest.mark.parametrize("attack", [TagEdits, TagEditsByCodes])
def test_wrong_options_are_refused(
    attack: type, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        attack(**options)


def test_wrong_methods_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"insertions \+ deletions = 1, got 3 \+ 3"):
        TagEdits(method="exhaustive")
    with pytest.raises(ConfigError, match="beam must be at least 1, got 0"):
        TagEdits(beam=0)
    with pytest.raises(ConfigError, match="'image'"):
        TagEdits().budget("image")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"insertions": 13}, "tag budget larger than the vocabulary: 13 insertions"),
        ({"insertions": 7, "deletions": 6}, "larger than the vocabulary"),
        ({"insertions": 2, "words": (4,)}, "larger than the vocabulary.* 1 words to insert"),
        ({"words": (0, 1, 12)}, "below 12, the vocabulary, got 12"),
    ],
)
def test_budgets_that_do_not_fit_the_vocabulary_are_refused_before_work(
    victim: Victim, x: Tensor, goal: Goal, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(TagEdits(**options), victim, x, goal)
    assert victim.ledger.total == 0


def test_other_items_than_bags_of_words_are_refused(victim: Victim, x: Tensor, goal: Goal) -> None:
    with pytest.raises(ShapeError, match=r"zeros and ones, got 1 other values, such as 0\.5"):
        run(
            TagEdits(),
            victim,
            x.index_fill(0, torch.tensor([0]), 0).index_put(
                (torch.tensor(3), torch.tensor(3)), torch.tensor(0.5).double()
            ),
            goal,
        )
    picture = torch.zeros(N, 3, 16, 16, dtype=torch.float64)
    with pytest.raises(ConfigError, match="'image'"):
        run(TagEdits(), victim, picture, dataclasses.replace(goal, modality="image"))
    assert victim.ledger.total == 0


def test_words_are_found_by_name() -> None:
    assert positions_of_words(["sky", "cat"], ("cat", "dog", "sky")) == (2, 0)
    with pytest.raises(UnknownNameError, match="did you mean 'dog'"):
        positions_of_words(["dogs"], ("cat", "dog", "sky"))


@given(
    st.integers(0, 10_000), st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.5, 1.0, 2.0])
)
def test_the_projection_is_the_nearest_text(seed: int, a: int, e: int, wild: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(3, 6, generator=generator, dtype=torch.float64) < 0.4).double()
    x[0] = 0  # a text without words may stay so
    x_adv = x + wild * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    budget = Budget.edits(insertions=a, deletions=e)
    made = budget.project(x_adv, x)
    assert torch.equal(budget.project(made, x), made) and torch.equal(budget.project(x, x), x)
    for row, text in enumerate(x):
        texts = list(near(text, a, e, tuple(range(6)))) + [text][: int(not text.any())]
        least = min(float((t - x_adv[row]).norm()) for t in texts)
        assert float((made[row] - x_adv[row]).norm()) == pytest.approx(least)
        assert any(torch.equal(made[row], t) for t in texts)


def test_budgets_of_edits() -> None:
    budget = Budget.edits(insertions=2, deletions=1)
    assert (budget.eps, budget.norm, budget.insertions, budget.deletions) == (3, "edits", 2, 1)
    assert Budget(eps=3, norm="edits", insertions=2, deletions=1) == budget
    for values, message in (
        ({"eps": 4, "norm": "edits", "insertions": 2, "deletions": 1}, r"2 \+ 1, eps 4"),
        ({"eps": 0.1, "insertions": 1}, "norm 'linf'"),
        ({"eps": 0, "norm": "edits", "one_sided": True}, "set deletions to 0"),
    ):
        with pytest.raises(BudgetError, match=message):
            Budget(**values)
    with pytest.raises(BudgetError, match="no smallest and largest"):
        budget.bounds(torch.zeros(1, 3))
    with pytest.raises(ShapeError, match=r"such as 0\.5"):
        budget.project(torch.zeros(1, 3), torch.full((1, 3), 0.5))
