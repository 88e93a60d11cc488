"""From codes to numbers, and the validation scores that choose an epoch."""

from collections.abc import Container, Mapping

import numpy as np
import torch
from jaxtyping import Float, Int8
from numpy.typing import NDArray
from torch import Tensor

from hamward.attacks import Attack, attacked_items, craft, encode, encode_items, own_code_goal
from hamward.data import RetrievalData
from hamward.errors import DataError
from hamward.metrics import (
    DistanceCounts,
    average_precision,
    bootstrap_interval,
    chance_map,
    distance_counts,
    mean_average_precision,
    similarity_counts,
)
from hamward.models import HashModel, Victim
from hamward.types import Modality

__all__ = [
    "counts_of",
    "map_facts",
    "robust_validation_scores",
    "searched_modality",
    "validation_scores",
]

_OTHER: dict[Modality, Modality] = {"image": "text", "text": "image"}


def counts_of(
    data: RetrievalData,
    query_codes: Int8[Tensor, "q k"] | Float[Tensor, "q k"],
    database_codes: Int8[Tensor, "n k"] | Float[Tensor, "n k"],
    *,
    query: NDArray[np.int64],
    database: NDArray[np.int64],
    query_labels: Tensor | None = None,
) -> DistanceCounts:
    """Count distances between items of a data set, relevance as the data say.

    That is by shared labels, or by own pair where there are none.

    Codes are compared by Hamming distance, real-valued embeddings by cosine. `query_labels`
    replaces the labels of the queries, as targeted attacks are scored.
    """
    count = similarity_counts if query_codes.is_floating_point() else distance_counts
    if data.relevance == "own pair" and query_labels is None:
        return count(
            query_codes,
            database_codes,
            query_groups=data.pairs[query],
            database_groups=data.pairs[database],
        )
    return count(
        query_codes,
        database_codes,
        query_labels=data.label(query) if query_labels is None else query_labels,
        database_labels=data.label(database),
    )


def searched_modality(known: Container[Modality], asking: Modality) -> Modality:
    """Return what queries of a modality are compared with: the other one, where there is one."""
    return _OTHER[asking] if _OTHER[asking] in known else asking


def validation_scores(model: HashModel, data: RetrievalData) -> dict[str, float]:
    """Score a model on validation queries against the training items.

    Where relevance is own pair, the validation items are searched too.

    Tie-aware MAP over the whole ranking, i2t and t2i (i2i or t2t for a model of one modality);
    "select" is their mean. Queries and
    the rest of the database are not looked at.
    """
    scores = _clean(model, data, _train_codes(model, data))
    return {**scores, "select": sum(scores.values()) / len(scores)}


def map_facts(counts: DistanceCounts, *, seed: int) -> dict[str, float]:
    """Return tie-aware MAP with all that is said beside it.

    Returns:
        "map"; "low" and "high", the 95 % bootstrap interval over queries; "optimistic" and
        "pessimistic" for ties; "chance"; "queries", the number of those with a relevant item.
    """
    score = mean_average_precision(counts)
    low, high = bootstrap_interval(average_precision(counts), seed=seed)
    return {
        "map": score.value,
        "low": low,
        "high": high,
        "optimistic": score.optimistic,
        "pessimistic": score.pessimistic,
        "chance": chance_map(counts).value,
        "queries": score.queries,
    }


def robust_validation_scores(
    model: HashModel,
    data: RetrievalData,
    attack: Attack,
    *,
    modalities: tuple[Modality, ...] = ("image", "text"),
) -> Mapping[str, float]:
    """Score clean and attacked validation queries; "select" is the mean of all of them.

    References of the attack are training items: queries and the rest of the database are not
    looked at.

    Returns:
        i2t, t2i, attacked_i2t and attacked_t2i (for the attacked modalities), select.
    """
    train = _train_codes(model, data)
    clean = _clean(model, data, train)
    victim = Victim(model=model, low_precision=True)
    codes = {}
    for modality in (m for m in modalities if m in model.modalities):
        positions = data.positions("validation", modality)
        made = craft(
            attack,
            victim,
            attacked_items(attack, model, data, modality, positions),
            own_code_goal(attack, victim, data, modality, positions, pool=data.split.train),
            ids=torch.tensor(data.ids[positions]),
        )
        device = next(model.parameters()).device
        codes[modality] = encode_items(model, modality, made.stored.to(device))
    attacked = {f"attacked_{k}": v for k, v in _across(data, codes, train).items()}
    scores = {**clean, **attacked}
    return {**scores, "select": sum(scores.values()) / len(scores)}


def _train_codes(model: HashModel, data: RetrievalData) -> dict[Modality, Tensor]:
    if data.relevance == "own pair" and len(model.modalities) < 2:
        raise DataError(
            f"{data.name} has no labels, so that only a picture's own text is relevant to it: a "
            "model of one modality has nothing to find in it"
        )
    return {
        modality: encode(model, data, modality, data.searched_on_validation())
        for modality in model.modalities
    }


def _clean(
    model: HashModel, data: RetrievalData, train: Mapping[Modality, Tensor]
) -> dict[str, float]:
    codes = {
        modality: encode(model, data, modality, data.positions("validation", modality))
        for modality in model.modalities
    }
    return _across(data, codes, train)


def _across(
    data: RetrievalData, codes: Mapping[Modality, Tensor], train: Mapping[Modality, Tensor]
) -> dict[str, float]:
    """Return the cross-modal MAP of validation codes against the training items."""
    scores = {}
    for modality, query_codes in codes.items():
        answering = searched_modality(train, modality)
        counts = counts_of(
            data,
            query_codes,
            train[answering],
            query=data.positions("validation", modality),
            database=data.searched_on_validation(),
        )
        scores[f"{modality[0]}2{answering[0]}"] = mean_average_precision(counts).value
    return scores
