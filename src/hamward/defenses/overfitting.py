"""Catastrophic overfitting: a model that withstands one step and falls to several."""

from collections.abc import Sequence
from dataclasses import dataclass

from hamward.attacks import Attack

__all__ = ["OverfittingMonitor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverfittingMonitor:
    """Compares the MAP that a one-step and a multi-step attack leave on validation items.

    Training against one step may suddenly find weights that bend the loss within one step of
    each item: the one-step attack fails and the multi-step attack succeeds as never before. In
    each direction the reference is the earlier epoch with the best multi-step MAP. An epoch is
    overfitted where the multi-step MAP fell by more than `drop` of that epoch's, and the
    one-step MAP by less than half as much. Where both fall, training fails for other reasons.

    Source: Wong, Rice and Kolter, ICLR 2020 (the phenomenon, and stopping by a multi-step attack
        on held-out items); looked at every epoch here.
    Differs: there accuracy on training items; the thresholds are ours.

    Attributes:
        one_step: The attack of one step.
        drop: Share of the best multi-step MAP.
    """

    one_step: Attack
    drop: float = 0.25

    def verdict(self, history: Sequence[dict[str, float]]) -> str:
        """Say in which way the last epoch is overfitted; "" where it is not.

        Args:
            history: Validation scores of all epochs: attacked_i2t and the like under several
                steps, one_step_i2t and the like under one.
        """
        (*before, now) = history
        for name in (n for n in now if n.startswith("attacked_") and before):
            direction = name.removeprefix("attacked_")
            one = f"one_step_{direction}"
            best = max(before, key=lambda row: row[name])  # called at once
            lost, lost_one = best[name] - now[name], best[one] - now[one]
            if lost > self.drop * best[name] and lost_one < lost / 2:
                return (
                    f"catastrophic overfitting: {direction} MAP under several steps fell from "
                    f"{best[name]:.3f} to {now[name]:.3f}, under one step from {best[one]:.3f} to "
                    f"{now[one]:.3f}. The best epoch before is kept; take variant = pgd, or a "
                    "smaller eps"
                )
        return ""
