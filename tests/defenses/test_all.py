"""What every registered defense keeps to, on victims of both kinds."""

import copy
import dataclasses
import inspect
import itertools
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from tiny import SPEC, make_model, step_of
from torch import nn

from hamward.artifacts import RunFolder, read_tensors
from hamward.config import call_with
from hamward.data import RetrievalData
from hamward.defenses import DEFENSES, AdversarialObjective, CodePGD, FPADObjective
from hamward.errors import ConfigError
from hamward.evaluation import HardenConfig, ModelConfig, TrainConfig, harden_run, train_run
from hamward.evaluation.scoring import robust_validation_scores
from hamward.models import HashModel
from hamward.training import OBJECTIVES, FitConfig, Objective, fit

FIT = FitConfig(epochs=2, batch_size=24, image_rate=1e-3, text_rate=1e-3, flip=False)
ROWS = torch.arange(16)
ALL = [name for name in DEFENSES if name != "rocmr"]  # hardens dual encoders alone: test_rocmr.py
CRAFTING = [name for name in ALL if name != "control"]
# The plain mixture of losses takes any attack; the others aim by labels.
LABELED = [
    name
    for name in CRAFTING
    if get_type_hints(DEFENSES[name].make)["return"] is not AdversarialObjective
]
VICTIMS = {
    "dcmh": SPEC,
    "fpad": dataclasses.replace(SPEC, neck=(8,)),
    "dpsh": dataclasses.replace(SPEC, text_network=""),
}


def make(name: str, base: Objective, **more: Any) -> Any:
    """The defense with one inner step, and wide enough to see it in texts."""
    known = inspect.signature(DEFENSES[name].make).parameters
    wanted = {"steps": 1, "text_eps": 0.3, "references": 16, "warmup": 0.0, **more}
    options = {k: v for k, v in wanted.items() if k in known}
    return call_with(DEFENSES[name].make, options, given={"base": base, "seed": 5})


def equal(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(v, other[k]) for k, v in a.state_dict().items())


@pytest.mark.parametrize(
    ("name", "victim"),
    [*((n, "dpsh") for n in ALL), ("atrdh", "dcmh"), ("fpad", "dcmh"), ("cgat", "fpad")],
)
def test_a_killed_hardening_resumes_to_the_same_bits(
    name: str, victim: str, data: RetrievalData, tmp_path: Path
) -> None:
    start = make_model(spec=VICTIMS[victim])

    def run(kill_after: int, checkpoint: Path | None, first: int = 0) -> HashModel:
        model, seen = copy.deepcopy(start), first

        def score(_: HashModel) -> dict[str, float]:
            nonlocal seen
            seen += 1
            if seen > kill_after:
                raise KeyboardInterrupt
            return {"select": float(seen)}

        objective = make(name, OBJECTIVES[victim].make(), refresh=1 if name == "fpad" else 2)
        fit(model, objective, data, config=FIT, score=score, checkpoint=checkpoint)
        return model

    whole = run(9, None)
    assert not equal(whole, start)
    with pytest.raises(KeyboardInterrupt):
        run(1, tmp_path / "c.safetensors")
    assert equal(run(9, tmp_path / "c.safetensors", first=1), whole)


@pytest.mark.parametrize("name", CRAFTING)
def test_inner_attacks_leave_statistics_gradients_and_modes_alone(
    name: str, model: HashModel, data: RetrievalData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen from within: at every forward pass for an attack, and around each call of one."""
    objective = make(name, OBJECTIVES["dcmh"].make())
    attack, calls = objective.sampler.attack, []

    def watched(self: Any, victim: Any, x: Any, *rest: Any, **options: Any) -> Any:
        assert victim.model is model and model.training
        before = copy.deepcopy(model.state_dict())
        x_adv = inner(self, victim, x, *rest, **options)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert all(p.grad is None and p.requires_grad for p in model.parameters())
        assert model.training and not x_adv.requires_grad
        calls.append(float((x_adv - x).abs().max()))
        return x_adv

    inner = type(attack).__call__
    monkeypatch.setattr(type(attack), "__call__", watched)
    model.train()
    objective.start(model, data, data.split.train)
    logits = HashModel.logits

    def outside(self: HashModel, modality: str, x: torch.Tensor, **options: Any) -> Any:
        found = logits(self, modality, x, **options)
        if not self.training:
            assert not found.requires_grad, "what an attack runs is a folded copy"
        return found

    monkeypatch.setattr(HashModel, "logits", outside)
    for phase in objective.phases:
        loss = objective.loss(model, step_of(data, phase, ROWS))
        loss.backward()
        moved = [p.grad is not None for p in model.encoder(phase).parameters()]
        assert all(moved), "the loss reaches every parameter of the encoder"
        model.zero_grad(set_to_none=True)
    assert calls and max(calls) > 1e-3


@pytest.mark.parametrize("text", ["edits", "feature-space"])
@pytest.mark.parametrize("name", CRAFTING)
def test_texts_are_typed_where_they_shall_be(
    name: str, text: str, model: HashModel, data: RetrievalData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeros and ones within the edits, or fractions of words."""
    objective = make(name, OBJECTIVES["dcmh"].make(), text=text, edits=1)
    objective.start(model, data, data.split.train)
    seen, logits = [], HashModel.logits

    def watched(self: HashModel, modality: str, x: torch.Tensor, **options: Any) -> Any:
        seen.append(x.detach())
        return logits(self, modality, x, **options)

    monkeypatch.setattr(HashModel, "logits", watched)
    step = dataclasses.replace(step_of(data, "text", ROWS), number=99)  # after any warm-up
    objective.loss(model.train(), step)
    delta = seen[-1][-len(ROWS) :] - step.items["text"]
    assert delta.any()
    if text == "feature-space":
        assert ((delta != 0) & (delta.abs() != 1)).any()
    else:
        assert set(delta.unique().tolist()) <= {-1.0, 0.0, 1.0}
        assert (delta > 0).sum(1).max() <= 1 and (delta < 0).sum(1).max() <= 1


@pytest.mark.parametrize("name", LABELED)
def test_what_a_label_based_defense_cannot_use_is_refused(
    name: str, model: HashModel, data: RetrievalData
) -> None:
    objective = make(name, OBJECTIVES["dcmh"].make())
    objective.check_victim(model, data)
    split = dataclasses.replace(data.split, database=np.arange(96), searched_query=True)
    unlabeled = dataclasses.replace(
        data, labels=data.labels[:, :0], label_names=(), split=split, digest=""
    )
    with pytest.raises(ConfigError, match=r"need labels, and tiny has none: harden by cmla"):
        objective.check_victim(model, unlabeled)
    alone = data.labels.copy()
    alone[:, 1:] = 0
    with pytest.raises(ConfigError, match="at least 2 classes, those of tiny have 1"):
        objective.check_victim(model, dataclasses.replace(data, labels=alone, digest=""))
    cosine = make_model(spec=dataclasses.replace(SPEC, retrieval="cosine"))
    with pytest.raises(ConfigError, match="ranks real-valued embeddings by cosine"):
        objective.check_victim(cosine, data)


def withstood(name: str, model: HashModel, data: RetrievalData) -> float:
    """Attacked validation MAP of pictures after six epochs, the attack crafted anew."""
    victim, count = copy.deepcopy(model), itertools.count()
    inside = {"eps": 6 / 255, "steps": 3, "modalities": ("image",)}
    objective = make(name, OBJECTIVES["dcmh"].make(), **inside)
    config = dataclasses.replace(FIT, epochs=6)
    fit(victim, objective, data, config=config, score=lambda m: {"select": float(next(count))})
    attack = CodePGD(eps=6 / 255, steps=4)
    scores = robust_validation_scores(victim, data, attack, modalities=("image",))
    return scores["attacked_i2t"]


@pytest.fixture(scope="module")
def control(_trained: HashModel, data: RetrievalData) -> float:
    return withstood("control", _trained, data)


@pytest.mark.parametrize("name", [*LABELED, "multi-attack"])
def test_it_withstands_an_attack_better_than_the_control(
    name: str, model: HashModel, data: RetrievalData, control: float
) -> None:
    assert withstood(name, model, data) > control + 0.02


@pytest.mark.parametrize(("victim", "name"), [("fpad", "fpad"), ("dpsh", "atrdh")])
def test_it_hardens_a_run_folder(
    victim: str, name: str, data: RetrievalData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A victim of FPAD brings the class codes that its training fixed."""
    monkeypatch.setattr("hamward.evaluation.runs.load_data", lambda name, **options: data)
    text = "" if victim == "dpsh" else "bow-mlp"
    neck = (8,) if victim == "fpad" else ()
    model = ModelConfig(
        code_length=16,
        image_network="tiny-resnet",
        text_network=text,
        text_width=32,
        neck=neck,
    )
    options = {"prototype_share": 0.01} if victim == "fpad" else {}
    train = TrainConfig(method=victim, options=options, model=model, fit=FIT)
    train_run(train, tmp_path / "victim")
    seen: list[torch.Tensor] = []
    find = FPADObjective._find_anchors

    def watched(self: FPADObjective, model: HashModel) -> torch.Tensor:
        seen.append(find(self, model))
        return seen[-1]

    monkeypatch.setattr(FPADObjective, "_find_anchors", watched)
    config = HardenConfig(
        defense=name,
        victim=str(tmp_path / "victim"),
        options={"steps": 1},
        fit=dataclasses.replace(FIT, epochs=1),
    )
    harden_run(config, tmp_path / "hard")
    validation = RunFolder(tmp_path / "hard").info()["validation"]
    assert {"attacked_i2i" if victim == "dpsh" else "attacked_t2i"} < set(validation)
    if victim == "fpad":
        kept = read_tensors(tmp_path / "victim" / "objective.safetensors")
        assert torch.equal(seen[0], kept["buffers/anchors"])
    wrong = dataclasses.replace(config, options={"epz": 1})
    with pytest.raises(ConfigError, match="did you mean 'eps'"):
        harden_run(wrong, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()
