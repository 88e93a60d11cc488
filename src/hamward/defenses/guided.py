"""Adversarial training by guiding codes: what ATRDH, CgAT, SAAT and our own share."""

from dataclasses import dataclass
from typing import ClassVar, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from hamward.attacks import Goal
from hamward.attacks.options import Form, FormOptions
from hamward.attacks.stepping import pursue, sign_steps
from hamward.data import RetrievalData
from hamward.defenses.adversarial import OverVictim
from hamward.defenses.sampler import AdversarialLearning, require_labeled_hashing
from hamward.defenses.texts import TextAttack, with_text
from hamward.errors import ConfigError
from hamward.losses import auto_temperature
from hamward.models import HashModel, Victim
from hamward.training import Objective, Step
from hamward.types import Modality

__all__ = ["CodePGD", "Guide", "GuidedObjective", "guided", "retrieved"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodePGD(FormOptions):
    """PGD away from the goal's anchor, or to it: the attack inside these trainings.

    Source: released codes of ATRDH, CgAT and SAAT: the mean of h' a, 7 steps of 2/255 in a ball
        of 8/255, random start, in tanh(u) without annealing.
    Differs: form "scale-free" (the default) uses `losses.auto_temperature` and decaying steps:
        tanh(u) of a victim that has saturated has no gradient, and what cannot be attacked
        teaches nothing. Best iterate under the code (there: the last).

    The options are those of `FormOptions`.
    """

    needs_references: ClassVar[bool] = False

    steps: int = 7
    step_size: float = 0.25
    random_start: bool = True

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial items; see `Attack`."""
        victim.require(self.access, "adversarial training")
        goal.check(victim, x, ids)
        sign = 1.0 if goal.toward else -1.0
        published = self.form == "published"

        def loss(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
            if published:
                return sign * (torch.tanh(logits) * goal.anchor).mean(1)
            return sign * auto_temperature(logits, goal.anchor)

        step = self.step_size * self.budget(goal.modality).eps
        rule = sign_steps(step) if published else None
        return pursue(self, victim, x, goal, ids=ids, seed=seed, loss=loss, rule=rule)


def retrieved(goal: Goal) -> Int8[Tensor, "m k"]:
    """Return the reference codes of the modality that items of the goal search.

    Raises:
        ConfigError: the goal has no references.
    """
    if goal.references is None:
        raise ConfigError("guiding codes need a goal with reference items, got none")
    return goal.references.text if goal.modality == "image" else goal.references.image


@runtime_checkable
class Guide(Protocol):
    """Which code adversarial items shall leave or reach, and what their outputs then cost."""

    def aim(self, goal: Goal, step: Step, buffers: dict[str, Tensor]) -> Goal:
        """Return the goal with the guiding code as its anchor, without a graph.

        Args:
            goal: Clean codes, labels, and all training items as references.
            step: The batch.
            buffers: Where a guide keeps what it learns, under names of its own.
        """
        ...

    def cost(self, logits: Float[Tensor, "b k"], goal: Goal) -> Float[Tensor, ""]:
        """Return the robust term of adversarial logits, given what `aim` returned."""
        ...


@final
@dataclass(kw_only=True)
class GuidedObjective(OverVictim):
    """L(clean) + the guide's robust term of samples crafted in every step.

    Codes of the training items come from the base's buffers, which the clean outputs of the step
    have entered before, or are encoded once an epoch where it has none. The attack leaves or
    reaches the anchor of its goal; a weight of 0 in `config` crafts nothing.

    Attributes:
        guide: Guiding code and robust term.
    """

    guide: Guide

    def check_victim(self, model: HashModel, data: RetrievalData) -> None:
        """Refuse what has no codes of labeled items.

        Raises:
            ConfigError: see `require_labeled_hashing`.
        """
        require_labeled_hashing("guiding codes", model, data)

    def loss(self, model: HashModel, step: Step) -> Float[Tensor, ""]:
        """Return the base's loss of the clean batch plus the robust term of each modality."""
        total = self.base.loss(model, step)
        if self.config.weight == 0:
            return total
        sampler = self.sampler
        for modality in sampler.sides(step):
            x, number = step.items[modality], step.epoch
            goal = sampler.goal(model, modality, x, rows=step.rows, number=number, references=True)
            goal = self.guide.aim(goal, step, self.buffers)
            x_adv = sampler.craft(
                model,
                x,
                goal,
                ids=step.ids,
                number=step.number,
                size=sampler.size(step),
                ranks=step.ranks,
            )
            logits = model.logits(modality, x_adv, low_precision=True)
            total = total + self.guide.cost(logits, goal)
        return total


def guided(
    base: Objective,
    guide: Guide,
    *,
    active: bool,
    seed: int,
    eps: float,
    text: TextAttack,
    text_eps: float,
    edits: int,
    steps: int,
    form: Form,
    step_size: float = 0.25,
    modalities: tuple[Modality, ...],
    warmup: float,
) -> GuidedObjective:
    """Return the objective of one of these trainings from its options."""
    attack = with_text(
        CodePGD(eps=eps, text_eps=text_eps, steps=steps, step_size=step_size, form=form),
        text,
        edits=edits,
    )
    config = AdversarialLearning(
        weight=float(active), modalities=modalities, references=None, warmup=warmup
    )
    return GuidedObjective(base=base, guide=guide, attack=attack, config=config, seed=seed)
