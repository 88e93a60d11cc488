"""How adversarial trainings craft their samples: when, of which items, and how large."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hamward.attacks import (
    Attack,
    AttackMixture,
    FastEdits,
    Goal,
    References,
    reference_codes,
)
from hamward.codes import binarize
from hamward.data import RetrievalData
from hamward.defenses.texts import scaled_edits
from hamward.errors import ConfigError
from hamward.models import HashModel, Victim
from hamward.progress import Progress
from hamward.training import ALONE, Objective, Ranks, Step
from hamward.types import MODALITIES, Modality

__all__ = ["AdversarialLearning", "Sampler", "require_labeled_hashing", "scaled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdversarialLearning:
    """How adversarial samples enter the training.

    Attributes:
        weight: Weight of the adversarial half of the loss; 0 is the control, which then
            crafts nothing. 0.5 is the published mixture of as many adversarial as clean
            items.
        refresh: Craft anew every so many epochs; 1 crafts against the model of the very
            step; 0 crafts once, against the model that training starts from, as published.
        modalities: Which sides are perturbed (published: both).
        references: Training items whose codes the attack compares with; None is all of them.
        warmup: Share of the steps over which eps rises from 0 to its full size.
    """

    weight: float = 0.5
    refresh: int = 1
    modalities: tuple[Modality, ...] = ("image", "text")
    references: int | None = 256
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ConfigError(f"weight must be in [0, 1], got {self.weight}")
        if self.refresh < 0:
            raise ConfigError(f"refresh must be at least 0, got {self.refresh}")
        if self.references is not None and self.references < 1:
            raise ConfigError(f"references must be at least 1, got {self.references}")
        if not self.modalities or not set(self.modalities) <= {"image", "text"}:
            raise ConfigError(f"modalities must be image, text or both, got {self.modalities}")
        if not 0 <= self.warmup <= 1:
            raise ConfigError(
                f"warmup is a share of the steps and must be in [0, 1], got {self.warmup:g}"
            )
        if self.warmup and not self.refresh:
            raise ConfigError(
                "warmup needs refresh >= 1: samples crafted once would all have eps 0"
            )

    def size(self, share: float) -> float:
        """Return the factor on eps after a share of the training: less than 1 in the warm-up."""
        return min(share / self.warmup, 1.0) if self.warmup else 1.0


_SIZES = ("eps", "text_eps", "learning_rate", "text_learning_rate")


def scaled(attack: Attack, factor: float) -> Attack:
    """Return an attack with its radii, and the rates that go with them, times a factor.

    Raises:
        ConfigError: the attack has no radius of its own.
    """
    if factor == 1:
        return attack
    if isinstance(attack, FastEdits):
        return scaled_edits(attack, factor)
    if isinstance(attack, AttackMixture):
        sides = (tuple(scaled(a, factor) for a in attack.members(m)) for m in MODALITIES)
        return AttackMixture(**dict(zip(MODALITIES, sides, strict=True)))
    value: Any = attack
    if not hasattr(attack, "eps"):
        raise ConfigError(f"{type(attack).__name__} has no eps to warm up: set warmup to 0")
    sizes = {name: factor * getattr(attack, name) for name in _SIZES if hasattr(attack, name)}
    smaller: Attack = dataclasses.replace(value, **sizes)
    return smaller


def require_labeled_hashing(who: str, model: HashModel, data: RetrievalData) -> None:
    """Refuse a victim without codes, and data without labels that tell items apart.

    Raises:
        ConfigError: the model ranks by cosine, there are no labels, or training items have fewer
            than two classes.
    """
    if model.spec.retrieval != "hamming":
        raise ConfigError(
            f"{who} need a victim that hashes, and this one ranks real-valued embeddings by "
            f"{model.spec.retrieval}: harden it by cmla"
        )
    if not data.label_names:
        raise ConfigError(
            f"{who} need labels, and {data.name} has none: harden by cmla with attack = own-code"
        )
    classes = int(data.labels[data.split.train].any(0).sum())
    if classes < 2:
        raise ConfigError(
            f"{who} need training items of at least 2 classes, those of {data.name} have {classes}"
        )


@dataclass(kw_only=True)
class Sampler:
    """Crafts adversarial versions of training items against the model as it is.

    Inner attacks run in eval mode, without gradients of parameters, in bf16 where that is
    faster, and leave BatchNorm statistics alone.

    Attributes:
        base: The objective whose buffers serve as memory, and where samples in use are kept.
        attack: What crafts.
        config: When, and of which items.
        seed: Seed of the attack.
        labels: Of the training items, (n, C); C = 0 where there are none.
    """

    base: Objective
    attack: Attack
    config: AdversarialLearning
    seed: int = 0
    labels: Tensor = field(default_factory=lambda: torch.empty(0), init=False)
    source: tuple[RetrievalData, NDArray[np.int64]] | None = field(default=None, init=False)
    held: tuple[int, dict[Modality, Tensor]] | None = field(default=None, init=False)

    def start(self, model: HashModel, data: RetrievalData, positions: NDArray[np.int64]) -> None:
        """Read the labels of the training items; to be called before anything is crafted.

        Raises:
            ConfigError: texts shall be moved, and the model does not read bags of words.
        """
        if self.config.weight and "text" in self.config.modalities and model.text_format != "bag":
            raise ConfigError(
                "adversarial learning moves bags of words, and this victim reads tokens: harden "
                "its pictures only (modalities = image)"
            )
        self.source = (data, positions)
        device = next(model.parameters()).device
        self.labels = torch.zeros(len(positions), 0, device=device)
        if data.label_names:
            self.labels = data.label(positions, device=device)

    def sides(self, step: Step) -> list[Modality]:
        """Return the modalities of a batch that are perturbed."""
        return [m for m in step.items if m in self.config.modalities]

    def size(self, step: Step) -> float:
        """Return the factor on eps: less than 1 while it warms up."""
        return self.config.size(step.share)

    def items(self, model: HashModel, modality: Modality, step: Step) -> Tensor:
        """Return adversarial items of a batch: crafted now, or those of the round it is in."""
        refresh, x = self.config.refresh, step.items[modality]
        if refresh == 1:
            goal = self.goal(model, modality, x, rows=step.rows, number=step.epoch)
            return self.craft(model, x, goal, ids=step.ids, number=step.epoch, size=self.size(step))
        round_ = 0 if refresh == 0 else (step.epoch - 1) // refresh
        if self.base.buffers.get(f"round/{modality}") != round_:
            made = []
            for rows, all_x, ids in self.batches(modality, step.progress):
                goal = self.goal(model, modality, all_x, rows=rows, number=round_)
                x_adv = self.craft(
                    model,
                    all_x,
                    goal,
                    ids=ids,
                    number=round_,
                    size=self.size(step),
                    ranks=step.ranks,
                )
                made.append(x_adv.half())
            self.keep(modality, torch.cat(made), round_)
        return self.kept(modality, step.rows).to(x.dtype)

    def batches(
        self, modality: Modality, progress: Progress
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (rows, items, ids) of all training items, in order, watched while they are used."""
        data, positions = self.started()
        device = self.labels.device
        parts = torch.split(torch.arange(len(positions), device=device), 64)
        for rows in progress.track(parts, total=len(parts), label=f"{modality} samples"):
            chosen = positions[rows.cpu().numpy()]
            x = data.inputs(modality, chosen, device=device)
            yield rows, x, torch.tensor(data.ids[chosen], device=device)

    def keep(self, modality: Modality, x_adv: Tensor, round_: int) -> None:
        """Put the samples of a round among the base's buffers, where checkpoints find them."""
        self.base.buffers[f"cache/{modality}"] = x_adv
        self.base.buffers[f"round/{modality}"] = torch.tensor(round_)

    def kept(self, modality: Modality, rows: Tensor) -> Tensor:
        """Return samples of the round in use."""
        return self.base.buffers[f"cache/{modality}"][rows]

    def goal(
        self,
        model: HashModel,
        modality: Modality,
        x: Tensor,
        *,
        rows: Tensor,
        number: int,
        references: bool | None = None,
    ) -> Goal:
        """Return the goal of leaving one's clean code, with labels and references.

        Args:
            model: Makes the codes.
            modality: Of the items.
            x: Clean items.
            rows: Which training items they are.
            number: Of the epoch or round; where the base has no memory, codes are made once in it.
            references: Whether to add references; by default where the attack needs them.
        """
        wanted = self.attack.needs_references if references is None else references
        return Goal(
            modality=modality,
            anchor=Victim(model=model).codes(modality, x),
            label=self.labels[rows] if self.labels.shape[1] else None,
            references=self.references(model, number) if wanted else None,
        )

    def craft(
        self,
        model: HashModel,
        x: Tensor,
        goal: Goal,
        *,
        ids: Tensor,
        number: int,
        size: float = 1.0,
        attack: Attack | None = None,
        ranks: Ranks = ALONE,
    ) -> Tensor:
        """Return adversarial items; each rank crafts its share, for attacks see items singly.

        Args:
            model: Is attacked.
            x: Clean items.
            goal: What their codes shall be.
            ids: Their ids.
            number: Of the epoch or round; decides the seed.
            size: Factor on eps.
            attack: Another attack than the sampler's.
            ranks: The processes of the training; an uneven batch is crafted by all of them.
        """
        if size == 0:
            return x.detach().clone()
        if len(x) % ranks.size:
            ranks = ALONE
        used = scaled(self.attack if attack is None else attack, size)
        victim = Victim(model=model, low_precision=True)
        mine = slice(ranks.rank, None, ranks.size)
        seed = self.seed * 100_003 + number
        own = used(victim, x[mine], goal.select(mine), ids=ids[mine], seed=seed)
        return ranks.gather(own)

    def references(self, model: HashModel, number: int) -> References:
        """Return evenly spaced training items: as the base remembers them, or encoded anew."""
        data, positions = self.started()
        n = len(positions)
        step = 1 if self.config.references is None else max(n // self.config.references, 1)
        chosen = torch.arange(0, n, step, device=self.labels.device)
        shape = (n, model.code_length)
        held = {m: v for m, v in self.base.buffers.items() if m in MODALITIES and v.shape == shape}
        codes = {m: binarize(v[chosen]) for m, v in held.items()}
        if not codes:  # an objective without a memory of outputs
            if self.held is None or self.held[0] != number:
                made = reference_codes(model, data, positions[chosen.cpu().numpy()])
                self.held = number, {m: v.to(chosen.device) for m, v in made.items()}
            codes = dict(self.held[1])
        (first, *_) = codes.values()  # one that the model lacks takes the other's place
        return References(
            image=codes.get("image", first),
            text=codes.get("text", first),
            label=self.labels[chosen],
        )

    def started(self) -> tuple[RetrievalData, NDArray[np.int64]]:
        """Return the data and the positions of the training items.

        Raises:
            ConfigError: `start` was not called.
        """
        if self.source is None:
            raise ConfigError("start() must come before loss()")
        return self.source
