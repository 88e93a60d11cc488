"""The loop learns, keeps the best epoch, stops at NaN, and resumes to the same bits."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import SPEC, make_model, make_tiny_data

from hamward.artifacts import read_tensors, write_tensors
from hamward.attacks import CMLA, Attack, OwnCode
from hamward.data import RetrievalData
from hamward.errors import ArtifactError, ConfigError, TrainingError
from hamward.evaluation.scoring import robust_validation_scores, validation_scores
from hamward.models import HashModel, build_hash_model
from hamward.progress import NoProgress
from hamward.training import DCMH, FitConfig, Fitted, Objective, Step, fit
from hamward.training.optimizers import make_optimizer, rate_factor

CONFIG = FitConfig(epochs=4, batch_size=16, image_rate=1e-3, text_rate=1e-2, head_factor=10)


def train(
    data: RetrievalData,
    *,
    config: FitConfig = CONFIG,
    checkpoint: Path | None = None,
    progress: NoProgress | None = None,
    model: HashModel | None = None,
    objective: Objective | None = None,
) -> tuple[HashModel, Fitted]:
    model = model or make_model()
    fitted = fit(
        model,
        objective or DCMH(),
        data,
        config=config,
        score=lambda m: {"select": 0.0} if objective else validation_scores(m, data),
        checkpoint=checkpoint,
        progress=progress or NoProgress(),
    )
    return model, fitted


def equal(a: HashModel, b: HashModel) -> bool:
    other = b.state_dict()
    return all(torch.equal(v, other[k]) for k, v in a.state_dict().items())


class Killing(NoProgress):
    """Raises after some steps, as a kill would."""

    def __init__(self, after: int) -> None:
        self.after = after

    def track(self, items: Iterable, *, total: int, label: str) -> Iterator:  # type: ignore[type-arg]
        for done, item in enumerate(items):
            if done == self.after:
                raise KeyboardInterrupt
            yield item


def test_it_learns(data: RetrievalData) -> None:
    before = validation_scores(make_model(), data)
    config = dataclasses.replace(CONFIG, epochs=15, flip=False)
    model, fitted = train(data, config=config)
    losses = [row["loss"] for row in fitted.history]
    assert losses[-1] < 0.6 * losses[0]
    assert fitted.best["i2t"] > data.chance("i2t") + 0.2
    assert fitted.best["t2i"] > data.chance("t2i") + 0.2
    assert fitted.best["select"] > before["select"] + 0.2
    assert not model.training and all(p.grad is None for p in model.parameters())


def test_the_same_seed_gives_the_same_bits_and_another_does_not(data: RetrievalData) -> None:
    config = dataclasses.replace(CONFIG, epochs=1)
    torch.manual_seed(1)
    first, _ = train(data, config=config)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second, _ = train(data, config=config)
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(first, second)
    third, _ = train(data, config=dataclasses.replace(config, seed=1))
    assert not equal(first, third)


WORDS = dataclasses.replace(SPEC, image_network="")


class Words:
    """A small objective over texts alone: codes of labels."""

    phases = ("text",)

    def __init__(self) -> None:
        self.buffers: dict[str, torch.Tensor] = {}
        self.modules = torch.nn.ModuleDict()

    def start(self, model: HashModel, data: RetrievalData, positions: np.ndarray) -> None:
        self.labels = data.label(positions)

    def loss(self, model: HashModel, step: Step) -> torch.Tensor:
        outputs = torch.tanh(model.logits("text", step.items["text"]))
        return (outputs[:, :4] - 2 * self.labels[step.rows] + 1).square().mean()

    def end_epoch(self) -> None:
        pass


STEPS = 6  # an epoch: 3 batches of 16 for each of two phases


@pytest.mark.parametrize("after", [STEPS, STEPS + 1, 2 * STEPS - 1, 3 * STEPS])
def test_a_killed_run_resumes_to_the_same_bits(
    data: RetrievalData, tmp_path: Path, after: int
) -> None:
    whole, expected = train(data)
    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(data, checkpoint=file, progress=Killing(after))
    assert file.exists()
    resumed, fitted = train(data, checkpoint=file)
    assert equal(resumed, whole)
    assert (fitted.best_epoch, fitted.best) == (expected.best_epoch, expected.best)
    keys = ("epoch", "loss", "i2t", "t2i", "select")
    assert [[r[k] for k in keys] for r in fitted.history] == [
        [r[k] for k in keys] for r in expected.history
    ]
    again, _ = train(data, checkpoint=file)  # nothing left to do
    assert equal(again, whole)


def test_a_run_killed_in_its_first_epoch_starts_over(data: RetrievalData, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(data, checkpoint=file, progress=Killing(3))
    assert not file.exists()


def test_the_best_epoch_is_left_in_the_model(data: RetrievalData) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def score(m: HashModel) -> Mapping[str, float]:
        assert not m.training
        seen.append({k: v.clone() for k, v in m.state_dict().items()})
        return {"select": [0.2, 0.9, 0.9, 0.1][len(seen) - 1]}

    model = make_model()
    fitted = fit(model, DCMH(), data, config=CONFIG, score=score)
    assert fitted.best_epoch == 2, "the first of equals"
    assert [row["select"] for row in fitted.history] == [0.2, 0.9, 0.9, 0.1]
    assert all(torch.equal(v, seen[1][k]) for k, v in model.state_dict().items())
    assert not all(torch.equal(v, seen[3][k]) for k, v in model.state_dict().items())


class Diverging(DCMH):
    """Returns a loss that is no number from the second epoch on."""

    def loss(self, model: HashModel, step: Step) -> torch.Tensor:
        value = super().loss(model, step)
        return value * torch.nan if step.epoch > 1 else value


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(
    data: RetrievalData, tmp_path: Path
) -> None:
    file = tmp_path / "checkpoint.safetensors"
    score = lambda m: validation_scores(m, data)  # noqa: E731
    with pytest.raises(
        TrainingError, match=r"epoch 2, step 7: the loss is nan: lower.*last good state is in"
    ):
        fit(make_model(), Diverging(), data, config=CONFIG, score=score, checkpoint=file)
    resumed, _ = train(data, checkpoint=file)
    assert equal(resumed, train(data)[0])
    with pytest.raises(TrainingError, match=r"lower the learning rate$"):
        fit(make_model(), Diverging(), data, config=CONFIG, score=score)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
def test_every_optimizer_resumes_to_the_same_bits(
    data: RetrievalData, tmp_path: Path, optimizer: str, momentum: float
) -> None:
    config = FitConfig(
        epochs=2,
        batch_size=16,
        image_rate=1e-3,
        text_rate=1e-3,
        optimizer=optimizer,
        momentum=momentum,
        schedule="exponential",
        warmup=0,
    )
    model = lambda: build_hash_model(WORDS, seed=0)  # noqa: E731
    whole, expected = train(data, config=config, objective=Words(), model=model())
    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(
            data,
            config=config,
            objective=Words(),
            model=model(),
            checkpoint=file,
            progress=Killing(4),
        )
    resumed, fitted = train(data, config=config, objective=Words(), model=model(), checkpoint=file)
    assert equal(resumed, whole) and fitted.best == expected.best
    assert not equal(whole, model())


def test_steps_are_those_of_the_equations(data: RetrievalData) -> None:
    """One weight, one step a batch, worked by hand from w = 1 and the gradient g = 2."""
    expected = {
        # g + 0.5 w = 2.5; velocities 2.5, then 0.9 x 2.5 + (2 + 0.5 x 0.75)
        "sgd": (1 - 0.1 * 2.5, 0.75 - 0.1 * (2.25 + 2.375)),
        # the first moment over the root of the second, without bias: the sign of the gradient
        "adam": (1 - 0.1, 0.8),
        "adamw": (1 - 0.05 - 0.1, 0.85 - 0.0425 - 0.1),
        # root of the mean square: 0.1 |g|; g / it = 10; velocity as in sgd
        "rmsprop": (1 - 0.1 * 10, None),
    }
    for name, values in expected.items():
        weight = torch.nn.Parameter(torch.ones(1))
        group = [{"params": [weight], "lr": 0.1}]
        optimizer = make_optimizer(group, name=name, momentum=0.9, weight_decay=0.5)
        for value in values:
            weight.grad = torch.full_like(weight, 2)
            optimizer.step()
            if value is not None:
                assert weight.item() == pytest.approx(value, abs=1e-3), name


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", [0.02, 0.5, 1.0, 0.01 + 0.99 * 0.5]),
        ("constant", [0.02, 0.5, 1.0, 1.0]),
        ("exponential", [0.02, 0.5, 1.0, 0.1**2]),
    ],
)
def test_rates_rise_then_follow_their_schedule(schedule: str, expected: list[float]) -> None:
    steps = [(0.0, 1), (0.1, 1), (0.2, 1), (0.6, 3)]
    found = [
        rate_factor(share, epoch=epoch, schedule=schedule, warmup=0.2, decay=0.1)
        for share, epoch in steps
    ]
    assert found == pytest.approx(expected)


def test_training_stops_when_validation_no_longer_improves(
    data: RetrievalData, tmp_path: Path
) -> None:
    config = FitConfig(epochs=9, batch_size=16, patience=2)
    select = [0.2, 0.5, 0.5, 0.6, 0.1, 0.6, 0.9]
    seen: list[float] = []

    def score(m: HashModel) -> Mapping[str, float]:
        seen.append(select[len(seen)])
        return {"select": seen[-1]}

    def run(**options: object) -> Fitted:
        model = build_hash_model(WORDS, seed=0)
        return fit(model, Words(), data, config=config, score=score, **options)

    fitted = run()
    assert (len(fitted.history), fitted.best_epoch) == (6, 4), "an equal score is not better"
    seen.clear()
    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=file, progress=Killing(3 * 5))
    assert len(run(checkpoint=file).history) == 6, "the epochs before the kill count"
    assert len(run(checkpoint=file).history) == 6, "and a stopped run stays stopped"
    assert len(seen) == 6


@pytest.mark.parametrize("damage", ["noise", "foreign", "model", "items", "log"])
def test_a_checkpoint_of_something_else_is_refused(
    data: RetrievalData, tmp_path: Path, damage: str
) -> None:
    file = tmp_path / "checkpoint.safetensors"
    train(data, checkpoint=file, config=dataclasses.replace(CONFIG, epochs=1))
    tensors = read_tensors(file)
    if damage == "noise":
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "foreign":
        write_tensors(file, {"x": torch.zeros(1)})
    elif damage == "model":
        weight = "model/encoders.text.head.weight"
        write_tensors(file, {**tensors, weight: torch.zeros(3, 3)})
    elif damage == "items":
        write_tensors(file, {**tensors, "buffers/codes": torch.zeros(3, 16)})
    else:
        write_tensors(file, {**tensors, "log": torch.zeros(4, dtype=torch.uint8)})
    with pytest.raises(ArtifactError, match=r"checkpoint.safetensors: not a"):
        train(data, checkpoint=file)


def test_pictures_are_mirrored_only_if_asked(data: RetrievalData) -> None:
    seen: list[torch.Tensor] = []

    class Watching(DCMH):
        def loss(self, model: HashModel, step: Step) -> torch.Tensor:
            positions = data.split.train[step.rows.numpy()]
            if step.phase == "image":
                seen.append((step.items["image"], data.inputs("image", positions)))
                assert step.ids.tolist() == data.ids[positions].tolist()
            return super().loss(model, step)

    def mirrored(flip: bool) -> float:
        seen.clear()
        config = dataclasses.replace(CONFIG, epochs=2, flip=flip)
        fit(make_model(), Watching(), data, config=config, score=lambda m: {"select": 0.0})
        shares = []
        for x, clean in seen:
            same = (x == clean).flatten(1).all(1)
            assert torch.equal(x[~same], clean[~same].flip(3))
            shares.append(1 - float(same.float().mean()))
        return sum(shares) / len(shares)

    assert mirrored(False) == 0
    assert 0.3 < mirrored(True) < 0.7


def test_each_epoch_visits_every_item_once_in_its_own_order(data: RetrievalData) -> None:
    visits: dict[tuple[int, str], list[int]] = {}

    class Watching(DCMH):
        def loss(self, model: HashModel, step: Step) -> torch.Tensor:
            visits.setdefault((step.epoch, step.phase), []).extend(step.rows.tolist())
            return super().loss(model, step)

    config = dataclasses.replace(CONFIG, epochs=2)
    fit(make_model(), Watching(), data, config=config, score=lambda m: {"select": 0.0})
    assert list(visits) == [(1, "image"), (1, "text"), (2, "image"), (2, "text")]
    orders = list(visits.values())
    assert all(sorted(order) == list(range(48)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize(
    "attack", [OwnCode(steps=1), CMLA(steps=1), CMLA(reference="batch", steps=1)]
)
def test_queries_are_never_looked_at(monkeypatch: pytest.MonkeyPatch, attack: Attack) -> None:
    """Training and both validation scores, with queries and the rest of the set poisoned."""
    data = make_tiny_data()
    allowed = set(data.split.train) | set(data.split.validation)
    for name in ("inputs", "label"):
        original = getattr(RetrievalData, name)

        def guarded(self, *args, original=original, **options):  # type: ignore[no-untyped-def]
            positions = set(args[-1].tolist())
            assert positions <= allowed, f"looked at {sorted(positions - allowed)[:5]}"
            return original(self, *args, **options)

        monkeypatch.setattr(RetrievalData, name, guarded)
    config = dataclasses.replace(CONFIG, epochs=1)
    fitted = fit(
        make_model(),
        DCMH(),
        data,
        config=config,
        score=lambda m: robust_validation_scores(m, data, attack),
    )
    assert set(fitted.best) == {"i2t", "t2i", "attacked_i2t", "attacked_t2i", "select"}
    with pytest.raises(AssertionError, match="looked at"):
        data.inputs("image", data.split.query)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, r"epochs must be in \[1, 100000\], got 0"),
        ({"batch_size": 1}, r"batch_size must be in \[2, 65536\], got 1"),
        ({"image_rate": -1.0}, "image_rate"),
        ({"warmup": 1.5}, "warmup"),
        ({"clip_norm": -1.0}, "clip_norm must be in"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 0.9999\], got 1"),
        ({"decay": 0.0}, "decay must be in"),
        ({"patience": -1}, r"patience must be in \[0, 100000\], got -1"),
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FitConfig(**change)


def test_a_batch_beyond_the_training_items_is_refused(data: RetrievalData) -> None:
    with pytest.raises(ConfigError, match="batch_size 64 exceeds the 48 training items"):
        train(data, config=dataclasses.replace(CONFIG, batch_size=64))
