"""What texts meet in adversarial training: fractions of words, or edits as a person could type."""

import dataclasses
import math
from typing import Any, Literal

from hamward.attacks import Attack, AttackMixture, FastEdits

__all__ = ["TextAttack", "scaled_edits", "typed_edits", "with_text"]

TextAttack = Literal["feature-space", "edits"]
"""Whether the attack on pictures also moves bags of words, within its radius for them, or words
are inserted and deleted."""


def with_text(attack: Attack, text: TextAttack, *, edits: int, steps: int = 2) -> Attack:
    """Return an attack whose side for texts is chosen apart from that for pictures.

    Args:
        attack: On pictures; on texts, too, in feature space.
        text: What texts meet.
        edits: Most insertions and most deletions; both numbers are drawn for each text.
        steps: Gradients of a text's edits.
    """
    if text == "feature-space":
        return attack
    images = attack.image if isinstance(attack, AttackMixture) else (attack,)
    return AttackMixture(image=images, text=(typed_edits(edits, steps=steps),))


def typed_edits(most: int, *, steps: int = 2) -> FastEdits:
    """Return edits for training: so many insertions and deletions at most, drawn for each text."""
    return FastEdits(insertions=most, deletions=most, steps=steps, drawn=True)


def scaled_edits(attack: FastEdits, factor: float) -> FastEdits:
    """Return edits with a share of their budget, rounded up."""
    counts: dict[str, Any] = {
        name: math.ceil(factor * getattr(attack, name)) for name in ("insertions", "deletions")
    }
    return dataclasses.replace(attack, **counts)
