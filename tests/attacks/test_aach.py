"""The surrogates of AACH, the knock-off and transfer: what they see, learn and cost."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hamward.attacks import (
    AACH,
    Attack,
    Knockoff,
    OwnCode,
    TrainableAttack,
    Transfer,
    encode,
    own_code_goal,
)
from hamward.attacks.aach import Triplets, reversal_loss, triplet_loss
from hamward.attacks.surrogate import ask, choose_queries, places
from hamward.data import RetrievalData
from hamward.errors import AccessError, ArtifactError, ConfigError, QueryLimitError, ShapeError
from hamward.index import HammingIndex
from hamward.models import HashModel, QueryLedger, Victim, build_hash_model, load_model, save_model
from hamward.types import Modality

SMALL: dict[str, Any] = {
    "queries": 40,
    "image_network": "tiny-resnet",
    "epochs": 12,
    "batch_size": 8,
    "steps": 12,
    "eps": 10 / 255,
}
OTHER: dict[Modality, Modality] = {"image": "text", "text": "image"}


def victim_of(
    model: HashModel, data: RetrievalData, attack: TrainableAttack, modality: Modality = "image"
) -> Victim:
    codes = encode(model, data, OTHER[modality], data.split.database)
    return Victim(
        model=model,
        access=attack.access,
        index=HammingIndex.build(codes),
        ledger=QueryLedger(limit=getattr(attack, "query_limit", None)),
    )


def flips_of(
    attack: Attack, victim: Victim, data: RetrievalData, modality: Modality = "image"
) -> float:
    positions = data.positions("query", modality)
    goal = own_code_goal(attack, victim, data, modality, positions)
    x = data.inputs(modality, positions)
    x_adv = attack(victim, x, goal, ids=torch.tensor(data.ids[positions]), seed=0)
    with torch.no_grad():
        return float(goal.flips(victim.model.eval().logits(modality, x_adv)).double().mean())


def test_triplets_are_those_of_three_loops() -> None:
    distances = torch.tensor([[1.0, 2.0, 6.0, 3.0], [5.0, 1.0, 2.0, 4.0]])
    near = torch.tensor([[True, False, False, True], [False, True, False, False]])
    far = torch.tensor([[False, False, True, False], [True, False, True, False]])
    terms = [
        max(0.0, float(distances[a, p] - distances[a, n]) + 2.5)
        for a in range(2)
        for p in range(4)
        for n in range(4)
        if near[a, p] and far[a, n]
    ]
    assert terms == [0.0, 0.0, 0.0, 1.5]  # 1-6, 3-6, 1-5, 1-2, each + 2.5
    loss = triplet_loss(distances, near, far, margin=2.5)
    assert float(loss) == pytest.approx(sum(terms) / 4)
    assert float(triplet_loss(distances, near, near & far, margin=2.5)) == 0


def test_reversal_is_the_triplet_loss_with_near_and_far_exchanged() -> None:
    """By hand: K = 4, h at distance 1 from P and 3 from N, beta 1, gap (1 - .5)^2 on one bit."""
    relaxed = torch.tensor([[1.0, 1.0, 0.5, -1.0]])
    near = torch.tensor([[[1.0, 1.0, 1.0, 1.0]]])
    far = -near
    # <h, P> = 1.5 -> d(P) = 1.25; <h, N> = -1.5 -> d(N) = 2.75; hinge 2.75 - 1.25 + 1 = 2.5
    value = reversal_loss(relaxed, near, far, margin=1, quantization=0.1)
    assert value.tolist() == pytest.approx([2.5 + 0.1 * 0.25 / 4])
    done = reversal_loss(relaxed, far, near, margin=1, quantization=0)
    assert done.tolist() == pytest.approx([0.0])  # 1.25 - 2.75 + 1 < 0


def test_places_and_cuts_of_lists() -> None:
    lists = torch.tensor([[2, 0, 3], [1, 2, 0]])
    assert places(lists, 5).tolist() == [[1, 3, 0, 2, 3], [2, 0, 1, 3, 3]]
    assert AACH().cuts(100) == (10, 70)
    assert AACH().cuts(3) == (1, 2)


def test_the_pool_holds_near_items_of_every_submitted_one(
    model: HashModel, data: RetrievalData
) -> None:
    lists = torch.stack(
        [torch.randperm(72, generator=torch.Generator().manual_seed(i)) for i in range(6)]
    )
    options = AACH(draws=3, near=0.05)
    triplets = Triplets("image", places(lists, 72), listed=72, options=options, seed=1)
    triplets.start(model, data, data.split.train[:6])
    rows = torch.tensor([4, 1])
    pool = triplets.pool(rows, 7)
    assert torch.equal(pool, triplets.pool(rows, 7)) and not torch.equal(
        pool, triplets.pool(rows, 8)
    )
    for row in rows.tolist():
        assert set(lists[row, :4].tolist()) & set(pool.tolist())
    assert len(pool) <= 2 * 2 * 3 and int(pool.max()) < 72


@pytest.mark.parametrize("modality", ["image", "text"])
@pytest.mark.parametrize("kind", [AACH, Knockoff])
def test_exactly_m_submissions_of_the_attacked_modality(
    kind: type, modality: Modality, model: HashModel, data: RetrievalData
) -> None:
    options = kind(**{**SMALL, "queries": 17, "epochs": 1})
    victim = victim_of(model, data, options, modality)
    attack = options.fit(victim, data, modality, seed=0)
    counted = (victim.ledger.image, victim.ledger.text)
    assert counted == ((17, 0) if modality == "image" else (0, 17))
    flips_of(attack, victim, data, modality)
    assert victim.ledger.total == 17, "crafting asks nothing"
    short = dataclasses.replace(victim, ledger=QueryLedger(limit=16))
    with pytest.raises(QueryLimitError, match=r"17 more .* 0 of 16"):
        options.fit(short, data, modality, seed=0)
    assert short.ledger.total == 0, "refused before any submission"


def test_only_training_items_with_content_are_submitted(data: RetrievalData) -> None:
    chosen = choose_queries(data, "text", 47, seed=0, who="aach")  # item 50 has no words
    assert 50 not in chosen and set(chosen) <= set(data.split.train)
    assert (np.diff(chosen) > 0).all()
    with pytest.raises(ConfigError, match=r"in \[1, 47\].*words, got 48"):
        choose_queries(data, "text", 48, seed=0, who="aach")
    assert not np.array_equal(
        choose_queries(data, "image", 20, seed=0, who="aach"),
        choose_queries(data, "image", 20, seed=1, who="aach"),
    )


def test_answers_of_batches_are_joined_in_order(model: HashModel, data: RetrievalData) -> None:
    victim = Victim(model=model, access="codes")
    positions = data.split.train[:11]
    codes = ask(lambda x: victim.codes("image", x), victim, data, "image", positions, batch_size=4)
    assert torch.equal(codes, encode(model, data, "image", positions))


def agreement(surrogate: HashModel, data: RetrievalData, lists: Tensor) -> float:
    """Share of (near, far) pairs of lists that the surrogate orders alike; 0.5 is chance."""
    images = encode(surrogate, data, "image", data.split.query).double()
    texts = encode(surrogate, data, "text", data.split.database).double()
    distance = -(images @ texts.T).gather(1, lists)
    near, far = distance[:, :12], distance[:, -24:]
    less = (near[:, :, None] < far[:, None, :]).double()
    return float((less + 0.5 * (near[:, :, None] == far[:, None, :])).mean())


def test_the_triplet_surrogate_learns_the_order_of_lists_it_never_saw(
    model: HashModel, data: RetrievalData
) -> None:
    options = AACH(**SMALL, code_length=24)  # the victim has 16
    victim = victim_of(model, data, options)
    attack = options.fit(victim, data, "image", seed=0)
    assert victim.index is not None
    codes = encode(model, data, "image", data.split.query)
    lists = victim.index.search(codes, 72)[1]
    learned = agreement(attack.model, data, lists)
    untrained = agreement(build_hash_model(attack.model.spec, seed=0), data, lists)
    assert learned > 0.8 > untrained + 0.1
    assert attack.database.shape == (72, 24)


def test_the_knockoff_learns_codes_it_never_saw_and_beats_noise(
    model: HashModel, data: RetrievalData
) -> None:
    options = Knockoff(**SMALL)
    victim = victim_of(model, data, options)
    attack = options.fit(victim, data, "image", seed=0)
    theirs, ours = (encode(m, data, "image", data.split.query) for m in (model, attack.model))
    assert (theirs == ours).double().mean() > 0.75
    moved = flips_of(attack, victim, data)
    unlearned = dataclasses.replace(attack, model=build_hash_model(attack.model.spec, seed=9))
    assert moved > flips_of(unlearned, victim, data) + 0.3


def test_a_short_list_is_enough_and_unlisted_items_count_as_far(
    model: HashModel, data: RetrievalData
) -> None:
    options = AACH(**{**SMALL, "epochs": 2}, top_k=20)
    victim = victim_of(model, data, options)
    attack = options.fit(victim, data, "image", seed=0)
    assert flips_of(attack, victim, data) >= 0
    with pytest.raises(ConfigError, match="at least 2 items, got 1"):
        AACH(**SMALL, top_k=1).fit(victim, data, "image", seed=0)


@pytest.mark.parametrize("kind", [AACH, Knockoff])
def test_black_box_means_lists_or_codes_and_nothing_else(
    kind: type, model: HashModel, data: RetrievalData, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = kind(**{**SMALL, "epochs": 1, "steps": 2})
    victim = victim_of(model, data, options)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("looked inside the victim")

    inside = victim.model.encoder("image").forward

    def watched(*args: Any, **named: Any) -> Tensor:
        assert not torch.is_grad_enabled(), "a gradient of the victim"
        out: Tensor = inside(*args, **named)
        return out

    monkeypatch.setattr(victim.model.encoder("image"), "forward", watched)
    monkeypatch.setattr(victim.model.encoder("text"), "forward", refuse)
    if options.access == "ranks":
        monkeypatch.setattr(Victim, "codes", refuse)
    positions = data.split.query[:4]
    goal = own_code_goal(OwnCode(), victim, data, "image", positions)
    attack = options.fit(victim, data, "image", seed=0)
    x, ids = data.inputs("image", positions), torch.tensor(data.ids[positions])
    monkeypatch.setattr(victim.model.encoder("image"), "forward", refuse)
    x_adv = attack(victim, x, goal, ids=ids, seed=0)
    other = dataclasses.replace(goal, anchor=-goal.anchor, label=None)
    assert torch.equal(attack(victim, x, other, ids=ids, seed=0), x_adv), "it knew the clean code"
    with pytest.raises(ConfigError, match="untargeted"):
        attack(victim, x, dataclasses.replace(goal, toward=True), ids=ids, seed=0)


def test_lists_need_an_index_and_codes_need_codes(model: HashModel, data: RetrievalData) -> None:
    with pytest.raises(AccessError, match="index"):
        AACH(**SMALL).fit(Victim(model=model, access="ranks"), data, "image", seed=0)
    part = victim_of(model, data.limit(database=60), AACH())
    with pytest.raises(ConfigError, match=r"index holds 60 items.*72"):
        AACH(**SMALL).fit(part, data, "image", seed=0)
    with pytest.raises(AccessError, match=r"'codes'.*'ranks'"):
        Knockoff(**SMALL).fit(Victim(model=model, access="ranks"), data, "image", seed=0)
    with pytest.raises(ConfigError, match=r"in \[1, 48\].*got 300"):
        AACH(image_network="tiny-resnet").fit(victim_of(model, data, AACH()), data, "image", seed=0)


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="near and far"):
        AACH(near=0.8, far=0.3)
    with pytest.raises(ConfigError, match="neighbors must be at least 1"):
        AACH(neighbors=0)
    with pytest.raises(ConfigError, match="epochs"):
        Knockoff(epochs=0)


def test_transfer_of_the_victim_itself_is_the_white_box_attack(
    model: HashModel, data: RetrievalData, tmp_path: Path
) -> None:
    save_model(tmp_path, model)
    options = Transfer(run=str(tmp_path), eps=6 / 255, steps=4)
    victim = victim_of(model, data, options)
    assert victim.ledger.limit == 0
    attack = options.fit(victim, data, "image", seed=0)
    white = OwnCode(eps=6 / 255, steps=4, step_size=0.1)
    assert flips_of(attack, victim, data) == flips_of(white, Victim(model=model), data) > 0
    assert victim.ledger.total == 0


def test_transfer_works_across_code_lengths_and_refuses_what_does_not_fit(
    model: HashModel, data: RetrievalData, tmp_path: Path
) -> None:
    spec = model.spec
    for name, changes in {
        "longer": {"code_length": 40},
        "larger": {"image_side": 32},
        "words": {"vocabulary": 13},
        "texts": {"image_network": ""},
    }.items():
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, build_hash_model(dataclasses.replace(spec, **changes), seed=1))

    def fitted(name: str, modality: Modality) -> Attack:
        options = Transfer(run=str(tmp_path / name), steps=2)
        return options.fit(Victim(model=model, access="ranks"), data, modality, seed=0)

    flips_of(fitted("longer", "image"), Victim(model=model, access="ranks"), data)
    fitted("words", "image"), fitted("larger", "text")
    with pytest.raises(ShapeError, match=r"side 32.*16"):
        fitted("larger", "image")
    with pytest.raises(ShapeError, match=r"13 words.*12"):
        fitted("words", "text")
    with pytest.raises(AccessError, match="image"):
        fitted("texts", "image")
    with pytest.raises(ArtifactError):
        fitted("nowhere", "image")


def test_a_surrogate_can_be_saved_and_used_for_transfer(
    model: HashModel, data: RetrievalData, tmp_path: Path
) -> None:
    options = Knockoff(**{**SMALL, "epochs": 1, "steps": 3})
    victim = victim_of(model, data, options)
    attack = options.fit(victim, data, "image", seed=0)
    attack.save(tmp_path)
    again, facts = load_model(tmp_path)
    assert facts["surrogate_of"] == "knockoff"
    same = Transfer(run=str(tmp_path), eps=10 / 255, steps=3).fit(victim, data, "image", seed=0)
    assert flips_of(same, victim, data) == flips_of(attack, victim, data)
    state = copy.deepcopy(again.state_dict())
    assert all(torch.equal(v, attack.model.state_dict()[k]) for k, v in state.items())
