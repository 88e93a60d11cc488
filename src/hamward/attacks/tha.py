"""THA: reach the prototype code that a small network gives to any target label."""

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hamward.attacks.anchors import CodeSource, wanted_labels
from hamward.attacks.base import ATTACKS, Goal
from hamward.attacks.budget import Budget
from hamward.attacks.craft import reference_codes
from hamward.attacks.options import FormOptions, check_options
from hamward.attacks.stepping import pursue, sign_steps
from hamward.codes import binarize
from hamward.data import RetrievalData
from hamward.errors import ConfigError, ShapeError
from hamward.losses import auto_temperature
from hamward.models import Victim
from hamward.models.victim import Access
from hamward.progress import SILENT, Progress
from hamward.random import item_uniform, seeded
from hamward.types import MODALITIES, Modality

__all__ = ["THA", "PrototypeNet", "TrainedTHA", "circle_loss", "tha_official"]


class PrototypeNet(nn.Module):
    """Labels -> relaxed prototype codes: C-4096-ReLU-512-K-tanh."""

    def __init__(self, classes: int, code_length: int) -> None:
        super().__init__()
        self.classes, self.code_length = classes, code_length
        self.layers = nn.Sequential(
            nn.Linear(classes, 4096), nn.ReLU(), nn.Linear(4096, 512), nn.Linear(512, code_length)
        )

    def forward(self, label: Float[Tensor, "n c"]) -> Float[Tensor, "n k"]:
        """Return relaxed codes, (n, K)."""
        relaxed: Tensor = torch.tanh(self.layers(label))
        return relaxed


def circle_loss(
    relaxed: Float[Tensor, "t k"],
    codes: Float[Tensor, "m k"],
    similar: Float[Tensor, "t m"],
    *,
    quantization: float = 1e-4,
) -> Float[Tensor, ""]:
    """Return the loss of a batch of prototype codes.

    ( LSE_neg([s + 2]_+ s) + LSE_pos(-[2 - s]_+ s) ) / T + quantization / T sum (sign p - p)^2,
    s = p.b / K, brackets detached, each log-sum-exp over all such pairs of the batch; an empty
    one counts 0.

    Source: THA (Wang et al., SIGIR 2021), released code.
    Differs: all pairs; the released masks pass through triu, a leftover that drops those with
        reference index <= batch index.
    """
    s = relaxed @ codes.T / codes.shape[1]
    near = similar > 0
    negative = ((s.detach() + 2).clamp_min(0) * s)[~near]
    positive = (-(2 - s.detach()).clamp_min(0) * s)[near]
    pairs = sum((part.logsumexp(0) for part in (negative, positive) if len(part)), s.new_zeros(()))
    signs = binarize(relaxed.detach()).to(relaxed.dtype)
    return (pairs + quantization * (signs - relaxed).square().sum()) / len(relaxed)


@ATTACKS.register(
    "tha",
    summary="Reach a learned prototype code of the target label, scale-free",
    citation="Wang, Zhang, Lu and Xu, SIGIR 2021",
    access="gradients",
    threat="white-box, targeted, knows training codes and labels, query side",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class THA(FormOptions):
    """Options of THA: `fit` trains the prototype network on the victim's training codes.

    Source: Wang et al., "Targeted Attack and Defense for Deep Hashing", SIGIR 2021.
    Differs: `tha` uses `losses.auto_temperature`, decaying steps and 3,000 steps for the network;
        `tha-official` the mean of h' b with tanh(u) (no annealing, as its scripts run), 100 steps
        of 1/255 and 30,000 for the network. All pairs count in the loss, see `circle_loss`. In
        both: codes of the retrieved modality; labels are drawn among the distinct rows of the
        training items, the zero row left out (there: of the database).

    Attributes:
        codes: Modality of the codes that the network learns from.
        network_steps: Steps of its training.
        network_rate: Rate of its Adam (betas 0.5, 0.999), a tenth from 1/2 and again from 3/4.
        network_batch: Target labels a step.
    """

    targeted: ClassVar[bool] = True
    needs_references: ClassVar[bool] = False

    steps: int = 50
    codes: CodeSource = "other"
    network_steps: int = 3000
    network_rate: float = 1e-4
    network_batch: int = 64

    def __post_init__(self) -> None:
        check_options(self, network_rate=self.network_rate, network_batch=self.network_batch)
        if self.network_steps < 1:
            raise ConfigError(f"network_steps must be at least 1, got {self.network_steps}")

    def fit(
        self,
        victim: Victim,
        data: RetrievalData,
        modality: Modality,
        *,
        seed: int,
        progress: Progress = SILENT,
    ) -> "TrainedTHA":
        """Return the attack with a trained network; see `TrainableAttack`."""
        victim.require(self.access, "tha")
        train = data.split.train
        device = next(victim.model.parameters()).device
        made = reference_codes(victim.model, data, train)
        other: Modality = "text" if modality == "image" else "image"
        sides = {"own": (modality,), "other": (other,), "both": (other, modality)}[self.codes]
        codes = torch.cat([made[m] for m in sides]).float().to(device)
        label = data.label(train).float().repeat(len(sides), 1).to(device)
        rows = torch.unique(label, dim=0)
        rows = rows[rows.sum(1) > 0]
        if not len(rows):
            raise ConfigError("tha needs labeled training items, found none")
        with seeded(seed, "tha"):
            network = PrototypeNet(label.shape[1], codes.shape[1]).to(device)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.network_rate, betas=(0.5, 0.999))
        steps = self.network_steps
        with torch.enable_grad():
            for step in progress.track(range(steps), total=steps, label="tha: prototypes"):
                share = step / steps
                optimizer.param_groups[0]["lr"] = self.network_rate * (
                    1 if share < 0.5 else 0.1 if share < 0.75 else 0.01
                )
                number = torch.tensor([step], device=device)
                draw = item_uniform(number, (self.network_batch,), seed=seed, stream="tha-labels")
                wanted = rows[(draw[0] * len(rows)).long()]
                similar = (wanted @ label.T > 0).float()
                loss = circle_loss(network(wanted), codes, similar)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return TrainedTHA(options=self, network=network.eval().requires_grad_(False))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedTHA:
    """THA with its network.

    Attributes:
        options: How it steps.
        network: Labels -> relaxed prototype codes.
    """

    access: ClassVar[Access] = "gradients"
    modalities: ClassVar[tuple[Modality, ...]] = MODALITIES
    targeted: ClassVar[bool] = True
    needs_references: ClassVar[bool] = False

    options: THA
    network: PrototypeNet = field(repr=False)

    def budget(self, modality: Modality) -> Budget:
        """Return the l_inf ball of the modality."""
        return self.options.budget(modality)

    def prototypes(self, label: Float[Tensor, "n c"]) -> Tensor:
        """Return the prototype codes of label rows, (n, K) int8.

        Raises:
            ShapeError: another number of labels than the network learned.
        """
        network, parameter = self.network, next(self.network.parameters())
        if label.shape[1] != network.classes:
            raise ShapeError(
                f"target labels have {label.shape[1]} columns, the prototype network learned "
                f"{network.classes}"
            )
        with torch.no_grad():
            return binarize(network(label.to(parameter))).to(label.device)

    def __call__(self, victim: Victim, x: Tensor, goal: Goal, *, ids: Tensor, seed: int) -> Tensor:
        """Return adversarial items; see `Attack`."""
        victim.require(self.access, "tha")
        goal.check(victim, x, ids)
        prototype = self.prototypes(wanted_labels(goal, who="tha", targeted=True))
        if prototype.shape[1] != victim.code_length:
            raise ShapeError(
                f"the prototype network makes codes of {prototype.shape[1]} bits, the victim "
                f"{victim.code_length}: fit it on this victim"
            )
        options = self.options
        published = options.form == "published"

        def loss(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
            if published:
                return (torch.tanh(logits) * prototype).mean(1)
            return auto_temperature(logits, prototype)

        step = options.step_size * options.budget(goal.modality).eps
        return pursue(
            options,
            victim,
            x,
            dataclasses.replace(goal, anchor=prototype, toward=True),
            ids=ids,
            seed=seed,
            loss=loss,
            rule=sign_steps(step) if published else None,
        )


@ATTACKS.register(
    "tha-official",
    summary="THA with tanh(u), constant steps and the long training of the released code",
    citation="Wang et al., SIGIR 2021; released code",
    access="gradients",
    threat="white-box, targeted, knows training codes and labels, query side",
)
def tha_official(
    *,
    eps: float = 8 / 255,
    text_eps: float = 0.05,
    steps: int = 100,
    network_steps: int = 30_000,
) -> THA:
    """Return THA as its released code runs it; see `THA` for what that means."""
    return THA(
        eps=eps,
        text_eps=text_eps,
        steps=steps,
        step_size=1 / 8,
        form="published",
        network_steps=network_steps,
    )
