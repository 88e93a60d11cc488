"""How training perturbs the pictures and texts of one batch together, one gradient at a time."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hamward.attacks import Budget, FastEdits, check_steps, edit_limits, make_edits
from hamward.defenses.texts import TextAttack, scaled_edits
from hamward.errors import ConfigError
from hamward.random import item_uniform
from hamward.training import Step
from hamward.types import Modality

__all__ = ["InnerLoop", "Perturbation", "Role", "Variant"]

Role = Literal["query", "candidate", "both"]
Variant = Literal["pgd", "free", "fast"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InnerLoop:
    """How both modalities of a batch are perturbed.

    Attributes:
        variant: "pgd": `steps` steps from a random start. "fast": one step of 1.25 eps from a
            random start. "free": each batch is trained on `replays` times in a row, and the
            gradient of one replay moves the items of the next by eps.
        eps: Image radius.
        text: What texts meet: steps in feature space, or typed edits of words.
        text_eps: Radius on bags of words, in feature space.
        edits: Most insertions and most deletions of words; both are drawn for each text.
        steps: Steps of "pgd", each of 2.5 eps / steps.
        replays: Of "free".
        role: Items are perturbed as queries, as candidates, or both.
        temperature: Of the inner loss; None takes the learned one.
    """

    variant: Variant = "pgd"
    eps: float = 8 / 255
    text: TextAttack = "edits"
    text_eps: float = 0.05
    edits: int = 3
    steps: int = 5
    replays: int = 4
    role: Role = "both"
    temperature: float | None = None

    def __post_init__(self) -> None:
        check_steps(self.steps)
        self.budget("image"), self.budget("text")
        if self.replays < 2:
            raise ConfigError(f"replays must be at least 2, got {self.replays}")
        if self.temperature is not None and not self.temperature > 0:
            raise ConfigError(f"temperature must be positive, got {self.temperature:g}")

    @property
    def stride(self) -> float:
        """Size of a step, relative to eps."""
        return {"pgd": 2.5 / max(self.steps, 1), "fast": 1.25, "free": 1.0}[self.variant]

    @property
    def i2t(self) -> float:
        """Share of the inner loss in which a perturbed picture asks."""
        return {"query": 1.0, "candidate": 0.0, "both": 0.5}[self.role]

    @property
    def count(self) -> int:
        """Moves of an item: gradient steps, or changes of replay."""
        return {"pgd": self.steps, "fast": 1, "free": self.replays - 1}[self.variant]

    def budget(self, modality: Modality) -> Budget:
        """Return the ball, or the budget of edits."""
        if modality == "text" and self.text == "edits":
            return Budget.edits(insertions=self.edits, deletions=self.edits)
        return Budget(eps=self.eps if modality == "image" else self.text_eps)


@dataclass(kw_only=True)
class Perturbation:
    """A batch on its way: clean items, where they are now, and how far they may go.

    Attributes:
        inner: How items move.
        clean: Clean items of the perturbed modalities.
        now: Where they are.
        size: Factor on all budgets, in a warm-up.
        limits: Most insertions and deletions of each text, (b, 2).
        made: Moves so far.
    """

    inner: InnerLoop
    clean: dict[Modality, Tensor]
    now: dict[Modality, Tensor]
    size: float
    limits: Tensor
    made: int = 0

    @classmethod
    def start(
        cls, inner: InnerLoop, items: dict[Modality, Tensor], step: Step, *, size: float, seed: int
    ) -> "Perturbation":
        """Return items at random points of their balls; texts to be edited as they are."""
        limits = torch.zeros(len(step.ids), 2, dtype=torch.int64, device=step.ids.device)
        now = {}
        for modality, x in items.items():
            budget = inner.budget(modality)
            if budget.norm == "edits":
                most = scaled_edits(FastEdits(insertions=inner.edits, deletions=inner.edits), size)
                limits = edit_limits(step.ids, most.budget("text"), seed=seed)
                now[modality] = x
            else:
                noise = item_uniform(step.ids, x.shape[1:], seed=seed, stream=modality).to(x.dtype)
                now[modality] = (x + (2 * noise - 1) * size * budget.eps).clamp(0, 1)
        return cls(inner=inner, clean=items, now=now, size=size, limits=limits)

    def leaves(self) -> dict[Modality, Tensor]:
        """Return the items as they are now, ready to take gradients."""
        self.now = {m: x.detach().clone().requires_grad_(True) for m, x in self.now.items()}
        return self.now

    def move(self, gradients: dict[Modality, Tensor]) -> None:
        """Take a step in all modalities at once."""
        share = 1 / (self.inner.count - self.made)
        for modality, gradient in gradients.items():
            x, now = self.clean[modality], self.now[modality].detach()
            budget = self.inner.budget(modality)
            if budget.norm == "edits":
                moved = make_edits(now, x, gradient, limits=self.limits, share=share)
            else:
                radius = self.size * budget.eps
                moved = now + self.inner.stride * radius * gradient.sign()
                moved = Budget(eps=radius).project(moved, x)
            self.now[modality] = moved
        self.made += 1
