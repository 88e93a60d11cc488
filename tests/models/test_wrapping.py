"""Foreign functions as victims: the same attacks and metrics, and clear refusals."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hamward.attacks import OwnCode, TagEditsByCodes
from hamward.data import RetrievalData
from hamward.errors import AccessError, ArtifactError, ConfigError, ShapeError
from hamward.evaluation import evaluate
from hamward.models import HashModel, Victim, save_model, wrap


def test_a_wrapped_model_is_attacked_like_the_original(
    model: HashModel, data: RetrievalData
) -> None:
    model.eval()
    foreign = wrap(
        image=model.encoder("image"),
        text=lambda bag: model.logits("text", bag),
        code_length=16,
        image_side=16,
        vocabulary=12,
    )
    attacks = {"own-code": OwnCode(steps=3, text_eps=0.4)}
    ours = evaluate({"v": model}, data, attacks)
    theirs = evaluate({"v": foreign}, data, attacks)
    for row in ours.rows:
        other = theirs.find("v", row.attack, row.direction, stored=row.stored)
        assert other.map == pytest.approx(row.map, abs=0.02), "folding rounds differently"
        if row.attack == "none":
            assert other.map == row.map
    assert foreign.modalities == ("image", "text")


def test_a_model_without_gradients_is_attacked_through_its_answers_alone(
    model: HashModel, data: RetrievalData
) -> None:
    def answer(bag: Tensor) -> Tensor:
        with torch.no_grad():
            return model.encoder("text")(bag)

    model.eval()
    service = wrap(text=answer, code_length=16, vocabulary=12, access="codes")
    few = data.limit(queries=4)
    with pytest.raises(AccessError, match="own-code on 's' needs access to 'gradients', but this"):
        evaluate({"s": service}, few, {"own-code": OwnCode()})
    attacks = {"edits": TagEditsByCodes(insertions=1, deletions=1, candidates=4)}
    found = evaluate({"s": service}, few, attacks, diagnose=True)
    assert found.find("s", "edits", "t2t", stored="as typed").submissions > 0
    assert "random-victim" not in {flag.id for flag in found.flags}
    Victim(model=service).require("codes", "anybody")
    lists = wrap(text=answer, code_length=16, vocabulary=12, access="ranks")
    with pytest.raises(AccessError, match="this victim grants 'ranks' only"):
        Victim(model=lists).codes("text", torch.zeros(1, 12))

    def moody(bag: Tensor) -> Tensor:
        asked.append(len(bag))
        return answer(bag) * (1 if len(asked) < 3 else (-1) ** len(asked))

    asked: list[int] = []
    unsteady = wrap(text=moody, code_length=16, vocabulary=12, access="codes")
    flags = evaluate({"s": unsteady}, few, {}, diagnose=True).flags
    assert [f.value for f in flags if f.id == "random-victim"] == [1.0]


def test_modules_move_and_freeze_with_the_victim(model: HashModel) -> None:
    inner = model.eval().encoder("text").double()
    foreign = wrap(text=inner.float(), code_length=16, vocabulary=12)
    assert any(p is next(inner.parameters()) for p in foreign.parameters())
    with Victim(model=foreign).attacked():
        assert not any(p.requires_grad for p in inner.parameters())
    assert all(p.requires_grad for p in inner.parameters())


class Mixing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :4] - x[:, :4].mean(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda bag: bag[:, :3], r"must return logits \(2, 4\), got \(2, 3\)"),
        (lambda bag: "codes", "got str"),
        (lambda bag: bag[:, :4] / 0 * 0, "not finite"),
        (Mixing(), "other logits in another batch: put it into eval mode"),
    ],
)
def test_functions_that_cannot_serve_are_refused(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ShapeError, match=message):
        wrap(text=call, code_length=4, vocabulary=6)
    with pytest.raises(ConfigError, match="wrap needs a function"):
        wrap(code_length=4)


def test_a_wrapped_model_is_not_saved_as_if_it_could_be_built(tmp_path: Path) -> None:
    model = wrap(text=lambda bag: bag[:, :4] - 0.5, code_length=4, vocabulary=6)
    with pytest.raises(ArtifactError, match="wrapped models cannot be saved"):
        save_model(tmp_path, model)
