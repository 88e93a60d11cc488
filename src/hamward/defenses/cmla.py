"""CMLA adversarial learning: the "+" models."""

from typing import Literal

from hamward.attacks import CMLA, Attack, OwnCode
from hamward.defenses.adversarial import DEFENSES, AdversarialObjective
from hamward.defenses.sampler import AdversarialLearning
from hamward.defenses.texts import TextAttack, with_text
from hamward.training import Objective
from hamward.types import Modality

__all__ = ["cmla_learning"]


@DEFENSES.register(
    "cmla",
    summary="Fine-tune on clean and adversarial items of both modalities (the + models)",
    citation="Li, Gao, Deng, Xie and Liu, NeurIPS 2019",
    access="training",
    threat="white-box l_inf on images, feature-space l_inf or typed edits on texts",
)
def cmla_learning(
    base: Objective,
    *,
    seed: int = 0,
    attack: Literal["cmla", "own-code"] = "cmla",
    eps: float = 8 / 255,
    text: TextAttack = "feature-space",
    text_eps: float = 0.05,
    edits: int = 3,
    steps: int = 2,
    intra: float = 1.0,
    weight: float = 0.5,
    refresh: int = 1,
    modalities: tuple[Modality, ...] = ("image", "text"),
    references: int = 256,
    warmup: float = 0.0,
) -> AdversarialObjective:
    """Return CMLA adversarial learning over a trained victim's objective.

    Source: Li et al., NeurIPS 2019, Sec. "adversarial learning", as in the released
        demo_AdversarialTraining.py: fine-tune the trained model on its training items and
        their adversarial versions, both modalities, with the loss it was trained with.
    Differs: released code: 5,000 samples crafted once with 500 steps (here `refresh=0`
        crafts once for all items), images paired with the wrong texts by directory order,
        permutation shorter than the enlarged set; none of this is
        copied. Here by default samples are crafted against the current model in every step
        (`refresh=1`), with few steps; the first are cheap to beat, these are not.

    Args:
        base: The objective that the victim was trained with.
        seed: Seed of the attack.
        attack: What crafts the samples: CMLA as published, or own-code PGD, which protects
            the text side far better.
        eps: Image radius.
        text: What texts meet: the attack, in feature space, or typed edits of words.
        text_eps: Radius on bags of words, in feature space.
        edits: Most insertions and most deletions of words.
        steps: Inner steps a sample; the step size reaches the border of the ball.
        intra: Weight of CMLA's intra term in the samples (published: 1; it weakens them).
        weight: See `AdversarialLearning`.
        refresh: See `AdversarialLearning`.
        modalities: See `AdversarialLearning`.
        references: See `AdversarialLearning`.
        warmup: See `AdversarialLearning`.
    """
    stride = 1.25 / max(steps, 1)
    inner: Attack
    if attack == "cmla":
        inner = CMLA(
            eps=eps,
            text_eps=text_eps,
            steps=steps,
            learning_rate=stride * eps,
            text_learning_rate=stride * text_eps,
            intra=intra,
            distance=0,
            relaxation="tanh",
        )
    else:
        inner = OwnCode(eps=eps, text_eps=text_eps, steps=steps, step_size=stride)
    crafted = with_text(inner, text, edits=edits)
    config = AdversarialLearning(
        weight=weight,
        refresh=refresh,
        modalities=modalities,
        references=references,
        warmup=warmup,
    )
    return AdversarialObjective(base=base, attack=crafted, config=config, seed=seed)
