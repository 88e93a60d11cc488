"""Each flag is raised where it must be, and not where nothing is wrong."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from hamward.attacks import OwnCode, RandomNoise
from hamward.data import RetrievalData
from hamward.evaluation import Evaluation, evaluate
from hamward.evaluation.diagnostics import FLAGS, code_flags, probe_flags, row_flags
from hamward.evaluation.results import Row
from hamward.models import HashModel

ATTACKS = {
    "own-code@4/255": OwnCode(eps=4 / 255),
    "own-code@8/255": OwnCode(eps=8 / 255),
    "random-noise@8/255": RandomNoise(),
}


def row(attack: str, value: float, **changes: Any) -> Row:
    eps = int(attack.split("@")[1][0]) / 255 if "@" in attack else 0.0
    made = Row(
        victim="v", attack=attack, crafted_on="v", direction="i2t", stored="8-bit", eps=eps,
        norm="linf", map=value, low=value, high=value, optimistic=value, pessimistic=value,
        chance=0.1, flips=0.1, rms=0.0, linf=eps, queries=9, seconds=0.0,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def ids(*rows: Row) -> list[str]:
    return [flag.id for flag in row_flags(rows, ATTACKS)]


def test_rows_that_contradict_each_other_are_flagged() -> None:
    four, eight = row("own-code@4/255", 0.4), row("own-code@8/255", 0.2)
    noise = row("random-noise@8/255", 0.5)
    assert ids(four, eight, noise, row("none", 0.6)) == []
    assert ids(eight, row("random-noise@8/255", 0.19)) == ["black-box-beats-white-box"]
    assert ids(four, row("random-noise@8/255", 0.39)) == [], "the stronger one had a larger budget"
    assert ids(eight, dataclasses.replace(eight, crafted_on="w", map=0.1)) == [
        "transfer-beats-white-box"
    ]
    assert ids(row("own-code@4/255", 0.1), eight) == ["not-monotone"]
    assert ids(eight, row("own-code@8/255", 0.1, stored="float")) == ["rounding"]
    assert ids(row("none", 0.5, optimistic=0.6, pessimistic=0.45)) == ["ties"]


def test_a_flag_says_what_was_measured() -> None:
    (flag,) = row_flags((row("own-code@4/255", 0.1), row("own-code@8/255", 0.2)), ATTACKS)
    assert (flag.victim, flag.subject) == ("v", "own-code@8/255, i2t")
    assert flag.value == pytest.approx(0.1) and flag.threshold == 0.005
    assert flag.message == FLAGS[flag.id]


def test_constant_bits_are_flagged() -> None:
    codes = torch.ones(200, 10, dtype=torch.int8)
    codes[::2] = -1
    assert code_flags("v", {"database/image": codes}) == []
    codes[:, :2] = 1
    (flag,) = code_flags("v", {"database/text": codes, "query/text": codes})
    assert (flag.id, flag.subject, flag.value) == ("collapsed-codes", "text", pytest.approx(0.2))


def probe(model: HashModel, data: RetrievalData, **attacks: Any) -> set[str]:
    from hamward.attacks import encode

    codes = {f"database/{m}": encode(model, data, m, data.split.database) for m in model.modalities}
    flags = probe_flags("v", model, data, attacks, modalities=("image",), codes=codes, queries=8)
    return {flag.id for flag in flags}


def test_a_scaled_head_saturates_and_an_invariant_attack_passes_the_scale_test(
    model: HashModel, data: RetrievalData
) -> None:
    quiet = probe(model, data, own=OwnCode(eps=4 / 255))
    assert not quiet & {"saturated", "zero-gradient", "random-victim", "scale"}
    with torch.no_grad():
        for parameter in model.encoder("image").head.parameters():
            parameter.mul_(1000)
    loud = probe(model, data, own=OwnCode(eps=4 / 255))
    assert "saturated" in loud and not loud & {"scale", "zero-gradient"}


def test_a_network_without_gradient_or_with_noise_is_flagged(
    model: HashModel, data: RetrievalData
) -> None:
    class Wall(torch.nn.Module):
        width = model.encoder("image").trunk.width

        def __init__(self, inner: torch.nn.Module, noise: float) -> None:
            super().__init__()
            self.inner, self.noise = inner, noise

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.inner(x)
            return y + self.noise * torch.rand_like(y) if self.noise else y.round(decimals=3)

    masked, noisy = copy.deepcopy(model), copy.deepcopy(model)
    masked.encoder("image").trunk = Wall(masked.encoder("image").trunk, 0.0)
    noisy.encoder("image").trunk = Wall(noisy.encoder("image").trunk, 0.1)
    assert {"zero-gradient", "bounded-optimum"} <= probe(masked, data)
    assert "random-victim" in probe(noisy, data)


def test_flags_travel_with_the_results(
    model: HashModel, data: RetrievalData, tmp_path: Path
) -> None:
    with torch.no_grad():
        for parameter in model.encoder("image").head.parameters():
            parameter.mul_(1000)
    made = evaluate({"v": model}, data, {}, modalities=("image",), diagnose=True)
    assert "saturated" in {f.id for f in made.flags}
    made.save(tmp_path)
    assert Evaluation.load(tmp_path).flags == made.flags


def test_every_flag_has_a_paragraph() -> None:
    page = (Path(__file__).parents[2] / "docs" / "diagnostics.md").read_text(encoding="utf-8")
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == list(FLAGS)
