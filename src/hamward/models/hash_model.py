"""A hash model: one encoder a modality, from items to K logits."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hamward.errors import AccessError, ArtifactError, ConfigError, ShapeError
from hamward.models.networks import (
    bf16_supported,
    image_network,
    text_network,
    transformer_folder,
)
from hamward.models.purifiers import Purifier, purify
from hamward.models.text_transformer import TextTransformer
from hamward.random import seeded
from hamward.types import MODALITIES, Access, Modality, TextFormat

__all__ = ["Encoder", "HashModel", "ModelSpec", "build_hash_model", "frozen"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """All that is needed to build a model's modules before its weights are loaded.

    Attributes:
        code_length: Number of bits K, or of dimensions of a real-valued embedding.
        vocabulary: Number of words D of the text input.
        image_side: Height and width of the pictures the model is made for.
        image_network: Name of the image trunk; "" for a model that reads no pictures.
        text_network: Name of the text trunk; "" for a model that reads no texts.
        text_width: Hidden units of the text trunk's first layer, where it reads bags of words.
        text_length: Tokens of a text, special ones included, where the trunk reads tokens.
        neck: Widths of the layers between each trunk and its head (Linear, BatchNorm, ReLU).
        dropout: Share of the neck's outputs that training drops.
        retrieval: How items are compared: Hamming distance of codes, or cosine of logits.
    """

    code_length: int
    vocabulary: int
    image_side: int = 64
    image_network: str = "efficientnet-lite0"
    text_network: str = "bow-mlp"
    text_width: int = 8192
    text_length: int = 32
    neck: tuple[int, ...] = ()
    dropout: float = 0.0
    retrieval: Literal["hamming", "cosine"] = "hamming"

    def __post_init__(self) -> None:
        for name, low, high in (
            ("code_length", 1, 4096),
            ("vocabulary", 1, 10_000_000),
            ("image_side", 8, 1024),
            ("text_width", 1, 65536),
            ("text_length", 1, 4096),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name} must be in [{low}, {high}], got {value}")
        if not self.image_network and not self.text_network:
            raise ConfigError("a model needs an image network, a text network or both")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1), got {self.dropout}")
        if any(width < 1 for width in self.neck):
            raise ConfigError(f"widths of the neck must be at least 1, got {self.neck}")


class Encoder(nn.Module):
    """Trunk, neck and linear hash head of one modality: items -> logits, (n, K).

    The trunk may run in bf16; neck and head never do, since differences between logits are
    what attacks and codes live on.

    Attributes:
        purifier: What items pass through first, in full precision; None as trained.
    """

    purifier: Purifier | None = None

    def __init__(self, trunk: nn.Module, spec: ModelSpec, *, head: nn.Module | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        width = int(trunk.width)  # type: ignore[arg-type]
        layers: list[nn.Module] = []
        for units in spec.neck:
            layers += [nn.Linear(width, units), nn.BatchNorm1d(units), nn.ReLU()]
            layers += [nn.Dropout(spec.dropout)] if spec.dropout else []
            width = units
        self.neck = nn.Sequential(*layers)
        self.head: nn.Linear = (  # a wrapped model has the identity here
            _hash_head(width, spec.code_length) if head is None else head  # type: ignore[assignment]
        )

    def features(self, x: Tensor, *, low_precision: bool = False) -> Float[Tensor, "n d"]:
        """Return what the head reads, (n, width of the last neck layer or of the trunk).

        Copies of an item that a purifier made vote here: the head is linear, so the mean of
        their features gives the mean of their logits.
        """
        n = len(x)
        if self.purifier is not None:
            x = purify(self.purifier, x)
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        low_precision = low_precision and bool(self.trunk.fast_in_bf16) and bf16_supported(x.device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=low_precision):
            features = self.trunk(x)
        dtype = getattr(self.head, "weight", features).dtype
        necked: Tensor = self.neck(features.to(dtype))
        if self.purifier is None or self.purifier.votes == 1:
            return necked
        return necked.view(n, self.purifier.votes, necked.shape[1]).mean(1)

    def forward(self, x: Tensor, *, low_precision: bool = False) -> Tensor:
        logits: Tensor = self.head(self.features(x, low_precision=low_precision))
        return logits


def _hash_head(width: int, code_length: int) -> nn.Linear:
    head = nn.Linear(width, code_length)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head


class HashModel(nn.Module):
    """Image and text encoders that share a code space.

    Logits u are unbounded; the relaxed code is tanh(u), in (-1, 1); the code is
    `binarize(u)`. The three order each bit alike, so code and relaxed code agree in sign.

    Attributes:
        spec: Architecture.
        access: The most that a victim of this model can grant: "codes" where no gradient passes.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        encoders: Mapping[Modality, Encoder] | None = None,
        access: Access = "gradients",
        text_folder: Path | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.access: Access = access
        self.encoders = nn.ModuleDict({str(m): e for m, e in (encoders or {}).items()})
        if encoders is not None:
            return
        if spec.image_network:
            seeing = image_network(spec.image_network)
            if spec.image_side < getattr(seeing, "minimum_side", 1):
                raise ConfigError(
                    f"image network {spec.image_network!r} needs pictures of side "
                    f"{seeing.minimum_side} or more, got {spec.image_side}"
                )
            self.encoders["image"] = Encoder(seeing, spec)
        if spec.text_network:
            trunk = text_network(
                spec.text_network,
                vocabulary=spec.vocabulary,
                width=spec.text_width,
                length=spec.text_length,
                folder=text_folder,
            )
            self.encoders["text"] = Encoder(trunk, spec)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def code_length(self) -> int:
        """Number of bits K."""
        return self.spec.code_length

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Modalities that have an encoder."""
        return tuple(m for m in MODALITIES if m in self.encoders)

    @property
    def text_format(self) -> TextFormat:
        """Whether its texts are bags of words or tokens."""
        return "bag" if self.text_transformer is None else "tokens"

    @property
    def text_transformer(self) -> TextTransformer | None:
        """The text trunk, where it reads tokens."""
        trunk = self.encoders["text"].trunk if "text" in self.encoders else None
        return trunk if isinstance(trunk, TextTransformer) else None

    def take(self, x: Tensor) -> Tensor:
        """Return items on the model's device and, unless they are token ids, in its precision."""
        parameter = next(self.parameters())
        return x.to(parameter) if x.is_floating_point() else x.to(parameter.device)

    def encoder(self, modality: Modality) -> Encoder:
        """Return the encoder of a modality.

        Raises:
            AccessError: the model has none.
        """
        if modality not in self.encoders:
            raise AccessError(f"this model encodes {sorted(self.encoders)}, not {modality!r}")
        encoder: Encoder = self.encoders[modality]  # type: ignore[assignment]
        return encoder

    @property
    def purifiers(self) -> dict[Modality, Purifier]:
        """What stands in front of encoders."""
        held = {m: self.encoder(m).purifier for m in self.modalities}
        return {m: purifier for m, purifier in held.items() if purifier is not None}

    def purified(self, purifier: Purifier) -> "HashModel":
        """Return a copy of this model with a purifier in front of an encoder.

        Raises:
            ConfigError: this model reads no such items, or tokens, or has a purifier there.
        """
        modality, who = purifier.modality, type(purifier).__name__
        if modality not in self.encoders:
            raise ConfigError(
                f"{who} changes {modality}s, this model reads {' and '.join(self.modalities)}s only"
            )
        if modality == "text" and self.text_format == "tokens":
            raise ConfigError(f"{who} changes bags of words, this model reads tokens")
        if modality in self.purifiers:
            raise ConfigError(
                f"this model has {self.purifiers[modality]} in front of its {modality} encoder: "
                "purify the model it was made of"
            )
        made = copy.deepcopy(self)
        made.encoder(modality).purifier = purifier
        return made

    def logits(
        self, modality: Modality, x: Tensor, *, low_precision: bool = False
    ) -> Float[Tensor, "n k"]:
        """Return logits, (n, K), of items in [0, 1] or of token ids.

        Raises:
            ShapeError: `x` does not have the shape of this model's items.
        """
        self.check(modality, x)
        logits: Tensor = self.encoder(modality)(x, low_precision=low_precision)
        return logits

    def features(
        self, modality: Modality, x: Tensor, *, low_precision: bool = False
    ) -> Float[Tensor, "n d"]:
        """Return the inputs of the hash head, (n, width), of items in [0, 1].

        Raises:
            ShapeError: `x` does not have the shape of this model's items.
        """
        self.check(modality, x)
        return self.encoder(modality).features(x, low_precision=low_precision)

    def check(self, modality: Modality, x: Tensor) -> None:
        """Refuse items of another shape than this model's.

        Raises:
            ShapeError: they are.
        """
        reader = self.text_transformer
        if modality == "image":
            expected: tuple[int, ...] = (3, self.spec.image_side, self.spec.image_side)
        else:
            expected = (self.spec.vocabulary,) if reader is None else reader.shape(x)
        if tuple(x.shape[1:]) != expected:
            raise ShapeError(
                f"{modality} items must have shape (n, {', '.join(map(str, expected))}), "
                f"got {tuple(x.shape)}"
            )

    def relaxed(self, modality: Modality, x: Tensor) -> Float[Tensor, "n k"]:
        """Return relaxed codes tanh(u), (n, K), in (-1, 1)."""
        return torch.tanh(self.logits(modality, x))


def build_hash_model(
    spec: ModelSpec,
    *,
    seed: int,
    pretrained: bool = False,
    weights: Path | None = None,
    text_folder: Path | None = None,
    text_pretrained: bool = False,
) -> HashModel:
    """Build a model with seeded random weights; the global random stream stays untouched.

    Args:
        spec: Architecture.
        seed: Seed of the initial weights.
        pretrained: Load ImageNet weights into the image trunk (EfficientNet-Lite0 only).
        weights: File of weights for the image trunk: torchvision's state dict, or
            imagenet-vgg-f.mat for CNN-F.
        text_folder: What describes a text transformer; see `models.networks.transformer_folder`.
        text_pretrained: Load the weights of a text transformer from its folder, too.

    Raises:
        ConfigError: weights wanted for a trunk that takes none, or both kinds at once; a side
            too small for the trunk.
        ArtifactError: the package or the file is not there, or holds other weights.
    """
    if pretrained and weights is not None:
        raise ConfigError(f"pretrained = true and weights = {str(weights)!r}: choose one of them")
    with seeded(seed, "weights"):
        model = HashModel(spec, text_folder=text_folder)
        if text_pretrained and model.text_transformer is not None:
            folder = text_folder or transformer_folder(spec.text_network)
            assert folder is not None
            model.text_transformer.load_weights(folder)
    if not pretrained and weights is None:
        return model
    trunk = model.encoder("image").trunk
    load = getattr(trunk, "load_weights" if weights else "load_pretrained", None)
    if load is None:
        raise ConfigError(
            f"image network {spec.image_network!r} reads no weight files: leave weights empty"
            if weights
            else f"image network {spec.image_network!r} has no pretrained weights: set "
            "pretrained = false, or name a file in weights"
        )
    if weights is None:
        load()
    elif not weights.is_file():
        raise ArtifactError(f"{weights}: no such file of weights")
    else:
        load(weights)
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
