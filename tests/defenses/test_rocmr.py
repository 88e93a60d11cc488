"""RoCMR: the four terms by hand, both modalities in one inner loop, replays, one step."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import SPEC, make_model, step_of
from torch import Tensor

from hamward.codes import binarize
from hamward.config import call_with
from hamward.data import RetrievalData
from hamward.defenses import DEFENSES, RoCMR
from hamward.defenses.inner_loop import InnerLoop
from hamward.defenses.rocmr import Weights, _adversarial
from hamward.errors import ConfigError, HamwardError
from hamward.losses import unit_logits
from hamward.models import HashModel, ModelSpec
from hamward.training import DCMH, DualEncoder, FitConfig, fit
from hamward.training.dual_encoder import symmetric_contrast
from hamward.types import MODALITIES

COSINE = dataclasses.replace(SPEC, retrieval="cosine")
CONFIG = FitConfig(epochs=2, batch_size=16, image_rate=5e-4, text_rate=1e-3, flip=False)
ROWS = torch.arange(16)
SPECS = pytest.mark.parametrize("spec", [COSINE, SPEC], ids=["cosine", "hamming"])


def harden(**options: Any) -> RoCMR:
    made: RoCMR = call_with(DEFENSES["rocmr"].make, options, given={"base": DualEncoder()})
    return made


def started(model: HashModel, data: RetrievalData, **options: Any) -> RoCMR:
    objective = harden(**options)
    objective.start(model, data, data.split.train)
    return objective


def moved_of(objective: RoCMR, model: HashModel, data: RetrievalData) -> dict[str, Tensor]:
    matches = objective.base.matches(ROWS)
    step = step_of(data, "pair", ROWS)
    return objective._climbed(model, step, MODALITIES, size=1.0, matches=matches)


def test_the_terms_by_hand() -> None:
    """One unit each way: e = exp(scale), pairs along their own axes, X' along the other's."""
    axes = torch.eye(2)
    swapped = axes.flip(0)
    scale = torch.tensor(2.0)
    right, wrong = float(torch.log1p(torch.exp(-scale))), float(torch.log1p(torch.exp(scale)))

    def value(**weights: float) -> float:
        held = {"clean": 0.0, "image": 0.0, "text": 0.0, "both": 0.0, **weights}
        read, fixed = {"image": swapped, "text": axes}, {"image": axes, "text": axes}
        return float(_adversarial(read, fixed, axes, weights=Weights(**held), scale=scale))

    assert value(image=1.0) == pytest.approx(wrong)
    assert value(text=1.0) == pytest.approx(right)
    assert value(both=1.0) == pytest.approx(wrong)
    assert value(image=0.5, text=0.25, both=2.0) == pytest.approx(2.5 * wrong + 0.25 * right)


def test_a_role_is_a_direction() -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(2, 4, 3, generator=generator)
    read, fixed = {"image": image, "text": text}, {"image": text, "text": image}
    scale, matches = torch.tensor(3.0), torch.eye(4)
    for weights, pair in (
        (Weights(clean=0, image=1, text=0, both=0), (image, image)),
        (Weights(clean=0, image=0, text=1, both=0), (text, text)),
    ):
        for role, i2t in (("query", 1.0), ("candidate", 0.0), ("both", 0.5)):
            inner = InnerLoop(role=role)
            got = _adversarial(read, fixed, matches, weights=weights, scale=scale, i2t=inner.i2t)
            asks = i2t if weights.image else 1 - i2t  # a text as query is the other direction
            expected = symmetric_contrast(*pair, matches, scale=scale, i2t=asks)
            torch.testing.assert_close(got, expected)


@SPECS
def test_the_loss_of_a_step(spec: ModelSpec, data: RetrievalData) -> None:
    """J from its parts, each through the model alone (eval mode, where batches do not matter)."""
    model = make_model(spec=spec).eval()
    objective = started(model, data, weights=(0.4, 0.3, 0.2, 0.1), steps=1, edits=1)
    step, matches = step_of(data, "pair", ROWS), objective.base.matches(ROWS)
    moved = moved_of(objective, model, data)
    assert all(not torch.equal(moved[m], step.items[m]) for m in MODALITIES)
    clean = {m: model.logits(m, step.items[m]) for m in MODALITIES}
    far = {m: model.logits(m, moved[m]) for m in MODALITIES}
    read, fixed, pull = far, clean, 0.0
    if spec is SPEC:
        read = {m: torch.tanh(unit_logits(u)) for m, u in far.items()}
        fixed = {m: binarize(u).float() for m, u in clean.items()}
        clean = {m: torch.tanh(u) for m, u in clean.items()}
        pull = 0.05 * sum(float(((u.detach().abs() - 1) ** 2).mean()) for u in clean.values())
    x, t, x_adv, t_adv = clean["image"], clean["text"], read["image"], read["text"]
    pairs = ((x, t), (x_adv, fixed["text"]), (fixed["image"], t_adv), (x_adv, t_adv))
    terms = [symmetric_contrast(*pair, matches, scale=1 / 0.07) for pair in pairs]
    expected = sum(w * float(v.detach()) for w, v in zip((0.4, 0.3, 0.2, 0.1), terms, strict=True))
    value = objective.loss(model, step)
    assert float(value.detach()) == pytest.approx(expected + pull, rel=2e-2)
    value.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@SPECS
def test_the_inner_loop_moves_both_within_their_budgets_and_raises_the_loss(
    spec: ModelSpec, data: RetrievalData
) -> None:
    model = make_model(spec=spec)
    step = step_of(data, "pair", ROWS)
    start = started(model, data, steps=0, eps=6 / 255, edits=0)
    losses = []
    for objective in (start, started(model, data, steps=4, eps=6 / 255, edits=2)):
        model.eval()
        with torch.no_grad():
            losses.append(float(objective.loss(model, step)))
        moved = moved_of(objective, model.train(), data)
        delta = {m: moved[m] - step.items[m] for m in MODALITIES}
        assert delta["image"].abs().max() <= 6 / 255 + 1e-6
        assert moved["image"].min() >= 0 and moved["image"].max() <= 1
        assert set(moved["text"].unique().tolist()) <= {0.0, 1.0}
    assert (delta["text"] > 0).sum(1).max() == 2 and (delta["text"] < 0).sum(1).max() <= 2
    assert moved["text"].sum(1).min() >= 1
    assert losses[1] > losses[0] + 0.01


@pytest.mark.parametrize("variant", ["pgd", "fast"])
def test_inner_loops_leave_statistics_modes_and_gradients_alone(
    data: RetrievalData, variant: str
) -> None:
    model = make_model().train()
    objective = started(model, data, variant=variant, steps=2, edits=1)
    before = copy.deepcopy(model.state_dict())
    moved = moved_of(objective, model, data)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(m.training for m in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(p.grad is None for p in objective.modules.parameters())
    assert not any(x.requires_grad for x in moved.values())
    torch.manual_seed(5)
    again = moved_of(objective, model, data)
    assert all(torch.equal(moved[m], again[m]) for m in MODALITIES), "the same whatever the stream"


def test_without_a_budget_it_is_the_clean_training(data: RetrievalData) -> None:
    plain, hardened = make_model(), make_model()
    config = dataclasses.replace(CONFIG, epochs=1)
    fit(plain, DualEncoder(), data, config=config, score=lambda m: {"select": 0.0})
    objective = harden(eps=0.0, edits=0, weights=(1, 1, 1, 1))
    fit(hardened, objective, data, config=config, score=lambda m: {"select": 0.0})
    state = hardened.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in plain.state_dict().items())


def test_terms_of_a_side_that_stands_still_fall_to_the_others() -> None:
    weights = Weights(clean=1, image=2, text=4, both=8)
    assert weights.moved(("image", "text")) == weights
    assert weights.moved(("image",)) == Weights(clean=5, image=10, text=0, both=0)
    assert weights.moved(("text",)) == Weights(clean=3, image=0, text=12, both=0)
    assert weights.moved(()) == Weights(clean=15, image=0, text=0, both=0)


def test_the_warm_up_shrinks_every_budget(data: RetrievalData) -> None:
    model = make_model()
    objective = started(model, data, warmup=0.5, steps=2, eps=8 / 255, edits=3)
    step = dataclasses.replace(step_of(data, "pair", ROWS), number=10)  # of 100
    matches = objective.base.matches(ROWS)
    size = objective.config.size(step.share)
    assert size == pytest.approx(0.2)
    moved = objective._climbed(model, step, MODALITIES, size=size, matches=matches)
    delta = {m: moved[m] - step.items[m] for m in MODALITIES}
    assert float(delta["image"].abs().max()) == pytest.approx(1.6 / 255, rel=1e-3)
    assert (delta["text"] > 0).sum(1).max() == 1, "a fifth of three edits, rounded up"


class Watched(RoCMR):
    """Remembers the items of each step and whether they took a gradient."""

    seen: list[tuple[int, list[int], Tensor]]

    def _replayed(self, step: Any, sides: Any, *, size: float) -> dict[Any, Tensor]:
        moved = super()._replayed(step, sides, size=size)
        self.seen.append((step.number, step.rows.tolist(), moved["image"]))
        return moved


def test_free_training_moves_items_by_the_gradient_of_the_replay_before(
    data: RetrievalData,
) -> None:
    made = harden(variant="free", replays=3, eps=8 / 255, edits=2)
    parts = {f.name: getattr(made, f.name) for f in dataclasses.fields(made) if f.init}
    objective = Watched(**parts)
    objective.seen = []
    config = dataclasses.replace(CONFIG, epochs=1)
    fit(make_model(), objective, data, config=config, score=lambda m: {"select": 0.0})
    assert [n for n, _, _ in objective.seen] == list(range(9)), "3 batches, each three times"
    for first, second, third in (objective.seen[i : i + 3] for i in (0, 3, 6)):
        assert first[1] == second[1] == third[1]
        chosen = data.split.train[first[1]]
        x = data.inputs("image", chosen)
        for before, after in ((first[2], second[2]), (second[2], third[2])):
            assert before.grad is not None
            wanted = before.detach() + 8 / 255 * before.grad.sign()
            wanted = torch.minimum(torch.maximum(wanted, x - 8 / 255), x + 8 / 255).clamp(0, 1)
            torch.testing.assert_close(after.detach(), wanted)
    assert len({tuple(rows) for _, rows, _ in objective.seen}) == 3
    assert objective.held is None, "nothing is kept between epochs"


@pytest.mark.parametrize("variant", ["pgd", "free"])
def test_a_killed_hardening_resumes_to_the_same_bits(
    data: RetrievalData, tmp_path: Path, variant: str
) -> None:
    def run(kill_after: int, checkpoint: Path | None, seen: int = 0) -> HashModel:
        def score(_: HashModel) -> dict[str, float]:
            nonlocal seen
            seen += 1
            if seen > kill_after:
                raise KeyboardInterrupt
            return {"select": float(seen)}

        model = make_model(spec=COSINE)
        objective = harden(variant=variant, steps=1, replays=2, edits=1)
        fit(model, objective, data, config=CONFIG, score=score, checkpoint=checkpoint)
        return model

    whole = run(9, None)
    with pytest.raises(KeyboardInterrupt):
        run(1, tmp_path / "c.safetensors")
    resumed = run(9, tmp_path / "c.safetensors", seen=1).state_dict()
    assert all(torch.equal(v, resumed[k]) for k, v in whole.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [1, 1]}, "weights must be four numbers"),
        ({"weights": [0, 0, 0, 0]}, "not all 0"),
        ({"weights": [1, -1, 1, 0]}, r"weights\[1\] must be at least 0, got -1"),
        ({"variant": "trades"}, r"variant must be one of \['pgd', 'free', 'fast'\]"),
        ({"replays": 1}, "replays must be at least 2, got 1"),
        ({"temperature": 0}, "temperature must be positive, got 0"),
        ({"eps": 8}, "did you mean 8/255"),
        ({"edits": -1}, "insertions must be at least 0, got -1"),
        ({"steps": -1}, "steps must be at least 0"),
        ({"warmup": 2}, r"must be in \[0, 1\], got 2"),
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(HamwardError, match=message):
        harden(**change)


def test_victims_and_data_that_do_not_fit_are_refused(data: RetrievalData) -> None:
    with pytest.raises(ConfigError, match=r"trained by dual-encoder .*, not DCMH"):
        DEFENSES["rocmr"].make(DCMH())
    seeing = make_model(spec=dataclasses.replace(SPEC, text_network=""))
    with pytest.raises(ConfigError, match="the model has no text network"):
        harden().check_victim(seeing, data)
