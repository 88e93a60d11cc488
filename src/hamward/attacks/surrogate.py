"""Surrogates: models of the attacker's own, learned from a limited number of queries."""

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hamward.attacks.base import Attack, Goal
from hamward.attacks.budget import Budget
from hamward.codes import binarize
from hamward.data import RetrievalData
from hamward.errors import AccessError, ConfigError
from hamward.models import HashModel, ModelSpec, Victim, build_hash_model, frozen, save_model
from hamward.models.victim import Access
from hamward.progress import Progress
from hamward.random import permutation
from hamward.training.fit import FitConfig, fit
from hamward.training.objective import Objective
from hamward.types import MODALITIES, Modality

__all__ = [
    "Learned",
    "OnSurrogate",
    "SurrogateOptions",
    "ask",
    "build_surrogate",
    "choose_queries",
    "clean_goal",
    "learn_surrogate",
    "other_modality",
    "places",
    "ranked_by",
    "refuse_toward",
    "relaxed_database",
    "same_type",
    "surrogate_fit",
]


M = TypeVar("M", bound=nn.Module)


def other_modality(modality: Modality) -> Modality:
    """Return the modality that is retrieved for a query of `modality`."""
    return "text" if modality == "image" else "image"


def choose_queries(
    data: RetrievalData, modality: Modality, count: int, *, seed: int, who: str
) -> NDArray[np.int64]:
    """Draw the training items that an attack submits, in the order of their positions.

    Raises:
        ConfigError: there are fewer training items that can be submitted.
    """
    usable = data.split.train
    if modality == "text":
        usable = usable[data.bags[usable].any(1)]
    if not 1 <= count <= len(usable):
        raise ConfigError(
            f"{who}: queries must be in [1, {len(usable)}], the training items that have "
            f"{'words' if modality == 'text' else 'pictures'}, got {count}"
        )
    chosen = permutation(len(usable), seed=seed, stream=f"{who} queries")[:count].numpy()
    return np.sort(usable[chosen])


def build_surrogate(
    data: RetrievalData,
    modalities: tuple[Modality, ...],
    *,
    code_length: int,
    image_network: str,
    seed: int,
) -> HashModel:
    """Build an untrained surrogate: trunk -> 1024 (BatchNorm, ReLU), dropout 0.3 -> K.

    Source: widths and dropout of EQB2A's released code; texts pass 1024 -> 1024. A trunk with
        ImageNet weights starts from them: that is knowledge of the attacker, and it decides
        much of what transfers.
    """
    spec = ModelSpec(
        code_length=code_length,
        vocabulary=len(data.words),
        image_side=data.image_side,
        image_network=image_network if "image" in modalities else "",
        text_network="bow-mlp" if "text" in modalities else "",
        text_width=1024,
        neck=(1024,),
        dropout=0.3,
    )
    model = build_hash_model(spec, seed=seed)
    if "image" in modalities:
        load = getattr(model.encoder("image").trunk, "load_pretrained", None)
        if load is not None:
            load()
    return model


@runtime_checkable
class SurrogateOptions(Protocol):
    """What `learn_surrogate` asks of an attack's options."""

    name: ClassVar[str]

    @property
    def queries(self) -> int:
        """Return M, the number of submitted items."""

    @property
    def image_network(self) -> str:
        """Return the image trunk of the surrogate."""

    @property
    def epochs(self) -> int:
        """Return the passes over the submitted items."""

    @property
    def batch_size(self) -> int:
        """Return the submitted items a step."""

    @property
    def image_rate(self) -> float:
        """Return the peak learning rate of the image surrogate."""

    @property
    def text_rate(self) -> float:
        """Return the peak learning rate of the text surrogate."""


def surrogate_fit(options: SurrogateOptions, seed: int = 0) -> FitConfig:
    """Return how a surrogate is trained.

    Raises:
        ConfigError: an option is out of range.
    """
    return FitConfig(
        epochs=options.epochs,
        batch_size=options.batch_size,
        image_rate=options.image_rate,
        text_rate=options.text_rate,
        flip=False,
        seed=seed,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Learned:
    """A surrogate and what it was learned from.

    Attributes:
        model: The surrogate, frozen.
        positions: The submitted items.
        answers: What the victim answered, one row an item.
    """

    model: HashModel = field(repr=False)
    positions: NDArray[np.int64]
    answers: Tensor


def learn_surrogate(
    options: SurrogateOptions,
    victim: Victim,
    data: RetrievalData,
    modality: Modality,
    *,
    modalities: tuple[Modality, ...],
    code_length: int,
    answer: Callable[[Tensor], Tensor],
    objective: Callable[[Tensor], Objective],
    seed: int,
    progress: Progress,
) -> Learned:
    """Submit M training items once and train a surrogate on the answers; the last epoch is kept.

    There is nothing to choose an epoch by: the victim is not asked again.

    Args:
        options: M, trunk, epochs and rates.
        victim: Its ledger must have room for M items.
        data: Its training items are submitted.
        modality: Of the submitted items.
        modalities: What the surrogate encodes.
        code_length: Its bits.
        answer: From a batch of items to the victim's answers.
        objective: From all answers to what training minimizes.
        seed: Choice of the items, weights, order.
        progress: Watches the steps.

    Raises:
        QueryLimitError: the ledger allows fewer than M submissions; nothing is submitted then.
        ConfigError: there are fewer than M training items.
    """
    name, config = options.name, surrogate_fit(options, seed)
    positions = choose_queries(data, modality, options.queries, seed=seed, who=name)
    model = build_surrogate(
        data,
        modalities,
        code_length=code_length,
        image_network=options.image_network,
        seed=seed,
    ).to(next(victim.model.parameters()).device)
    answers = ask(answer, victim, data, modality, positions)
    epochs = iter(range(1, config.epochs + 1))
    fit(
        model,
        objective(answers),
        dataclasses.replace(data, split=dataclasses.replace(data.split, train=positions)),
        config=dataclasses.replace(config, batch_size=min(config.batch_size, len(positions))),
        score=lambda _: {"select": float(next(epochs))},
        progress=progress,
        label=f"{name}: surrogate",
    )
    return Learned(model=model.requires_grad_(False), positions=positions, answers=answers)


def same_type(model: M, x: Tensor) -> M:
    """Return the model in the dtype and on the device of the items, a copy where they differ."""
    parameter = next(model.parameters())
    if parameter.dtype == x.dtype and parameter.device == x.device:
        return model
    return copy.deepcopy(model).to(device=x.device, dtype=x.dtype)


def clean_goal(surrogate: HashModel, x: Tensor, modality: Modality) -> Goal:
    """Return the goal of leaving the code that the surrogate gives the clean items."""
    with torch.no_grad(), frozen(surrogate):
        return Goal(modality=modality, anchor=binarize(surrogate.logits(modality, x.detach())))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OnSurrogate:
    """An attack on the clean code, run on a model of the attacker's own: nobody else is asked.

    Attributes:
        model: The surrogate; its code length may differ from the victim's.
        attack: What runs on it: own-code PGD, or edits of words.
        name: For messages.
    """

    access: ClassVar[Access] = "ranks"
    modalities: ClassVar[tuple[Modality, ...]] = MODALITIES
    targeted: ClassVar[bool] = False
    needs_references: ClassVar[bool] = False

    model: HashModel = field(repr=False)
    attack: Attack
    name: str

    def budget(self, modality: Modality) -> Budget:
        """Return the budget of the attack that runs on the surrogate."""
        return self.attack.budget(modality)

    def save(self, folder: Path) -> None:
        """Write the surrogate as `load_model` reads it."""
        save_model(folder, self.model, surrogate_of=self.name)

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial items; see `Attack`."""
        goal.check(victim, x, ids)
        refuse_toward(goal, self.name)
        surrogate = same_type(self.model, x)
        return self.attack(
            Victim(model=surrogate),
            x,
            clean_goal(surrogate, x, goal.modality),
            ids=ids,
            seed=seed,
        )


def refuse_toward(goal: Goal, who: str) -> None:
    """Refuse a goal that an attack on a surrogate cannot follow.

    Raises:
        ConfigError: the goal is a code of the victim to be reached, which says nothing about
            the surrogate's codes.
    """
    if goal.toward:
        raise ConfigError(f"{who} is untargeted: it cannot approach a code of the victim")


def ranked_by(victim: Victim, data: RetrievalData, who: str, *, top_k: int | None) -> int:
    """Return how many items a victim's list shows; checked before any query is spent.

    Raises:
        AccessError: the victim has no index.
        ConfigError: its index is not the data set's database, or a list is too short to tell
            near from far.
    """
    if victim.index is None:
        raise AccessError(f"{who} needs a victim with an index: it learns from ranked lists")
    size = len(victim.index)
    if size != len(data.split.database):
        raise ConfigError(
            f"{who}: the victim's index holds {size} items, the database of {data.name} "
            f"{len(data.split.database)}: positions in lists must name database items"
        )
    shown = size if top_k is None else min(top_k, size)
    if shown < 2:
        raise ConfigError(f"{who}: a list must show at least 2 items, got {shown}")
    return shown


def ask(
    answer: Callable[[Tensor], Tensor],
    victim: Victim,
    data: RetrievalData,
    modality: Modality,
    positions: NDArray[np.int64],
    *,
    batch_size: int = 128,
) -> Tensor:
    """Submit items in batches and return the answers, one row an item, on the CPU.

    Args:
        answer: `victim.codes` or `victim.ranks`, from a batch to its answers.
        victim: Its ledger must have room for all items.
        data: Holds the items.
        modality: Modality of the items.
        positions: Which items.
        batch_size: Items a batch.

    Raises:
        QueryLimitError: the ledger has no room for all; nothing is submitted then.
    """
    limit = victim.ledger.limit
    if limit is not None and victim.ledger.total + len(positions) > limit:
        victim.ledger.charge(modality, len(positions))  # raises and counts nothing
    parameter = next(victim.model.parameters())
    chunks = np.split(positions, range(batch_size, len(positions), batch_size))
    return torch.cat([answer(data.inputs(modality, c).to(parameter)).cpu() for c in chunks])


def places(lists: Tensor, size: int) -> Tensor:
    """Return where each database item stands in each list, (m, size); unlisted ones at k.

    Example:
        >>> places(torch.tensor([[2, 0]]), 4).tolist()
        [[1, 2, 0, 2]]
    """
    standing = torch.full((len(lists), size), lists.shape[1], dtype=torch.long)
    order = torch.arange(lists.shape[1]).expand_as(lists)
    return standing.scatter(1, lists, order)


def relaxed_database(model: HashModel, data: RetrievalData, modality: Modality) -> Tensor:
    """Return a surrogate's relaxed codes of the database, float32, on the CPU, (n, K)."""
    chunks = np.split(data.split.database, range(128, len(data.split.database), 128))
    device = next(model.parameters()).device
    with torch.no_grad(), frozen(model):
        return torch.cat(
            [model.relaxed(modality, data.inputs(modality, c, device=device)).cpu() for c in chunks]
        )
