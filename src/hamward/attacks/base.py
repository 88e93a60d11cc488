"""What an attack is: a frozen value that turns clean items into adversarial ones."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int8, Int64
from torch import Tensor

from hamward.attacks.budget import Budget, check_items
from hamward.data import RetrievalData
from hamward.errors import ConfigError, ShapeError
from hamward.models import Victim
from hamward.models.victim import Access
from hamward.progress import SILENT, Progress
from hamward.registry import Registry
from hamward.types import Modality, TextFormat

__all__ = [
    "ATTACKS",
    "Attack",
    "Goal",
    "References",
    "Role",
    "Rule",
    "TrainableAttack",
    "ascend",
    "check_steps",
]

Role = Literal["query", "candidate", "hub"]
"""What the attacked item is for: it asks, it lies in the database and shall not be found by what
it is relevant to, or it lies there and shall be found by as many queries as possible."""

Rule = Callable[[Tensor, int], Tensor]
"""From the gradient of a step and its number to the move; `hamward.attacks.stepping` has some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """Clean items that an attack compares its codes with.

    Attributes:
        image: Codes of the items' pictures, (m, K).
        text: Codes of the items' texts, (m, K).
        label: Multi-hot labels, (m, C).
        group: (m,) integers, or None. An attacked item sees the references of its own
            group only; this is how one batch serves as the reference set of its items
            without making results depend on how the attack is batched.
        image_embedding: What a real-valued index holds of the pictures, (m, K), or None.
        text_embedding: The same of the texts.
    """

    image: Int8[Tensor, "m k"]
    text: Int8[Tensor, "m k"]
    label: Float[Tensor, "m c"]
    group: Int64[Tensor, " m"] | None = None
    image_embedding: Float[Tensor, "m k"] | None = None
    text_embedding: Float[Tensor, "m k"] | None = None

    def to(self, device: torch.device) -> "References":
        """Return the references on a device."""
        return dataclasses.replace(self, **_moved(self, device))


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the codes of adversarial items shall be.

    Attributes:
        modality: Modality of the attacked items.
        anchor: The code to leave or to reach, (n, K); by default the item's clean code.
        toward: Approach the anchor instead of leaving it (a targeted attack).
        label: Multi-hot labels of the items, (n, C), for attacks that use them.
        target_label: Multi-hot labels that the results shall have, (n, C), for targeted attacks.
        references: Other items, for attacks that use them.
        group: (n,) group of each item, see `References.group`.
        role: What the items are for; the anchor and the references follow from it.
    """

    modality: Modality
    anchor: Int8[Tensor, "n k"]
    toward: bool = False
    label: Float[Tensor, "n c"] | None = None
    target_label: Float[Tensor, "n c"] | None = None
    references: References | None = None
    group: Int64[Tensor, " n"] | None = None
    role: Role = "query"

    def select(self, rows: Tensor | slice) -> "Goal":
        """Return the goal of some of the items; references stay whole."""
        return dataclasses.replace(
            self,
            anchor=self.anchor[rows],
            label=None if self.label is None else self.label[rows],
            target_label=None if self.target_label is None else self.target_label[rows],
            group=None if self.group is None else self.group[rows],
        )

    def to(self, device: torch.device) -> "Goal":
        """Return the goal on a device."""
        references = None if self.references is None else self.references.to(device)
        return dataclasses.replace(self, **_moved(self, device), references=references)

    def flips(self, logits: Float[Tensor, "n k"]) -> Int64[Tensor, " n"]:
        """Return how many bits serve the goal: away from the anchor, or equal to it."""
        differing = ((logits >= 0) != (self.anchor > 0)).sum(1)
        return self.anchor.shape[1] - differing if self.toward else differing

    def check(
        self, victim: Victim, x: Tensor, ids: Tensor, *, budget: Budget | None = None
    ) -> None:
        """Refuse a goal that does not fit the victim and the items.

        Args:
            victim: The victim.
            x: The items.
            ids: Their ids.
            budget: What the attack may do, where that is not to leave a ball around the items.

        Raises:
            ShapeError: lengths or code lengths differ, references do not fit, or items are out
                of range.
            ConfigError: the victim reads texts that the attack cannot change.
        """
        budget = Budget(eps=0) if budget is None else budget
        moved: TextFormat = "bag"
        if self.modality == "text":
            moved = budget.text_format(victim.model.text_format)
        check_items(self.modality, x, text=moved)
        if not len(x) == len(ids) == len(self.anchor):
            raise ShapeError(
                f"items, ids and goal must have one length, got {len(x)}, {len(ids)} and "
                f"{len(self.anchor)}"
            )
        if self.anchor.shape[1] != victim.code_length:
            raise ShapeError(
                f"the goal has codes of {self.anchor.shape[1]} bits, the victim makes "
                f"{victim.code_length}"
            )
        if self.references is not None:
            self._check_references(self.references, victim.code_length)

    def _check_references(self, references: References, code_length: int) -> None:
        m = len(references.label)
        for name in ("image", "text"):
            shape = tuple(getattr(references, name).shape)
            if shape != (m, code_length):
                raise ShapeError(
                    f"{name} codes of the references must be ({m}, {code_length}), one for each "
                    f"label row and as long as the victim's, got {shape}"
                )
        for name, label in (("items", self.label), ("targets", self.target_label)):
            if label is not None and label.shape[1:] != references.label.shape[1:]:
                raise ShapeError(
                    f"{name} have {label.shape[1]} labels, references {references.label.shape[1]}"
                )
        if (self.group is None) != (references.group is None):
            raise ShapeError("items and references must both have groups, or neither")


def _moved(value: Any, device: torch.device) -> dict[str, Any]:
    held = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return {k: v.to(device) for k, v in held.items() if isinstance(v, Tensor)}


@runtime_checkable
class Attack(Protocol):
    """A frozen dataclass that crafts adversarial items.

    Attributes:
        access: What the victim must grant.
        modalities: Items that it can attack.
        targeted: Whether it leads to items with the goal's `target_label`.
        needs_references: Whether the goal must hold labels and references. How they are
            chosen: `references` (a number, or None for the whole pool) and
            `reference_group` (neighboring items serve as each other's references), where an
            attack has them.

    An attack that can be run on database items names the roles in `roles`; without it, items
    are queries.
    """

    access: ClassVar[Access]
    modalities: ClassVar[tuple[Modality, ...]]
    targeted: ClassVar[bool]

    @property
    def needs_references(self) -> bool:
        """See above."""
        ...

    def budget(self, modality: Modality) -> Budget:
        """Return the budget for a modality."""
        ...

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial items: same shape and dtype, detached, inside the budget."""
        ...


@runtime_checkable
class TrainableAttack(Protocol):
    """A frozen dataclass of options that must see the victim before it can craft.

    It learns a generator, or a surrogate from a limited number of queries, once for all items.
    """

    access: ClassVar[Access]
    modalities: ClassVar[tuple[Modality, ...]]
    targeted: ClassVar[bool]

    def budget(self, modality: Modality) -> Budget:
        """Return the budget for a modality."""
        ...

    def fit(
        self,
        victim: Victim,
        data: RetrievalData,
        modality: Modality,
        *,
        seed: int,
        progress: Progress = SILENT,
    ) -> Attack:
        """Return the attack, trained on `data.split.train` only."""
        ...


ATTACKS: Registry[Callable[..., Attack | TrainableAttack]] = Registry("attack")


def ascend(
    victim: Victim,
    x: Tensor,
    goal: Goal,
    *,
    loss: Callable[[Float[Tensor, "n k"]], Float[Tensor, " n"]],
    budget: Budget,
    steps: int,
    step_size: float,
    start: Tensor,
    merit: Callable[[Float[Tensor, "n k"]], Tensor] | None = None,
    rule: Rule | None = None,
    alpha: Callable[[float], float] | None = None,
    penalty: Callable[[Tensor], Float[Tensor, " n"]] | None = None,
) -> Tensor:
    """Projected gradient ascent on a loss of the logits; keeps each item's best iterate.

    Best means largest `merit` of the code, the very thing retrieval sees, and among equals the
    larger loss. Steps follow the sign of the gradient (l_inf), its direction (l2) or, where
    pixels are free (l0, patch), the gradient with its largest value scaled to 1, so that the
    projection sees where it is large. The step size falls linearly to a fifth, unless there is
    a `rule`.

    Args:
        victim: Held by `victim.attacked()` by the caller.
        x: Clean items.
        goal: Decides which iterate is best.
        loss: Logits -> value per item, to be increased.
        budget: The ball to stay in.
        steps: Gradient steps.
        step_size: First step, in units of the norm (of a value for l0 and patch); unused with
            a `rule`.
        start: First iterate.
        merit: Logits -> what the code is worth, per item; bits that serve the goal by default.
        rule: A published optimizer, made anew for this call.
        alpha: Share of the steps done -> factor on the logits that `loss` sees.
        penalty: Perturbation -> value per item that the loss is reduced by.

    Returns:
        Adversarial items, detached.
    """
    layout = torch.channels_last if x.dim() == 4 else torch.contiguous_format
    x, start = (t.contiguous(memory_format=layout) for t in (x, start))
    bounds = budget.bounds(x) if budget.norm == "linf" else (x, x)
    worth = merit or goal.flips
    x_adv = best = budget.project(start, x)
    best_worth = torch.full((len(x),), -torch.inf, device=x.device, dtype=torch.float64)
    best_loss = torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)
    for step in range(steps + 1):
        x_adv = x_adv.detach().requires_grad_(step < steps)
        logits = victim.logits(goal.modality, x_adv)
        value = loss(logits if alpha is None else alpha(step / max(steps, 1)) * logits)
        if penalty is not None:
            value = value - penalty(x_adv - x)
        served, reached = worth(logits.detach()).double(), value.detach()
        better = (served > best_worth) | ((served == best_worth) & (reached > best_loss))
        best = torch.where(_per_item(better, x), x_adv.detach(), best)
        best_worth = torch.where(better, served, best_worth)
        best_loss = torch.where(better, reached, best_loss)
        if step == steps:
            break
        (gradient,) = torch.autograd.grad(value.sum(), x_adv)
        size = step_size * (1 - 0.8 * step / max(steps - 1, 1))
        if rule is not None:
            x_adv = budget.project(x_adv.detach() + rule(gradient, step), x)
        elif budget.norm == "linf":
            moved = torch.add(x_adv.detach(), gradient.sign_(), alpha=size)
            x_adv = torch.clamp(moved, *bounds, out=moved)
        else:
            order = 2.0 if budget.norm == "l2" else torch.inf
            length = gradient.flatten(1).norm(order, dim=1).clamp_min(torch.finfo(x.dtype).tiny)
            x_adv = budget.project(x_adv.detach() + size * gradient / _per_item(length, x), x)
    return best.detach().contiguous()


def _per_item(values: Tensor, x: Tensor) -> Tensor:
    """Shape one value an item so that it broadcasts over the items."""
    return values.view(-1, *[1] * (x.dim() - 1))


def check_steps(steps: int) -> None:
    """Refuse a number of steps that is no count.

    Raises:
        ConfigError: negative.
    """
    if steps < 0:
        raise ConfigError(f"steps must be at least 0, got {steps}")
