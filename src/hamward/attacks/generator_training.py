"""Training a generator that leads pictures to prototype codes of target labels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hamward.attacks.prosgan_networks import Discriminator, check_width
from hamward.data import RetrievalData
from hamward.errors import ConfigError, TrainingError
from hamward.losses import auto_temperature
from hamward.models import Victim
from hamward.models.networks import bf16_supported
from hamward.progress import SILENT, Progress
from hamward.random import item_uniform, permutation, seeded

__all__ = [
    "Closeness",
    "Condition",
    "GeneratorRecipe",
    "Output",
    "adversarial_loss",
    "closeness_loss",
    "discriminator_loss",
    "linear_decay",
    "picture_of",
    "reconstruction_loss",
    "train_generator",
]

Closeness = Literal["tanh", "square", "auto"]
Output = Literal["bounded", "picture"]
Condition = Callable[
    [Int64[Tensor, " n"]],
    tuple[Float[Tensor, "n c"], Float[Tensor, "n ..."], Float[Tensor, "n k"]],
]
"""Numbers of targets -> their labels, what the generator reads of them, and codes to reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorRecipe:
    """How a generator is trained.

    Attributes:
        epochs: Passes over the training pictures.
        decay_epochs: The last ones of them, in which the learning rate falls linearly.
        batch_size: Pictures a step.
        learning_rate: Of generator and discriminator (Adam, betas 0.5 and 0.999).
        width: Channels of the first layer of generator and discriminator.
        discriminator_period: The discriminator learns in every such batch.
        reconstruction_weight: Weight of the mean squared error in [-1, 1] units.
        hamming_weight: Weight of the term that approaches the code.
        adversarial_weight: Weight of the discriminator's verdict; 0 trains without one.
        closeness: Form of the term that approaches the code.
        output: "picture": the generator paints a whole picture; "bounded": it chooses each
            value between the two bounds that eps and the box leave.
        eps: l_inf radius, or None for no bound.
    """

    epochs: int
    decay_epochs: int
    batch_size: int
    learning_rate: float
    width: int
    discriminator_period: int
    reconstruction_weight: float
    hamming_weight: float
    adversarial_weight: float
    closeness: Closeness
    output: Output
    eps: float | None

    def __post_init__(self) -> None:
        check_width(self.width)
        for name in ("epochs", "batch_size", "discriminator_period"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.decay_epochs <= self.epochs:
            raise ConfigError(
                f"decay_epochs must be in [0, epochs = {self.epochs}], got {self.decay_epochs}"
            )
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate must be positive, got {self.learning_rate:g}")
        for name in ("reconstruction_weight", "hamming_weight", "adversarial_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, got {getattr(self, name):g}")
        if self.output == "bounded" and self.eps is None:
            raise ConfigError("output = 'bounded' needs an eps; 'picture' can do without")


def picture_of(
    raw: Float[Tensor, "n 3 s s"],
    x: Float[Tensor, "n 3 s s"],
    *,
    output: Output,
    eps: float | None,
) -> Float[Tensor, "n 3 s s"]:
    """Return the picture in [0, 1] that a generator's raw output stands for.

    "picture": (tanh(raw) + 1) / 2, wherever x is. "bounded": low + (high - low) (tanh(raw) + 1)
    / 2 between low = max(x - eps, 0) and high = min(x + eps, 1), so that white pixels, which
    can only get darker, keep a gradient.
    """
    share = (torch.tanh(raw) + 1) / 2
    if output == "picture" or eps is None:
        return share
    low, high = (x - eps).clamp_min(0), (x + eps).clamp_max(1)
    return low + (high - low) * share


def closeness_loss(
    logits: Float[Tensor, "n k"], code: Float[Tensor, "n k"], *, form: Closeness
) -> Float[Tensor, ""]:
    """Mean distance of outputs from codes, 0 where they agree fully.

    "tanh": 1 - mean(h b), h = tanh(u), of CVPR 2021 and TA-DCH; "square": mean((h b - 1)^2), of
    the TMM form, in which bits that are right stop pulling; "auto": 1 - mean of
    `auto_temperature`, which no rescaling of the logits can hide (ours).
    """
    if form == "auto":
        return 1 - auto_temperature(logits, code).mean() / code.shape[1]
    agreement = torch.tanh(logits) * code
    return (agreement - 1).square().mean() if form == "square" else 1 - agreement.mean()


def reconstruction_loss(
    x_adv: Float[Tensor, "n 3 s s"], x: Float[Tensor, "n 3 s s"]
) -> Float[Tensor, ""]:
    """Mean squared error in [-1, 1] units: 4 times that of pictures in [0, 1]."""
    return 4 * (x_adv - x).square().mean()


def adversarial_loss(
    verdict: Float[Tensor, "n d"], label: Float[Tensor, "n c"], *, fake: bool
) -> Float[Tensor, ""]:
    """Mean squared error of a discriminator's C + 1 outputs from [label, 1 if fake else 0]."""
    unit = label.new_full((len(label), 1), float(fake))
    return (verdict - torch.cat([label, unit], 1)).square().mean()


def discriminator_loss(
    real: Float[Tensor, "n d"],
    made: Float[Tensor, "n d"],
    *,
    label: Float[Tensor, "n c"],
    target_label: Float[Tensor, "n c"],
) -> Float[Tensor, ""]:
    """Half the sum of errors: real pictures have their labels, made ones the target's."""
    return 0.5 * (
        adversarial_loss(real, label, fake=False) + adversarial_loss(made, target_label, fake=True)
    )


def linear_decay(epoch: int, *, epochs: int, decay_epochs: int) -> float:
    """Return the factor of the learning rate in an epoch counted from 0."""
    constant = epochs - decay_epochs
    return 1 - max(0, epoch + 1 - constant) / (decay_epochs + 1)


def train_generator(
    victim: Victim,
    data: RetrievalData,
    generator: nn.Module,
    *,
    condition: Condition,
    targets: int,
    recipe: GeneratorRecipe,
    seed: int,
    progress: Progress = SILENT,
    label: str = "generator",
) -> None:
    """Train a generator in place on `data.split.train` and leave it frozen, in eval mode.

    Each training picture gets a fresh target in each epoch, uniform over all targets, which may
    share labels with the picture. The discriminator exists in training only.

    Args:
        victim: Grants gradients; every training picture is charged once an epoch.
        data: Holds the training pictures.
        generator: (picture in [-1, 1], what the condition gives) -> raw output.
        condition: Targets by number.
        targets: How many there are.
        recipe: Weights, schedule, form of the output.
        seed: Order, targets and the discriminator's weights.
        progress: Watches the steps.
        label: Name for the progress display.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    weight = next(victim.model.parameters())
    positions = data.split.train
    with seeded(seed, f"{label} discriminator"):
        judge = Discriminator(
            image_side=data.image_side, labels=data.labels.shape[1], width=recipe.width
        ).to(weight)
    moving, judging = (_adam(net.train(), recipe.learning_rate) for net in (generator, judge))
    fast = victim.low_precision and bf16_supported(weight.device)

    def run(net: nn.Module, *inputs: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, torch.bfloat16, enabled=fast):
            made: Tensor = net(*inputs)
        return made.to(weight.dtype)

    batches = list(_batches(len(positions), recipe=recipe, seed=seed, label=label))
    with victim.attacked():
        for epoch, number, rows in progress.track(batches, total=len(batches), label=label):
            decay = linear_decay(epoch, epochs=recipe.epochs, decay_epochs=recipe.decay_epochs)
            for optimizer in (moving, judging):
                optimizer.param_groups[0]["lr"] = recipe.learning_rate * decay
            chosen = positions[rows.numpy()]
            x = data.inputs("image", chosen).to(weight)
            ids = torch.tensor(data.ids[chosen])
            share = item_uniform(ids, (), seed=seed, stream=f"{label} target{epoch}")
            target_label, feature, code = condition((share * targets).long().to(weight.device))
            raw = run(generator, 2 * x - 1, feature)
            x_adv = picture_of(raw, x, output=recipe.output, eps=recipe.eps)
            logits = victim.logits("image", x_adv)
            loss = recipe.hamming_weight * closeness_loss(logits, code, form=recipe.closeness)
            if recipe.reconstruction_weight:
                loss = loss + recipe.reconstruction_weight * reconstruction_loss(x_adv, x)
            if recipe.adversarial_weight:
                if number % recipe.discriminator_period == 0:
                    real, made = run(judge, 2 * x - 1), run(judge, 2 * x_adv.detach() - 1)
                    own = data.label(chosen).to(weight)
                    _step(
                        judging,
                        discriminator_loss(real, made, label=own, target_label=target_label),
                    )
                verdict = run(judge.requires_grad_(False), 2 * x_adv - 1)
                judge.requires_grad_(True)
                fooled = adversarial_loss(verdict, target_label, fake=False)
                loss = loss + recipe.adversarial_weight * fooled
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"{label}: the loss is {float(loss.detach())} in epoch {epoch + 1}: lower the "
                    f"learning rate {recipe.learning_rate:g}"
                )
            _step(moving, loss)
    generator.requires_grad_(False).eval()
    moving.zero_grad(set_to_none=True)


def _batches(
    items: int, *, recipe: GeneratorRecipe, seed: int, label: str
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (epoch, number in the epoch, rows): every epoch in its own shuffled order."""
    for epoch in range(recipe.epochs):
        order = permutation(items, seed=seed, stream=f"{label}{epoch}")
        for number, rows in enumerate(torch.split(order, recipe.batch_size)):
            yield epoch, number, rows


def _adam(module: nn.Module, rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), lr=rate, betas=(0.5, 0.999), fused=True)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
