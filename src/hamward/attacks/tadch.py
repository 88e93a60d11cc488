"""TA-DCH: ProS-GAN for cross-modal victims, where the target is a label and a text."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int8, Int64
from torch import Tensor, nn

from hamward.attacks.base import ATTACKS, Goal
from hamward.attacks.budget import Budget
from hamward.attacks.generative import (
    Closeness,
    GeneratorRecipe,
    Made,
    Output,
    like,
    load_parts,
    made_for,
    picture_of,
    save_parts,
    train_generator,
)
from hamward.attacks.prototypes import CodesOf, train_prototypes, training_codes
from hamward.attacks.tadch_networks import TargetGenerator, TargetPrototypeNet
from hamward.codes import binarize
from hamward.config import from_mapping, to_mapping
from hamward.data import RetrievalData
from hamward.errors import ConfigError, ShapeError
from hamward.models import Victim
from hamward.models.victim import Access
from hamward.progress import SILENT, Progress
from hamward.random import item_uniform, permutation, seeded
from hamward.types import Modality

__all__ = ["TADCH", "FittedTADCH", "closest_rows", "tadch_published"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedTADCH:
    """A trained generator, applied in one pass to each picture and its target.

    A goal names target labels only; the target's text is that of a training item whose labels
    are nearest to them (`closest_rows`), drawn anew for each item. It asks the victim nothing.

    Attributes:
        options: What it was trained with.
        made: What pictures, labels and codes it was trained for.
        prototypes: Target labels and texts -> feature maps and prototype codes.
        generator: Pictures and feature maps -> raw output.
        target_labels: Labels of the training items.
        target_texts: Their bags of words.
        eps: l_inf radius of the result, or None for no bound.
    """

    access: ClassVar[Access] = "ranks"
    modalities: ClassVar[tuple[Modality, ...]] = ("image",)
    targeted: ClassVar[bool] = True
    needs_references: ClassVar[bool] = False

    options: "TADCH"
    made: Made
    prototypes: TargetPrototypeNet
    generator: TargetGenerator
    target_labels: Tensor
    target_texts: Tensor
    eps: float | None

    def __post_init__(self) -> None:
        self.budget("image")
        if self.options.output == "bounded" and self.eps is None:
            raise ConfigError("this generator was trained within a bound: eps must be a number")

    def budget(self, modality: Modality) -> Budget:
        """Return the l_inf ball of radius eps; without a bound, the whole range."""
        return Budget(eps=1.0 if self.eps is None else self.eps)

    def codes(
        self, target_label: Float[Tensor, "n c"], *, ids: Int64[Tensor, " n"], seed: int
    ) -> Int8[Tensor, "n k"]:
        """Return the prototype codes of targets: the best that the attack can hope for.

        Raises:
            ShapeError: another number of labels.
        """
        if target_label.shape[1] != self.made.labels:
            raise ShapeError(
                f"target labels must be (n, {self.made.labels}), got {tuple(target_label.shape)}"
            )
        weight = self.prototypes.hashing.weight
        with torch.no_grad():
            return binarize(self._conditions(target_label.to(weight), ids=ids, seed=seed)[1])

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial pictures; see `Attack`. `seed` chooses the targets' texts."""
        goal.check(victim, x, ids)
        target_label = made_for(self.made, victim, x, goal, name="tadch")
        x = x.detach()
        if len(x) == 0:
            return x.clone()
        with torch.no_grad():
            feature = self._conditions(target_label.to(x), ids=ids, seed=seed)[0]
            raw = like(self.generator, x)(2 * x - 1, feature)
            x_adv = picture_of(raw, x, output=self.options.output, eps=self.eps)
            return self.budget("image").project(x_adv, x)

    def _conditions(self, label: Tensor, *, ids: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        known = self.target_labels.to(label)
        texts = self.target_texts.to(label.device)
        chosen = closest_rows(label, known, ids=ids.to(label.device), seed=seed)
        feature, relaxed, _ = like(self.prototypes, label)(label, texts[chosen].to(label.dtype))
        return feature, relaxed

    def save(self, folder: Path) -> None:
        """Write the attack as attack.safetensors and attack.json."""
        save_parts(
            folder,
            name="tadch",
            facts={
                "options": to_mapping(self.options),
                "made": to_mapping(self.made),
                "vocabulary": self.target_texts.shape[1],
                "eps": self.eps,
            },
            modules={"prototypes": self.prototypes, "generator": self.generator},
            tensors={"target_labels": self.target_labels, "target_texts": self.target_texts},
        )

    @classmethod
    def load(cls, folder: Path) -> "FittedTADCH":
        """Read an attack that `save` wrote.

        Raises:
            ArtifactError: missing or damaged files, or another attack.
        """

        def build(facts: Mapping[str, Any]) -> dict[str, nn.Module]:
            options = from_mapping(TADCH, facts["options"], path="options.")
            made = from_mapping(Made, facts["made"], path="made.")
            prototypes, generator = options.networks(made, vocabulary=facts["vocabulary"])
            return {"prototypes": prototypes, "generator": generator}

        facts, modules, tensors = load_parts(
            folder, name="tadch", build=build, tensors=("target_labels", "target_texts")
        )
        return cls(
            options=from_mapping(TADCH, facts["options"]),
            made=from_mapping(Made, facts["made"]),
            prototypes=modules["prototypes"],
            generator=modules["generator"],
            target_labels=tensors["target_labels"],
            target_texts=tensors["target_texts"],
            eps=facts["eps"],
        )


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
        fewer epochs and smaller widths; what that costs has not been measured. Released code
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
        self.budget("image"), self.recipe()
        for name in ("prototype_epochs", "hidden"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.prototype_rate <= 0:
            raise ConfigError(f"prototype_rate must be positive, got {self.prototype_rate:g}")

    def budget(self, modality: Modality) -> Budget:
        """Return the l_inf ball of radius eps; without a bound, the whole range."""
        return Budget(eps=1.0 if self.eps is None else self.eps)

    def recipe(self) -> GeneratorRecipe:
        """Return the options of stage 2."""
        names = GeneratorRecipe.__dataclass_fields__
        return GeneratorRecipe(**{name: getattr(self, name) for name in names})

    def networks(
        self, made: Made, *, vocabulary: int
    ) -> tuple[TargetPrototypeNet, TargetGenerator]:
        """Return the two networks with fresh weights from the global random stream."""
        prototypes = TargetPrototypeNet(
            labels=made.labels,
            vocabulary=vocabulary,
            code_length=made.code_length,
            hidden=self.hidden,
        )
        return prototypes, TargetGenerator(image_side=made.image_side, width=self.width)

    def fit(
        self,
        victim: Victim,
        data: RetrievalData,
        modality: Modality,
        *,
        seed: int,
        progress: Progress = SILENT,
    ) -> FittedTADCH:
        """Return the attack, trained on `data.split.train` only.

        Raises:
            AccessError: the victim does not grant gradients.
            ConfigError: another modality than "image".
        """
        victim.require(self.access, "tadch")
        if modality != "image":
            raise ConfigError(f"tadch makes pictures, not {modality!r} items: attack 'image'")
        weight = next(victim.model.parameters())
        made = Made(
            image_side=data.image_side,
            labels=data.labels.shape[1],
            code_length=victim.code_length,
        )
        codes, code_labels = training_codes(victim.model, data, modality, self.codes_of)
        labels = data.label(data.split.train).to(weight)
        bags = dataclasses.replace(data, text_inputs=None)  # its own networks read these
        texts = bags.inputs("text", data.split.train).to(weight)
        with seeded(seed, "tadch weights"):
            prototypes, generator = self.networks(made, vocabulary=texts.shape[1])
        prototypes, generator = prototypes.to(weight), generator.to(weight)
        batches = list(_item_batches(len(labels), epochs=self.prototype_epochs, seed=seed))
        train_prototypes(
            prototypes,
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

        def condition(drawn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            with torch.no_grad():
                feature, relaxed, _ = prototypes(labels[drawn], texts[drawn])
            return labels[drawn], feature, relaxed

        train_generator(
            victim,
            data,
            generator,
            condition=condition,
            targets=len(labels),
            recipe=self.recipe(),
            seed=seed,
            progress=progress,
            label="tadch generator",
        )
        return FittedTADCH(
            options=self,
            made=made,
            prototypes=prototypes,
            generator=generator,
            target_labels=labels.to(torch.uint8).cpu(),
            target_texts=texts.to(torch.uint8).cpu(),
            eps=self.eps,
        )


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
