"""Small trainings that one process and two ranks run alike; as a script, one of the ranks."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from tiny import SPEC, make_model, make_tiny_data
from torch import Tensor, nn

from hamward.artifacts import write_json, write_tensors
from hamward.attacks import OwnCode
from hamward.defenses import AdversarialLearning, AdversarialObjective
from hamward.errors import ConfigError, HamwardError
from hamward.models import HashModel, ModelSpec
from hamward.models.hash_model import Encoder
from hamward.progress import NoProgress
from hamward.random import seeded
from hamward.training import (
    ACMR,
    ALONE,
    DCMH,
    SSAH,
    DualEncoder,
    FitConfig,
    Objective,
    Ranks,
    Step,
    fit,
    joined,
)

PLAIN = ModelSpec(code_length=8, vocabulary=12, image_side=16)
NECKED = ModelSpec(code_length=8, vocabulary=12, image_side=16, neck=(8,), dropout=0.3)
# Two steps a pass; sgd, because what it adds to a weight is the gradient and nothing else.
CONFIG = FitConfig(
    epochs=1,
    batch_size=24,
    image_rate=0.05,
    text_rate=0.05,
    optimizer="sgd",
    schedule="constant",
    warmup=0,
    weight_decay=0,
    clip_norm=0,
)


class Plain(nn.Module):
    """A trunk without BatchNorm and dropout."""

    width = 10
    fast_in_bf16 = False

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, self.width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x.flatten(1)))


def plain_model(spec: ModelSpec) -> HashModel:
    with seeded(0):
        encoders = {"image": Encoder(Plain(3 * 16 * 16), spec), "text": Encoder(Plain(12), spec)}
        return HashModel(spec, encoders=encoders)


class Dropped(DCMH):
    """DCMH whose images lose inputs: the draws inside trunks are a rank's own."""

    def start(self, model: HashModel, *rest: object) -> None:
        model.encoder("image").trunk.layer = nn.Sequential(
            nn.Dropout(0.5), model.encoder("image").trunk.layer
        )
        super().start(model, *rest)


class Broken(DCMH):
    """Fails on one rank only."""

    def loss(self, model: HashModel, step: Step) -> Tensor:
        if step.ranks.rank == 1 and step.number == 1:
            raise ConfigError("this rank has had enough")
        return super().loss(model, step)


class Killed(NoProgress):
    def track(self, items: Iterable, *, total: int, label: str) -> Iterator:  # type: ignore[type-arg]
        for done, item in enumerate(items):
            if done == 5:
                raise KeyboardInterrupt
            yield item


def hardened() -> AdversarialObjective:
    return AdversarialObjective(
        base=DCMH(),
        attack=OwnCode(eps=16 / 255, text_eps=0.3, steps=1),
        config=AdversarialLearning(),
    )


EXACT = {  # one process and many: the same but for the order of sums
    "dcmh": (DCMH, partial(plain_model, PLAIN)),
    "dual-encoder": (partial(DualEncoder, temperature=1.0), partial(plain_model, NECKED)),
    "acmr": (ACMR, partial(plain_model, NECKED)),
    "ssah": (SSAH, partial(plain_model, NECKED)),
    "hardened": (hardened, partial(plain_model, PLAIN)),
}
SHARED = {  # dropout or BatchNorm inside trunks
    "dropout": (Dropped, partial(plain_model, PLAIN)),
    "batch-norm": (DCMH, partial(make_model, spec=SPEC)),
}


def tensors_of(model: HashModel, objective: Objective) -> dict[str, Tensor]:
    parts = (model.state_dict(), objective.buffers, objective.modules.state_dict())
    return {f"{i}/{k}": v.clone() for i, part in enumerate(parts) for k, v in part.items()}


def train_all(ranks: Ranks) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    data = make_tiny_data()

    def score(m: HashModel) -> Mapping[str, float]:
        assert ranks.rank == 0, "the first rank validates"
        return {"select": 0.0}

    for name, (kind, make) in {**EXACT, **SHARED}.items():
        model, objective = make(), kind()
        fitted = fit(model, objective, data, config=CONFIG, score=score, ranks=ranks)
        found |= {f"{name}/{k}": v for k, v in tensors_of(model, objective).items()}
        found[f"{name}/loss"] = torch.tensor(fitted.history[0]["loss"])
    return found


def resumed(ranks: Ranks, folder: Path) -> bool:
    """Whether a training that is killed and goes on ends with the bits of one that is not."""
    data, config = make_tiny_data(), FitConfig(epochs=2, batch_size=24)
    ends = []
    for kills in (False, True):
        file = folder / f"{kills}.safetensors"
        for progress in (Killed(), NoProgress()) if kills else (NoProgress(),):
            model, objective = plain_model(NECKED), SSAH(label_passes=1)
            try:
                fit(
                    model,
                    objective,
                    data,
                    config=config,
                    score=lambda m: {"select": float(next(m.parameters()).detach().sum())},
                    checkpoint=file,
                    ranks=ranks,
                    progress=progress,
                )
            except KeyboardInterrupt:
                continue
        ends.append(tensors_of(model, objective))
    return all(torch.equal(v, ends[1][k]) for k, v in ends[0].items())


def errors(ranks: Ranks) -> Iterator[str]:
    """What goes wrong on one rank, as both see it; the last of them ends the company."""

    def refuse() -> None:
        raise ConfigError("no such folder")

    for attempt in (
        lambda: ranks.first(refuse),
        lambda: train_apart(ranks),
        lambda: FitConfig(batch_size=9).check(48, ranks=ranks.size),
    ):
        try:
            attempt()
        except HamwardError as error:
            yield f"{type(error).__name__}: {error}"


def train_apart(ranks: Ranks) -> None:
    """The ranks start from different weights."""
    model = plain_model(PLAIN)
    with torch.no_grad():
        model.encoder("text").head.bias += ranks.rank
    fit(
        model,
        DCMH(),
        make_tiny_data(),
        config=CONFIG,
        score=lambda m: {"select": 0.0},
        ranks=ranks,
    )


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with joined(timeout=1) as ranks:
        found = train_all(ranks)
        whole = resumed(ranks, folder)
        seen = list(errors(ranks))
        write_tensors(folder / f"rank{ranks.rank}.safetensors", found)
        model = plain_model(PLAIN)
        try:
            fit(
                model,
                Broken(),
                make_tiny_data(),
                config=CONFIG,
                score=lambda m: {"select": 0.0},
                ranks=ranks,
            )
        except HamwardError as error:
            seen.append(f"{type(error).__name__}: {error}")
    write_json(folder / f"rank{ranks.rank}.json", {"resumed": whole, "errors": seen})


if __name__ == "__main__":
    assert ALONE.size == 1
    main(Path(sys.argv[1]))
