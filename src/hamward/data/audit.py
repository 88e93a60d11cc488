"""What may make a set's numbers too good: copies across the split, bare labels, empty texts."""

import hashlib
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hamward.data.chance import group_counts, relevant_counts
from hamward.data.invariants import check_shapes, check_values
from hamward.data.retrieval_data import RetrievalData
from hamward.data.split import SPLIT_NAMES
from hamward.progress import SILENT, Progress

__all__ = ["NEAR", "audit"]

NEAR = 4.0  # of 255: recompressing a photograph changes its thumbnail by about 1
_THUMBNAIL = 16
_BLOCK = 512


def audit(data: RetrievalData, *, progress: Progress = SILENT) -> dict[str, Any]:
    """Read a whole set and return what was found, as plain values for JSON.

    Keys:
        name, digest, split_digest, protocol, relevance, items, splits: What it is.
        copies: "items" that have an exact copy (equal stored pixels) elsewhere in the set,
            "queries" that have one among the searched or training items, and the first "pairs"
            of ids.
        near_copies: "queries" with a searched or training item whose 16 x 16 thumbnail differs
            by less than `NEAR` levels (root mean square), exact copies included; flat drawings
            on white can be near without being alike. The first "pairs" of ids.
        groups_on_both_sides: Groups with queries and searched or training items; None without
            groups.
        labels: "without_query", "without_train", "without_database": label names;
            "queries_without_relevant": queries to which no database item is relevant;
            "items_without": items without a label, in a set that has labels.
        texts: "empty", "without_words": items; "words_per_item"; "queries_with_copied_text":
            queries whose non-empty text is also that of a searched or training item.
        chance_map: Per direction, exact; None where no query has a relevant item.

    Raises:
        DataError: shapes, values or positions do not hold.
    """
    check_shapes(data)
    check_values(data)
    query = data.split.query
    others = np.unique(np.concatenate([data.split[n] for n in SPLIT_NAMES if n != "query"]))
    others = np.setdiff1d(others, query)  # queries are searched where relevance is own pair
    hashes, thumbnails = _read_pictures(data, progress)
    exact = _copies(hashes)
    answering = np.zeros(len(data), dtype=bool)
    answering[others] = True
    first = {h: next((p for p in found if answering[p]), None) for h, found in exact.items()}
    crossing = [(int(q), other) for q in query if (other := first.get(hashes[q])) is not None]
    near = _near_pairs(thumbnails, query, others)
    wordless = data.bags.max(1, initial=0) == 0
    if data.label_names:
        relevant = relevant_counts(data.labels[query], data.labels[data.split.database])
    else:
        relevant = group_counts(data.pairs[query], data.pairs[data.split.database])
    return {
        "name": data.name,
        "digest": data.digest,
        "split_digest": data.split_digest,
        "protocol": data.protocol,
        "relevance": data.relevance,
        "items": len(data),
        "splits": {name: len(data.split[name]) for name in SPLIT_NAMES},
        "copies": {
            "items": sum(len(positions) for positions in exact.values()),
            "queries": len({q for q, _ in crossing}),
            "pairs": _ids(data, crossing),
        },
        "near_copies": {"queries": len({q for q, _ in near}), "pairs": _ids(data, near)},
        "groups_on_both_sides": None
        if data.groups is None
        else len(np.intersect1d(data.groups[query], data.groups[others])),
        "labels": {
            **{
                f"without_{name}": [
                    data.label_names[i]
                    for i in np.flatnonzero(~data.labels[data.split[name]].any(0))
                ]
                for name in SPLIT_NAMES
                if name != "validation"
            },
            "queries_without_relevant": int((relevant == 0).sum()),
            "items_without": int((~data.labels.any(1)).sum()) if data.label_names else 0,
        },
        "texts": {
            "empty": sum(not text.strip() for text in data.texts),
            "without_words": int(wordless.sum()),
            "words_per_item": float(data.bags.sum(1, dtype=np.int64).mean()),
            "queries_with_copied_text": _copied_texts(data, query, others),
        },
        "chance_map": {
            # nothing relevant is a finding of the audit, not its end
            direction: data.chance(direction) if data.relevant_rate(direction) else None
            for direction in data.directions
        },
    }


def _read_pictures(
    data: RetrievalData, progress: Progress
) -> tuple[list[bytes], NDArray[np.float32]]:
    """Return a hash and a thumbnail of every picture, read block by block."""
    hashes: list[bytes] = []
    thumbnails = np.empty((len(data), 3 * _THUMBNAIL**2), dtype=np.float32)
    starts = range(0, len(data), _BLOCK)
    for start in progress.track(starts, total=len(starts), label="read pictures"):
        block = np.array(data.images[start : start + _BLOCK])
        hashes.extend(hashlib.blake2b(row.data, digest_size=16).digest() for row in block)
        small = torch.nn.functional.interpolate(
            torch.from_numpy(block).float(), size=(_THUMBNAIL, _THUMBNAIL), mode="area"
        )
        thumbnails[start : start + len(block)] = small.flatten(1).numpy() - 128
    return hashes, thumbnails


def _copies(hashes: list[bytes]) -> dict[bytes, list[int]]:
    places = defaultdict(list)
    for position, value in enumerate(hashes):
        places[value].append(position)
    return {value: found for value, found in places.items() if len(found) > 1}


def _near_pairs(
    thumbnails: NDArray[np.float32], query: NDArray[np.int64], others: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Return each query with its nearest item, where that is near."""
    asking = torch.from_numpy(thumbnails[query])
    best = torch.full((len(query),), torch.inf)
    nearest = torch.zeros(len(query), dtype=torch.int64)
    for start in range(0, len(others), 4096):
        part = torch.from_numpy(thumbnails[others[start : start + 4096]])
        squared = asking.square().sum(1)[:, None] + part.square().sum(1) - 2 * asking @ part.T
        least, where = squared.min(1)
        closer = least < best
        best, nearest = (
            torch.where(closer, least, best),
            torch.where(closer, where + start, nearest),
        )
    rms = (best.clamp(min=0) / thumbnails.shape[1]).sqrt()
    return [
        (int(query[i]), int(others[int(nearest[i])]))
        for i in torch.nonzero(rms < NEAR).flatten().tolist()
    ]


def _copied_texts(data: RetrievalData, query: NDArray[np.int64], others: NDArray[np.int64]) -> int:
    texts = list(data.texts)
    known = {texts[i] for i in others if texts[i].strip()}
    return sum(texts[i] in known for i in query)


def _ids(data: RetrievalData, pairs: list[tuple[int, int]]) -> list[list[int]]:
    return [[int(data.ids[a]), int(data.ids[b])] for a, b in pairs[:10]]
