"""The white-box attacks on a small trained victim: what they reach and what they must not need."""

import dataclasses
from typing import Any

import pytest
import torch
from tiny import SPEC, make_model
from torch import Tensor

from hamward.attacks import (
    ATTACKS,
    DHTA,
    FPAD,
    HAG,
    SAAT,
    SDHA,
    THA,
    CgAT,
    Goal,
    InfoNCE,
    OwnCode,
    Role,
    choose_targets,
    own_code_goal,
)
from hamward.attacks.anchors import Pool, class_prototypes
from hamward.attacks.fpad import fooled, own_share, reduced_budget
from hamward.codes import binarize, hamming_distance
from hamward.data import RetrievalData
from hamward.errors import ConfigError, ShapeError
from hamward.models import HashModel, Victim

UNTARGETED = ["cgat", "fpad", "hag", "infonce", "saat", "sdha"]
TARGETED = ["dhta", "p2p", "saat-targeted", "sdha-targeted"]


def scene(
    model: HashModel, data: RetrievalData, attack: Any, n: int = 8
) -> tuple[Victim, Tensor, Goal, Tensor]:
    positions = data.positions("query", "image")[:n]
    victim = Victim(model=model)
    ids = torch.tensor(data.ids[positions])
    targets = choose_targets(data.label(positions), data.label(data.split.database), ids=ids)
    goal = own_code_goal(attack, victim, data, "image", positions, target_label=targets)
    return victim, data.inputs("image", positions).double(), goal, ids


def run(model: HashModel, data: RetrievalData, attack: Any, **changes: Any) -> Tensor:
    """Codes of what an attack makes of the first queries."""
    victim, x, goal, ids = scene(model, data, attack)
    x_adv = attack(victim, x, dataclasses.replace(goal, **changes), ids=ids, seed=1)
    with torch.no_grad():
        return binarize(model.eval().logits("image", x_adv))


def louder(model: HashModel, factor: float) -> HashModel:
    """The same codes from a last layer that saturates tanh."""
    with torch.no_grad():
        model.encoder("image").head.weight.mul_(factor)
        model.encoder("image").head.bias.mul_(factor)
    return model


@pytest.mark.parametrize("name", ["cmla", *UNTARGETED, *TARGETED])
def test_the_scale_of_the_last_layer_hides_nothing(
    name: str, model64: HashModel, data: RetrievalData
) -> None:
    attack = ATTACKS[name].make(steps=8, eps=8 / 255)
    quiet = run(model64, data, attack)
    assert torch.equal(run(louder(model64, 64.0), data, attack), quiet)


@pytest.mark.parametrize("form", [HAG, CgAT, FPAD])
def test_published_forms_without_a_small_alpha_are_lost_on_a_saturated_victim(
    form: Any, model64: HashModel, data: RetrievalData
) -> None:
    """The reason for the default form: the published gradients vanish, the defaults' do not."""
    clean = scene(model64, data, OwnCode())[2].anchor
    loud = louder(model64, 1e5)
    published = run(loud, data, form(steps=8, form="published"))
    default = run(loud, data, form(steps=8))
    assert not (published != clean).any()
    assert (default != clean).any()


@pytest.mark.parametrize("name", TARGETED)
def test_targeted_attacks_come_nearer_to_items_with_the_target_label(
    name: str, model64: HashModel, data: RetrievalData
) -> None:
    attack = ATTACKS[name].make(steps=15, eps=16 / 255)
    _, _, goal, _ = scene(model64, data, attack)
    assert goal.references is not None and goal.target_label is not None
    wanted = goal.target_label @ goal.references.label.T > 0

    def mean(codes: Tensor) -> Tensor:
        distance = hamming_distance(codes, goal.references.text).double()
        return (distance * wanted).sum(1) / wanted.sum(1)

    made = mean(run(model64, data, attack))
    assert made.mean() < mean(goal.anchor).mean() - 1
    assert (made <= mean(goal.anchor) + 1).all()


def test_the_voted_code_of_p2p_is_a_code_of_the_database(
    model64: HashModel, data: RetrievalData
) -> None:
    one = ATTACKS["p2p"].make()
    _, _, goal, ids = scene(model64, data, one)
    assert goal.references is not None and goal.target_label is not None
    voted = one.anchors(goal, ids=ids, seed=0)
    distance = hamming_distance(voted, goal.references.text)
    share = goal.target_label @ goal.references.label.T > 0
    assert ((distance == 0) & share).any(1).all()
    own = dataclasses.replace(one, codes="own").anchors(goal, ids=ids, seed=0)
    assert (hamming_distance(own, goal.references.image) == 0).any(1).all()


@pytest.mark.parametrize("name", sorted({*UNTARGETED} - {"saat"}))  # saat: see test_anchors
def test_items_without_labels_still_leave_their_code(
    name: str, model64: HashModel, data: RetrievalData
) -> None:
    attack = ATTACKS[name].make(steps=8, eps=16 / 255)
    goal = scene(model64, data, attack)[2]
    assert goal.label is not None
    made = run(model64, data, attack, label=torch.zeros_like(goal.label))
    assert (made != goal.anchor).any(1).all()


@pytest.mark.parametrize("name", ["cgat", "fpad", "infonce", "saat", "sdha", *TARGETED])
def test_sources_of_reference_codes_matter(
    name: str, model64: HashModel, data: RetrievalData
) -> None:
    references = scene(model64, data, ATTACKS[name].make())[2].references
    assert references is not None
    opposite = dataclasses.replace(references, image=-references.text)
    own, other = (
        run(model64, data, ATTACKS[name].make(steps=2, codes=codes), references=opposite)
        for codes in ("own", "other")
    )
    assert not torch.equal(own, other)


@pytest.mark.parametrize("levels", [6, 20])  # few items fooled by much, and all by far
def test_fpads_adaptive_budget_is_the_items_own(
    levels: int, model64: HashModel, data: RetrievalData
) -> None:
    eps = levels / 255
    full = FPAD(steps=10, eps=eps, form="published")
    victim, x, goal, ids = scene(model64, data, full)
    first = full(victim, x, goal, ids=ids, seed=1)
    adaptive = dataclasses.replace(full, adaptive=True)
    made = adaptive(victim, x, goal, ids=ids, seed=1)
    pool = Pool.of(goal, "other", who="fpad")
    anchors = class_prototypes(pool, seed=1)[0].double()
    with torch.no_grad():
        relaxed = torch.tanh(model64.eval().logits("image", first))
    own = pool.wanted
    again = fooled(relaxed, anchors, own, 1 - own)
    assert again.any() and bool(again.all()) == (levels == 20)
    assert torch.equal(made[~again], first[~again])
    radius = (made - x).flatten(1).abs().amax(1)
    for share, size in zip(own_share(relaxed, anchors, own)[again], radius[again], strict=True):
        assert size <= reduced_budget(float(share), "image", steps=10)[0] * eps + 1e-12
    assert levels == 6 or float(radius.min()) < eps - 1e-6
    rows = torch.tensor([7, 2])
    alone = adaptive(victim, x[rows], goal.select(rows), ids=ids[rows], seed=1)
    torch.testing.assert_close(alone, made[rows], rtol=0, atol=1e-9)


def test_thas_prototypes_are_near_items_with_the_label(
    model64: HashModel, data: RetrievalData
) -> None:
    options = THA(network_steps=60, network_rate=1e-3, steps=10, eps=16 / 255)
    victim, x, goal, ids = scene(model64, data, OwnCode())
    attack = options.fit(victim, data, "image", seed=0)
    short = dataclasses.replace(options, network_steps=2)
    first, again = (short.fit(victim, data, "image", seed=0) for _ in range(2))
    label = torch.eye(4)
    codes = attack.prototypes(label)
    for one, other in zip(first.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, other)
    train = own_code_goal(CgAT(), victim, data, "image", data.split.query, pool=data.split.train)
    assert train.references is not None
    distance = hamming_distance(codes, train.references.text).double()
    same = (label.double() @ train.references.label.double().T > 0).double()
    near = (distance * same).sum(1) / same.sum(1)
    far = (distance * (1 - same)).sum(1) / (1 - same).sum(1)
    assert (near + 2 < far).all()
    made = attack(victim, x, goal, ids=ids, seed=0)
    assert goal.target_label is not None
    wanted = attack.prototypes(goal.target_label)
    with torch.no_grad():
        reached = binarize(model64.eval().logits("image", made))
    before, after = ((codes != wanted).sum(1) for codes in (goal.anchor, reached))
    assert (after <= before).all() and (after < before).any()
    with pytest.raises(ShapeError, match="3 columns, the prototype network learned 4"):
        attack.prototypes(torch.eye(3))
    narrow = dataclasses.replace(SPEC, code_length=8)
    with pytest.raises(ShapeError, match="16 bits, the victim 8"):
        attack(
            Victim(model=make_model(spec=narrow).double()),
            x,
            dataclasses.replace(goal, anchor=goal.anchor[:, :8]),
            ids=ids,
            seed=0,
        )


@pytest.mark.parametrize(("role", "both"), [("query", 0), ("candidate", 0), ("query", 1)])
@pytest.mark.parametrize("retrieval", ["hamming", "cosine"])
def test_infonce_attacks_both_kinds_of_encoders_in_both_roles(
    role: Role, both: int, retrieval: str, model64: HashModel, data: RetrievalData
) -> None:
    """It lowers the item's similarity to what shares its labels, relative to what does not."""
    model = make_model(spec=dataclasses.replace(SPEC, retrieval=retrieval)).double()
    model.load_state_dict(model64.state_dict())
    attack = InfoNCE(steps=10, eps=16 / 255, both=bool(both))
    victim, x, goal, ids = scene(model, data, attack)
    goal = dataclasses.replace(goal, role=role)
    references = goal.references
    assert references is not None and goal.label is not None
    assert (references.text_embedding is None) == (retrieval == "hamming")
    held = references.text if references.text_embedding is None else references.text_embedding
    held = torch.nn.functional.normalize(held.double(), dim=1)
    near = (goal.label @ references.label.T > 0).double()

    def gap(items: Tensor) -> Tensor:
        with torch.no_grad():
            made = model.eval().logits("image", items)
        made = made if retrieval == "cosine" else binarize(made).double()
        similarity = torch.nn.functional.normalize(made, dim=1) @ held.T
        return (similarity * near).sum(1) / near.sum(1) - (similarity * (1 - near)).sum(1) / (
            1 - near
        ).sum(1)

    made = attack(victim, x, goal, ids=ids, seed=0)
    assert gap(made).mean() < gap(x).mean() - 0.2
    if retrieval == "cosine":
        bare = dataclasses.replace(references, text_embedding=None, image_embedding=None)
        with pytest.raises(ConfigError, match="embeddings"):
            attack(victim, x, dataclasses.replace(goal, references=bare), ids=ids, seed=0)


def test_presets_are_as_published() -> None:
    def made(name: str) -> dict[str, Any]:
        return dataclasses.asdict(ATTACKS[name].make())

    assert made("hag-official").items() >= {
        "eps": 8 / 255, "steps": 2000, "rate": 100.0, "balance": 1.0, "form": "published",
    }.items()  # fmt: skip
    for name in ("sdha-official", "sdha-targeted-official"):
        assert made(name).items() >= {"eps": 8 / 255, "steps": 1500, "rate": 0.01}.items()
    for name in ("saat-official", "saat-targeted-official"):
        official = made(name)
        assert official["steps"] == 100 and official["random_start"]
        assert official["eps"] * official["step_size"] * 255 == pytest.approx(1)
    cgat = made("cgat-official")
    assert cgat["steps"] == 7 and cgat["eps"] * cgat["step_size"] * 255 == pytest.approx(2)
    coded = made("fpad-as-coded")
    assert coded["eps"] == 4 / 255 and coded["steps"] == 20 and coded["random_start"]
    assert coded["eps"] * coded["step_size"] * 255 == pytest.approx(1.5)
    assert coded["text_eps"] * coded["text_step_size"] == pytest.approx(0.006)
    assert made("fpad")["eps"] == 8 / 255
    assert made("dhta")["votes"] == 9 and made("p2p")["votes"] == 1
    assert made("p2p-official")["votes"] == 1 and made("dhta-official")["steps"] == 2000
    tha = made("tha-official")
    assert tha["network_steps"] == 30_000 and tha["eps"] * tha["step_size"] * 255 == pytest.approx(
        1
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HAG(margin=1.5), r"margin must be in \[0, 1\], got 1.5"),
        (lambda: HAG(rate=0), "rate must be positive, got 0"),
        (lambda: SDHA(rate=-1), "rate must be positive, got -1"),
        (lambda: SAAT(step_size=0), "step_size must be positive, got 0"),
        (lambda: DHTA(votes=0), "votes must be at least 1, got 0"),
        (lambda: FPAD(tau=0), "tau must be positive, got 0"),
        (lambda: InfoNCE(references=0), "references must be at least 1, got 0"),
        (lambda: InfoNCE(temperature=0), "temperature must be positive, got 0"),
        (lambda: THA(network_steps=0), "network_steps must be at least 1, got 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
