"""The attacked model as the attacker sees it: limited access, and a ledger of queries."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import get_args

import torch
from jaxtyping import Float, Int8, Int64
from torch import Tensor, nn

from hamward.codes import binarize
from hamward.errors import AccessError, ConfigError, QueryLimitError, ShapeError
from hamward.index import HammingIndex
from hamward.models.folding import fold
from hamward.models.hash_model import HashModel, frozen
from hamward.types import Access, Modality

__all__ = ["Access", "QueryLedger", "Victim"]


@dataclass(slots=True, kw_only=True)
class QueryLedger:
    """Counts the items that were submitted to a victim.

    Attributes:
        limit: Most items that may be submitted, or None.
        image: Image submissions so far.
        text: Text submissions so far.
    """

    limit: int | None = None
    image: int = 0
    text: int = 0

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 0:
            raise ConfigError(f"query limit must be at least 0, got {self.limit}")

    @property
    def total(self) -> int:
        """All submissions so far."""
        return self.image + self.text

    def charge(self, modality: Modality, n: int) -> None:
        """Count `n` submissions.

        Raises:
            QueryLimitError: they would exceed the limit; none is counted then.
        """
        if self.limit is not None and self.total + n > self.limit:
            raise QueryLimitError(
                f"{n} more {modality} queries exceed the limit: {self.total} of {self.limit} "
                "are used"
            )
        setattr(self, modality, getattr(self, modality) + n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """A hash model behind an access level.

    Attributes:
        model: The model; an attack never changes it.
        access: What it grants, at most what the model can (`HashModel.access`).
        ledger: Where every submitted item is counted (a gradient step counts each item).
        low_precision: Run the trunk in bf16 for gradients where that is faster. Codes are
            always computed in full precision.
        index: What `ranks` searches.
    """

    model: HashModel
    access: Access = "gradients"
    ledger: QueryLedger = field(default_factory=QueryLedger)
    low_precision: bool = False
    index: HammingIndex | None = None
    _folded: list[dict[Modality, nn.Module]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.access not in get_args(Access):
            raise ConfigError(f"access must be one of {get_args(Access)}, got {self.access!r}")
        if self.index is not None and self.index.code_length != self.model.code_length:
            raise ShapeError(
                f"the victim makes codes of {self.model.code_length} bits, its index holds "
                f"{self.index.code_length}: build the index with this victim"
            )

    @property
    def code_length(self) -> int:
        """Number of bits K."""
        return self.model.code_length

    def require(self, access: Access, who: str) -> None:
        """Refuse early when this victim grants less than `access`.

        Raises:
            AccessError: it does.
        """
        levels = get_args(Access)
        granted = min(self.access, self.model.access, key=levels.index)
        if levels.index(granted) < levels.index(access):
            raise AccessError(
                f"{who} needs access to {access!r}, but this victim grants {granted!r} only"
            )

    @contextmanager
    def attacked(self) -> Iterator[None]:
        """Hold the model frozen, gradients to the input enabled, for one attack.

        Inside, `logits` runs a folded copy of the encoder, made at its first call.
        """
        self._folded.append({})
        try:
            with frozen(self.model), torch.enable_grad():
                yield
        finally:
            self._folded.pop()

    def logits(self, modality: Modality, x: Tensor) -> Float[Tensor, "n k"]:
        """Return logits with a graph to `x`; to be called inside `attacked`.

        Raises:
            AccessError: the victim does not grant gradients.
        """
        self.require("gradients", "this attack")
        self.ledger.charge(modality, len(x))
        if not self._folded:
            return self.model.logits(modality, x, low_precision=self.low_precision)
        self.model.check(modality, x)
        encoders = self._folded[-1]
        if modality not in encoders:
            encoders[modality] = fold(
                self.model.encoder(modality), low_precision=self.low_precision
            )
        logits: Tensor = encoders[modality](x, low_precision=self.low_precision)
        return logits

    def codes(self, modality: Modality, x: Tensor) -> Int8[Tensor, "n k"]:
        """Return codes of items, computed in full precision.

        Raises:
            AccessError: the victim grants ranks only.
        """
        self.require("codes", "this attack")
        self.ledger.charge(modality, len(x))
        return self._codes(modality, x)

    def ranks(self, modality: Modality, x: Tensor, *, k: int) -> Int64[Tensor, "n m"]:
        """Return the database positions of the k nearest items, nearest first.

        Raises:
            AccessError: the victim has no index.
        """
        if self.index is None:
            raise AccessError("this victim has no index to rank with")
        self.ledger.charge(modality, len(x))
        return self.index.search(self._codes(modality, x), k)[1]

    def _codes(self, modality: Modality, x: Tensor) -> Int8[Tensor, "n k"]:
        with torch.no_grad(), frozen(self.model):
            return binarize(self.model.logits(modality, x))
