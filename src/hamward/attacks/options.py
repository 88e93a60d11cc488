"""The options that most attacks share, each written and checked once."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from hamward.attacks.base import check_steps
from hamward.attacks.budget import Budget
from hamward.errors import ConfigError
from hamward.models.victim import Access
from hamward.types import MODALITIES, Modality

__all__ = ["BallOptions", "Form", "FormOptions", "StepOptions", "check_options"]

Form = Literal["scale-free", "published"]
"""Whether a loss reads logits by their median magnitude, so that no factor on the last layer
matters, or tanh of them with the published schedule and optimizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BallOptions:
    """Radii of l_inf balls.

    Attributes:
        eps: Image radius in [0, 1].
        text_eps: Radius for bags of words, a feature-space attack: no text has fractional
            words.
    """

    modalities: ClassVar[tuple[Modality, ...]] = MODALITIES
    targeted: ClassVar[bool] = False
    needs_references: ClassVar[bool] = False

    eps: float = 8 / 255
    text_eps: float = 0.05

    def __post_init__(self) -> None:
        self.budget("image"), self.budget("text")

    def budget(self, modality: Modality) -> Budget:
        """Return the l_inf ball of radius eps (images) or text_eps (bags of words)."""
        return Budget(eps=self.eps if modality == "image" else self.text_eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions(BallOptions):
    """Gradient steps from reference codes, as `stepping.pursue` takes them.

    Attributes:
        steps: Gradient steps.
        step_size: First step relative to eps. Published forms take it for every step, or leave
            it to an optimizer of their own.
        random_start: Start at a random point of the ball instead of the clean item.
    """

    access: ClassVar[Access] = "gradients"
    needs_references: ClassVar[bool] = True

    steps: int = 20
    step_size: float = 0.4
    random_start: bool = False

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class FormOptions(StepOptions):
    """The choice between our form of a published attack and its own.

    Attributes:
        form: Scale-free, or as published.
    """

    form: Form = "scale-free"


def check_options(attack: StepOptions, **positive: float) -> None:
    """Refuse steps, radii and rates that make no sense.

    Raises:
        ConfigError: negative steps, or a step size or a value of `positive` that is not positive.
        BudgetError: a radius out of range.
    """
    check_steps(attack.steps)
    attack.budget("image"), attack.budget("text")
    for name, value in {"step_size": attack.step_size, **positive}.items():
        if not value > 0:
            raise ConfigError(f"{name} must be positive, got {value:g}")
