"""Purifiers: fixed transforms in front of a trained encoder, each with its adaptive gradient.

They are points to compare defenses with. None protects against an attacker who knows it, and what
each seems to protect against others is mostly masking: rounding has the derivative 0, and a JPEG
file none. So the gradient is part of the purifier, and every attack with gradients is adaptive.

Source: Athalye, Carlini and Wagner, ICML 2018: backward pass differentiable approximation (here
    straight-through: forward the transform itself, backward the identity) and expectation over
    transformation (the gradient is the mean over draws).
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from hamward.data.pictures import JPEG_QUALITIES, as_jpeg
from hamward.errors import ConfigError
from hamward.random import content_ids, item_normal, item_uniform
from hamward.registry import Registry
from hamward.types import Modality

__all__ = ["PURIFIERS", "BitDepth", "Jpeg", "NoiseVote", "Purifier", "WordDrop", "purify"]


@runtime_checkable
class Purifier(Protocol):
    """A frozen dataclass that an encoder's items pass through, each on its own.

    Attributes:
        modality: Items that it changes.
        votes: Copies that it makes of an item; the encoder's features are their mean.
        adaptive: Whether gradients pass as they should. Without, they are 0: robustness that
            such a victim shows is masking, which is what it is there to show.
    """

    modality: ClassVar[Modality]

    @property
    def votes(self) -> int:
        """See above."""
        ...

    @property
    def adaptive(self) -> bool:
        """See above."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """Return the copies, (n * votes, ...), those of an item in a row, with their gradient."""
        ...


PURIFIERS: Registry[type[Purifier]] = Registry("purifier")


def purify(purifier: Purifier, x: Tensor) -> Tensor:
    """Return what a network reads instead of items, (n * votes, ...)."""
    return purifier(x if purifier.adaptive else x.detach() + 0 * x)


def _straight_through(made: Tensor, x: Tensor) -> Tensor:
    """Return exactly `made`, whose gradient goes to `x`."""
    return made + (x - x.detach())


@PURIFIERS.register(
    "jpeg",
    summary="Pictures go through one JPEG encoding and decoding",
    citation="Das et al., arXiv 2017; Guo, Rana, Cisse and van der Maaten, ICLR 2018",
    access="codes",
    threat="perturbed pictures; white-box attacks go straight through",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Jpeg:
    """JPEG by Pillow, colors at half the resolution (4:2:0), as most files are.

    The identity is a coarse gradient of what JPEG averages away: attacks need more steps here, 50
    or more, and `not-converged` says so.

    Differs: nothing known.

    Attributes:
        quality: 1 to 95.
        adaptive: Straight-through gradient; without, none passes.
    """

    modality: ClassVar[Modality] = "image"
    votes: ClassVar[int] = 1
    quality: int = 75
    adaptive: bool = True

    def __post_init__(self) -> None:
        if self.quality not in JPEG_QUALITIES:
            low, high = JPEG_QUALITIES[0], JPEG_QUALITIES[-1]
            raise ConfigError(f"quality must be in [{low}, {high}], got {self.quality}")

    def __call__(self, x: Tensor) -> Tensor:
        """Return decoded pictures."""
        return _straight_through(as_jpeg(x.detach().clamp(0, 1), self.quality), x)


@PURIFIERS.register(
    "bit-depth",
    summary="Pictures keep a few bits a channel",
    citation="Xu, Evans and Qi, NDSS 2018",
    access="codes",
    threat="perturbed pictures; white-box attacks go straight through",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class BitDepth:
    """The nearest of 2^bits evenly spaced levels from 0 to 1.

    Differs: the cited compare outputs with and without it to detect an attack; here the rounded
        picture is what is encoded.

    Attributes:
        bits: 1 to 8; 8 changes no stored picture.
        adaptive: Straight-through gradient; without, none passes.
    """

    modality: ClassVar[Modality] = "image"
    votes: ClassVar[int] = 1
    bits: int = 4
    adaptive: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ConfigError(f"bits must be in [1, 8], got {self.bits}")

    def __call__(self, x: Tensor) -> Tensor:
        """Return rounded pictures."""
        steps = 2**self.bits - 1
        return _straight_through(torch.round(x.detach() * steps) / steps, x)


@PURIFIERS.register(
    "noise-vote",
    summary="Randomized codes: noisy copies of a picture vote",
    citation="Liu, Cheng, Zhang and Hsieh, ECCV 2018; Cohen, Rosenfeld and Kolter, ICML 2019",
    access="codes",
    threat="perturbed pictures; white-box attacks average over the noise",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseVote:
    """Copies with Gaussian noise vote with their logits: the code is the sign of the mean.

    The noise is a function of the seed and of the picture's 8-bit levels, so that a code can be
    reproduced and no other item matters. Every step of an attack meets fresh noise, as with a
    service that draws it, and its gradient is the mean over the copies (expectation over
    transformation). But the attacker knows the seed: the worst case. One who does not crafts on
    a victim with another seed (`--transfer-from`).

    Differs: the cited vote with classes; bits of logits near 0 would be coins if each copy had one
        vote a bit, and a mean of logits has a gradient. Noisy pictures are not clipped to [0, 1].

    Attributes:
        sigma: Standard deviation of the noise, in (0, 1].
        votes: Copies a picture; the cost is as many passes.
        seed: Seed of the noise.
        adaptive: Gradients pass; without, none does.
    """

    modality: ClassVar[Modality] = "image"
    sigma: float = 0.05
    votes: int = 8
    seed: int = 0
    adaptive: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 1:
            raise ConfigError(f"sigma must be in (0, 1], got {self.sigma:g}")
        _check_votes(self.votes)

    def __call__(self, x: Tensor) -> Tensor:
        """Return noisy copies."""
        shape = (self.votes, *x.shape[1:])
        noise = item_normal(content_ids(x), shape, seed=self.seed, stream="noise-vote")
        return (x[:, None] + self.sigma * noise.to(x)).flatten(0, 1)


@PURIFIERS.register(
    "word-drop",
    summary="Randomized codes: copies of a bag of words without some of them vote",
    citation="after Zeng, Xu, Zheng and Huang, Computational Linguistics 2023",
    access="codes",
    threat="edited or perturbed bags of words; white-box attacks average over the draws",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class WordDrop:
    """Copies of a bag, from each of which words are dropped at random, vote with their logits.

    Drawn like the noise of `NoiseVote`; the gradient of a dropped word is 0 in that copy.

    Differs: the cited mask a share of the tokens of a sentence and vote with classes.

    Attributes:
        share: Chance that a word is dropped, in (0, 1).
        votes: Copies a text.
        seed: Seed of the draws.
        adaptive: Gradients pass; without, none does.
    """

    modality: ClassVar[Modality] = "text"
    share: float = 0.2
    votes: int = 8
    seed: int = 0
    adaptive: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"share must be in (0, 1), got {self.share:g}")
        _check_votes(self.votes)

    def __call__(self, x: Tensor) -> Tensor:
        """Return copies with fewer words."""
        shape = (self.votes, *x.shape[1:])
        drawn = item_uniform(content_ids(x), shape, seed=self.seed, stream="word-drop")
        return (x[:, None] * (drawn >= self.share).to(x)).flatten(0, 1)


def _check_votes(votes: int) -> None:
    if not 1 <= votes <= 1024:
        raise ConfigError(f"votes must be in [1, 1024], got {votes}")
