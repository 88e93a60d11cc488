"""TA-DCH: ProS-GAN for cross-modal victims, where the target is a label and a text."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int8, Int64
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
from hamward.attacks.prototypes import CodesOf, Prototypes, train_prototypes
from hamward.attacks.tadch_networks import TargetGenerator, TargetPrototypeNet
from hamward.data import RetrievalData
from hamward.models import Victim
from hamward.models.victim import Access
from hamward.progress import SILENT, Progress
from hamward.random import item_uniform, permutation
from hamward.types import Modality

__all__ = ["TADCH", "TextTargets", "closest_rows", "tadch_published"]


def closest_rows(
    label: Float[Tensor, "n c"],
    known: Float[Tensor, "m c"],
    *,
    ids: Int64[Tensor, " n"],
    seed: int,
) -> Int64[Tensor, " n"]:
    """Return for each label row one of the known rows that are nearest to it.

    Nearest by shared labels over all labels (Jaccard): equal rows where there are some. Among
    equally near ones the draw is uniform and belongs to the item.
    """
    shared = label @ known.T
    nearness = shared / (label.sum(1)[:, None] + known.sum(1) - shared).clamp_min(1)
    best = nearness >= nearness.amax(1, keepdim=True) - 1e-6
    rank = best.cumsum(1)
    chance = item_uniform(ids, (1,), seed=seed, stream="tadch text")
    wanted = 1 + (chance * rank[:, -1:]).long().clamp_max(rank[:, -1:] - 1)
    return (best & (rank == wanted)).int().argmax(1)


class TextTargets(Prototypes):
    """TA-DCH's prototypes with the training items that a target's text is taken from.

    A goal names target labels only; the target's text is that of a training item whose labels
    are nearest to them (`closest_rows`), drawn anew for each item.

    Attributes:
        net: Target labels and texts -> feature maps and prototype codes.
        labels: Labels of the training items, uint8.
        texts: Their bags of words, uint8.
    """

    labels: Tensor
    texts: Tensor

    def __init__(self, net: TargetPrototypeNet, made: Made) -> None:
        super().__init__()
        self.net = net
        for name, width in (("labels", made.labels), ("texts", made.vocabulary)):
            self.register_buffer(name, torch.zeros(made.items, width, dtype=torch.uint8))

    def conditions(
        self, label: Float[Tensor, "n c"], *, ids: Int64[Tensor, " n"], seed: int
    ) -> tuple[Float[Tensor, "n 64 16 16"], Float[Tensor, "n k"]]:
        """Return (feature maps, relaxed prototype codes)."""
        known = self.labels.to(label)
        chosen = closest_rows(label, known, ids=ids.to(label.device), seed=seed)
        feature, relaxed, _ = self.net(label, self.texts[chosen].to(label.dtype))
        return feature, relaxed


@ATTACKS.register(
    "tadch",
    summary="A generator led by a target's labels and text together, one pass an item",
    citation="Wang, Zhu, Zhang, Zhang and Han, TCSVT 2023",
    access="gradients",
    threat="white-box in training only, targeted, knows a target text, query side, one pass",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class TADCH:
    """Options of TA-DCH; `fit` trains it against a victim.

    Stage 1: labels and text of a target are fused by attention into a feature map and a
    prototype code h_t, against the victim's training codes. Stage 2: a U-Net reads picture and
    feature map; w_ham (1 - mean(h(x_adv) h_t)) + MSE(D(x_adv), [y_t, 0]) + w_rec MSE(x_adv, x).

    Source: Wang, Zhu, Zhang, Zhang and Han, "Targeted Adversarial Attack against Deep
        Cross-modal Hashing Retrieval", IEEE TCSVT 33(10), 2023, and its released code.
    Differs: the paper's text and tables were not reachable: its numbers and the reconstruction
        weights that it tuned for each victim are UNKNOWN; values are defaults of the released
        code. It attacks pictures only, and so does this. Released code: no bound
        (`tadch_published`); here "bounded" by default, without a reconstruction term, and with
        fewer epochs and smaller widths; what that costs has not been measured (see
        `ProSGAN` for its sibling). Released code
        fits prototypes to image codes
        ("own"); here the retrieved modality's by default. Targets in training are training
        items there and here; in evaluation a database item with its own text there, here a
        target label with the text of a training item of that label, since goals carry no text.
        h_t is detached here; the feature map too.

    Attributes:
        eps: l_inf radius in [0, 1]; None leaves the result unbounded ("picture" only).
        output: "bounded" or "picture".
        codes_of: Training codes that prototypes lie amid; "other" is the retrieved modality.
        prototype_epochs: Passes of stage 1 over the training items, batches of 64.
        prototype_rate: Learning rate of stage 1.
        hidden: Hidden units of the label and text branches.
        closeness: "tanh" as published, "square" or "auto".
        epochs: Passes of stage 2 over the training pictures.
        decay_epochs: The last ones of them, with a falling learning rate.
        batch_size: Pictures a step of stage 2.
        learning_rate: Of stage 2.
        width: Channels of the first layer; a multiple of 8.
        discriminator_period: The discriminator learns in every such batch.
        reconstruction_weight: Weight of the mean squared error in [-1, 1] units.
        hamming_weight: Weight of the term that approaches the prototype.
        adversarial_weight: Weight of the discriminator's verdict.
    """

    name: ClassVar[str] = "tadch"
    access: ClassVar[Access] = "gradients"
    modalities: ClassVar[tuple[Modality, ...]] = ("image",)
    targeted: ClassVar[bool] = True

    eps: float | None = 8 / 255
    output: Output = "bounded"
    codes_of: CodesOf = "other"
    prototype_epochs: int = 10
    prototype_rate: float = 1e-4
    hidden: int = 256
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
        check_generative(self, "prototype_epochs", "hidden")

    def budget(self, modality: Modality) -> Budget:
        """Return the l_inf ball of radius eps; without a bound, the whole range."""
        return bound(self.eps)

    def networks(self, made: Made) -> tuple[TextTargets, TargetGenerator]:
        """Return the two networks with fresh weights from the global random stream."""
        net = TargetPrototypeNet(
            labels=made.labels,
            vocabulary=made.vocabulary,
            code_length=made.code_length,
            hidden=self.hidden,
        )
        generator = TargetGenerator(image_side=made.image_side, width=self.width)
        return TextTargets(net, made), generator

    def learn(
        self,
        prototypes: TextTargets,
        data: RetrievalData,
        *,
        codes: Int8[Tensor, "n k"],
        code_labels: Float[Tensor, "n c"],
        seed: int,
        progress: Progress,
    ) -> tuple[Condition, int]:
        """Train the prototypes; targets are the training items with their texts."""
        labels = data.label(data.split.train).to(code_labels)
        texts = data.inputs("text", data.split.train).to(code_labels)
        prototypes.labels.copy_(labels), prototypes.texts.copy_(texts)
        batches = list(_item_batches(len(labels), epochs=self.prototype_epochs, seed=seed))
        train_prototypes(
            prototypes.net,
            ((labels[rows], texts[rows]) for rows in batches),
            codes=codes,
            code_labels=code_labels,
            steps=len(batches),
            learning_rate=self.prototype_rate,
            pair_weight=5.0,
            quantization_weight=1e-3,
            progress=progress,
            label="tadch prototypes",
        )
        prototypes.eval()

        def condition(drawn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            with torch.no_grad():
                feature, relaxed, _ = prototypes.net(labels[drawn], texts[drawn])
            return labels[drawn], feature, relaxed

        return condition, len(labels)

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
    "tadch-published",
    summary="TA-DCH as its released code runs it: whole picture, no bound, 150 epochs",
    citation="Wang, Zhu, Zhang, Zhang and Han, TCSVT 2023; released code",
    access="gradients",
    threat="white-box in training only, targeted, knows a target text, visible, one pass",
)
def tadch_published(
    *,
    eps: float | None = None,
    reconstruction_weight: float = 150.0,
    prototype_epochs: int = 50,
    hidden: int = 4096,
    epochs: int = 150,
    decay_epochs: int = 100,
    width: int = 64,
) -> TADCH:
    """Return TA-DCH with the values of its released code; an `eps` projects the result.

    Args:
        eps: Radius of an added projection; None as released.
        reconstruction_weight: The default; to be tuned for each victim, values UNKNOWN.
        prototype_epochs: Passes of stage 1.
        hidden: Hidden units of the label and text branches.
        epochs: Passes of stage 2 (README: 50 constant and 100 falling).
        decay_epochs: The last ones of them, with a falling learning rate.
        width: Channels of the first layer.
    """
    return TADCH(
        eps=eps,
        output="picture",
        codes_of="own",
        reconstruction_weight=reconstruction_weight,
        prototype_epochs=prototype_epochs,
        prototype_rate=1e-4,
        hidden=hidden,
        epochs=epochs,
        decay_epochs=decay_epochs,
        learning_rate=1e-4,
        width=width,
    )


def _item_batches(items: int, *, epochs: int, seed: int) -> Iterator[Tensor]:
    """Yield shuffled batches of 64 rows; a last one of a single row joins the batch before."""
    for epoch in range(epochs):
        order = permutation(items, seed=seed, stream=f"tadch prototypes{epoch}")
        parts = list(torch.split(order, 64))
        if len(parts) > 1 and len(parts[-1]) == 1:  # BatchNorm needs two
            parts[-2:] = [torch.cat(parts[-2:])]
        yield from parts
