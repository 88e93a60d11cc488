"""Training against several attacks at once: goals of codes and labels, typed texts, a warm-up."""

from typing import Literal

from hamward.attacks import FPAD, SAAT, Attack, AttackMixture, CgAT, OwnCode
from hamward.defenses.adversarial import DEFENSES, AdversarialObjective
from hamward.defenses.sampler import AdversarialLearning
from hamward.defenses.texts import TextAttack, with_text
from hamward.errors import ConfigError
from hamward.training import Objective
from hamward.types import MODALITIES, Modality

__all__ = ["GoalName", "multi_attack_training"]

GoalName = Literal["own-code", "saat", "cgat", "fpad"]
_MAKE: dict[GoalName, type[OwnCode] | type[SAAT] | type[CgAT] | type[FPAD]] = {
    "own-code": OwnCode,
    "saat": SAAT,
    "cgat": CgAT,
    "fpad": FPAD,
}


@DEFENSES.register(
    "multi-attack",
    summary="Adversarial training in which each item meets one of several attacks, texts typed",
    citation="hamward; averaging over attacks of Tramer and Boneh, NeurIPS 2019",
    access="training",
    threat="white-box l_inf on images, typed edits or feature-space l_inf on texts",
)
def multi_attack_training(
    base: Objective,
    *,
    seed: int = 0,
    goals: tuple[GoalName, ...] = ("saat", "fpad", "own-code"),
    eps: float = 8 / 255,
    text: TextAttack = "edits",
    text_eps: float = 0.05,
    edits: int = 3,
    steps: int = 3,
    random_start: bool = True,
    weight: float = 0.5,
    refresh: int = 1,
    modalities: tuple[Modality, ...] = MODALITIES,
    references: int = 512,
    warmup: float = 0.2,
) -> AdversarialObjective:
    """Return training on clean items and on items that leave a code or their labels.

    Who withstands one goal may fall to another: leaving one's own code flips most bits, leaving
    the codes of one's labels harms retrieval most. Each item of a batch meets one of the goals,
    drawn anew every epoch; the loss is that of `AdversarialObjective`.

    Source: hamward. Averaging the loss over kinds of attacks: Tramer and Boneh, "Adversarial
        Training and Robustness for Multiple Perturbations", NeurIPS 2019 ("avg").
    Differs: there each item meets all attacks in every step; here one of them, at the cost of one.

    Args:
        base: The objective that the victim was trained with.
        seed: Seed of the attacks and of who meets which.
        goals: What pictures leave (texts too, in feature space): their own code ("own-code"), or
            codes of their labels, as the attacks of these names have them.
        eps: Image radius.
        text: What texts meet: the attacks, in feature space, or typed edits of words.
        text_eps: Radius on bags of words, in feature space.
        edits: Most insertions and most deletions of words.
        steps: Inner steps a sample; the first step is 1.25 eps over their square root.
        random_start: Start at a random point of the ball.
        weight: See `AdversarialLearning`; the trade-off of clean and robust.
        refresh: See `AdversarialLearning`.
        modalities: See `AdversarialLearning`.
        references: See `AdversarialLearning`.
        warmup: See `AdversarialLearning`.

    Raises:
        ConfigError: there is no goal, one stands twice, or a value is out of range.
    """
    if not goals or len(set(goals)) < len(goals):
        raise ConfigError(f"goals must be at least one, each once, got {list(goals)}")
    members: tuple[Attack, ...] = tuple(
        _MAKE[name](
            eps=eps,
            text_eps=text_eps,
            steps=steps,
            step_size=1.25 / max(steps, 1) ** 0.5,
            random_start=random_start,
        )
        for name in goals
    )
    attack = with_text(AttackMixture(image=members, text=members), text, edits=edits)
    config = AdversarialLearning(
        weight=weight,
        refresh=refresh,
        modalities=modalities,
        references=references,
        warmup=warmup,
    )
    return AdversarialObjective(base=base, attack=attack, config=config, seed=seed)
