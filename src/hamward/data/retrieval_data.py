"""A set of pictures with words and labels, split for retrieval."""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hamward.data.chance import expected_average_precision, group_counts, relevant_counts
from hamward.data.invariants import check_shapes, check_values
from hamward.data.sparse_bags import SparseBags
from hamward.data.split import SPLIT_NAMES, Split, SplitName, as_positions, split_digest, thin
from hamward.errors import ConfigError, DataError
from hamward.types import DIRECTIONS, Batch, Direction, Modality, modalities_of

__all__ = ["RetrievalData", "content_digest"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RetrievalData:
    """Immutable items; everything is checked here once, so that users need not check again.

    The arrays are kept as read-only views (wrap slices in `torch.tensor`, not `from_numpy`).

    Attributes:
        name: Name of the set.
        images: uint8 (n, 3, S, S), possibly memory-mapped.
        bags: uint8 (n, D) in {0, 1}: which words of the vocabulary an item has.
        texts: The words as a reader sees them, n strings; may be empty.
        labels: uint8 (n, C) in {0, 1}; nothing is relevant to an item that has none. C = 0 for
            data without labels, where `relevance` is "own pair".
        words: The vocabulary, D words in column order; D = 0 for data without texts.
        label_names: C names in column order.
        ids: int64 (n,), unique, the same item has the same id in every subset.
        split: Positions of query, database, train and validation.
        groups: int64 (n,) groups of look-alikes, or None. Without labels, an item's answers are
            the other sides of its group.
        sources: Where each item comes from, or None.
        creators: Who made each item, or None.
        protocol: Rule that made the split, with its seed, or None.
        text_inputs: What a model that reads no bags of words gets for the texts: token ids, int32
            (n, L), or float32 features. `models.read_by` fills it; no part of the digest.
        digest: sha256 over all that decides results (images, bags, texts, labels, ids, split).
            Computed when empty. A recorded one says that the values were checked when it was
            made, so that a huge memory-mapped set opens without being read.
    """

    name: str
    images: NDArray[np.uint8]
    bags: NDArray[np.uint8] | SparseBags
    texts: Sequence[str]
    labels: NDArray[np.uint8]
    words: tuple[str, ...]
    label_names: tuple[str, ...]
    ids: NDArray[np.int64]
    split: Split
    groups: NDArray[np.int64] | None = None
    sources: Sequence[str] | None = None
    creators: Sequence[str] | None = None
    protocol: str | None = None
    text_inputs: NDArray[np.int32] | NDArray[np.float32] | None = None
    digest: str = ""

    def __post_init__(self) -> None:
        check_shapes(self)
        if not self.digest:
            check_values(self)
        for name in ("images", "bags", "labels", "ids", "groups", "text_inputs"):
            array = getattr(self, name)
            if array is not None and not isinstance(array, SparseBags):
                view = array.view()
                view.flags.writeable = False
                object.__setattr__(self, name, view)
        if not self.digest:
            object.__setattr__(self, "digest", _digest(self))

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(self.split[name])}" for name in ("query", "database"))
        return f"RetrievalData({self.name!r}, {len(self)} items: {sizes}, {self.digest[:12]})"

    @property
    def image_side(self) -> int:
        """Side S of the square pictures."""
        return int(self.images.shape[-1])

    @property
    def relevance(self) -> Literal["shared label", "own pair"]:
        """What makes an item relevant to another: a label they share, or being one pair.

        Data without labels know only which text belongs to which picture. There the answers of a
        query are the other side of its own item and of the items of its group, if there are
        groups; see `pairs`.
        """
        return "shared label" if self.label_names else "own pair"

    @property
    def pairs(self) -> NDArray[np.int64]:
        """Numbers that are equal for items which answer each other without labels, (n,)."""
        return self.ids if self.groups is None else self.groups

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The sides that the items have; data without words have pictures only."""
        return ("image", "text") if self.words else ("image",)

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions that can be scored: by own pair, a query finds itself within a side."""
        return tuple(
            direction
            for direction in DIRECTIONS
            if {*modalities_of(direction)} <= {*self.modalities}
            and (self.label_names or direction[0] != direction[2])
        )

    @property
    def split_digest(self) -> str:
        """sha256 over which ids are in which split."""
        return split_digest(self.split, self.ids)

    def array(self, modality: Modality) -> NDArray[np.uint8] | SparseBags:
        """Return all items of a modality as stored: `images` or `bags`."""
        return self.images if modality == "image" else self.bags

    def inputs(
        self,
        modality: Modality,
        positions: ArrayLike | Sequence[int],
        *,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Return model inputs: float32 pictures in [0, 1], bags in {0, 1}, or `text_inputs`."""
        checked = as_positions(positions, size=len(self))
        if modality == "text" and self.text_inputs is not None:
            given = torch.from_numpy(self.text_inputs[checked]).to(device)
            return given if given.is_floating_point() else given.long()
        chosen = self.array(modality)[checked]
        inputs = torch.from_numpy(chosen).to(device).float()
        return inputs.div_(255) if modality == "image" else inputs

    def typed_texts(self) -> Iterator[str]:
        """Yield every text as a person would type it: the caption, or the words of the bag."""
        for position, text in enumerate(self.texts):
            yield text or " ".join(self.words[j] for j in np.flatnonzero(self.bags[position]))

    def label(
        self, positions: ArrayLike | Sequence[int], *, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return multi-hot labels, float32 (n, C).

        Raises:
            DataError: the data have no labels.
        """
        if not self.label_names:
            raise DataError(
                f"{self.name} has no labels (relevance is own pair), and they are needed here: "
                "prepare it with a label column, or use a method that learns or attacks without "
                "labels"
            )
        chosen = self.labels[as_positions(positions, size=len(self))]
        return torch.from_numpy(chosen).to(device).float()

    def batch(
        self, positions: ArrayLike | Sequence[int], *, device: torch.device | str = "cpu"
    ) -> Batch:
        """Return the items at `positions`, in that order, as models see them.

        Without labels, `label` is (n, 0).
        """
        checked = as_positions(positions, size=len(self))
        return Batch(
            image=self.inputs("image", checked, device=device),
            text=self.inputs("text", checked, device=device),
            label=torch.from_numpy(self.labels[checked]).to(device).float(),
            id=torch.from_numpy(self.ids[checked]).to(device),
        )

    def positions(self, split: SplitName, modality: Modality = "image") -> NDArray[np.int64]:
        """Return the positions of a split that can be used in a modality.

        An item without a word of the vocabulary is no text query: asked for "text", it is left
        out of "query" and "validation" (logged with its count). It stays in "database", where a
        search must cope with it, and in "train".
        """
        chosen = self.split[split]
        if modality == "image" or split not in ("query", "validation"):
            return chosen
        kept = chosen[self.bags[chosen].any(1)]
        if len(kept) < len(chosen):
            log.info(
                "%s: %d of %d %s items have no word and are no text queries",
                self.name,
                len(chosen) - len(kept),
                len(chosen),
                split,
            )
        return kept

    def chance(self, direction: Direction = "i2t") -> float:
        """Return the MAP of a random ranking: exact expectation over all orders.

        Protocol: all queries of the direction that have a relevant item, whole database.
        """
        counts = self._relevant_counts(direction)
        if not counts.any():
            raise DataError(f"no {direction} query of {self.name} has a relevant database item")
        size = len(self.split.database)
        return float(expected_average_precision(counts[counts > 0], size=size).mean())

    def relevant_rate(self, direction: Direction = "i2t") -> float:
        """Return the share of (query, database) pairs that are relevant."""
        return float(self._relevant_counts(direction).mean() / len(self.split.database))

    def relevant(self, item: int, others: ArrayLike | Sequence[int]) -> NDArray[np.bool_]:
        """Return which of the items at `others` are relevant to the one at `item`."""
        chosen = as_positions(others, size=len(self))
        if not self.label_names:
            paired: NDArray[np.bool_] = self.pairs[chosen] == self.pairs[item]
            return paired
        shared: NDArray[np.bool_] = (self.labels[chosen] & self.labels[item]).any(1)
        return shared

    def subset(self, keep: ArrayLike | Sequence[int]) -> "RetrievalData":
        """Return a copy with only the items at `keep`; ids stay, positions are renumbered."""
        return self._select(np.unique(as_positions(keep, size=len(self))), self.split)

    def limit(
        self, *, queries: int | None = None, database: int | None = None, train: int | None = None
    ) -> "RetrievalData":
        """Return a smaller copy for quick runs, evenly spaced and without randomness.

        Args:
            queries: At most this many queries.
            database: At most this many database items; train and validation shrink with it,
                if they are searched. Queries that are searched themselves all stay.
            train: At most this many of the remaining training items; the others stay in the
                database.

        Memory-mapped pictures stay on disk: with them, the items are all kept and only the split
        gets smaller.
        """
        for name, value in (("queries", queries), ("database", database), ("train", train)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        asking = thin(self.split.query, queries)
        searched = thin(self.split.database, database)
        if self.split.searched_query:  # a query's own pair must stay
            others = np.setdiff1d(self.split.database, self.split.query)
            left = None if database is None else max(database - len(asking), 0)
            searched = np.union1d(asking, thin(others, left))
        learned = [self.split.train, self.split.validation]
        if self.split.searched_train:
            learned = [np.intersect1d(part, searched) for part in learned]
        split = Split(
            query=asking,
            database=searched,
            train=thin(learned[0], train),
            validation=learned[1],
            searched_train=self.split.searched_train,
            searched_query=self.split.searched_query,
        )
        return self._of(split)

    def searched_on_validation(self) -> NDArray[np.int64]:
        """Return what validation items search: training items, and own pairs where these count."""
        if self.relevance == "own pair":
            return np.union1d(self.split.train, self.split.validation)
        return self.split.train

    def on_validation(self) -> "RetrievalData":
        """Return a copy in which validation items ask and training items are searched.

        For choosing settings: no query and no other item of the database is looked at. What is
        searched: see `searched_on_validation`.

        Raises:
            ConfigError: there are no validation items.
        """
        if not len(self.split.validation):
            raise ConfigError(f"{self.name} has no validation items: load it with some")
        split = Split(
            query=self.split.validation,
            database=self.searched_on_validation(),
            train=self.split.train,
            validation=np.empty(0, dtype=np.int64),
            searched_query=self.relevance == "own pair",
        )
        protocol = f"{self.protocol or 'split'}; validation items ask, training items are searched"
        return replace(self._of(split), protocol=protocol)

    def _of(self, split: Split) -> "RetrievalData":
        """Return a copy with the items of another split of this one's items."""
        if isinstance(self.images, np.memmap):
            whole = split_digest(split, self.ids) == self.split_digest
            derived = hashlib.sha256(f"{self.digest} {split_digest(split, self.ids)}".encode())
            return replace(self, split=split, digest=self.digest if whole else derived.hexdigest())
        kept = np.concatenate([split.query, split.database, split.train, split.validation])
        return self._select(np.unique(kept), split)

    def _select(self, kept: NDArray[np.int64], split: Split) -> "RetrievalData":
        def renumber(positions: NDArray[np.int64]) -> NDArray[np.int64]:
            return np.flatnonzero(np.isin(kept, positions)).astype(np.int64)

        def pick(values: Sequence[str]) -> tuple[str, ...]:
            return tuple(values[i] for i in kept)

        return replace(
            self,
            images=self.images[kept],
            bags=self.bags[kept],
            texts=pick(self.texts),
            labels=self.labels[kept],
            ids=self.ids[kept],
            split=Split(
                query=renumber(split.query),
                database=renumber(split.database),
                train=renumber(split.train),
                validation=renumber(split.validation),
                searched_train=split.searched_train,
                searched_query=split.searched_query,
            ),
            groups=None if self.groups is None else self.groups[kept],
            sources=None if self.sources is None else pick(self.sources),
            creators=None if self.creators is None else pick(self.creators),
            text_inputs=None if self.text_inputs is None else self.text_inputs[kept],
            digest="",
        )

    def _relevant_counts(self, direction: Direction) -> NDArray[np.int64]:
        if direction not in self.directions:
            raise ConfigError(
                f"{self.name} has no direction {direction} (relevance is {self.relevance}), only "
                f"{', '.join(self.directions)}"
            )
        asking = self.positions("query", modalities_of(direction)[0])
        if not self.label_names:
            return group_counts(self.pairs[asking], self.pairs[self.split.database])
        return relevant_counts(self.labels[asking], self.labels[self.split.database])


def content_digest(
    arrays: Iterable[tuple[str, str, tuple[int, ...], Iterable[Any]]], texts: Iterable[str]
) -> str:
    """Hash arrays, given as (name, dtype, shape, buffers of their bytes), and texts.

    A set has one digest however it is stored: the arrays are images, bags, labels, ids and the
    splits in the order of `SPLIT_NAMES`.
    """
    sha = hashlib.sha256()
    for name, kind, shape, buffers in arrays:
        sha.update(f"{name} {kind} {shape}\n".encode())
        for buffer in buffers:
            sha.update(buffer)
    for number, text in enumerate(texts):
        sha.update(("\n" if number else "").encode() + text.encode())
    return sha.hexdigest()


def _digest(data: RetrievalData) -> str:
    arrays: dict[str, NDArray[Any] | SparseBags]
    arrays = {"images": data.images, "bags": data.bags, "labels": data.labels, "ids": data.ids}
    arrays |= {name: data.split[name] for name in SPLIT_NAMES}
    return content_digest(
        ((name, array.dtype.str, array.shape, _buffers(array)) for name, array in arrays.items()),
        data.texts,
    )


def _buffers(array: NDArray[Any] | SparseBags) -> Iterator[Any]:
    for start in range(0, len(array), 1024):  # a memory-mapped array stays on disk
        yield np.ascontiguousarray(array[start : start + 1024]).data
