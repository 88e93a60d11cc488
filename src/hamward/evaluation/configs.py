"""What a training, a hardening and an evaluation are made of: plain, strict, written down."""

from dataclasses import dataclass, field
from typing import Any, Literal

from hamward.attacks import TargetProtocol
from hamward.data import RetrievalData
from hamward.errors import ConfigError
from hamward.evaluation.candidates import Candidates
from hamward.evaluation.pictures import check_transform
from hamward.training import FitConfig
from hamward.types import Modality

__all__ = ["EvaluateConfig", "HardenConfig", "ModelConfig", "TrainConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What is built before training.

    Attributes:
        code_length: Number of bits K.
        image_network: Image trunk; "" for a model that reads no pictures.
        pretrained: ImageNet weights for the trunk; None means where there are some.
        weights: File of weights for the image trunk instead: a state dict with torchvision's
            names, or imagenet-vgg-f.mat for "cnn-f". "" is none.
        text_network: Text trunk; "" for a model that reads no texts. "minilm" and "transformer"
            read tokens, the others bags of words.
        text_weights: Folder of a Hugging Face text encoder, CLIP's among them, for
            "transformer": config.json, tokenizer.json, model.safetensors. "" for the others.
        text_frozen: Train only what is behind a text transformer, on features that it gives
            once: seconds in place of minutes an epoch.
        text_width: Hidden units of a text network that reads bags.
        text_length: Tokens of a text for one that reads tokens; longer texts are cut.
        neck: Widths of the layers between each trunk and its head.
        dropout: Share of the neck's outputs that training drops.
        retrieval: "hamming" or "cosine".
    """

    code_length: int = 32
    image_network: str = "efficientnet-lite0"
    pretrained: bool | None = None
    weights: str = ""
    text_network: str = "bow-mlp"
    text_weights: str = ""
    text_frozen: bool = False
    text_width: int = 8192
    text_length: int = 32
    neck: tuple[int, ...] = ()
    dropout: float = 0.0
    retrieval: Literal["hamming", "cosine"] = "hamming"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A training run.

    Attributes:
        method: A registered victim.
        data: A registered data set.
        data_options: Options of its loader.
        options: Options of the method.
        model: Architecture.
        fit: Training loop.
    """

    method: str = "dcmh"
    data: str = "openclipart27"
    data_options: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    model: ModelConfig = field(default_factory=ModelConfig)
    fit: FitConfig = field(default_factory=FitConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class HardenConfig:
    """A hardening run: fine-tunes a trained victim.

    Attributes:
        defense: A registered defense.
        victim: Run folder of the victim.
        options: Options of the defense.
        fit: Training loop; `hardening_fit` gives the victim's own, which the command line uses.
    """

    defense: str = "cmla"
    victim: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    fit: FitConfig = field(default_factory=lambda: FitConfig(epochs=6, image_rate=1e-3))


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """An evaluation run.

    Attributes:
        victims: Run folders by name.
        attacks: Per name: "attack" (registered name, by default the part of the name before
            "@") and the attack's options.
        modalities: Sides that are attacked.
        transfer_from: Victim whose adversarial items are also sent to the others.
        target_protocol: Which labels targeted attacks shall reach: T1 to T4.
        queries: Use this many queries only (evenly spaced); None is all.
        validation: Validation items ask and training items are searched, to choose settings
            without a look at the queries.
        seed: Seed of attacks and bootstrap.
        batch_size: Items a crafting chunk.
        diagnose: Probe each victim for signs of masked gradients.
        pictures: Write adversarial pictures as PNG with an index, and score what is read back.
        transforms: Forms in which pictures are scored besides: "jpeg-75" and the like.
        candidates: Attack these database items instead of the queries.
    """

    victims: dict[str, str] = field(default_factory=dict)
    attacks: dict[str, Any] = field(default_factory=dict)
    modalities: tuple[Modality, ...] = ("image", "text")
    transfer_from: str | None = None
    target_protocol: TargetProtocol = "T4"
    queries: int | None = None
    validation: bool = False
    seed: int = 0
    batch_size: int = 64
    diagnose: bool = True
    pictures: bool = False
    transforms: tuple[str, ...] = ()
    candidates: Candidates | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {self.batch_size}")
        for transform in self.transforms:
            check_transform(transform)
        if self.transfer_from is not None and self.transfer_from not in self.victims:
            raise ConfigError(
                f"transfer_from must be one of {list(self.victims)}, got {self.transfer_from!r}"
            )

    def part(self, data: RetrievalData) -> RetrievalData:
        """Return what is evaluated of a data set."""
        data = data.on_validation() if self.validation else data
        return data if self.queries is None else data.limit(queries=self.queries)
