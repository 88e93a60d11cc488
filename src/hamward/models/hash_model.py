"""A hash model: one encoder a modality, from items to K logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hamward.errors import AccessError, ConfigError, ShapeError
from hamward.models.networks import BagOfWordsMLP, bf16_supported, image_network
from hamward.random import stream_seed
from hamward.types import MODALITIES, Modality

__all__ = ["Encoder", "HashModel", "ModelSpec", "build_hash_model", "frozen"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """All that is needed to build a model's modules before its weights are loaded.

    Attributes:
        code_length: Number of bits K.
        vocabulary: Number of words D of the text input.
        image_side: Height and width of the pictures the model is made for.
        image_network: Name of the image trunk.
        text_width: Hidden units of the bag-of-words network.
    """

    code_length: int
    vocabulary: int
    image_side: int = 64
    image_network: str = "efficientnet-lite0"
    text_width: int = 8192

    def __post_init__(self) -> None:
        for name, low, high in (
            ("code_length", 1, 4096),
            ("vocabulary", 1, 10_000_000),
            ("image_side", 8, 1024),
            ("text_width", 1, 65536),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name} must be in [{low}, {high}], got {value}")


class Encoder(nn.Module):
    """Trunk and linear hash head of one modality: items -> logits, (n, K).

    The trunk may run in bf16; the head never does, since differences between logits are
    what attacks and codes live on.
    """

    def __init__(self, trunk: nn.Module, code_length: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(int(trunk.features), code_length)  # type: ignore[arg-type]
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, *, low_precision: bool = False) -> Tensor:
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        low_precision = low_precision and bool(self.trunk.fast_in_bf16) and bf16_supported(x.device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=low_precision):
            features = self.trunk(x)
        logits: Tensor = self.head(features.to(self.head.weight.dtype))
        return logits


class HashModel(nn.Module):
    """Image and text encoders that share a code space.

    Logits u are unbounded; the relaxed code is tanh(u), in (-1, 1); the code is
    `binarize(u)`. The three order each bit alike, so code and relaxed code agree in sign.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoders = nn.ModuleDict(
            {
                "image": Encoder(image_network(spec.image_network), spec.code_length),
                "text": Encoder(
                    BagOfWordsMLP(spec.vocabulary, width=spec.text_width), spec.code_length
                ),
            }
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def code_length(self) -> int:
        """Number of bits K."""
        return self.spec.code_length

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Modalities that have an encoder."""
        return MODALITIES

    def encoder(self, modality: Modality) -> nn.Module:
        """Return the encoder of a modality.

        Raises:
            AccessError: the model has none.
        """
        if modality not in self.encoders:
            raise AccessError(f"this model encodes {sorted(self.encoders)}, not {modality!r}")
        return self.encoders[modality]

    def logits(
        self, modality: Modality, x: Tensor, *, low_precision: bool = False
    ) -> Float[Tensor, "n k"]:
        """Return logits, (n, K), of items in [0, 1].

        Raises:
            ShapeError: `x` does not have the shape of this model's items.
        """
        expected = (
            (3, self.spec.image_side, self.spec.image_side)
            if modality == "image"
            else (self.spec.vocabulary,)
        )
        if tuple(x.shape[1:]) != expected:
            raise ShapeError(
                f"{modality} items must have shape (n, {', '.join(map(str, expected))}), "
                f"got {tuple(x.shape)}"
            )
        logits: Tensor = self.encoder(modality)(x, low_precision=low_precision)
        return logits

    def relaxed(self, modality: Modality, x: Tensor) -> Float[Tensor, "n k"]:
        """Return relaxed codes tanh(u), (n, K), in (-1, 1)."""
        return torch.tanh(self.logits(modality, x))


def build_hash_model(spec: ModelSpec, *, seed: int, pretrained: bool = False) -> HashModel:
    """Build a model with seeded random weights; the global random stream stays untouched.

    Args:
        spec: Architecture.
        seed: Seed of the initial weights.
        pretrained: Load ImageNet weights into the image trunk (EfficientNet-Lite0 only).

    Raises:
        ConfigError: pretrained weights wanted for a trunk that has none.
        ArtifactError: the package with the weights is not installed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed(seed, "weights"))  # CPU only, forked
        model = HashModel(spec)
    if pretrained:
        load = getattr(model.encoder("image").trunk, "load_pretrained", None)
        if load is None:
            raise ConfigError(
                f"image network {spec.image_network!r} has no pretrained weights: "
                "set pretrained = false"
            )
        load()
    return model


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Hold a model in eval mode without parameter gradients, then put back what was.

    Modes and `requires_grad` of every part are restored, on errors too.
    """
    modes = [(m, m.training) for m in model.modules()]
    grads = [(p, p.requires_grad) for p in model.parameters()]
    try:
        model.eval()
        for parameter, _ in grads:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in grads:
            parameter.requires_grad_(flag)
