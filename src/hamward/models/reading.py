"""Data as a model reads them: the one place where texts become token ids."""

from dataclasses import replace

import torch

from hamward.data import RetrievalData
from hamward.models.hash_model import HashModel, frozen

__all__ = ["read_by"]

_CHUNK = 256


def read_by(model: HashModel, data: RetrievalData, *, pooled: bool = False) -> RetrievalData:
    """Return data whose text inputs are what this model reads; nothing else about them changes.

    Bags of words stay as they are. For a model that reads tokens every text is tokenized, once.

    Args:
        model: The model.
        data: The items.
        pooled: Go on to the features that the trunk makes of the tokens, so that what is behind
            it trains in seconds; the trunk must not be trained then.
    """
    reader = model.text_transformer
    if reader is None or not data.words:
        return replace(data, text_inputs=None)
    ids = reader.tokens.ids(list(data.typed_texts()))
    if not pooled:
        return replace(data, text_inputs=ids.to(torch.int32).numpy())
    made = []
    with torch.no_grad(), frozen(model):
        for part in torch.split(ids, _CHUNK):
            made.append(reader(model.take(part)).float().cpu())
    return replace(data, text_inputs=torch.cat(made).numpy())
