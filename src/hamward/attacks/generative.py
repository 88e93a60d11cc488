"""Generators as attacks: one pass leads a picture to the code of any target label."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int8, Int64
from torch import Tensor, nn

from hamward.attacks.base import Goal
from hamward.attacks.budget import Budget
from hamward.attacks.fitted import read_fitted, write_fitted
from hamward.attacks.generator_training import (
    Condition,
    GeneratorRecipe,
    Output,
    picture_of,
    train_generator,
)
from hamward.attacks.prototypes import CodesOf, Prototypes, training_codes
from hamward.attacks.surrogate import same_type
from hamward.codes import binarize
from hamward.config import from_mapping, to_mapping
from hamward.data import RetrievalData
from hamward.errors import ArtifactError, ConfigError, ShapeError
from hamward.models import Victim
from hamward.models.victim import Access
from hamward.progress import Progress
from hamward.random import seeded
from hamward.types import Modality

__all__ = [
    "FittedGenerator",
    "GenerativeOptions",
    "Made",
    "bound",
    "check_generative",
    "fit_generator",
    "recipe_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a generator was trained for.

    Attributes:
        image_side: Side of the pictures.
        labels: Number of labels C.
        vocabulary: Number of words D.
        items: Number of training items.
        code_length: Number of bits K.
    """

    image_side: int
    labels: int
    vocabulary: int
    items: int
    code_length: int


@runtime_checkable
class GenerativeOptions(Protocol):
    """What `fit_generator` asks of an attack's options."""

    name: ClassVar[str]
    access: ClassVar[Access]

    @property
    def eps(self) -> float | None:
        """Return the l_inf radius in [0, 1]; None leaves the result unbounded."""

    @property
    def output(self) -> Output:
        """Return what the generator's raw output stands for."""

    @property
    def codes_of(self) -> CodesOf:
        """Return which training codes prototypes lie amid."""

    def networks(self, made: Made) -> tuple[Prototypes, nn.Module]:
        """Return prototypes and generator, fresh weights from the global random stream."""

    def learn(
        self,
        prototypes: Any,
        data: RetrievalData,
        *,
        codes: Int8[Tensor, "n k"],
        code_labels: Float[Tensor, "n c"],
        seed: int,
        progress: Progress,
    ) -> tuple[Condition, int]:
        """Train the prototypes in place and leave them frozen; return targets and their number."""


def bound(eps: float | None) -> Budget:
    """Return the l_inf ball of radius eps; without a bound, the whole range."""
    return Budget(eps=1.0 if eps is None else eps)


def recipe_of(options: Any) -> GeneratorRecipe:
    """Return the options of stage 2 among an attack's own, which have the same names."""
    return GeneratorRecipe(**{n: getattr(options, n) for n in GeneratorRecipe.__dataclass_fields__})


def check_generative(options: Any, *counts: str) -> None:
    """Refuse options out of range.

    Raises:
        ConfigError: one of the `counts` is below 1, the prototypes' learning rate is not
            positive, or the recipe refuses.
        BudgetError: eps is no radius.
    """
    bound(options.eps), recipe_of(options)
    for name in counts:
        if getattr(options, name) < 1:
            raise ConfigError(f"{name} must be at least 1, got {getattr(options, name)}")
    if options.prototype_rate <= 0:
        raise ConfigError(f"prototype_rate must be positive, got {options.prototype_rate:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedGenerator:
    """A trained generator, applied in one forward pass to each picture.

    It asks the victim nothing: gradients were needed in training only, so that it also runs
    against other victims of the same code length (transfer).

    Attributes:
        options: What it was trained with.
        made: What pictures, labels and codes it was trained for.
        prototypes: Target labels -> what the generator reads of them, and prototype codes.
        generator: Pictures and what it reads of their targets -> raw output.
        eps: l_inf radius of the result, or None for no bound; by default that of the options.
            Another one than in training may be set with `dataclasses.replace`.
    """

    access: ClassVar[Access] = "ranks"
    modalities: ClassVar[tuple[Modality, ...]] = ("image",)
    targeted: ClassVar[bool] = True
    needs_references: ClassVar[bool] = False

    options: GenerativeOptions
    made: Made
    prototypes: Prototypes
    generator: nn.Module
    eps: float | None

    def __post_init__(self) -> None:
        bound(self.eps)
        if self.options.output == "bounded" and self.eps is None:
            raise ConfigError("this generator was trained within a bound: eps must be a number")

    def budget(self, modality: Modality) -> Budget:
        """Return the l_inf ball of radius eps; without a bound, the whole range."""
        return bound(self.eps)

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
        label = target_label.to(next(self.prototypes.parameters()))
        with torch.no_grad():
            return binarize(self.prototypes.conditions(label, ids=ids, seed=seed)[1])

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial pictures; see `Attack`. `seed` chooses targets' texts, if any."""
        goal.check(victim, x, ids)
        target_label = self._target_label(victim, x, goal)
        x = x.detach()
        if len(x) == 0:
            return x.clone()
        with torch.no_grad():
            prototypes, generator = same_type(self.prototypes, x), same_type(self.generator, x)
            feature = prototypes.conditions(target_label.to(x), ids=ids, seed=seed)[0]
            raw = generator(2 * x - 1, feature)
            x_adv = picture_of(raw, x, output=self.options.output, eps=self.eps)
            return bound(self.eps).project(x_adv, x)

    def _target_label(self, victim: Victim, x: Tensor, goal: Goal) -> Tensor:
        """Return the target labels of a goal, after refusing what this was not trained for."""
        name, made = self.options.name, self.made
        if goal.modality != "image":
            raise ConfigError(f"{name} makes pictures, got a goal for modality {goal.modality!r}")
        if tuple(x.shape[1:]) != (3, made.image_side, made.image_side):
            raise ShapeError(
                f"this {name} generator was trained for pictures (n, 3, {made.image_side}, "
                f"{made.image_side}), got {tuple(x.shape)}: train one for this side"
            )
        if victim.code_length != made.code_length:
            raise ShapeError(
                f"this {name} generator was trained for codes of {made.code_length} bits, the "
                f"victim makes {victim.code_length}: train one for this victim"
            )
        if goal.target_label is None:
            raise ConfigError(f"{name} is targeted: the goal needs a target_label for each item")
        if tuple(goal.target_label.shape) != (len(x), made.labels):
            raise ShapeError(
                f"this {name} generator was trained for {made.labels} labels: target labels must "
                f"be ({len(x)}, {made.labels}), got {tuple(goal.target_label.shape)}"
            )
        return goal.target_label

    def save(self, folder: Path) -> None:
        """Write the attack as attack.safetensors and attack.json."""
        parts = {"prototypes": self.prototypes, "generator": self.generator}
        state = {f"{part}/{k}": v for part, m in parts.items() for k, v in m.state_dict().items()}
        facts = {
            "options": to_mapping(self.options),
            "made": to_mapping(self.made),
            "eps": self.eps,
        }
        write_fitted(folder, name=self.options.name, facts=facts, tensors=state)

    @classmethod
    def load(cls, folder: Path, kind: type[Any]) -> "FittedGenerator":
        """Read an attack that `save` wrote.

        Args:
            folder: Where from.
            kind: Class of its options, such as `ProSGAN`.

        Raises:
            ArtifactError: missing or damaged files, or another attack.
        """
        facts, state = read_fitted(folder, name=kind.name)
        try:
            options = from_mapping(kind, facts["options"], path="options.")
            made = from_mapping(Made, facts["made"], path="made.")
            with seeded(0, "load"):  # the weights are replaced; the global stream is left alone
                prototypes, generator = options.networks(made)
            loaded = cls(
                options=options,
                made=made,
                prototypes=prototypes,
                generator=generator,
                eps=facts["eps"],
            )
        except (ConfigError, KeyError, TypeError) as error:
            raise ArtifactError(f"{folder / 'attack.json'}: {error}") from error
        for part, module in (("prototypes", prototypes), ("generator", generator)):
            own = {k: v for k, v in state.items() if k.startswith(f"{part}/")}
            try:
                module.load_state_dict({k.removeprefix(f"{part}/"): v for k, v in own.items()})
            except RuntimeError as error:
                file = folder / "attack.safetensors"
                message = f"{file}: weights of another {part} network: {error}"
                raise ArtifactError(message) from error
            module.requires_grad_(False).eval()
        return loaded


def fit_generator(
    options: GenerativeOptions,
    victim: Victim,
    data: RetrievalData,
    modality: Modality,
    *,
    seed: int,
    progress: Progress,
) -> FittedGenerator:
    """Train prototypes, then a generator, on `data.split.train` only.

    Raises:
        AccessError: the victim does not grant gradients.
        ConfigError: another modality than "image".
    """
    name = options.name
    victim.require(options.access, name)
    if modality != "image":
        raise ConfigError(f"{name} makes pictures, not {modality!r} items: attack 'image'")
    weight = next(victim.model.parameters())
    made = Made(
        image_side=data.image_side,
        labels=data.labels.shape[1],
        vocabulary=len(data.words),
        items=len(data.split.train),
        code_length=victim.code_length,
    )
    codes, code_labels = training_codes(victim.model, data, modality, options.codes_of)
    with seeded(seed, f"{name} weights"):
        prototypes, generator = options.networks(made)
    prototypes, generator = prototypes.to(weight), generator.to(weight)
    condition, targets = options.learn(
        prototypes, data, codes=codes, code_labels=code_labels, seed=seed, progress=progress
    )
    train_generator(
        victim,
        data,
        generator,
        condition=condition,
        targets=targets,
        recipe=recipe_of(options),
        seed=seed,
        progress=progress,
        label=f"{name} generator",
    )
    return FittedGenerator(
        options=options, made=made, prototypes=prototypes, generator=generator, eps=options.eps
    )
