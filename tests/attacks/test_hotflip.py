"""Replaced words against brute force, and what else attacks may do to victims of tokens."""

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor

from hamward.attacks import (
    ATTACKS,
    Budget,
    Goal,
    HotFlip,
    OwnCode,
    Square,
    TagEdits,
    attacked_items,
    craft,
    own_code_goal,
)
from hamward.attacks.hotflip import _Neighbors
from hamward.data import RetrievalData
from hamward.defenses import DEFENSES
from hamward.errors import BudgetError, ConfigError, ShapeError
from hamward.models import HashModel, Victim, read_by
from hamward.models.text_transformer import TextTransformer
from hamward.training import DCMH

N = 6


@pytest.fixture
def read(token_model64: HashModel, data: RetrievalData) -> RetrievalData:
    return read_by(token_model64, data)


@pytest.fixture
def reader(token_model64: HashModel) -> TextTransformer:
    return token_model64.text_transformer


@pytest.fixture
def victim(token_model64: HashModel) -> Victim:
    return Victim(model=token_model64)


@pytest.fixture
def ids(read: RetrievalData) -> Tensor:
    return torch.tensor(read.ids[read.positions("query", "text")[:N]])


@pytest.fixture
def x(read: RetrievalData) -> Tensor:
    return read.inputs("text", read.positions("query", "text")[:N])


@pytest.fixture
def goal(victim: Victim, read: RetrievalData) -> Goal:
    return own_code_goal(HotFlip(), victim, read, "text", read.positions("query", "text")[:N])


def replacements(
    reader: TextTransformer, token: int, *, neighbors: int, cosine: float
) -> list[int]:
    """By the definition: the nearest whole words, near enough, by a loop."""
    table = reader.table.detach()
    found = []
    for other in reader.tokens.vocabulary_words.nonzero()[:, 0].tolist():
        near = torch.nn.functional.cosine_similarity(table[token], table[other], dim=0)
        if other != token and near >= cosine:
            found.append((-round(float(near), 5), other))
    return [other for _, other in sorted(found)[:neighbors]]


def test_neighbors_are_the_nearest_words(reader: TextTransformer, x: Tensor) -> None:
    options = HotFlip(neighbors=5, cosine=0.2)
    near = _Neighbors.of(reader, x[reader.tokens.single_words(x)], options)
    for token in x[reader.tokens.single_words(x)].unique().tolist():
        row = near.row[token]
        assert near.tokens[row][near.valid[row]].tolist() == replacements(
            reader, token, neighbors=5, cosine=0.2
        )


@pytest.mark.parametrize(("neighbors", "cosine"), [(40, -1.0), (4, 0.1)])
def test_one_substitution_is_the_best_there_is(
    victim: Victim,
    reader: TextTransformer,
    x: Tensor,
    goal: Goal,
    ids: Tensor,
    neighbors: int,
    cosine: float,
) -> None:
    attack = HotFlip(substitutions=1, candidates=1000, neighbors=neighbors, cosine=cosine)
    made = attack(victim, x, goal, ids=ids, seed=0)
    with torch.no_grad():
        reached = goal.flips(victim.model.eval().logits("text", made))
    for row in range(N):
        texts = [x[row]]
        for place in reader.tokens.single_words(x[row : row + 1])[0].nonzero()[:, 0].tolist():
            for token in replacements(
                reader, int(x[row, place]), neighbors=neighbors, cosine=cosine
            ):
                texts.append(x[row].clone())
                texts[-1][place] = token
        own = goal.select(torch.full((len(texts),), row))
        with torch.no_grad():
            best = own.flips(victim.model.logits("text", torch.stack(texts))).max()
        assert reached[row] == best
    assert reached.max() > 0


def test_the_gradient_orders_what_is_tried(
    victim: Victim, reader: TextTransformer, x: Tensor, goal: Goal
) -> None:
    near = _Neighbors.of(reader, x[reader.tokens.single_words(x)], HotFlip(cosine=-1.0))
    slope = torch.linspace(-1, 1, x.numel() * 16, dtype=torch.float64).view(*x.shape, 16).sin()
    gain, tokens = near.gains(x, slope, reader.tokens.single_words(x))
    table = reader.table.detach()
    for row, place, n in itertools.product(range(N), range(x.shape[1]), range(3)):
        value = gain.view(tokens.shape)[row, place, n]
        if not reader.tokens.single_words(x)[row, place]:
            assert value == -torch.inf
            continue
        step = table[tokens[row, place, n]] - table[x[row, place]]
        torch.testing.assert_close(value, step @ slope[row, place])


def test_results_are_texts_of_other_words_that_give_the_same_ids(
    victim: Victim, reader: TextTransformer
) -> None:
    x = reader.tokens.ids(["w0 v3, w7", "w1 [UNK] w2x", "", "prey", "w1 w2 w3 w4 w5 w6 w7 w8"])
    codes = victim.codes("text", x)
    goal = Goal(modality="text", anchor=codes)
    attack = HotFlip(substitutions=3, neighbors=40, cosine=-1.0)
    made = attack(victim, x, goal, ids=torch.arange(5), seed=0)
    changed = made != x
    assert changed.any(1).tolist() == [True, True, False, False, True]
    assert changed.sum(1).max() <= 3
    assert not changed[~reader.tokens.single_words(x)].any(), "special tokens and pieces stay"
    assert torch.equal(reader.tokens.ids(reader.tokens.texts(made)), made)


def test_more_substitutions_and_candidates_serve_more_bits(
    victim: Victim, x: Tensor, goal: Goal, ids: Tensor
) -> None:
    def flips(**options: float) -> int:
        attack = HotFlip(neighbors=40, cosine=-1.0, **options)
        made = attack(victim, x, goal, ids=ids, seed=0)
        with torch.no_grad():
            return int(goal.flips(victim.model.eval().logits("text", made)).sum())

    assert 0 < flips(substitutions=1) < flips(substitutions=2)
    assert flips(substitutions=1, candidates=1) <= flips(substitutions=1, candidates=100)


def test_a_code_is_approached(victim: Victim, x: Tensor, goal: Goal, ids: Tensor) -> None:
    toward = dataclasses.replace(goal, anchor=goal.anchor.roll(1, 0), toward=True)
    made = HotFlip(neighbors=40, cosine=-1.0)(victim, x, toward, ids=ids, seed=0)
    with torch.no_grad():
        before, after = (toward.flips(victim.model.eval().logits("text", t)) for t in (x, made))
    assert (after >= before).all() and after.sum() > before.sum()


MOVERS = [
    name
    for name in ATTACKS
    if isinstance(ATTACKS[name].make, type)
    and not hasattr(ATTACKS[name].make, "fit")
    and "text" in ATTACKS[name].make.modalities
    and not ATTACKS[name].make.targeted
    and ATTACKS[name].make().budget("text").norm in ("linf", "l2")
    and name != "square-list"
]


@pytest.mark.parametrize("name", MOVERS)
def test_attacks_with_a_radius_move_embeddings(
    victim: Victim, read: RetrievalData, name: str
) -> None:
    kind = ATTACKS[name].make
    known = {f.name for f in dataclasses.fields(kind)}
    norm = {"norm": "l2"} if "norm" in known else {}
    size = {
        "text_eps": 0.9 if norm else 0.2,
        "steps": 4 if name != "strongest" else 1,
        "queries": 20,
        **norm,
    }
    attack = kind(**{k: v for k, v in size.items() if k in known})
    place = read.positions("query", "text")[:N]
    goal = own_code_goal(attack, victim, read, "text", place)
    x = attacked_items(attack, victim.model, read, "text", place)
    made = craft(attack, victim, x, goal, ids=torch.tensor(read.ids[place]), seed=0).x_adv
    assert made.shape == (N, 8, 17) and made.dtype == torch.float64
    delta = (made - x).flatten(1)
    size = delta.norm(dim=1) if norm else delta.abs().amax(1)
    assert 0 < size.max() <= attack.budget("text").eps + 1e-9
    with torch.no_grad():
        flips = goal.flips(victim.model.eval().logits("text", made))
    if attack.access == "gradients":
        assert flips.sum() > 0
        assert not delta.view(made.shape)[..., -1].any(), "padding stays padding"


def test_what_cannot_be_changed_is_refused(
    victim: Victim,
    read: RetrievalData,
    x: Tensor,
    goal: Goal,
    ids: Tensor,
    model64: HashModel,
    data: RetrievalData,
) -> None:
    place = read.positions("query", "text")[:N]
    with pytest.raises(
        ConfigError, match=r"TagEdits.*'edits'.*victim reads tokens: take 'hotflip'"
    ):
        attacked_items(TagEdits(), victim.model, read, "text", place)
    with pytest.raises(ConfigError, match="reads tokens"):
        TagEdits()(victim, x, goal, ids=ids, seed=0)
    with pytest.raises(ConfigError, match=r"reads bag: 'tag-edits'"):
        attacked_items(HotFlip(), model64, data, "text", place)
    with pytest.raises(ConfigError, match="Knockoff learns on bags"):
        attacked_items(ATTACKS["knockoff"].make(), victim.model, read, "text", place)
    with pytest.raises(ShapeError, match=r"shape \(n, L, E\), got \(6, 8\)"):
        OwnCode()(victim, x, goal, ids=ids, seed=0)
    with pytest.raises(ConfigError, match="not in items of modality 'image'"):
        HotFlip().budget("image")
    hardened = DEFENSES["cmla"].make(DCMH())
    with pytest.raises(ConfigError, match="this victim reads tokens"):
        hardened.start(victim.model, read, read.split.train)
    for options, message in (
        ({"cosine": 2.0}, r"cosine must be in \[-1, 1\], got 2"),
        ({"neighbors": 0}, "neighbors must be at least 1"),
        ({"candidates": 0}, "candidates must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            HotFlip(**options)
    with pytest.raises(BudgetError, match=r"number of tokens, got 1\.5"):
        Budget(eps=1.5, norm="substitutions")
    assert Square().budget("text").text_format("tokens") == "embeddings"


def test_a_budget_of_substitutions_keeps_the_first_changes() -> None:
    x = torch.tensor([[2, 5, 6, 7, 3]])
    budget = Budget(eps=2, norm="substitutions")
    made = budget.project(torch.tensor([[2, 9, 6, 8, 4]]), x)
    assert made.tolist() == [[2, 9, 6, 8, 3]]
    with pytest.raises(BudgetError, match="whole words"):
        budget.bounds(x)
