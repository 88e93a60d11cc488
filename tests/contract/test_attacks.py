"""What every registered attack must keep, on images and on bags of words (or tokens).

Generated from the registry: a new attack is tested without an edit here. One that must see a
victim first is fitted on the tiny set, once for each configuration, through a victim that grants
what the attack declares and no more.
"""

import copy
import dataclasses
import inspect
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from hamward.attacks import (
    ATTACKS,
    Attack,
    Goal,
    TrainableAttack,
    choose_targets,
    craft,
    encode,
    own_code_goal,
)
from hamward.config import call_with, from_mapping, to_mapping
from hamward.data import RetrievalData
from hamward.errors import (
    AccessError,
    BudgetError,
    ConfigError,
    QueryLimitError,
    ShapeError,
)
from hamward.index import HammingIndex
from hamward.models import HashModel, QueryLedger, Victim, read_by, save_model
from hamward.models.victim import Access
from hamward.types import MODALITIES, Modality

# Small and fast, but strong enough to flip bits of the tiny victim; only those that exist apply.
FAST: dict[str, Any] = {
    "steps": 6,
    "eps": 8 / 255,
    "text_eps": 0.6,
    "learning_rate": 4 / 255,
    "text_learning_rate": 0.15,
    "distance": 0.01,
    "references": 24,
    "queries": 24,
    "top_k": 30,
    "image_network": "tiny-resnet",
    "code_length": 16,
    "epochs": 2,
    "batch_size": 8,
    "perturbation_epochs": 1,
    "generator_epochs": 1,
    "run": "",  # a surrogate's run folder, made by `ready`
    "insertions": 4,
    "deletions": 1,
    "candidates": 6,
    "substitutions": 2,
    "neighbors": 40,
    "cosine": -1.0,
    "network_steps": 4,
    "decay_epochs": 1,
    "width": 8,
    "hidden": 32,
    "prototype_steps": 100,
    "prototype_epochs": 3,
    "votes": 3,
}
# CMLA's released distance term, per pixel, is too heavy for pictures of 768 values; six of SDHA's
# 1,500 small steps lead nowhere on bags of words.
HELD_BACK = {
    ("cmla-official", "image"),
    ("sdha-official", "text"),
    ("sdha-targeted-official", "text"),
}


def make(name: str, **options: Any) -> Attack | TrainableAttack:
    known = inspect.signature(ATTACKS[name].make).parameters
    fast = FAST | {"steps": 2} if name.startswith("strongest") else FAST  # of a dozen members
    values = {k: v for k, v in {**fast, **options}.items() if k in known}
    attack: Attack | TrainableAttack = call_with(ATTACKS[name].make, values)
    return attack


CASES = [(name, modality) for name in ATTACKS for modality in make(name).modalities]
pytestmark = pytest.mark.parametrize(("name", "modality"), CASES)


# Presets of a class that is tested in full under its plain name: what differs is numbers.
PRESETS = {name for name in ATTACKS if not isinstance(ATTACKS[name].make, type)}
FOR_PRESETS = {
    "test_budget_and_range_are_kept",
    "test_output_is_finite_and_detached",
    "test_goal_is_never_worse_than_clean_and_improves_with_eps",
    "test_too_little_access_is_refused",
    "test_configuration_round_trips",
    "test_levels_of_255_are_refused_as_radius",
}


@pytest.fixture(autouse=True)
def only_what_numbers_can_break(request: pytest.FixtureRequest, name: str) -> None:
    if name in PRESETS and request.node.originalname not in FOR_PRESETS:
        pytest.skip("a preset of a class that passes this under its plain name")


def make_scaled(name: str, factor: float) -> Attack | TrainableAttack:
    words = ("insertions", "deletions", "substitutions")
    edits = {key: round(FAST[key] * factor) for key in words}
    radii = {"eps": FAST["eps"] * factor, "text_eps": min(FAST["text_eps"] * factor, 1.0)}
    return make(name, **radii, **edits)


def in_precision(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if x.is_floating_point() else x


class Scene(NamedTuple):
    """An attack that is ready to craft, as it was configured, and what it is called with."""

    attack: Attack
    options: Attack | TrainableAttack
    prepare: Callable[[Attack | TrainableAttack], Attack]
    victim: Victim
    x: Tensor
    goal: Goal
    ids: Tensor

    def run(self, *, seed: int = 3, rows: Any = slice(None), **changes: Any) -> Tensor:
        scene = self._replace(**changes)
        scene = scene._replace(attack=self.prepare(scene.attack))
        return scene.attack(
            scene.victim, scene.x[rows], scene.goal.select(rows), ids=scene.ids[rows], seed=seed
        )


@pytest.fixture(scope="session")
def indexes(_trained: HashModel, data: RetrievalData) -> dict[Modality, HammingIndex]:
    """What queries of a modality are answered from: the database in the other one."""
    codes = {
        m: encode(copy.deepcopy(_trained).double(), data, m, data.split.database)
        for m in MODALITIES
    }
    return {
        "image": HammingIndex.build(codes["text"]),
        "text": HammingIndex.build(codes["image"]),
    }


@pytest.fixture(scope="session")
def ready(
    _trained: HashModel,
    data: RetrievalData,
    indexes: dict[Modality, HammingIndex],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Attack | TrainableAttack, Modality], Attack]:
    """Attacks as they craft: those that must see a victim first are fitted, once each."""
    done: dict[str, Attack] = {}
    FAST["run"] = str(tmp_path_factory.mktemp("surrogate"))
    save_model(Path(FAST["run"]), _trained)

    def prepare(attack: Attack | TrainableAttack, modality: Modality) -> Attack:
        if not isinstance(attack, TrainableAttack):
            return attack
        key = repr((attack, modality))
        if key not in done:
            victim = Victim(
                model=copy.deepcopy(_trained).double(),
                access=attack.access,
                index=indexes[modality],
            )
            done[key] = attack.fit(victim, data, modality, seed=0)
        return done[key]

    return prepare


@pytest.fixture
def scene(
    request: pytest.FixtureRequest,
    name: str,
    modality: Modality,
    model64: HashModel,
    data: RetrievalData,
    indexes: dict[Modality, HammingIndex],
    ready: Callable[[Attack | TrainableAttack, Modality], Attack],
) -> Scene:
    """Eight queries in float64; the goal is what an untargeted evaluation would hand over."""
    options = make(name)
    if options.budget(modality).norm == "substitutions":  # for victims that read tokens
        model64 = request.getfixturevalue("token_model64")
        data = read_by(model64, data)
    attack = ready(options, modality)
    positions = data.positions("query", modality)[:8]
    ids = torch.tensor(data.ids[positions])
    victim = Victim(model=model64, access=options.access, index=indexes[modality])
    targets = None
    if options.targeted:
        database = data.label(data.split.database)
        targets = choose_targets(data.label(positions), database, ids=ids)
    goal = own_code_goal(attack, victim, data, modality, positions, target_label=targets)
    return Scene(
        attack=attack,
        options=options,
        prepare=partial(ready, modality=modality),
        victim=victim,
        x=in_precision(data.inputs(modality, positions), torch.float64),
        goal=goal,
        ids=ids,
    )


def test_budget_and_range_are_kept(scene: Scene, modality: Modality) -> None:
    x_adv = scene.run()
    budget = scene.attack.budget(modality)
    delta = (x_adv - scene.x).flatten(1).double()
    sizes = {
        "linf": delta.abs().amax(1),
        "l2": delta.norm(dim=1),
        "edits": (delta != 0).sum(1),
        "substitutions": (delta != 0).sum(1),
    }
    size = sizes[budget.norm]
    assert size.max() <= budget.eps + 1e-9
    assert size.max() > 0, "the attack did nothing"
    if x_adv.is_floating_point():
        assert x_adv.min() >= 0 and x_adv.max() <= 1
    if budget.one_sided:
        assert delta.min() >= 0
    if budget.norm == "edits":
        assert set(x_adv.unique().tolist()) <= {0, 1}
        assert (delta > 0).sum(1).max() <= budget.insertions
        assert (delta < 0).sum(1).max() <= budget.deletions


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_are_kept_and_input_unchanged(scene: Scene, dtype: torch.dtype) -> None:
    x = in_precision(scene.x, dtype)
    before = x.clone()
    scene.victim.model.to(dtype)
    x_adv = scene.run(x=x)
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype and x_adv.device == x.device
    assert torch.equal(x, before)
    assert x_adv.data_ptr() != x.data_ptr()


def test_output_is_finite_and_detached(scene: Scene) -> None:
    if scene.x.is_floating_point():
        scene.x.requires_grad_(True)
    x_adv = scene.run()
    assert torch.isfinite(x_adv).all()
    assert not x_adv.requires_grad and x_adv.grad_fn is None
    assert scene.x.grad is None


@pytest.mark.parametrize("training", [False, True])
def test_the_victim_stays_as_it_was(scene: Scene, training: bool) -> None:
    model = scene.victim.model
    model.train(training)
    model.encoders["image"].trunk.norm.train(not training)  # a mixed state comes back mixed
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 3 != 0)
    modes = [m.training for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    state = copy.deepcopy(model.state_dict())
    scene.run()
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def _submissions(scene: Scene) -> int:
    ledger = QueryLedger()
    scene.run(victim=dataclasses.replace(scene.victim, ledger=ledger))
    return ledger.total


def test_a_failing_attack_leaves_the_victim_as_it_was_too(scene: Scene, modality: Modality) -> None:
    asked = _submissions(scene)
    if asked == 0:
        pytest.skip("asks the victim nothing while it crafts")
    model = scene.victim.model.train()
    ledger = QueryLedger(limit=min(len(scene.x), asked - 1))
    with pytest.raises(QueryLimitError):
        scene.run(victim=dataclasses.replace(scene.victim, ledger=ledger))
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_global_random_streams_are_untouched(scene: Scene) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]
    python_state = random.getstate()
    scene.run()
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert random.getstate() == python_state


def test_same_seed_gives_same_bits_whatever_the_global_state(scene: Scene) -> None:
    torch.manual_seed(1)
    first = scene.run(seed=5)
    torch.manual_seed(2)
    assert torch.equal(scene.run(seed=5), first)


def test_another_seed_changes_a_random_attack(scene: Scene, name: str) -> None:
    if name not in ("random-noise", "square", "square-list"):
        pytest.skip("no randomness by default")
    assert not torch.equal(scene.run(seed=5), scene.run(seed=6))


def test_batch_split_order_and_size_one_change_nothing(scene: Scene) -> None:
    whole = scene.run()
    order = torch.tensor([5, 2, 7, 0, 1, 6, 4, 3])
    close = {"rtol": 0, "atol": 1e-9}
    torch.testing.assert_close(scene.run(rows=order), whole[order], **close)
    halves = torch.cat([scene.run(rows=slice(0, 3)), scene.run(rows=slice(3, 8))])
    torch.testing.assert_close(halves, whole, **close)
    for row in (0, 4):
        alone = scene.run(rows=slice(row, row + 1))
        torch.testing.assert_close(alone, whole[row : row + 1], **close)


def test_references_of_other_groups_are_not_seen(scene: Scene) -> None:
    """One batch serves as its own reference set; where the batch is cut must not matter."""
    references = scene.goal.references
    if references is None or references.group is None:
        pytest.skip("no grouped references")
    group = torch.arange(8) // 4
    split = dataclasses.replace(
        scene.goal, references=dataclasses.replace(references, group=group), group=group
    )
    half = dataclasses.replace(
        references,
        image=references.image[:4],
        text=references.text[:4],
        label=references.label[:4],
        group=None,
    )
    alone = dataclasses.replace(split.select(slice(0, 4)), references=half, group=None)
    together = scene.run(goal=split)
    first = scene.attack(scene.victim, scene.x[:4], alone, ids=scene.ids[:4], seed=3)
    torch.testing.assert_close(together[:4], first, rtol=0, atol=1e-9)
    assert not torch.allclose(together, scene.run(), rtol=0, atol=1e-9)


def test_craft_in_chunks_equals_one_call(scene: Scene) -> None:
    made = craft(
        scene.attack, scene.victim, scene.x, scene.goal, ids=scene.ids, seed=3, batch_size=3
    )
    torch.testing.assert_close(made.x_adv, scene.run(), rtol=0, atol=1e-9)
    assert torch.equal(made.ids, scene.ids)


def test_works_under_no_grad(scene: Scene) -> None:
    expected = scene.run()
    with torch.no_grad():
        assert torch.equal(scene.run(), expected)
        assert not torch.is_grad_enabled()


def test_no_items_give_no_items(scene: Scene) -> None:
    assert scene.run(rows=slice(0, 0)).shape == (0, *scene.x.shape[1:])


def test_a_budget_of_zero_returns_the_input(scene: Scene, name: str) -> None:
    x_adv = scene.run(attack=make_scaled(name, 0.0))
    assert torch.equal(x_adv, scene.x)


def _flips(scene: Scene, x: Tensor, modality: Modality) -> Tensor:
    with torch.no_grad():
        return scene.goal.flips(scene.victim.model.eval().logits(modality, x))


def test_goal_is_never_worse_than_clean_and_improves_with_eps(
    scene: Scene, name: str, modality: Modality
) -> None:
    clean = _flips(scene, scene.x, modality)
    assert not clean.any(), "the anchor is the clean code"
    means = []
    for factor in (0.25, 1.0, 1.6):
        flips = _flips(scene, scene.run(attack=make_scaled(name, factor)), modality)
        assert (flips >= clean).all()
        means.append(float(flips.double().mean()))
    if isinstance(scene.options, TrainableAttack) or "strongest" in name:
        return  # trained anew for each radius; or led by AP, not by flipped bits
    assert means == sorted(means)
    if scene.attack.access == "gradients" and (name, modality) not in HELD_BACK:
        assert means[-1] > means[0]


def test_queries_are_counted_and_the_limit_is_obeyed(
    scene: Scene, name: str, modality: Modality
) -> None:
    ledger = QueryLedger()
    scene.run(victim=dataclasses.replace(scene.victim, ledger=ledger))
    used, other = (ledger.image, ledger.text)[:: 1 if modality == "image" else -1]
    assert other == 0 and ledger.total == used
    if used == 0:
        assert scene.attack.access == "ranks" or isinstance(scene.options, TrainableAttack)
        return
    assert used >= len(scene.x)
    edits = scene.attack.budget(modality).typed  # some items are done earlier
    if scene.attack.access == "gradients" and not edits and "strongest" not in name:
        assert used % len(scene.x) == 0
    exact = QueryLedger(limit=used)
    scene.run(victim=dataclasses.replace(scene.victim, ledger=exact))
    short = QueryLedger(limit=used - 1)
    with pytest.raises(QueryLimitError, match=str(used - 1)):
        scene.run(victim=dataclasses.replace(scene.victim, ledger=short))
    assert short.total <= used - 1


def _weaker(access: Access) -> Iterator[Access]:
    levels: tuple[Access, ...] = ("ranks", "codes", "gradients")
    return iter(levels[: levels.index(access)])


def test_too_little_access_is_refused(
    scene: Scene, name: str, modality: Modality, data: RetrievalData
) -> None:
    """By the fit of an attack that must see the victim first, else by the attack itself."""
    options = scene.options
    for access in _weaker(options.access):
        ledger = QueryLedger()
        victim = dataclasses.replace(scene.victim, access=access, ledger=ledger)
        start: Callable[[], object] = partial(scene.run, victim=victim)
        if isinstance(options, TrainableAttack):
            start = partial(options.fit, victim, data, modality, seed=0)
        with pytest.raises(AccessError, match=f"'{options.access}'.*'{access}'"):
            start()
        assert ledger.total == 0
    assert scene.victim.access == options.access
    scene.run()
    assert ATTACKS[name].access == options.access


def test_configuration_round_trips(scene: Scene, name: str, modality: Modality) -> None:
    options = scene.options
    assert dataclasses.is_dataclass(options)
    again = from_mapping(type(options), to_mapping(options))
    assert again == options
    assert torch.equal(scene.run(attack=again), scene.run())
    for frozen in (options, scene.attack):
        assert dataclasses.is_dataclass(frozen)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(frozen, dataclasses.fields(frozen)[0].name, 1.0)
    assert isinstance(scene.attack, Attack) and not isinstance(scene.attack, TrainableAttack)
    assert scene.attack.targeted == options.targeted


def test_fitting_is_repeatable_counted_and_changes_no_victim(
    scene: Scene, modality: Modality, data: RetrievalData
) -> None:
    options = scene.options
    if not isinstance(options, TrainableAttack):
        pytest.skip("crafts without seeing the victim first")
    model = scene.victim.model.train()
    state = copy.deepcopy(model.state_dict())
    # Not Python's stream: beartype, which checks the training in these tests, draws from it.
    streams = torch.get_rng_state(), np.random.get_state()[1]
    ledger = QueryLedger()
    victim = dataclasses.replace(scene.victim, ledger=ledger)
    attack = options.fit(victim, data, modality, seed=0)
    assert torch.equal(scene.run(attack=attack), scene.run())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(m.training for m in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert np.array_equal(np.random.get_state()[1], streams[1])
    if ledger.total:
        short = QueryLedger(limit=ledger.total - 1)
        with pytest.raises(QueryLimitError):
            options.fit(dataclasses.replace(victim, ledger=short), data, modality, seed=0)
        assert short.total <= ledger.total - 1


def test_wrong_items_are_refused(scene: Scene, modality: Modality) -> None:
    if not scene.x.is_floating_point():
        with pytest.raises(ShapeError, match="must be int64"):
            scene.run(x=scene.x.double())
        with pytest.raises(ShapeError, match="must have shape"):
            scene.run(x=scene.x[:, None])
        return
    with pytest.raises(ShapeError, match="divide by 255"):
        scene.run(x=scene.x * 255)
    with pytest.raises(ShapeError, match=r"must lie in \[0, 1\]"):
        scene.run(x=scene.x - 0.5)
    with pytest.raises(ShapeError, match="nan"):
        scene.run(x=torch.where(scene.x == scene.x.amax(), torch.nan, scene.x))
    with pytest.raises(ShapeError, match="must have shape"):
        scene.run(x=scene.x.flatten(1)[:, None])
    with pytest.raises(ShapeError, match="floating point"):
        scene.run(x=scene.x.long())


def test_wrong_goals_are_refused(scene: Scene) -> None:
    longer = dataclasses.replace(scene.goal, anchor=scene.goal.anchor.repeat(1, 2))
    with pytest.raises(ShapeError, match=r"32 bits.*16"):
        scene.run(goal=longer)
    with pytest.raises(ShapeError, match="8, 7 and 8"):
        scene.attack(scene.victim, scene.x, scene.goal, ids=scene.ids[:7], seed=0)


def test_goals_that_lack_what_an_attack_needs_are_refused(scene: Scene) -> None:
    lacks = {}
    if scene.attack.targeted:
        lacks["target_label"] = "target_label"
    if scene.attack.needs_references:
        lacks["references"] = "references|reference items"
        if not scene.attack.targeted:
            lacks["label"] = "label"
    for name, message in lacks.items():
        ledger = QueryLedger()
        victim = dataclasses.replace(scene.victim, ledger=ledger)
        with pytest.raises(ConfigError, match=message):
            scene.run(victim=victim, goal=dataclasses.replace(scene.goal, **{name: None}))
        assert ledger.total == 0, "before any work"


def test_references_that_do_not_fit_are_refused(scene: Scene) -> None:
    references = scene.goal.references
    if references is None:
        pytest.skip("no references")
    for changes, message in (
        ({"image": references.image[:, :8], "text": references.text[:, :8]}, "as long as"),
        ({"label": references.label[:, :3]}, "4 labels, references 3"),
    ):
        wrong = dataclasses.replace(references, **changes)
        with pytest.raises(ShapeError, match=message):
            scene.run(goal=dataclasses.replace(scene.goal, references=wrong))
    grouped = dataclasses.replace(references, group=torch.zeros(len(references.label)).long())
    with pytest.raises(ShapeError, match="both have groups"):
        scene.run(goal=dataclasses.replace(scene.goal, references=grouped, group=None))


def test_levels_of_255_are_refused_as_radius(name: str, modality: Modality) -> None:
    key = "eps" if modality == "image" else "text_eps"
    if key not in inspect.signature(ATTACKS[name].make).parameters:
        pytest.skip("has no radius")
    with pytest.raises(BudgetError, match=r"\[0, 1\], got 8 \(did you mean 8/255\?\)"):
        make(name, **{key: 8})
    with pytest.raises(BudgetError, match="-1"):
        make(name, **{key: -1})


def test_steps_and_rates_must_make_sense(name: str, modality: Modality) -> None:
    known = inspect.signature(ATTACKS[name].make).parameters
    if "steps" in known:
        with pytest.raises(ConfigError, match="steps must be at least 0, got -1"):
            make(name, steps=-1)
    for key in ("learning_rate", "text_learning_rate", "step_size"):
        if key in known:
            with pytest.raises(ConfigError, match="must be positive"):
                make(name, **{key: 0})
