"""Your own model as a victim: any two callables from items to logits."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from hamward.errors import ConfigError, ShapeError
from hamward.models.hash_model import Encoder, HashModel, ModelSpec
from hamward.types import Access, Modality

__all__ = ["wrap"]

Logits = Callable[[Tensor], Tensor]


class _Wrapped(nn.Module):
    """A callable as a trunk. A module among them is registered, so that it moves and freezes."""

    fast_in_bf16 = False

    def __init__(self, call: Logits, width: int) -> None:
        super().__init__()
        self.width = width
        self.module = call if isinstance(call, nn.Module) else None
        self._call: list[Logits] = [call]  # a list, so that a module is registered once only
        self.device_tag = nn.Parameter(torch.zeros(0), requires_grad=False)  # where items go

    def forward(self, x: Tensor) -> Tensor:
        logits = self._call[0](x) if self.module is None else self.module(x)
        if not isinstance(logits, Tensor) or logits.shape != (len(x), self.width):
            raise ShapeError(
                f"the wrapped model must return logits ({len(x)}, {self.width}), got "
                f"{tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__}"
            )
        return logits


def wrap(
    *,
    image: Logits | None = None,
    text: Logits | None = None,
    code_length: int,
    image_side: int = 64,
    vocabulary: int = 1,
    retrieval: Literal["hamming", "cosine"] = "hamming",
    access: Access = "gradients",
) -> HashModel:
    """Return a victim made of your own functions; every attack and metric works on it.

    Each function takes a batch of items and returns logits u; its code is +1 where u >= 0.
    Where it is differentiable, attacks with gradients work; where it is not (a service), say
    `access="codes"` or `"ranks"`, and they are refused. Items must not influence each other:
    put modules into eval mode first. Normalization belongs inside the function.

    Args:
        image: Pictures, (n, 3, side, side) in [0, 1] -> logits, (n, K).
        text: Bags of words, (n, D) in {0, 1} -> logits, (n, K).
        code_length: K.
        image_side: Side of the pictures.
        vocabulary: D.
        retrieval: "hamming", or "cosine" of the logits for real-valued embeddings.
        access: The most that a victim of this model can grant.

    Raises:
        ConfigError: neither function is given.
        ShapeError: a function does not return (n, K) finite numbers, or an item's logits depend
            on the others of its batch.

    Example:
        >>> model = wrap(text=lambda bag: bag[:, :4] - 0.5, code_length=4, vocabulary=6)
        >>> model.logits("text", torch.ones(1, 6)).tolist()
        [[0.5, 0.5, 0.5, 0.5]]
    """
    given: dict[Modality, Logits] = {}
    if image is not None:
        given["image"] = image
    if text is not None:
        given["text"] = text
    if not given:
        raise ConfigError("wrap needs a function for images, for texts, or for both")
    spec = ModelSpec(
        code_length=code_length,
        vocabulary=vocabulary,
        image_side=image_side,
        image_network="" if image is None else "wrapped",
        text_network="" if text is None else "wrapped",
        retrieval=retrieval,
    )
    encoders = {
        modality: Encoder(_Wrapped(call, code_length), spec, head=nn.Identity())
        for modality, call in given.items()
    }
    model = HashModel(spec, encoders=encoders, access=access)
    for modality in given:
        _try(model, modality)
    return model


def _try(model: HashModel, modality: Modality) -> None:
    """Refuse a function that cannot serve, with two items and with one of them alone."""
    side = model.spec.image_side
    shape = (3, side, side) if modality == "image" else (model.spec.vocabulary,)
    x = torch.linspace(0, 1, 2 * torch.Size(shape).numel()).view(2, *shape)
    x = x if modality == "image" else torch.round(x)
    with torch.no_grad():
        both, alone = model.logits(modality, x), model.logits(modality, x[:1])
    if not bool(torch.isfinite(both).all()):
        raise ShapeError(f"the wrapped {modality} model returned logits that are not finite")
    if not torch.allclose(both[:1], alone, rtol=1e-3, atol=1e-4):
        raise ShapeError(
            f"the wrapped {modality} model gives an item other logits in another batch: put it "
            "into eval mode, and take randomness and batch statistics out"
        )
