"""A set at a glance: its numbers, and a sheet of examples."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hamward.data.drawing import Example, draw_sheet
from hamward.data.retrieval_data import RetrievalData
from hamward.data.split import SPLIT_NAMES
from hamward.errors import ConfigError
from hamward.random import permutation

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["contact_sheet", "describe"]


def describe(data: RetrievalData) -> dict[str, Any]:
    """Return the set's facts as plain values for JSON.

    Keys:
        name, digest, items, image_side, vocabulary, labels, relevance: What it is.
        splits: Per split: items, items without a word, items per label ("labels").
        words_per_item, labels_per_item: Means over all items.
        items_without_words: Of all items; they are no text queries.
        relevant_rate, chance_map: Per direction; chance is the exact MAP of a random ranking.
    """
    wordless = data.bags.max(1, initial=0) == 0
    splits = {
        name: {
            "items": len(data.split[name]),
            "without_words": int(wordless[data.split[name]].sum()),
            "labels": dict(
                zip(
                    data.label_names,
                    data.labels[data.split[name]].sum(0, dtype=np.int64).tolist(),
                    strict=True,
                )
            ),
        }
        for name in SPLIT_NAMES
    }
    return {
        "name": data.name,
        "digest": data.digest,
        "items": len(data),
        "image_side": data.image_side,
        "vocabulary": len(data.words),
        "labels": len(data.label_names),
        "relevance": data.relevance,
        "splits": splits,
        "words_per_item": float(data.bags.sum(1).mean()),
        "labels_per_item": float(data.labels.sum(1).mean()),
        "items_without_words": int(wordless.sum()),
        "relevant_rate": {
            direction: data.relevant_rate(direction) for direction in data.directions
        },
        "chance_map": {direction: data.chance(direction) for direction in data.directions},
    }


def contact_sheet(
    data: RetrievalData, *, seed: int = 0, rows: int = 6, columns: int = 6
) -> "Image.Image":
    """Draw example items: a row per label, each item with its words and all of its labels.

    Load the set with `image_side=128` or more for sharp pictures.

    Args:
        data: The set.
        seed: Chooses labels and items.
        rows: How many labels, 1..number of labels; without labels, rows of any items, 1..12.
        columns: Items per label, 1..12; a label with fewer items gets a shorter row.

    Returns:
        An RGB picture.

    Raises:
        ConfigError: rows or columns outside their range.
    """
    most = len(data.label_names) or 12
    for name, value, high in (("rows", rows, most), ("columns", columns, 12)):
        if not 1 <= value <= high:
            raise ConfigError(f"{name} must be in 1..{high}, got {value}")
    order = permutation(len(data), seed=seed, stream="contact sheet items").numpy()
    if not data.label_names:
        return _sheet_without_labels(data, order, rows=rows, columns=columns)
    labels = permutation(len(data.label_names), seed=seed, stream="contact sheet labels").tolist()
    shown: set[int] = set()
    sections = []
    for label in sorted(labels[:rows]):
        examples: list[Example] = []
        for position in order[data.labels[order, label] > 0].tolist():
            # Look-alikes share a group; one of them is enough.
            look = position if data.groups is None else int(data.groups[position])
            if look not in shown and len(examples) < columns:
                shown.add(look)
                examples.append(_example(data, position, label))
        sections.append((data.label_names[label], int(data.labels[:, label].sum()), examples))
    sizes = ", ".join(f"{name} {len(data.split[name]):,}" for name in SPLIT_NAMES)
    caption = (
        f"{len(data):,} items ({sizes}), {len(data.words)} words, {len(data.label_names)} labels. "
        f"Filled: the row's label. Outlined: the item's other labels. Digest {data.digest[:12]}."
    )
    return draw_sheet(sections, title=data.name, caption=caption, columns=columns)


def _sheet_without_labels(
    data: RetrievalData, order: NDArray[np.int64], *, rows: int, columns: int
) -> "Image.Image":
    """Draw any items, one of each group, under one heading a row."""
    looks = data.pairs[order]
    distinct = order[np.sort(np.unique(looks, return_index=True)[1])][: rows * columns]
    sections = [
        ("pairs", len(data), [_example(data, p) for p in distinct[s : s + columns].tolist()])
        for s in range(0, len(distinct), columns)
    ]
    sizes = ", ".join(f"{name} {len(data.split[name]):,}" for name in SPLIT_NAMES)
    caption = (
        f"{len(data):,} items ({sizes}), {len(data.words)} words, no labels: relevance is own "
        f"pair. Digest {data.digest[:12]}."
    )
    return draw_sheet(sections, title=data.name, caption=caption, columns=columns)


def _example(data: RetrievalData, position: int, label: int | None = None) -> Example:
    own = [] if label is None else [label]
    others = [i for i in np.flatnonzero(data.labels[position]).tolist() if i != label]
    return Example(
        pixels=np.ascontiguousarray(data.images[position].transpose(1, 2, 0)),
        words=data.texts[position].split(),
        labels=[data.label_names[i] for i in (*own, *others)],
    )
