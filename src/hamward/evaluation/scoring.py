"""From codes to numbers that carry their protocol."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int8
from numpy.typing import NDArray
from torch import Tensor

from hamward.attacks import encode
from hamward.data import RetrievalData
from hamward.metrics import DistanceCounts, distance_counts, mean_average_precision
from hamward.models import HashModel
from hamward.types import Modality

__all__ = ["counts_of", "validation_scores"]


def counts_of(
    data: RetrievalData,
    query_codes: Int8[Tensor, "q k"],
    database_codes: Int8[Tensor, "n k"],
    *,
    query: NDArray[np.int64],
    database: NDArray[np.int64],
) -> DistanceCounts:
    """Count distances between items of a data set, relevance by shared labels."""
    return distance_counts(
        query_codes,
        database_codes,
        query_labels=data.label(query),
        database_labels=data.label(database),
    )


def validation_scores(model: HashModel, data: RetrievalData) -> Mapping[str, float]:
    """Score a model on validation queries against the training items.

    Tie-aware MAP over the whole ranking, i2t and t2i; "select" is their mean. Queries and
    the rest of the database are not looked at.
    """
    train = data.split.train
    database = {m: encode(model, data, m, train) for m in model.modalities}
    scores = {}
    other: dict[Modality, Modality] = {"image": "text", "text": "image"}
    for modality in model.modalities:
        query = data.positions("validation", modality)
        codes = encode(model, data, modality, query)
        counts = counts_of(data, codes, database[other[modality]], query=query, database=train)
        name = "i2t" if modality == "image" else "t2i"
        scores[name] = mean_average_precision(counts).value
    return {**scores, "select": sum(scores.values()) / len(scores)}
