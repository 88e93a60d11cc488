"""Losses, networks and the last two stages of EQB2A; see `hamward.attacks.eqb2a`."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from hamward.data import RetrievalData
from hamward.errors import ConfigError
from hamward.models import HashModel
from hamward.progress import Progress
from hamward.random import permutation

__all__ = [
    "BATCH",
    "SPREAD",
    "Discriminator",
    "Generators",
    "ImageGenerator",
    "PerturbationGenerator",
    "QueryLog",
    "Supervisor",
    "alienation",
    "binary_gap",
    "normalized_distance",
    "rank_hinge",
]

SPREAD = 5  # items at 0, 25, 50, 75 and 100 % of a list; also how many near items are used
MARGIN, BALANCE, QUANTIZATION = 0.1, 0.01, 0.001  # stage A
APART_B, APART_C, RECONSTRUCTION = 0.5, 0.8, 20.0  # stages B and C
BATCH, RATE, BETAS = 24, 1e-4, (0.5, 0.999)


def normalized_distance(a: Float[Tensor, "*n k"], b: Float[Tensor, "*n k"]) -> Float[Tensor, "*n"]:
    """Return dn(a, b) = (1 - a.b / K) / 2, the relaxed Hamming distance as a share of K."""
    return (1 - (a * b).sum(-1) / a.shape[-1]) / 2


def rank_hinge(better: Tensor, worse: Tensor, gap: Tensor) -> Tensor:
    """Return max(0, (dn(a, r1) - dn(a, r2)) / g + 0.1) for r1 ranked g steps above r2.

    Source: EQB2A's released code, MarginRankingLoss with target -1/g.

    Example:
        >>> d1, d2, g = torch.tensor([0.2, 0.5]), torch.tensor([0.6, 0.4]), torch.tensor([4, 1])
        >>> [round(v, 3) for v in rank_hinge(d1, d2, g).tolist()]
        [0.0, 0.2]
    """
    return ((better - worse) / gap + MARGIN).clamp_min(0)


def alienation(
    codes: Float[Tensor, "n k"], near: Float[Tensor, "n m k"], *, apart: float
) -> Float[Tensor, " n"]:
    """Return sum_j max(0, apart - dn(h, t_j)): how far an item still is from leaving its texts."""
    return (apart - normalized_distance(codes[:, None].expand_as(near), near)).clamp_min(0).sum(1)


def binary_gap(codes: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """Return L_q: the mean squared difference between relaxed codes and their signs."""
    return (codes - torch.where(codes >= 0, 1.0, -1.0)).square().mean()


def _check_side(side: int) -> None:
    if side < 8 or side % 4:
        raise ConfigError(
            f"eqb2a halves pictures twice: the side must be a multiple of 4 from 8, got {side}"
        )


def _block(convolution: nn.Module, channels: int) -> list[nn.Module]:
    return [convolution, nn.InstanceNorm2d(channels), nn.ReLU()]


class _Residual(nn.Module):
    def __init__(self, channels: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1),
            norm(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1),
            norm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y


class PerturbationGenerator(nn.Module):
    """PG: pictures in [-1, 1] -> perturbations >= 0, (n, 3, S, S).

    Source: released code of EQB2A. Kernels that are UNKNOWN to us are 3x3.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_block(nn.Conv2d(3, 8, 3, 1, 1), 8),
            *_block(nn.Conv2d(8, 16, 4, 2, 1), 16),
            *_block(nn.Conv2d(16, 32, 4, 2, 1), 32),
            _Residual(32, nn.BatchNorm2d),
            _Residual(32, nn.BatchNorm2d),
            nn.Upsample(scale_factor=2),
            *_block(nn.Conv2d(32, 16, 3, 1, 1), 16),
            nn.Upsample(scale_factor=2),
            *_block(nn.Conv2d(16, 8, 3, 1, 1), 8),
            *_block(nn.Conv2d(8, 3, 3, 1, 1), 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return perturbations."""
        perturbation: Tensor = self.layers(x)
        return perturbation


class Supervisor(nn.Module):
    """PS: perturbations -> a relaxed code, (n, K). Source: released code of EQB2A."""

    def __init__(self, side: int, code_length: int) -> None:
        super().__init__()
        _check_side(side)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 4, 2, 1),
            nn.BatchNorm2d(6),
            nn.Tanh(),
            nn.Conv2d(6, 12, 4, 2, 1),
            nn.BatchNorm2d(12),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(12 * (side // 4) ** 2, 4096),
            nn.Tanh(),
            nn.Linear(4096, 1024),
            nn.Linear(1024, 512),
            nn.Tanh(),
            nn.Linear(512, code_length),
            nn.Tanh(),
        )

    def forward(self, perturbation: Tensor) -> Tensor:
        """Return relaxed codes."""
        code: Tensor = self.layers(perturbation)
        return code


class ImageGenerator(nn.Module):
    """IG: pictures in [-1, 1] and their perturbations -> values in (-1, 1), (n, 3, S, S).

    Source: released code of EQB2A.
    """

    def __init__(self) -> None:
        super().__init__()
        translate: list[nn.Module] = []
        for _ in range(4):
            translate += _block(nn.Conv2d(3, 3, 3, 1, 1, bias=False), 3)
        self.translate = nn.Sequential(*translate)
        self.layers = nn.Sequential(
            *_block(nn.Conv2d(6, 64, 7, 1, 3), 64),
            *_block(nn.Conv2d(64, 128, 4, 2, 1), 128),
            *_block(nn.Conv2d(128, 256, 4, 2, 1), 256),
            *(_Residual(256, nn.InstanceNorm2d) for _ in range(6)),
            *_block(nn.ConvTranspose2d(256, 128, 4, 2, 1), 128),
            *_block(nn.ConvTranspose2d(128, 64, 4, 2, 1), 64),
        )
        self.last = nn.Conv2d(67, 3, 3, 1, 1)

    def forward(self, x: Tensor, perturbation: Tensor) -> Tensor:
        """Return values in (-1, 1)."""
        y = self.layers(torch.cat([x, self.translate(perturbation)], 1))
        return torch.tanh(self.last(torch.cat([y, x], 1)))


class Discriminator(nn.Module):
    """D: pictures in [-1, 1] -> one value each; real is 0, fake is 1.

    Source: released code of EQB2A, made for side 224 (five halvings, then 7x7). Smaller pictures
    are halved as often as they can be, up to five times.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        _check_side(side)
        layers: list[nn.Module] = []
        inputs, width = 3, 64
        for _ in range(5):
            if side < 2:
                break
            convolution = nn.Conv2d(inputs, width, 4, 2, 1)
            layers += [spectral_norm(convolution), nn.LeakyReLU(0.01)]
            inputs, width, side = width, width * 2, side // 2
        self.layers = nn.Sequential(*layers, nn.Conv2d(inputs, 1, side))

    def forward(self, x: Tensor) -> Tensor:
        """Return one value a picture."""
        value: Tensor = self.layers(x).flatten(1)[:, 0]
        return value


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QueryLog:
    """The submitted pictures, their lists, and the surrogate's view of what they name.

    Attributes:
        data: Holds the pictures.
        positions: The submitted pictures.
        lists: Database positions as ranked by the victim, (m, k).
        database: Relaxed surrogate codes of the database texts, (n, K).
    """

    data: RetrievalData
    positions: NDArray[np.int64]
    lists: Int64[Tensor, "m shown"]
    database: Float[Tensor, "n k"]

    def batches(self, epochs: int, *, seed: int, stream: str) -> list[Tensor]:
        """Return the rows of every batch of a stage, each epoch in its own order."""
        size = min(BATCH, len(self.positions))
        rows: list[Tensor] = []
        for epoch in range(epochs):
            order = permutation(len(self.positions), seed=seed, stream=f"{stream} {epoch}")
            rows += torch.split(order[: len(order) - len(order) % size], size)
        return rows

    def pictures(self, rows: Tensor, like: Tensor) -> Tensor:
        """Return submitted pictures in [0, 1]."""
        return self.data.inputs("image", self.positions[rows.numpy()]).to(like)

    def near(self, rows: Tensor, like: Tensor) -> Tensor:
        """Return relaxed codes of the five texts that each list names first, (n, 5, K)."""
        return self.database[self.lists[rows, :SPREAD]].to(like)

    def spread(self, rows: Tensor, like: Tensor) -> Tensor:
        """Return relaxed codes of the five texts spread over each list, (n, 5, K)."""
        at = torch.linspace(0, self.lists.shape[1] - 1, SPREAD).long()
        return self.database[self.lists[rows][:, at]].to(like)


class Generators(nn.Module):
    """PG, PS, IG and D with the stages that train them.

    Args:
        side: Side of the pictures.
        code_length: Bits K of the surrogate.
        eps: Bound of the image generator's change, or None for the published head.
    """

    def __init__(self, side: int, code_length: int, *, eps: float | None) -> None:
        super().__init__()
        self.eps = eps
        self.perturb = PerturbationGenerator()
        self.supervise = Supervisor(side, code_length)
        self.generate = ImageGenerator()
        self.judge = Discriminator(side)

    def forward(self, x: Tensor) -> Tensor:
        """Return adversarial pictures in [0, 1] of clean ones."""
        signed = 2 * x - 1
        made: Tensor = self.generate(signed, self.perturb(signed))
        return (made + 1) / 2 if self.eps is None else (x + self.eps * made).clamp(0, 1)

    def train_perturbations(
        self, log: QueryLog, epochs: int, *, seed: int, progress: Progress
    ) -> None:
        """Stage B: codes of perturbations that reverse lists and are far from near texts."""
        networks = nn.ModuleList([self.perturb, self.supervise]).train()
        optimizer = torch.optim.Adam(networks.parameters(), lr=RATE, betas=BETAS)
        like = next(self.parameters())
        better, worse = torch.triu_indices(SPREAD, SPREAD, 1, device=like.device)
        batches = log.batches(epochs, seed=seed, stream="eqb2a perturbations")
        label = "eqb2a: perturbations"
        for rows in progress.track(batches, total=len(batches), label=label):
            codes = self.supervise(self.perturb(2 * log.pictures(rows, like) - 1))
            spread = log.spread(rows, like)
            distance = normalized_distance(codes[:, None].expand_as(spread), spread)
            reverse = (MARGIN - (distance[:, better] - distance[:, worse])).clamp_min(0).mean()
            apart = alienation(codes, log.near(rows, like), apart=APART_B).mean()
            _step(optimizer, reverse + apart + QUANTIZATION * binary_gap(codes))

    def train_images(
        self, log: QueryLog, surrogate: HashModel, epochs: int, *, seed: int, progress: Progress
    ) -> None:
        """Stage C: pictures that leave their near texts and look like the clean ones."""
        self.perturb.eval()
        generator = torch.optim.Adam(self.generate.parameters(), lr=RATE, betas=BETAS)
        judge = torch.optim.Adam(self.judge.parameters(), lr=RATE, betas=BETAS)
        like = next(self.parameters())
        batches = log.batches(epochs, seed=seed, stream="eqb2a images")
        tracked = progress.track(batches, total=len(batches), label="eqb2a: images")
        for number, rows in enumerate(tracked):
            x = log.pictures(rows, like)
            x_adv = self(x)
            codes = torch.tanh(surrogate.logits("image", x_adv, low_precision=True))
            self.judge.requires_grad_(False)
            loss = alienation(codes, log.near(rows, like), apart=APART_C).mean()
            loss = loss + RECONSTRUCTION * (2 * (x_adv - x)).square().mean()
            _step(generator, loss + self.judge(2 * x_adv - 1).square().mean())
            if number % 3 == 0:
                self.judge.requires_grad_(True)
                real = self.judge(2 * x - 1).square()
                fake = (self.judge(2 * x_adv.detach() - 1) - 1).square()
                _step(judge, (real + fake).mean() / 2)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
