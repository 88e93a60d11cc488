"""ProS-GAN: one generator leads any picture to any target label in one pass."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from hamward.attacks.base import ATTACKS
from hamward.attacks.budget import Budget
from hamward.attacks.generative import (
    FittedGenerator,
    Made,
    bound,
    check_generative,
    fit_generator,
)
from hamward.attacks.generator_training import Closeness, Condition, Output
from hamward.attacks.prosgan_networks import Generator
from hamward.attacks.prototypes import CodesOf, Pairing, PrototypeNet, train_prototypes
from hamward.codes import binarize
from hamward.data import RetrievalData
from hamward.models import Victim
from hamward.models.victim import Access
from hamward.progress import SILENT, Progress
from hamward.random import item_uniform
from hamward.types import Modality

__all__ = ["ProSGAN", "prosgan_published"]


@ATTACKS.register(
    "prosgan",
    summary="A generator trained once leads any picture to any target label in one pass",
    citation="Wang, Zhang, Wu, Shen and Lu, CVPR 2021",
    access="gradients",
    threat="white-box in training only, targeted, query side, one pass an item",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class ProSGAN:
    """Options of ProS-GAN; `fit` trains it against a victim.

    Stage 1: `PrototypeNet` learns, from target labels and the victim's training codes, a code
    amid the items that share a label. Stage 2: the generator sees a picture and the semantic
    vector of a target label; it minimizes
    w_rec MSE(x_adv, x) + w_ham (1 - mean(h(x_adv) b_t)) + w_adv MSE(D(x_adv), [y_t, 0]) against
    the frozen victim h, while D learns [y, 0] of real and [y_t, 1] of made pictures.

    Source: Wang, Zhang, Wu, Shen and Lu, "Prototype-supervised Adversarial Network for Targeted
        Attack of Deep Hashing", CVPR 2021 (arXiv 2105.07553), and its released code; the
        "circle" and "square" forms from the TMM extension (Zhang et al., 2021).
    Differs: published numbers are UNKNOWN to us, only the released code was seen. Released
        code: whole picture from a final tanh, no bound (`prosgan_published`); here by default a
        picture "bounded" by eps, so that budgets compare, at a reconstruction weight of 0, since
        the bound does its work. Released code: 100 epochs at width 64, 30,000 prototype steps;
        here fewer and narrower, at higher rates. Measured at 64 px: whole pictures reach 0.83 of
        their prototypes' t-MAP after 36 epochs, pictures within 8/255 little (docs/attacks.md).
        Targets in training: distinct label rows of the database there, of the training items
        here. Cross-modal: training codes of the retrieved modality (`codes_of`;
        INFERRED from the single-modal paper). The victim reads pictures as its own normalization
        wants; released victims read raw [0, 1]. Which of every third batches teaches the
        discriminator is UNKNOWN; here the first.

    Attributes:
        eps: l_inf radius in [0, 1]; None leaves the result unbounded ("picture" only). With
            "picture" it is a projection after training.
        output: "bounded" or "picture".
        codes_of: Training codes that prototypes lie amid; "other" is the retrieved modality.
        pairing: Pairwise term of the prototypes, "logistic" (CVPR) or "circle" (TMM, THA).
        prototype_steps: Steps of stage 1, 64 target labels each.
        prototype_rate: Learning rate of stage 1.
        hidden: Hidden units of the prototype network.
        features: Length of the semantic vector.
        closeness: "tanh" (CVPR), "square" (TMM) or "auto" (blind to the scale of the logits).
        epochs: Passes of stage 2 over the training pictures.
        decay_epochs: The last ones of them, with a falling learning rate.
        batch_size: Pictures a step of stage 2.
        learning_rate: Of stage 2.
        width: Channels of the first layer; a multiple of 8.
        discriminator_period: The discriminator learns in every such batch.
        reconstruction_weight: w_rec, in [-1, 1] units.
        hamming_weight: w_ham.
        adversarial_weight: w_adv.
    """

    name: ClassVar[str] = "prosgan"
    access: ClassVar[Access] = "gradients"
    modalities: ClassVar[tuple[Modality, ...]] = ("image",)
    targeted: ClassVar[bool] = True

    eps: float | None = 8 / 255
    output: Output = "bounded"
    codes_of: CodesOf = "other"
    pairing: Pairing = "logistic"
    prototype_steps: int = 1500
    prototype_rate: float = 1e-3
    hidden: int = 1024
    features: int = 512
    closeness: Closeness = "tanh"
    epochs: int = 6
    decay_epochs: int = 3
    batch_size: int = 24
    learning_rate: float = 1e-3
    width: int = 16
    discriminator_period: int = 3
    reconstruction_weight: float = 0.0
    hamming_weight: float = 5.0
    adversarial_weight: float = 1.0

    def __post_init__(self) -> None:
        check_generative(self, "prototype_steps", "hidden", "features")

    def budget(self, modality: Modality) -> Budget:
        """Return the l_inf ball of radius eps; without a bound, the whole range."""
        return bound(self.eps)

    def networks(self, made: Made) -> tuple[PrototypeNet, Generator]:
        """Return the two networks with fresh weights from the global random stream."""
        prototypes = PrototypeNet(
            labels=made.labels,
            code_length=made.code_length,
            hidden=self.hidden,
            features=self.features,
        )
        generator = Generator(image_side=made.image_side, features=self.features, width=self.width)
        return prototypes, generator

    def learn(
        self,
        prototypes: PrototypeNet,
        data: RetrievalData,
        *,
        codes: Int8[Tensor, "n k"],
        code_labels: Float[Tensor, "n c"],
        seed: int,
        progress: Progress,
    ) -> tuple[Condition, int]:
        """Train the prototypes; targets are the distinct label rows of the training items."""
        rows = torch.unique(data.label(data.split.train), dim=0).to(code_labels)
        train_prototypes(
            prototypes,
            _label_batches(rows, steps=self.prototype_steps, seed=seed),
            codes=codes,
            code_labels=code_labels,
            steps=self.prototype_steps,
            learning_rate=self.prototype_rate,
            pairing=self.pairing,
            progress=progress,
            label="prosgan prototypes",
        )
        with torch.no_grad():
            feature, relaxed, _ = prototypes(rows)
        code = binarize(relaxed).to(feature.dtype)
        return lambda drawn: (rows[drawn], feature[drawn], code[drawn]), len(rows)

    def fit(
        self,
        victim: Victim,
        data: RetrievalData,
        modality: Modality,
        *,
        seed: int,
        progress: Progress = SILENT,
    ) -> FittedGenerator:
        """Return the attack, trained on `data.split.train` only; see `fit_generator`."""
        return fit_generator(self, victim, data, modality, seed=seed, progress=progress)


@ATTACKS.register(
    "prosgan-published",
    summary="ProS-GAN as its released code runs it: whole picture, no bound, 100 epochs",
    citation="Wang, Zhang, Wu, Shen and Lu, CVPR 2021; released code",
    access="gradients",
    threat="white-box in training only, targeted, query side, visible, one pass an item",
)
def prosgan_published(
    *,
    eps: float | None = None,
    reconstruction_weight: float = 50.0,
    prototype_steps: int = 30_000,
    hidden: int = 4096,
    epochs: int = 100,
    decay_epochs: int = 50,
    width: int = 64,
) -> ProSGAN:
    """Return ProS-GAN with the values of its released code; an `eps` projects the result.

    Args:
        eps: Radius of an added projection; None as released.
        reconstruction_weight: 50 (NUS-WIDE, MS-COCO) or 100 (FLICKR-25K).
        prototype_steps: 100 x 300 steps.
        hidden: Hidden units of the prototype network.
        epochs: Passes over the training pictures.
        decay_epochs: The last ones of them, with a falling learning rate.
        width: Channels of the first layer.
    """
    return ProSGAN(
        eps=eps,
        output="picture",
        codes_of="own",
        reconstruction_weight=reconstruction_weight,
        prototype_steps=prototype_steps,
        prototype_rate=1e-4,
        hidden=hidden,
        epochs=epochs,
        decay_epochs=decay_epochs,
        learning_rate=1e-4,
        width=width,
    )


def _label_batches(rows: Tensor, *, steps: int, seed: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield batches of 64 target labels, drawn uniformly with replacement."""
    numbers = torch.arange(64, device=rows.device)
    for step in range(steps):
        share = item_uniform(64 * step + numbers, (), seed=seed, stream="prosgan labels")
        yield (rows[(share * len(rows)).long()],)
