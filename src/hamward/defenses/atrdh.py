"""ATRDH: adversarial training against targeted attacks to learned prototype codes."""

import dataclasses
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float, Int8
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from hamward.attacks.base import Goal
from hamward.attacks.options import Form
from hamward.attacks.prototypes import step_decay
from hamward.attacks.tha import PrototypeNet, circle_loss
from hamward.codes import binarize
from hamward.defenses.adversarial import DEFENSES
from hamward.defenses.guided import GuidedObjective, guided, retrieved
from hamward.defenses.texts import TextAttack
from hamward.errors import ConfigError
from hamward.random import item_uniform, seeded
from hamward.training import Objective, Step
from hamward.training.dph import dph_loss
from hamward.training.requirements import check_not_negative
from hamward.types import Modality

__all__ = ["PrototypeGuide", "atrdh_training"]


@final
@dataclass(kw_only=True)
class PrototypeGuide:
    """Reach the prototype code of a random label; c mean_ij (u'_i . U_j / K - (2 S_ij - 1))^2.

    The prototype network of THA learns along, one Adam step (betas 0.5, 0.999) in every step of
    the training; weights and moments are kept among the buffers.

    Attributes:
        c: Weight of the robust term.
        rate: Of the network's Adam; a tenth from 1/2 of the steps and again from 3/4.
        seed: Seed of its first weights and of the target labels.
    """

    c: float = 1.0
    rate: float = 1e-4
    seed: int = 0
    networks: dict[Modality, PrototypeNet] = field(default_factory=dict, init=False)

    def aim(self, goal: Goal, step: Step, buffers: dict[str, Tensor]) -> Goal:
        """Return the goal of reaching the prototypes of drawn labels; see `Guide`."""
        if goal.references is None:
            raise ConfigError("atrdh needs a goal with reference items, got none")
        label = goal.references.label
        rows = torch.unique(label, dim=0)
        rows = rows[rows.any(1)]
        stream = f"atrdh/{goal.modality}/{step.number}"
        draw = item_uniform(step.ids, (1,), seed=self.seed, stream=stream)[:, 0]
        wanted = rows[(draw * len(rows)).long()]
        prototypes = self._learn(goal, wanted, step, buffers)
        return dataclasses.replace(goal, anchor=prototypes, target_label=wanted, toward=True)

    def _learn(
        self, goal: Goal, wanted: Tensor, step: Step, buffers: dict[str, Tensor]
    ) -> Int8[Tensor, "b k"]:
        """Take the network's step on these targets; return their prototype codes after it."""
        codes, label = retrieved(goal), goal.references.label  # type: ignore[union-attr]
        key, device = f"atrdh/{goal.modality}", label.device
        if goal.modality not in self.networks:
            with seeded(self.seed, key):
                network = PrototypeNet(label.shape[1], codes.shape[1])
            self.networks[goal.modality] = network.to(device)
        network = self.networks[goal.modality]
        if f"{key}/weights" not in buffers:
            drawn = parameters_to_vector(network.parameters()).detach().clone()
            buffers[f"{key}/weights"] = drawn
            buffers[f"{key}/first"] = torch.zeros_like(drawn)
            buffers[f"{key}/second"] = torch.zeros_like(drawn)
            buffers[f"{key}/steps"] = torch.tensor(0)
        weights, first, second = (buffers[f"{key}/{n}"] for n in ("weights", "first", "second"))
        vector_to_parameters(weights, network.parameters())  # views: moving one moves the other
        similar = (wanted @ label.T > 0).to(label.dtype)
        with torch.enable_grad():
            loss = circle_loss(network(wanted), codes.to(label.dtype), similar)
            parts = torch.autograd.grad(loss, list(network.parameters()))
        gradient = torch.cat([part.flatten() for part in parts])
        count = int(buffers[f"{key}/steps"]) + 1
        buffers[f"{key}/steps"] = torch.tensor(count)
        first.lerp_(gradient, 1 - 0.5)
        second.lerp_(gradient.square(), 1 - 0.999)
        size = (second / (1 - 0.999**count)).sqrt_().add_(1e-8)
        rate = self.rate * step_decay(step.number, step.total)
        weights.addcdiv_(first / (1 - 0.5**count), size, value=-rate)
        with torch.no_grad():
            return binarize(network(wanted))

    def cost(self, logits: Float[Tensor, "b k"], goal: Goal) -> Float[Tensor, ""]:
        """Return c times DPH's loss, between TRUE labels."""
        if goal.references is None or goal.label is None:
            raise ConfigError("atrdh needs a goal with labels and reference items")
        relaxed = torch.tanh(logits)
        similar = (goal.label @ goal.references.label.T > 0).to(relaxed.dtype)
        return self.c * dph_loss(relaxed, retrieved(goal).to(relaxed.dtype), similar)


@DEFENSES.register(
    "atrdh",
    summary="Keep items alike that a targeted attack pulls to the prototypes of other labels",
    citation="Wang, Zhang, Lu and Xu, SIGIR 2021",
    access="training",
    threat="white-box l_inf on images, feature-space l_inf or typed edits on texts; targeted "
    "attacker",
)
def atrdh_training(
    base: Objective,
    *,
    seed: int = 0,
    eps: float = 8 / 255,
    text: TextAttack = "feature-space",
    text_eps: float = 0.05,
    edits: int = 3,
    steps: int = 7,
    form: Form = "scale-free",
    c: float = 1.0,
    network_rate: float = 1e-4,
    modalities: tuple[Modality, ...] = ("image", "text"),
    warmup: float = 0.0,
) -> GuidedObjective:
    """Return ATRDH over a trained victim's objective.

    L_hash(u) + c mean_ij (u'_i . U_j / K - (2 S_ij - 1))^2, in DPH's form whatever the victim,
    with x' pulled to the prototype code of a random label.

    Source: Wang et al., "Targeted Attack and Defense for Deep Hashing", SIGIR 2021, released
        code (c = 1) and its re-implementation in SAAT (c = 2).
    Differs: U_j are the codes of the training items in the retrieved modality (there: relaxed
        outputs of the one modality), since victims remember outputs on scales of their own.
        Labels are drawn among the distinct rows of the training items, the zero row left out
        (there: of the database). All pairs count in the network's loss, see `circle_loss`. 100
        epochs of Adam 1e-4; here what `fit` runs. The validation attack leaves the item's own
        code, since it has no target.

    Args:
        base: The objective that the victim was trained with.
        seed: Seed of attack, targets and network.
        eps: Image radius.
        text: What texts meet: the attack, in feature space, or typed edits of words.
        text_eps: Radius on bags of words, in feature space.
        edits: Most insertions and most deletions of words.
        steps: Inner steps of eps / 4 (published: 7 steps of 2/255).
        form: See `CodePGD`.
        c: Weight of the robust term.
        network_rate: Rate of the prototype network (published: 1e-4).
        modalities: Sides that are perturbed.
        warmup: See `AdversarialLearning`.

    Raises:
        ConfigError: a value is out of range.
    """
    check_not_negative("atrdh", c=c, network_rate=network_rate)
    return guided(
        base,
        PrototypeGuide(c=c, rate=network_rate, seed=seed),
        active=c > 0,
        seed=seed,
        eps=eps,
        text=text,
        text_eps=text_eps,
        edits=edits,
        steps=steps,
        form=form,
        modalities=modalities,
        warmup=warmup,
    )
