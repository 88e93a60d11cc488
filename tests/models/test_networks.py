"""AlexNet, VGG, ResNet and CNN-F: names and sizes as published, and the files they read."""

import logging
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hamward.errors import ArtifactError, ConfigError
from hamward.models import ModelSpec, build_hash_model
from hamward.models.alexnet import AlexNet
from hamward.models.cnn_f import CNNF, local_response
from hamward.models.folding import fold
from hamward.models.resnet import ResNet
from hamward.models.vgg import VGG


def parameters(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def both(*layers: str) -> list[str]:
    return [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


def norm(layer: str) -> list[str]:
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return [*both(layer), *(f"{layer}.{name}" for name in statistics)]


def resnet_names(blocks: tuple[int, ...], convolutions: int, *, first_shortcut: bool) -> list[str]:
    """torchvision's names without fc, written down from its source."""
    names = ["conv1.weight", *norm("bn1")]
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            place = f"layer{stage}.{block}"
            for number in range(1, convolutions + 1):
                names += [f"{place}.conv{number}.weight", *norm(f"{place}.bn{number}")]
            if block == 0 and (stage > 1 or first_shortcut):
                names += [f"{place}.downsample.0.weight", *norm(f"{place}.downsample.1")]
    return names


NAMES = {
    "alexnet": (
        lambda: AlexNet(hidden=8),
        both(*(f"features.{i}" for i in (0, 3, 6, 8, 10)), "classifier.1", "classifier.4"),
    ),
    "vgg11": (
        lambda: VGG(11, hidden=8),
        both(
            *(f"features.{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)), "classifier.0", "classifier.3"
        ),
    ),
    "vgg16": (
        lambda: VGG(16, hidden=8),
        both(
            *(f"features.{i}" for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
            *("classifier.0", "classifier.3"),
        ),
    ),
    "resnet18": (lambda: ResNet(18), resnet_names((2, 2, 2, 2), 2, first_shortcut=False)),
    "resnet50": (lambda: ResNet(50), resnet_names((3, 4, 6, 3), 3, first_shortcut=True)),
}


@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_have_torchvisions_names(name: str) -> None:
    make, names = NAMES[name]
    assert list(make().state_dict()) == names


def test_sizes_are_the_published_ones() -> None:
    """torchvision's totals are these plus the last layer: 61,100,840 for AlexNet."""
    with torch.device("meta"):
        assert parameters(AlexNet(hidden=8).features) == 2_469_696
        assert parameters(VGG(11, hidden=8).features) == 9_220_480
        assert parameters(VGG(16, hidden=8).features) == 14_714_688
        assert parameters(ResNet(18)) == 11_176_512
        assert parameters(ResNet(50)) == 23_508_032
        assert parameters(AlexNet()) == 61_100_840 - (4096 * 1000 + 1000)
        assert parameters(VGG(11)) == 132_863_336 - (4096 * 1000 + 1000)
        assert parameters(VGG(16)) == 138_357_544 - (4096 * 1000 + 1000)
        convolutions = (11 * 11 * 3 * 64, 5 * 5 * 64 * 256, 3 * (3 * 3 * 256 * 256))
        biases = 64 + 4 * 256 + 2 * 4096
        dense = 6 * 6 * 256 * 4096 + 4096 * 4096
        assert parameters(CNNF()) == sum(convolutions) + biases + dense


SIDES = {  # smallest side and width
    "alexnet": (lambda: AlexNet(hidden=8), 63, 8),
    "cnn-f": (lambda: CNNF(hidden=8), 39, 8),
    "vgg-11": (lambda: VGG(11, hidden=8), 32, 8),
    "resnet-18": (lambda: ResNet(18), 8, 512),
}


@pytest.mark.parametrize("name", SIDES)
def test_the_smallest_side_is_the_smallest(name: str) -> None:
    make, side, width = SIDES[name]
    network = make().eval()
    assert network.minimum_side == side
    with torch.no_grad():
        assert network(torch.rand(2, 3, side, side)).shape == (2, width) and network.width == width
        if side > 8:
            with pytest.raises(RuntimeError):
                network(torch.rand(2, 3, side - 1, side - 1))


def test_at_side_224_the_poolings_before_fc6_change_nothing() -> None:
    x = torch.rand(1, 3, 224, 224)
    seen = {}
    with torch.no_grad():
        for name, network, size in (
            ("alexnet", AlexNet(hidden=4), 6),
            ("vgg", VGG(11, hidden=4), 7),
        ):
            network.eval().features.register_forward_hook(
                lambda module, inputs, output, name=name: seen.update({name: output.shape[2:]})
            )
            network(x)
            assert tuple(seen[name]) == (size, size)
        network = CNNF(hidden=4)
        network.conv5.register_forward_hook(
            lambda module, inputs, output: seen.update(conv5=output.shape[2:])
        )
        network(x)
    assert tuple(seen["conv5"]) == (13, 13), "54, 27, 13: then 6"


@pytest.mark.parametrize("depth", [18, 50])
def test_resnets_fold_to_the_same_function(depth: int) -> None:
    spec = ModelSpec(
        code_length=8, vocabulary=1, image_side=32, image_network=f"resnet-{depth}", text_network=""
    )
    encoder = build_hash_model(spec, seed=0).double().encoder("image")
    generator = torch.Generator().manual_seed(0)
    for layer in encoder.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values, low in ((layer.running_mean, -0.1), (layer.running_var, 0.5)):
                assert values is not None
                values.copy_(torch.rand(values.shape, generator=generator) * 0.5 + low)
    x = torch.rand(2, 3, 32, 32, generator=generator).double()
    encoder.eval()
    folded = fold(encoder)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    with torch.no_grad():
        expected = encoder(x)
        torch.testing.assert_close(folded(x), expected, rtol=1e-9, atol=1e-9)


def checkpoint(network: nn.Module, **more: tuple[int, ...]) -> dict[str, Tensor]:
    """A state dict as a user has it: the trunk's names with other values, and more."""
    generator = torch.Generator().manual_seed(5)
    own = {
        k: torch.rand(v.shape, generator=generator).to(v.dtype)
        for k, v in network.state_dict().items()
    }
    return {**own, **{k.replace("_", "."): torch.zeros(v) for k, v in more.items()}}


TRUNKS: dict[str, tuple[Callable[[], Any], dict[str, tuple[int, ...]]]] = {
    "alexnet": (lambda: AlexNet(hidden=4), {"classifier_6_weight": (10, 4)}),
    "vgg": (lambda: VGG(11, hidden=4), {"classifier_6_weight": (10, 4)}),
    "resnet": (lambda: ResNet(18), {"fc_weight": (10, 512), "fc_bias": (10,)}),
}


@pytest.mark.parametrize("name", TRUNKS)
def test_a_users_checkpoint_loads(name: str, tmp_path: Path) -> None:
    make, more = TRUNKS[name]
    state = checkpoint(make(), **more)
    wrapped = {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}
    for content in (state, wrapped):
        torch.save(content, tmp_path / "weights.pth")
        trunk = make()
        trunk.load_weights(tmp_path / "weights.pth")
        assert all(torch.equal(v, state[k]) for k, v in trunk.state_dict().items())


def test_older_resnet_files_lack_batch_counters(tmp_path: Path) -> None:
    state = checkpoint(ResNet(18))
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    trunk = ResNet(18)
    trunk.load_weights(tmp_path / "old.pth")
    assert torch.equal(trunk.conv1.weight, state["conv1.weight"])


def test_convolutions_alone_load_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = checkpoint(AlexNet(hidden=4))
    torch.save({k: v for k, v in state.items() if "features" in k}, tmp_path / "part.pth")
    trunk = AlexNet(hidden=4)
    before = trunk.classifier[1].weight.clone()
    with caplog.at_level(logging.WARNING):
        trunk.load_weights(tmp_path / "part.pth")
    assert "holds no classifier layers: they stay random" in caplog.text
    assert torch.equal(trunk.features[0].weight, state["features.0.weight"])
    assert torch.equal(trunk.classifier[1].weight, before)


def test_other_files_are_refused_and_change_nothing(tmp_path: Path) -> None:
    state = checkpoint(AlexNet(hidden=4))
    without = {k: v for k, v in state.items() if k != "features.3.weight"}
    half = {k: v for k, v in state.items() if k != "classifier.4.weight"}
    wide = {**state, "features.0.weight": torch.zeros(64, 3, 5, 5)}
    foreign = {**state, "features.99.weight": torch.zeros(1)}
    for content, message in (
        (without, "1 tensors missing, 0 unexpected, 0 of another shape.*'features.3.weight'"),
        (half, "1 tensors missing.*'classifier.4.weight'"),
        (wide, "0 tensors missing, 0 unexpected, 1 of another shape.*'features.0.weight'"),
        (foreign, "1 unexpected.*'features.99.weight'"),
        (checkpoint(ResNet(18)), "not AlexNet weights"),
        ([1, 2], "not a state dict of tensors but list"),
    ):
        torch.save(content, tmp_path / "wrong.pth")
        trunk = AlexNet(hidden=4)
        before = {k: v.clone() for k, v in trunk.state_dict().items()}
        with pytest.raises(ArtifactError, match=rf"wrong\.pth: .*{message}"):
            trunk.load_weights(tmp_path / "wrong.pth")
        assert all(torch.equal(v, before[k]) for k, v in trunk.state_dict().items())
    for name in ("noise.pth", "noise.safetensors"):
        (tmp_path / name).write_bytes(b"\x00" * 64)
        with pytest.raises(ArtifactError, match=re.escape(name)):
            AlexNet(hidden=4).load_weights(tmp_path / name)


def test_weights_reach_a_model_by_path(tmp_path: Path) -> None:
    spec = ModelSpec(
        code_length=8, vocabulary=1, image_side=32, image_network="resnet-18", text_network=""
    )
    state = checkpoint(ResNet(18))
    torch.save(state, tmp_path / "r18.pth")
    model = build_hash_model(spec, seed=0, weights=tmp_path / "r18.pth")
    plain = build_hash_model(spec, seed=0)
    assert torch.equal(model.encoder("image").trunk.conv1.weight, state["conv1.weight"])
    assert torch.equal(model.encoder("image").head.weight, plain.encoder("image").head.weight)
    small = ModelSpec(code_length=8, vocabulary=1, image_network="small-resnet")
    with pytest.raises(ConfigError, match="'small-resnet' reads no weight files"):
        build_hash_model(small, seed=0, weights=tmp_path / "r18.pth")
    with pytest.raises(ConfigError, match="choose one of them"):
        build_hash_model(spec, seed=0, pretrained=True, weights=tmp_path / "r18.pth")
    with pytest.raises(ArtifactError, match=r"none\.pth: no such file of weights"):
        build_hash_model(spec, seed=0, weights=tmp_path / "none.pth")


def test_local_response_by_hand() -> None:
    """Six channels; channel 0 sees 0..2, channel 3 sees 1..5, alpha not divided by the window."""
    values = [100.0, 200.0, 300.0, 400.0, 500.0, 600.0]
    x = torch.tensor(values, dtype=torch.float64).view(1, 6, 1, 1)
    y = local_response(x).flatten().tolist()
    assert y[0] == pytest.approx(100 / (2 + 1e-4 * (1 + 4 + 9) * 1e4) ** 0.75)
    assert y[3] == pytest.approx(400 / (2 + 1e-4 * (4 + 9 + 16 + 25 + 36) * 1e4) ** 0.75)
    assert local_response(x.bfloat16()).dtype == torch.bfloat16


HIDDEN = 5
SHAPES = {
    "conv1": (11, 11, 3, 64),
    "conv2": (5, 5, 64, 256),
    "conv3": (3, 3, 256, 256),
    "conv4": (3, 3, 256, 256),
    "conv5": (3, 3, 256, 256),
    "fc6": (6, 6, 256, HIDDEN),
    "fc7": (1, 1, HIDDEN, HIDDEN),
    "fc8": (1, 1, HIDDEN, 10),
}


def mat_layers(layout: str, rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    layers = {}
    for name, shape in SHAPES.items():
        filters = rng.normal(0, 0.05, shape).astype(np.float32)
        biases = rng.normal(0, 0.5, (1, shape[3])).astype(np.float32)
        held: dict[str, Any] = {"filters": filters, "biases": biases}
        if layout == "new":
            cell = np.empty((1, 2), object)
            cell[0, 0], cell[0, 1] = filters, biases
            held = {"weights": cell}
        layers[name] = {"type": "conv", "name": name, **held}
    return layers


def save_mat(file: Path, layout: str, layers: dict[str, dict[str, Any]], mean: Any) -> None:
    """As MatConvNet's files are: a cell of layers, relu and pooling among them."""
    io = pytest.importorskip("scipy.io")
    held: list[dict[str, Any]] = []
    for layer in layers.values():
        held += [layer, {"type": "relu", "name": f"relu{layer['name']}"}]
    cell = np.empty((1, len(held)), object)
    for place, layer in enumerate(held):
        cell[0, place] = layer
    normal = {"averageImage": mean, "imageSize": [224, 224, 3]}
    top = {"normalization": normal} if layout == "old" else {"meta": {"normalization": normal}}
    io.savemat(file, {"layers": cell, **top})


def naive(
    filters: Any, biases: Any, x: Any, *, row: int, column: int, stride: int, pad: int
) -> Any:
    """What vl_nnconv computes at one place: a correlation of an (H, W, C) array, no flip."""
    x = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    top, left = row * stride, column * stride
    patch = x[top : top + filters.shape[0], left : left + filters.shape[1]]
    return np.einsum("hwc,hwcn->n", patch, filters) + biases[0]


@pytest.mark.parametrize("layout", ["old", "new"])
def test_cnn_f_reads_matlab_filters_the_right_way_up(layout: str, tmp_path: Path) -> None:
    """Rows stay rows: the trap is (out, in, W, H), which transposed pictures would hide."""
    rng = np.random.default_rng(3)
    layers = mat_layers(layout, rng)
    mean = rng.uniform(90, 130, (224, 224, 3)).astype(np.float32)
    save_mat(tmp_path / "imagenet-vgg-f.mat", layout, layers, mean)
    network = CNNF(hidden=HIDDEN).eval()
    network.load_weights(tmp_path / "imagenet-vgg-f.mat")
    seen: dict[str, Any] = {}
    for name, module in network.named_children():
        module.register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: (inputs[0], output)})
        )
    picture = rng.integers(0, 256, (224, 224, 3))
    with torch.no_grad():
        out = network(torch.tensor(picture / 255).float().permute(2, 0, 1)[None])

    def parts(name: str) -> tuple[Any, Any]:
        layer = layers[name]
        if layout == "new":
            return layer["weights"][0, 0], layer["weights"][0, 1]
        return layer["filters"], layer["biases"]

    def array(x: Tensor) -> Any:
        return x[0].permute(1, 2, 0).numpy()

    for name, x, stride, pad in (
        ("conv1", picture - mean, 4, 0),
        ("conv2", array(seen["conv2"][0]), 1, 2),
        ("conv4", array(seen["conv4"][0]), 1, 1),
    ):
        expected = naive(*parts(name), x, row=3, column=10, stride=stride, pad=pad)
        got = seen[name][1][0, :, 3, 10].numpy()
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-2)
    # fc6 is a 6x6 convolution over the pooled conv5, rows first.
    pooled = F.max_pool2d(F.pad(F.relu(seen["conv5"][1]), (0, 1, 0, 1), value=-torch.inf), 3, 2)
    fc6 = naive(*parts("fc6"), array(pooled), row=0, column=0, stride=1, pad=0)
    np.testing.assert_allclose(seen["fc6"][1][0].numpy(), fc6, rtol=1e-3, atol=1e-2)
    fc7 = np.maximum(fc6, 0) @ parts("fc7")[0][0, 0] + parts("fc7")[1][0]
    np.testing.assert_allclose(out[0].numpy(), np.maximum(fc7, 0), rtol=1e-3, atol=1e-2)


def test_cnn_f_subtracts_the_mean_at_every_side() -> None:
    network = CNNF(hidden=4).eval()
    network.mean.copy_(torch.arange(224.0).expand(3, 224, 224))
    seen: list[Tensor] = []
    network.conv1.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        network(torch.ones(1, 3, 224, 224))
        network(torch.ones(1, 3, 56, 56))
    torch.testing.assert_close(seen[0][0, 0, 7], 255 - torch.arange(224.0))
    # A column of the small picture is a weighted mean of columns around its place.
    expected = 255 - (4 * torch.arange(56.0) + 1.5)
    torch.testing.assert_close(seen[1][0, 0, 7, 2:-2], expected[2:-2])


def test_wrong_matlab_files_are_refused(tmp_path: Path) -> None:
    io = pytest.importorskip("scipy.io")
    file = tmp_path / "wrong.mat"
    mean = np.zeros((224, 224, 3), np.float32)
    good = mat_layers("old", np.random.default_rng(0))
    save_mat(file, "old", {k: v for k, v in good.items() if k != "conv3"}, mean)
    network = CNNF(hidden=HIDDEN)
    with pytest.raises(
        ArtifactError, match=r"wrong\.mat: not imagenet-vgg-f\.mat: no layer 'conv3'"
    ):
        network.load_weights(file)
    turned = {**good, "conv1": {**good["conv1"], "filters": good["conv1"]["filters"].T}}
    save_mat(file, "old", turned, mean)
    with pytest.raises(
        ArtifactError, match=r"conv1 has filters \(64, 3, 11, 11\).*\(11, 11, 3, 64\)"
    ):
        network.load_weights(file)
    save_mat(file, "old", good, np.zeros((224, 224), np.float32))
    with pytest.raises(ArtifactError, match=r"averageImage must be .* got \(224, 224\)"):
        network.load_weights(file)
    io.savemat(file, {"x": np.zeros(3)})
    with pytest.raises(ArtifactError, match=r"wrong\.mat: not imagenet-vgg-f\.mat"):
        network.load_weights(file)
    for content in (b"", b"\x00" * 300, b"\x89HDF\r\n\x1a\n" + b"\x00" * 300):
        file.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"wrong\.mat: not a readable MATLAB file"):
            network.load_weights(file)


def test_one_mean_color_is_spread_out(tmp_path: Path) -> None:
    save_mat(
        tmp_path / "a.mat",
        "new",
        mat_layers("new", np.random.default_rng(0)),
        np.array([[[10.0, 20.0, 30.0]]]),
    )
    network = CNNF(hidden=HIDDEN)
    network.load_weights(tmp_path / "a.mat")
    expected = torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1).expand(3, 224, 224)
    torch.testing.assert_close(network.mean, expected)


def test_scipy_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> types.ModuleType:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(ConfigError, match=r"pip install 'hamward\[data\]'"):
        CNNF(hidden=4).load_weights(tmp_path / "a.mat")
