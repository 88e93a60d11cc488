"""Purifiers: the exact transform forward, the gradient of an adaptive attacker backward."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hamward.attacks import ATTACKS, OwnCode, encode, own_code_goal
from hamward.codes import binarize
from hamward.data import RetrievalData
from hamward.errors import ArtifactError, ConfigError
from hamward.evaluation import evaluate
from hamward.evaluation.diagnostics import probe_flags
from hamward.models import (
    PURIFIERS,
    BitDepth,
    HashModel,
    Jpeg,
    NoiseVote,
    Purifier,
    Victim,
    WordDrop,
    load_model,
    save_model,
    wrap,
)
from hamward.models.folding import fold
from hamward.models.networks import bf16_supported
from hamward.models.onnx_files import write_onnx
from hamward.models.purifiers import purify

each = pytest.mark.parametrize("name", PURIFIERS)


def made(name: str, **options: Any) -> Purifier:
    return PURIFIERS[name].make(**options)


def items(data: RetrievalData, purifier: Purifier, n: int = 6) -> Tensor:
    """Stored items, in float64."""
    return data.inputs(purifier.modality, np.arange(n)).double()


def gradient(model: HashModel, purifier: Purifier, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(model.logits(purifier.modality, leaf).square().sum(), leaf)
    return found


def test_bit_depth_by_hand() -> None:
    x = torch.tensor([0.0, 0.16, 0.17, 0.49, 0.51, 0.84, 1.0], dtype=torch.float64)
    x = x.view(1, 1, 1, 7).expand(1, 3, 1, 7)
    third = 1 / 3
    two = [0, 0, third, third, 2 * third, 1, 1]  # levels 0, 1/3, 2/3, 1: borders 1/6, 1/2, 5/6
    expected = torch.tensor(two, dtype=torch.float64).view(1, 1, 1, 7).expand_as(x)
    torch.testing.assert_close(BitDepth(bits=2)(x), expected)
    assert BitDepth(bits=1)(x)[0, 0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1]
    levels = torch.arange(256).view(1, 1, 16, 16).expand(1, 3, 16, 16) / 255
    assert torch.equal(torch.round(BitDepth(bits=8)(levels) * 255), torch.round(levels * 255))


def test_jpeg_is_what_pillow_makes_of_the_stored_picture(data: RetrievalData) -> None:
    x = items(data, Jpeg())
    for quality in (10, 75):
        for before, after in zip(x, Jpeg(quality=quality)(x), strict=True):
            held = io.BytesIO()
            pixels = (before * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(held, "JPEG", quality=quality, subsampling=2)
            seen = np.asarray(Image.open(held)).astype(np.float64) / 255
            assert np.abs(seen - before.permute(1, 2, 0).numpy()).max() > 1 / 255
            assert np.array_equal(after.permute(1, 2, 0).numpy(), seen)


def test_noise_has_the_deviation_and_depends_on_levels_and_seed_alone(data: RetrievalData) -> None:
    purifier = NoiseVote(sigma=0.1, votes=50)
    x = items(data, purifier)
    x[1] = x[0]
    noise = purifier(x).unflatten(0, (6, 50)) - x[:, None]
    assert noise.std().item() == pytest.approx(0.1, rel=0.01)
    assert noise.mean().abs() < 0.001
    correlation = torch.corrcoef(torch.cat([noise[0], noise[2]]).flatten(1)).fill_diagonal_(0)
    assert correlation.abs().max() < 0.2, "copies and items have noise of their own"
    torch.testing.assert_close(noise[0], noise[1], rtol=0, atol=1e-12)
    near = purifier(x + 0.4 / 255).unflatten(0, (6, 50)) - x[:, None] - 0.4 / 255
    torch.testing.assert_close(near, noise, rtol=0, atol=1e-12)
    far = purifier(x + 0.6 / 255).unflatten(0, (6, 50)) - x[:, None] - 0.6 / 255
    other = dataclasses.replace(purifier, seed=1)(x).unflatten(0, (6, 50)) - x[:, None]
    for changed in (far, other):
        assert abs(torch.corrcoef(torch.stack([changed.flatten(), noise.flatten()]))[0, 1]) < 0.01


def test_words_are_dropped_with_their_share_and_none_is_added() -> None:
    bags = torch.ones(40, 30)
    bags[:, 20:] = 0
    bags[torch.arange(40), torch.arange(40) % 20] = 0.0
    copies = WordDrop(share=0.3, votes=10)(bags).unflatten(0, (40, 10))
    assert set(copies.unique().tolist()) == {0.0, 1.0}
    assert (copies <= bags[:, None]).all()
    assert copies.sum().item() / (10 * bags.sum().item()) == pytest.approx(0.7, abs=0.02)
    assert not torch.equal(copies[0, 0], copies[0, 1])


@each
def test_logits_are_the_mean_of_what_the_victim_says_to_the_copies(
    name: str, model64: HashModel, data: RetrievalData
) -> None:
    model64.eval()
    purifier = made(name)
    x = items(data, purifier)
    copies = purifier(x)
    assert copies.shape == (6 * purifier.votes, *x.shape[1:])
    assert (copies != x.repeat_interleave(purifier.votes, 0)).any()
    votes = model64.logits(purifier.modality, copies).unflatten(0, (6, purifier.votes))
    found = model64.purified(purifier).logits(purifier.modality, x)
    torch.testing.assert_close(found, votes.mean(1), rtol=0, atol=1e-9)
    assert model64.purifiers == {}, "the victim stays as it was"


@each
def test_the_gradient_is_that_at_the_purified_items(
    name: str, model64: HashModel, data: RetrievalData
) -> None:
    """Straight through for one copy, the mean over the draws for several (a dropped word: 0)."""
    model64.eval()
    purifier = made(name)
    x = items(data, purifier)
    copies = purifier(x).detach().requires_grad_(True)
    votes = model64.logits(purifier.modality, copies).unflatten(0, (6, purifier.votes))
    (expected,) = torch.autograd.grad(votes.mean(1).square().sum(), copies)
    found = gradient(model64.purified(purifier), purifier, x)
    there = torch.ones_like(x, dtype=torch.bool)
    if name == "word-drop":  # of a word that is not there, nobody sees in which copies it would be
        there, dropped = x > 0, (copies == 0).detach()
        expected = expected * ~dropped
    expected = expected.unflatten(0, (6, purifier.votes)).sum(1)
    assert expected[there].abs().max() > 0
    torch.testing.assert_close(found[there], expected[there], rtol=1e-9, atol=1e-12)


@each
def test_without_the_gradient_codes_stay_and_nothing_passes(
    name: str, model64: HashModel, data: RetrievalData
) -> None:
    model64.eval()
    open_, shut = (made(name, adaptive=a) for a in (True, False))
    x = items(data, open_)
    logits = [model64.purified(p).logits(p.modality, x) for p in (open_, shut)]
    assert torch.equal(*logits)
    assert not gradient(model64.purified(shut), shut, x).any()


@each
def test_no_other_item_matters_neither_to_codes_nor_to_attacks(
    name: str, model64: HashModel, data: RetrievalData
) -> None:
    purifier = made(name)
    victim = Victim(model=model64.purified(purifier))
    modality, positions = purifier.modality, np.arange(6)
    x, ids = items(data, purifier), torch.tensor(data.ids[positions])
    state = torch.get_rng_state()
    with torch.no_grad():
        victim.model.eval()
        whole = victim.model.logits(modality, x)
        for rows in ([2], [5, 0, 3]):
            alone = victim.model.logits(modality, x[rows])
            torch.testing.assert_close(alone, whole[rows], rtol=0, atol=1e-9)
        assert victim.model.logits(modality, x[:0]).shape == (0, 16)
    attack = OwnCode(steps=3, eps=8 / 255, text_eps=0.3)
    goal = own_code_goal(attack, victim, data, modality, positions, seed=1)
    whole = attack(victim, x, goal, ids=ids, seed=1)
    for rows in ([2], [5, 0, 3]):
        part = attack(victim, x[rows], goal.select(torch.tensor(rows)), ids=ids[rows], seed=1)
        torch.testing.assert_close(part, whole[rows], rtol=0, atol=1e-9)
    assert torch.equal(torch.get_rng_state(), state)
    eps = attack.budget(modality).eps
    assert 0 < (whole - x).abs().max() <= eps + 1e-12
    assert whole.min() >= 0 and whole.max() <= 1


@each
def test_folding_keeps_the_purifier_and_bf16_begins_behind_it(
    name: str, model: HashModel, data: RetrievalData
) -> None:
    purifier = made(name)
    encoder = model.eval().purified(purifier).encoder(purifier.modality)
    x = items(data, purifier)
    double = fold(encoder.double())
    torch.testing.assert_close(double(x), encoder(x), rtol=0, atol=1e-9)
    encoder.float()
    seen: list[Tensor] = []
    encoder.trunk.register_forward_pre_hook(lambda trunk, inputs: seen.append(inputs[0]))
    x = x.float()
    full = encoder(x).detach()
    low = encoder(x, low_precision=True).detach()
    assert all(torch.equal(s, purify(purifier, x)) for s in seen)
    quick = fold(encoder, low_precision=True)
    folded = quick(x, low_precision=True).detach()
    size = float(full.abs().max())
    for other in (low, folded):
        torch.testing.assert_close(other, full, rtol=0, atol=0.05 * size)
    if purifier.modality == "image" and bf16_supported(torch.device("cpu")):
        assert not torch.equal(low, full)


def test_masking_looks_robust_and_is_flagged_while_the_adaptive_attack_is_as_strong(
    model: HashModel, data: RetrievalData
) -> None:
    few = data.limit(queries=8)
    attacks = {
        "own-code": OwnCode(eps=8 / 255),
        "square": ATTACKS["square"].make(eps=8 / 255, queries=20),
    }
    purifier = BitDepth(bits=4)
    victims = {
        "bare": model,
        "honest": model.purified(purifier),
        "masked": model.purified(dataclasses.replace(purifier, adaptive=False)),
    }
    found = evaluate(
        victims, few, attacks, modalities=("image",), transfer_from="bare", diagnose=False
    )

    def map_of(victim: str, attack: str) -> float:
        return found.find(victim, attack, "i2t", stored="8-bit").map

    assert map_of("masked", "none") == map_of("honest", "none") > 0.9
    assert map_of("masked", "own-code") > 0.9, "looks robust"
    assert map_of("honest", "own-code") < map_of("bare", "own-code") + 0.05 < 0.4
    raised = {v: {f.id for f in found.flags if f.victim == v} for v in victims}
    own = raised.pop("bare")  # what this victim raises anyway
    raised = {v: ids - own for v, ids in raised.items()}
    assert raised["masked"] == {"transfer-beats-white-box", "black-box-beats-white-box"}
    assert raised["honest"] == set()
    codes = {"database/text": encode(model, data, "text", data.split.database)}
    flags = probe_flags(
        "masked", victims["masked"], few, {}, modalities=("image",), codes=codes, queries=4
    )
    assert {f.id for f in flags} == {"zero-gradient", "bounded-optimum"}


@pytest.mark.parametrize(
    "purifier",
    [Jpeg(quality=50), BitDepth(bits=3, adaptive=False), NoiseVote(votes=3, seed=4), WordDrop()],
)
def test_saved_and_loaded_purifiers_are_the_same(
    purifier: Purifier, model: HashModel, data: RetrievalData, tmp_path: Path
) -> None:
    saved = model.eval().purified(purifier)
    save_model(tmp_path, saved, data="tiny")
    loaded, facts = load_model(tmp_path)
    assert loaded.purifiers == saved.purifiers == {purifier.modality: purifier}
    assert facts["data"] == "tiny" and loaded.spec == model.spec
    x = items(data, purifier).float()
    with torch.no_grad():
        codes = [binarize(m.logits(purifier.modality, x)) for m in (loaded, saved)]
    assert torch.equal(*codes)
    both = saved.purified(WordDrop() if purifier.modality == "image" else Jpeg())
    save_model(tmp_path, both, **{k: facts[k] for k in ("data", "purifiers")})
    assert load_model(tmp_path)[0].purifiers == both.purifiers


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"image": {"name": "jpg"}}, "unknown purifier 'jpg': did you mean 'jpeg'"),
        ({"image": {"name": "jpeg", "quality": 0}}, r"quality must be in \[1, 95\], got 0"),
        ({"image": {"name": "jpeg", "qualty": 9}}, "purifiers.image.qualty': did you mean"),
        ({"image": "jpeg"}, "purifiers.image must be a table with a name, got 'jpeg'"),
        (["jpeg"], r"purifiers must be a table, got \['jpeg'\]"),
    ],
)
def test_a_foreign_purifier_is_refused(
    stored: object, message: str, model: HashModel, tmp_path: Path
) -> None:
    save_model(tmp_path, model)
    content = json.loads((tmp_path / "model.json").read_text()) | {"purifiers": stored}
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=rf"model.json.*{message}"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("jpeg", {"quality": 96}, r"quality must be in \[1, 95\], got 96"),
        ("jpeg", {"quality": 0}, r"quality must be in \[1, 95\], got 0"),
        ("bit-depth", {"bits": 0}, r"bits must be in \[1, 8\], got 0"),
        ("bit-depth", {"bits": 9}, r"bits must be in \[1, 8\], got 9"),
        ("noise-vote", {"sigma": 0.0}, r"sigma must be in \(0, 1\], got 0"),
        ("noise-vote", {"sigma": 25.0}, r"sigma must be in \(0, 1\], got 25"),
        ("noise-vote", {"votes": 0}, r"votes must be in \[1, 1024\], got 0"),
        ("word-drop", {"share": 1.0}, r"share must be in \(0, 1\), got 1"),
        ("word-drop", {"votes": 2000}, r"votes must be in \[1, 1024\], got 2000"),
    ],
)
def test_values_out_of_range_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(name, **options)


def test_purifiers_that_do_not_fit_the_model_are_refused(
    model: HashModel, token_model64: HashModel, tmp_path: Path
) -> None:
    blind = wrap(text=model.encoder("text"), code_length=16, vocabulary=12)
    with pytest.raises(ConfigError, match="Jpeg changes images, this model reads texts only"):
        blind.purified(Jpeg())
    with pytest.raises(ConfigError, match="WordDrop changes bags of words, this model reads token"):
        token_model64.purified(WordDrop())
    with pytest.raises(ConfigError, match=r"has Jpeg\(quality=75, .*in front of its image encoder"):
        model.purified(Jpeg()).purified(BitDepth())

    class Own(Jpeg):
        pass

    with pytest.raises(ArtifactError, match="class Own cannot be saved: register it first"):
        save_model(tmp_path, model.purified(Own()))
    pytest.importorskip("onnxscript")
    with pytest.raises(ArtifactError, match=r"Jpeg\(.*cannot be written as ONNX: export the vict"):
        write_onnx(
            model.purified(Jpeg()), "image", tmp_path / "x.onnx", facts={}, check=lambda e: None
        )
    assert not list(tmp_path.iterdir())


def test_functions_of_yours_can_be_purified(model: HashModel, data: RetrievalData) -> None:
    model.eval()
    foreign = wrap(image=model.encoder("image"), code_length=16, image_side=16)
    purifier = NoiseVote(votes=3)
    x = items(data, purifier).float()
    theirs, ours = (m.purified(purifier).logits("image", x) for m in (foreign, model))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
