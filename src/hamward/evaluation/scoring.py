"""From codes to numbers, and the validation scores that choose an epoch."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Int8
from numpy.typing import NDArray
from torch import Tensor

from hamward.attacks import Attack, craft, encode, own_code_goal
from hamward.data import RetrievalData
from hamward.metrics import DistanceCounts, distance_counts, mean_average_precision
from hamward.models import HashModel, Victim
from hamward.types import Modality

__all__ = ["counts_of", "robust_validation_scores", "validation_scores"]

_OTHER: dict[Modality, Modality] = {"image": "text", "text": "image"}
_ACROSS: dict[Modality, str] = {"image": "i2t", "text": "t2i"}


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


def validation_scores(model: HashModel, data: RetrievalData) -> dict[str, float]:
    """Score a model on validation queries against the training items.

    Tie-aware MAP over the whole ranking, i2t and t2i; "select" is their mean. Queries and
    the rest of the database are not looked at.
    """
    scores = _clean(model, data, _train_codes(model, data))
    return {**scores, "select": sum(scores.values()) / len(scores)}


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
    for modality in modalities:
        positions = data.positions("validation", modality)
        made = craft(
            attack,
            victim,
            data.inputs(modality, positions),
            own_code_goal(attack, victim, data, modality, positions, pool=data.split.train),
            ids=torch.tensor(data.ids[positions]),
        )
        device = next(model.parameters()).device
        codes[modality] = victim.codes(modality, made.stored.to(device)).cpu()
    attacked = {f"attacked_{k}": v for k, v in _across(data, codes, train).items()}
    scores = {**clean, **attacked}
    return {**scores, "select": sum(scores.values()) / len(scores)}


def _train_codes(model: HashModel, data: RetrievalData) -> dict[Modality, Tensor]:
    return {modality: encode(model, data, modality, data.split.train) for modality in _OTHER}


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
        counts = counts_of(
            data,
            query_codes,
            train[_OTHER[modality]],
            query=data.positions("validation", modality),
            database=data.split.train,
        )
        scores[_ACROSS[modality]] = mean_average_precision(counts).value
    return scores
